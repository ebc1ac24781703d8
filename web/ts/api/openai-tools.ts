/** Tools in requests and answers in the form of OpenAI's chat completions: descriptions for the model, and calls in what it writes. */

import { QwenVLError } from "../wire/errors.js";
import { anyString, checkArgument, type Check } from "./options.js";

/** A function that the model may call. */
export interface ChatTool {
  type: "function";
  function: { name: string; description?: string; parameters?: object };
}

/** A call of a function. */
export interface ChatToolCall {
  id: string;
  type: "function";
  /** `arguments` is JSON, as the model wrote it: it need not fit the function's parameters. */
  function: { name: string; arguments: string };
}

const OPEN = "<tool_call>";
const CLOSE = "</tool_call>";
/** The form in which the model is asked to write a call; the arguments stay as they are. */
const CALL = /^\s*\{\s*"name"\s*:\s*"([^"\\]*)"\s*,\s*"arguments"\s*:\s*(\{[\s\S]*\})\s*\}\s*$/;

const anyObject: Check = {
  expected: "an object",
  accepts: (value) => typeof value === "object" && value !== null && !Array.isArray(value),
};

/** Checks the tools of a request, and returns them as texts for the chat template. */
export function toolTexts(tools: unknown): string[] {
  checkArgument("tools", tools, { expected: "an array of tools", accepts: Array.isArray });
  return (tools as unknown[]).map((tool, index) => {
    const place = `tools[${index}]`;
    checkArgument(place, tool, anyObject);
    const { type, function: called } = tool as Partial<ChatTool>;
    checkArgument(`${place}.type`, type, { expected: `"function"`, accepts: (value) => value === "function" });
    checkArgument(`${place}.function`, called, anyObject);
    const { name, description, parameters, ...others } = called as ChatTool["function"] & { strict?: unknown };
    checkArgument(`${place}.function.name`, name, anyString);
    if (description !== undefined) checkArgument(`${place}.function.description`, description, anyString);
    if (parameters !== undefined) checkArgument(`${place}.function.parameters`, parameters, anyObject);
    if (others.strict) {
      const problem = `\`${place}.function.strict\` is not possible with a model in the browser`;
      throw new QwenVLError("INVALID_ARGUMENT", `${problem}: check the arguments of its calls`);
    }
    return spaced(tool);
  });
}

/** Writes JSON as the published chat template does (`json.dumps`): with a space after each comma and colon. */
export function spaced(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map((item: unknown) => spaced(item ?? null)).join(", ")}]`;
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  const entries = Object.entries(value).filter(([, item]) => item !== undefined);
  return `{${entries.map(([key, item]) => `${JSON.stringify(key)}: ${spaced(item)}`).join(", ")}}`;
}

/** Checks the calls of an answer that is sent back. */
export function checkCalls(place: string, calls: unknown): ChatToolCall[] {
  checkArgument(place, calls, { expected: "an array of tool calls", accepts: Array.isArray });
  (calls as unknown[]).forEach((call, index) => {
    const at = `${place}[${index}]`;
    checkArgument(at, call, anyObject);
    const { id, function: called } = call as Partial<ChatToolCall>;
    checkArgument(`${at}.id`, id, anyString);
    checkArgument(`${at}.function`, called, anyObject);
    checkArgument(`${at}.function.name`, called?.name, anyString);
    checkArgument(`${at}.function.arguments`, called?.arguments, anyString);
  });
  return calls as ChatToolCall[];
}

/** Text of an answer outside of calls, and the calls. */
export interface Said {
  text: string;
  calls: ChatToolCall[];
}

/**
 * Finds calls in an answer that arrives piece by piece: JSON between `<tool_call>` tags. What is not a call stays text, with its tags. White
 * space around calls is left out.
 */
export class CallReader {
  /** Text that may be part of a call, or be followed by one. */
  #held = "";
  #found = false;

  /** Takes the next piece. Returns the text and the calls that are complete. */
  push(piece: string): Said {
    this.#held += piece;
    const said: Said = { text: "", calls: [] };
    for (;;) {
      const start = this.#held.indexOf(OPEN);
      if (start < 0) {
        const kept = this.#held.length - heldBack(this.#held);
        said.text += this.#take(kept);
        return said;
      }
      const end = this.#held.indexOf(CLOSE, start);
      if (end < 0) {
        said.text += this.#take(this.#held.slice(0, start).trimEnd().length);
        return said;
      }
      const call = readCall(this.#held.slice(start + OPEN.length, end));
      const after = end + CLOSE.length;
      if (call) {
        said.text += this.#take(start).trimEnd();
        this.#held = this.#held.slice(after - start);
        this.#found = true;
        said.calls.push(call);
      } else said.text += this.#take(after);
    }
  }

  /** Ends the answer. Returns the text that was held back. */
  finish(): string {
    const rest = this.#take(this.#held.length);
    return this.#found ? rest.trimEnd() : rest;
  }

  /** Takes text off the beginning. After a call, white space before other text is part of the call. */
  #take(length: number): string {
    let text = this.#held.slice(0, length);
    this.#held = this.#held.slice(length);
    if (this.#found) {
      text = text.trimStart();
      if (text !== "") this.#found = false;
    }
    return text;
  }
}

/** Returns the length of the end of a text that may belong to a call: white space, and the beginning of a tag. */
function heldBack(text: string): number {
  let length = Math.min(OPEN.length - 1, text.length);
  while (length > 0 && !OPEN.startsWith(text.slice(text.length - length))) length -= 1;
  return text.length - text.slice(0, text.length - length).trimEnd().length;
}

function readCall(json: string): ChatToolCall | undefined {
  const call = (name: string, args: string): ChatToolCall => ({
    id: `call_${crypto.randomUUID()}`,
    type: "function",
    function: { name, arguments: args },
  });
  try {
    const parsed = JSON.parse(json) as { name?: unknown; arguments?: unknown } | null;
    if (typeof parsed?.name !== "string" || typeof parsed.arguments !== "object" || parsed.arguments === null) return undefined;
    const [, name, args] = CALL.exec(json) ?? [];
    return name === parsed.name && args !== undefined && isJson(args) ? call(name, args) : call(parsed.name, spaced(parsed.arguments));
  } catch {
    return undefined;
  }
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}
