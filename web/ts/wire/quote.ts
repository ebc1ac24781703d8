/** Excerpts of a caller's input for error messages. */

const LONGEST = 100;

/** Returns a text of at most 100 characters, with the rest cut off. */
export function excerpt(text: string | URL): string {
  const whole = String(text);
  return whole.length <= LONGEST ? whole : `${whole.slice(0, LONGEST)}… (${whole.length} characters)`;
}

/** Returns what an argument is: a class name, or the value as JSON. */
export function describe(value: unknown): string {
  if (typeof value === "function") return "a function";
  if (typeof value === "object" && value !== null) {
    const name = (value as { constructor?: { name?: string } }).constructor?.name;
    if (name !== "Object" && name !== "Array") return name ? `a ${name}` : "an object";
  }
  try {
    return excerpt(JSON.stringify(value) ?? String(value));
  } catch {
    // JSON does not have circular objects and BigInts.
    return excerpt(String(value));
  }
}
