// Finds the prose of a source file: its comments and string literals, or the text of a Markdown file.

/** Marks that begin and end comments and strings, by the ending of the file's name. `texts`: string literals are prose too. */
const SYNTAX = {
  rs: { line: "//", block: ["/*", "*/"], strings: ['"'], raw: true, characters: true, texts: true },
  ts: { line: "//", block: ["/*", "*/"], strings: ['"', "'", "`"], expressions: true, texts: true },
  css: { block: ["/*", "*/"], strings: ['"', "'"] },
  wgsl: { line: "//", block: ["/*", "*/"], strings: [] },
  toml: { line: "#", strings: ['"', "'"] },
  sh: { line: "#", strings: ['"', "'"] },
};
const ALIASES = { tsx: "ts", mjs: "ts", js: "ts", yml: "toml", yaml: "toml" };

/** Endings of the names of files that `prose` can read. */
export const ENDINGS = [...Object.keys(SYNTAX), ...Object.keys(ALIASES), "md"];

/**
 * Returns the paragraphs of prose: comments on successive lines, or successive lines of Markdown, as one text; and string literals of Rust
 * and JavaScript, which hold error texts and names of tests. Inline code is left out, and strings that hold data or programs: raw and byte
 * strings of Rust, and templates of several lines.
 *
 * @param {string} text of the file
 * @param {string} ending of its name
 * @returns {{ text: string, line: number, doc: boolean, lines: number[] }[]} `doc`: a doc comment; `lines`: the line of each character
 */
export function prose(text, ending) {
  const pieces = ending === "md" ? markdown(text) : commentsAndStrings(text, SYNTAX[ALIASES[ending] ?? ending]);
  const paragraphs = [];
  for (const piece of pieces) {
    const clean = piece.text.replaceAll(/`[^`]*`/g, (code) => " ".repeat(code.length));
    const last = paragraphs.at(-1);
    if (last && piece.line === last.end + 1 && piece.doc === last.doc && piece.literal === last.literal && !piece.first) {
      last.text += ` ${clean.trim()}`;
      last.end = piece.line;
    } else paragraphs.push({ text: clean.trim(), doc: piece.doc, literal: piece.literal, line: piece.line, end: piece.line, lines: [] });
    const paragraph = paragraphs.at(-1);
    while (paragraph.lines.length < paragraph.text.length) paragraph.lines.push(piece.line);
  }
  return paragraphs;
}

function markdown(text) {
  let fenced = false;
  const pieces = [];
  for (const [at, line] of text.split("\n").entries()) {
    if (/^\s*(```|~~~)/.test(line)) fenced = !fenced;
    else if (!fenced && line.trim() !== "") pieces.push({ text: line, line: at + 1, doc: false, first: /^(\||#|\s*[-*] )/.test(line) });
  }
  return pieces;
}

/** The lines of all comments, without their marks, and of string literals, without their escapes and expressions. */
function commentsAndStrings(text, syntax) {
  const pieces = [];
  const lineOf = counter(text);
  const add = (from, to, doc, first) => pieces.push({ text: text.slice(from, to), line: lineOf(from), doc, literal: false, first });
  const addString = (from, to) => {
    const quote = text[from - 1];
    const content = text.slice(from, to);
    if (!syntax.texts || (quote === "`" ? content.includes("\n") : text[from - 2] === "b")) return;
    const clean = content
      .replaceAll(/\$\{[^}]*\}/g, (code) => " ".repeat(code.length))
      .replaceAll(/\\(?:[nrt]|(?=[`\n]))/g, (escape) => " ".repeat(escape.length));
    const line = lineOf(from);
    for (const [at, part] of clean.split("\n").entries())
      pieces.push({ text: part, line: line + at, doc: false, literal: true, first: at === 0 });
  };
  let at = 0;
  /** The last character of code: it says whether a slash divides or begins a regular expression. */
  let code = "";
  while (at < text.length) {
    if (syntax.line && text.startsWith(syntax.line, at)) {
      const end = indexOf(text, "\n", at);
      const mark = /^(\/\/[/!]?|#+)/.exec(text.slice(at, end))[0];
      add(at + mark.length, end, mark === "///" || mark === "//!", false);
      at = end;
    } else if (syntax.block && text.startsWith(syntax.block[0], at)) {
      const end = indexOf(text, syntax.block[1], at + 2);
      const doc = /^\/\*[*!][^*/]/.test(text.slice(at, at + 4));
      let from = at + (doc ? 3 : 2);
      for (let first = true; from < end; first = false) {
        const to = Math.min(indexOf(text, "\n", from), end);
        const mark = /^\s*\*?/.exec(text.slice(from, to))[0].length;
        // A tag begins a paragraph.
        if (text.slice(from + mark, to).trim() !== "")
          add(
            from + mark,
            to,
            doc,
            first ||
              text
                .slice(from + mark, to)
                .trim()
                .startsWith("@"),
          );
        from = to + 1;
      }
      at = end + 2;
    } else if (syntax.raw && /^r#*"/.test(text.slice(at, at + 12)) && !/\w/.test(text[at - 1] ?? "")) {
      const [open] = /^r#*"/.exec(text.slice(at, at + 12));
      at = indexOf(text, `"${"#".repeat(open.length - 2)}`, at + open.length) + open.length - 1;
    } else if (syntax.strings.includes(text[at])) {
      const quote = text[at];
      const from = at + 1;
      for (at = from; at < text.length && text[at] !== quote; at += 1) if (text[at] === "\\") at += 1;
      addString(from, at);
      at += 1;
      code = quote;
    } else if (syntax.characters && /^'(\\[^']*|.)'/su.test(text.slice(at, at + 12))) {
      at += /^'(\\[^']*|.)'/su.exec(text.slice(at, at + 12))[0].length;
    } else if (syntax.expressions && text[at] === "/" && /[(,=:[!&|?{};\n]|^$|n$/.test(code)) {
      let set = false;
      for (at += 1; at < text.length && text[at] !== "\n" && (set || text[at] !== "/"); at += 1) {
        if (text[at] === "\\") at += 1;
        else if (text[at] === "[") set = true;
        else if (text[at] === "]") set = false;
      }
      at += 1;
      code = "/";
    } else {
      if (text[at].trim() !== "") code = text[at];
      at += 1;
    }
  }
  return pieces;
}

const indexOf = (text, part, from) => {
  const at = text.indexOf(part, from);
  return at < 0 ? text.length : at;
};

/** A function that returns the line of a position; positions must not decrease. */
function counter(text) {
  let [at, line] = [0, 1];
  return (position) => {
    for (; at < position; at += 1) if (text[at] === "\n") line += 1;
    return line;
  };
}
