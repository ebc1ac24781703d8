/** Excerpts of a caller's input for error messages. */

const LONGEST = 100;

/** Returns a text of at most 100 characters, with the rest cut off. */
export function excerpt(text: string | URL): string {
  const whole = String(text);
  return whole.length <= LONGEST ? whole : `${whole.slice(0, LONGEST)}… (${whole.length} characters)`;
}

const LONGEST_MESSAGE = 2000;

/** Returns the text of an error, cut off after 2000 characters: it can have names of a stranger's manifest, of any length. */
export function shortMessage(text: string): string {
  return text.length <= LONGEST_MESSAGE ? text : `${text.slice(0, LONGEST_MESSAGE)}… (${text.length} characters)`;
}

/** Returns an address of at most some 100 characters, with the rest cut out before the file's name. */
export function excerptUrl(url: string | URL): string {
  const whole = String(url);
  const name = whole.split(/[?#]/, 1)[0]?.split("/").at(-1) ?? "";
  if (whole.length <= LONGEST || name.length > LONGEST / 2) return excerpt(whole);
  return `${whole.slice(0, LONGEST - name.length)}…/${name}`;
}

/** Returns a value, or the class of an object, in at most some 100 characters. */
export function describe(value: unknown): string {
  if (typeof value === "string") return value.length <= LONGEST ? JSON.stringify(value) : excerpt(JSON.stringify(value));
  if (typeof value === "function") return "a function";
  if (Array.isArray(value)) {
    // Without what is in inner arrays: an array can contain itself.
    const items = value.slice(0, LONGEST).map((item: unknown) => (Array.isArray(item) ? "[…]" : describe(item)));
    return excerpt(`[${items.join(", ")}]`);
  }
  if (typeof value === "object" && value !== null) return `an object (${value.constructor?.name ?? "without a prototype"})`;
  // Numbers, booleans, `null`, `undefined`, symbols and bigints.
  return typeof value === "bigint" ? `${value}n` : String(value);
}
