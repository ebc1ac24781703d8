// Enforces the table "Forms to avoid" of docs/writing.md on the files that git tracks. `cargo xtask test --only lint` runs it.
//   node tools/lint/writing.mjs [--warn]       --warn: print the count alone and pass

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { extname } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { ENDINGS, prose } from "./comments.mjs";

const RULES = "docs/writing.md";
/** Data, texts of others, and the rules themselves. */
const EXCLUDED = [
  /^tests\/fixtures\//,
  /^models\/(?!README\.md$)/,
  /(^|\/)(package-lock\.json|Cargo\.lock|LICENSE[^/]*)$/,
  /\/(assets|data|gallery)\//,
  /^docs\/writing\.md$/,
  /^tools\/lint\/writing\.test\.mjs$/,
];

/**
 * Reads the table "Forms to avoid".
 *
 * @returns {{ form: RegExp, where: "any" | "prose" | "doc", write: string }[]}
 */
export function readRules(markdown) {
  const table = markdown.slice(markdown.indexOf("## Forms to avoid"));
  const rows = [...table.matchAll(/^\| `((?:[^`\\]|\\.)+)` \| (\w+) \| (.+) \|$/gm)];
  if (rows.length === 0) throw new Error(`${RULES}: the section "Forms to avoid" has no table`);
  return rows.map(([, form, where, write]) => {
    if (!["any", "prose", "doc"].includes(where)) throw new Error(`${RULES}: "where" is ${where}, expected any, prose or doc`);
    const source = form.replaceAll("\\|", "|");
    return { form: new RegExp(where === "doc" ? `^(?:${source})` : source, "g"), where, write };
  });
}

/**
 * Finds the forms in one file.
 *
 * @returns {{ line: number, found: string, write: string }[]}
 */
export function check(rules, text, ending) {
  const paragraphs = prose(text, ending);
  const found = [];
  for (const { form, where, write } of rules) {
    if (where === "any") {
      for (const [at, line] of text.split("\n").entries()) {
        for (const match of line.matchAll(form)) found.push({ line: at + 1, found: match[0], write });
      }
      continue;
    }
    for (const paragraph of paragraphs) {
      if (where === "doc" && !paragraph.doc) continue;
      for (const match of paragraph.text.matchAll(form)) found.push({ line: paragraph.lines[match.index], found: match[0], write });
    }
  }
  return found.sort((a, b) => a.line - b.line);
}

/** Returns the files that git tracks, or ends the program with git's reason. */
function trackedFiles() {
  try {
    return execFileSync("git", ["ls-files", "-z"], { encoding: "utf8", stdio: "pipe" }).split("\0");
  } catch (error) {
    console.error(`could not list the files to check: \`git ls-files\` failed: ${error.stderr?.trim() || error.message}`);
    process.exit(2);
  }
}

function main() {
  const { values } = parseArgs({ options: { warn: { type: "boolean", default: false } } });
  const rules = readRules(readFileSync(RULES, "utf8"));
  const files = trackedFiles();
  const checked = files.filter((file) => ENDINGS.includes(extname(file).slice(1)) && !EXCLUDED.some((pattern) => pattern.test(file)));
  let count = 0;
  for (const file of checked) {
    for (const { line, found, write } of check(rules, readFileSync(file, "utf8"), extname(file).slice(1))) {
      count += 1;
      if (!values.warn) console.log(`${file}:${line}: "${found}": write ${write} (${RULES})`);
    }
  }
  if (count > 0) console.log(`${values.warn ? "warning: " : ""}${count} forms that ${RULES} forbids, in ${checked.length} files`);
  else console.log(`${checked.length} files follow ${RULES}`);
  process.exit(count > 0 && !values.warn ? 1 : 0);
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  process.chdir(fileURLToPath(new URL("../..", import.meta.url)));
  main();
}
