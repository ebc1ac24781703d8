// A target for the tests of the command: some inputs take all memory.

import fc from "fast-check";

export const input = fc.nat({ max: 1000 });

export function check(number) {
  for (const kept = []; number % 7 === 3;) kept.push(Array.from({ length: 1 << 20 }, () => number));
  return "ok";
}
