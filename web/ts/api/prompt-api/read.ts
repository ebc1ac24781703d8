import type { Answer } from "../../wire/types.js";
import type { Run } from "../run.js";

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
 * @param continues true if the answer continues a text, so that white space at its beginning counts
 * @param onChunk takes the text piece by piece
 */
export async function readRun(run: Run, asWritten: boolean, continues: boolean, onChunk: (chunk: string) => void): Promise<ReadAnswer> {
  let [text, raw] = ["", ""];
  const add = (delta: string, rawDelta: string) => {
    const chunk = asWritten ? rawDelta : delta;
    text += chunk;
    raw += rawDelta;
    if (chunk) onChunk(chunk);
  };
  for await (const event of run) if (event.type === "text") add(event.delta, event.raw);
  const answer = await run;
  // The end of an answer can have markup that no event has. The texts of an answer are trimmed, at their beginning only if nothing precedes it.
  const whole = asWritten ? answer.raw : answer.text;
  const lengthIn = (streamed: string) => (continues ? streamed : streamed.trimStart()).length;
  const rest = answer.raw.slice(lengthIn(raw));
  add(whole.slice(lengthIn(text)), rest);
  return { answer, text: whole, raw: answer.raw };
}
