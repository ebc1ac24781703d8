import type { Answer } from "../../wire/types.js";
import type { Run } from "../run.js";
import { unsent, type Trim } from "../trim.js";

/** An answer with its text as a session returns it and as it stores it. */
export interface ReadAnswer {
  answer: Answer;
  text: string;
  raw: string;
}

/**
 * Reads a run to its end.
 *
 * @param asWritten false to leave out the markup of objects; in JSON it is the answer
 * @param trim the ends at which the engine trims the answer
 * @param onChunk takes the text piece by piece
 */
export async function readRun(run: Run, asWritten: boolean, trim: Trim, onChunk: (chunk: string) => void): Promise<ReadAnswer> {
  let [text, raw] = ["", ""];
  const add = (delta: string, rawDelta: string) => {
    const chunk = asWritten ? rawDelta : delta;
    text += chunk;
    raw += rawDelta;
    if (chunk) onChunk(chunk);
  };
  for await (const event of run) if (event.type === "text") add(event.delta, event.raw);
  const answer = await run;
  // The end of an answer can have markup that no event has.
  const whole = asWritten ? answer.raw : answer.text;
  add(unsent(whole, text, trim), unsent(answer.raw, raw, trim));
  return { answer, text: whole, raw: answer.raw };
}
