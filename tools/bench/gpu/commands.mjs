// Runs the programs of the benchmark, and records what was run.

import { execFile } from "node:child_process";
import { relative } from "node:path";

/** Output of a program that is kept, bytes. */
const OUTPUT_BYTES = 256 << 20;

/**
 * Returns a function that runs a program in the root of the repository and returns its standard output. It throws an error with the
 * program's message, also after `seconds`, and when `signal` ends the benchmark.
 *
 * @param {{ root: string, signal: AbortSignal, commands: { line: string, seconds: number, error: string | null }[] }} options `commands`
 *   receives each command
 * @returns {(program: string, args: string[], seconds: number) => Promise<string>}
 */
export function runner({ root, signal, commands }) {
  return async (program, args, seconds) => {
    const began = performance.now();
    const command = { line: commandLine(root, program, args), seconds: 0, error: null };
    commands.push(command);
    try {
      return await output(program, args, { cwd: root, signal, timeout: Math.max(1, Math.ceil(seconds * 1000)), maxBuffer: OUTPUT_BYTES });
    } catch (error) {
      command.error = error.message;
      throw error;
    } finally {
      command.seconds = (performance.now() - began) / 1000;
    }
  };
}

function output(program, args, options) {
  return new Promise((resolve, reject) => {
    execFile(program, args, options, (error, stdout, stderr) => {
      if (error) reject(new Error(failure(program, error, stderr, options.timeout)));
      else resolve(stdout);
    });
  });
}

function failure(program, error, stderr, timeout) {
  if (error.code === "ENOENT") return `${program} does not exist`;
  if (error.name === "AbortError") return "the benchmark was ended";
  if (error.killed) return `did not end within the ${(timeout / 1000).toFixed(1)} s that were left`;
  const end = error.signal ? `ended by ${error.signal}` : `ended with ${error.code}`;
  const message = errorLine(stderr);
  return message ? `${end}: ${message}` : end;
}

/** Returns the last line that reports an error, else the last line. Drivers print other errors before it, and Node a stack after it. */
export function errorLine(stderr) {
  const lines = stderr.split("\n").filter((line) => line.trim() !== "");
  const errors = lines.filter((line) => /^(error|\w*Error)\b[^:]*: /.test(line));
  return (errors.at(-1) ?? lines.at(-1) ?? "").trim();
}

/** Returns a command for a shell in the root of the repository. */
function commandLine(root, program, args) {
  const words = [program === process.execPath ? "node" : program, ...args];
  const fromRoot = words.map((word) => (word.startsWith(root) ? relative(root, word) : word));
  return fromRoot.map((word) => (/^[\w./:=,+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`)).join(" ");
}
