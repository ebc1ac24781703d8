// Writes ONNX models of one node: as much of the protocol buffer format as that takes (onnx.proto).

/** A message of `[field, value]` pairs; numbers become varints, strings and messages their bytes. */
function message(...fields) {
  const bytes = [];
  const varint = (value) => {
    for (let rest = BigInt(value); ; rest >>= 7n) {
      if (rest < 128n) return void bytes.push(Number(rest));
      bytes.push(Number(rest & 127n) | 128);
    }
  };
  for (const [field, value] of fields) {
    if (typeof value === "number") {
      varint(field << 3);
      varint(value);
    } else {
      const content = typeof value === "string" ? new TextEncoder().encode(value) : value;
      varint((field << 3) | 2);
      varint(content.length);
      for (const byte of content) bytes.push(byte);
    }
  }
  return Uint8Array.from(bytes);
}

const FLOAT = 1;
const UINT8 = 2;

function valueInfo(name, type, shape) {
  const dimensions = shape.map((size) => [1, message([1, size])]);
  return message([1, name], [2, message([1, message([1, type], [2, message(...dimensions)])])]);
}

/**
 * @param {string} operator of the domain com.microsoft
 * @param {Record<string, number>} attributes integers
 * @param {[string, "float32" | "uint8", number[]][]} inputs
 * @param {number[]} output shape
 */
export function model(operator, attributes, inputs, output) {
  const integer = ([name, value]) => [5, message([1, name], [3, value], [20, 2])];
  const node = message(...inputs.map(([name]) => [1, name]), [2, "output"], [4, operator], ...Object.entries(attributes).map(integer), [
    7,
    "com.microsoft",
  ]);
  const graph = message(
    [1, node],
    [2, operator],
    ...inputs.map(([name, type, shape]) => [11, valueInfo(name, type === "uint8" ? UINT8 : FLOAT, shape)]),
    [12, valueInfo("output", FLOAT, output)],
  );
  return message([1, 8], [7, graph], [8, message([1, ""], [2, 17])], [8, message([1, "com.microsoft"], [2, 1])]);
}
