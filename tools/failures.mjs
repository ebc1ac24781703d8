// A reporter of `node --test` that lists only the tests that failed, each with its error. `cargo xtask test` prints the list at its end,
// below the output of the parts that ran later.

import { inspect } from "node:util";

export default async function* failures(events) {
  const names = [];
  for await (const { type, data } of events) {
    if (type === "test:start") names[data.nesting] = data.name;
    if (type !== "test:fail") continue;
    const { error } = data.details;
    // A test fails with its subtests, which are listed already.
    if (error?.failureType === "subtestsFailed") continue;
    const path = [...names.slice(0, data.nesting), data.name].join(" > ");
    yield `✖ ${path}\n${inspect(error?.cause ?? error)}\n`.replaceAll(/^(?=.)/gm, "  ");
  }
}
