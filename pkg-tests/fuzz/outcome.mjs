// The allowed ends of a call: a result, or an error that is meant for the caller.

import { QwenVLError } from "../../web/dist/wire/errors.js";

/** Errors that V8 throws where our code uses a value that it has not checked. */
const FROM_INSIDE =
  /^(Cannot (read|set|convert|destructure|create|delete|mix)|Invalid (array length|string length|time|URL|regular)|Reduce of empty|.* (is|are) not (a function|iterable|an object|defined|a constructor)|.* is not iterable|object null is not|undefined is not|Maximum call stack|Converting circular|Unexpected (token|end)|The number .* cannot be converted|Assignment to|Object prototype|Class constructor|.* called on)/;

/** Returns the kind of an error that is documented. Throws every other one. */
export function kindOf(error) {
  if (error instanceof QwenVLError && error.code !== "INTERNAL") return error.code;
  throw error;
}

/** The same for the Prompt API, whose errors are those of the platform. */
export function kindOfPlatform(error) {
  if (error instanceof DOMException) return error.name;
  // As Web IDL converts to a text.
  if (error instanceof TypeError && error.message === "Cannot convert object to primitive value") return "TypeError";
  const isOwn = (error instanceof TypeError || error instanceof RangeError) && !FROM_INSIDE.test(error.message);
  return isOwn ? error.name : kindOf(error);
}

/** Calls a function. Returns the kind of the end. */
export function outcome(call, kind = kindOf) {
  try {
    call();
    return "ok";
  } catch (error) {
    return kind(error);
  }
}

/** The same for a promise. */
export async function settled(call, kind = kindOf) {
  try {
    await call();
    return "ok";
  } catch (error) {
    return kind(error);
  }
}

/**
 * Returns a `fetch` whose assertions end the target: a download takes an error of `fetch` for a failure of the network. `check` throws the first
 * one that failed.
 */
export function asserting(fetch) {
  const failed = [];
  return {
    async fetch(...values) {
      try {
        return await fetch(...values);
      } catch (error) {
        failed.push(error);
        throw error;
      }
    },
    check() {
      if (failed.length > 0) throw failed[0];
    },
  };
}
