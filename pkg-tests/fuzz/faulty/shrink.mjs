// A target for the tests of the command: some inputs are wrong, and smaller ones take for ever.

import fc from "fast-check";

export const input = fc.nat({ max: 1000 });
let failed = false;

export function check(number) {
  while (failed);
  if (number % 7 === 3) {
    failed = true;
    throw new Error("wrong");
  }
  return "ok";
}
