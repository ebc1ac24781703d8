// A decoder of any geometry with random 4-bit weights as llama.cpp reads it (GGUF 3, architecture "qwen", Q4_0 throughout), in memory.

const ALIGN = 32;
const [F32, Q4_0] = [0, 2];
/** Types of metadata. */
const [UINT32, INT32, FLOAT32, STRING, ARRAY] = [4, 5, 6, 8, 9];

/**
 * @param {{ vocab_size: number, hidden_size: number, num_hidden_layers: number, num_attention_heads: number, intermediate_size: number,
 *   layer_norm_epsilon: number, seq_length: number, rotary_emb_base: number }} config as published with a checkpoint
 * @returns {Buffer} a file; its tokenizer makes a token of every byte
 */
export function randomGguf(config) {
  const { vocab_size: vocab, hidden_size: hidden, num_hidden_layers: layers, num_attention_heads: heads } = config;
  // As in the configuration, it counts both branches.
  const intermediate = config.intermediate_size / 2;
  const tensors = [
    ["token_embd.weight", Q4_0, [hidden, vocab]],
    ["output_norm.weight", F32, [hidden]],
    ["output.weight", Q4_0, [hidden, vocab]],
  ];
  for (let layer = 0; layer < layers; layer++) {
    const block = [
      ["attn_norm.weight", F32, [hidden]],
      ["attn_qkv.weight", Q4_0, [hidden, 3 * hidden]],
      ["attn_qkv.bias", F32, [3 * hidden]],
      ["attn_output.weight", Q4_0, [hidden, hidden]],
      ["ffn_norm.weight", F32, [hidden]],
      ["ffn_gate.weight", Q4_0, [hidden, intermediate]],
      ["ffn_up.weight", Q4_0, [hidden, intermediate]],
      ["ffn_down.weight", Q4_0, [intermediate, hidden]],
    ];
    for (const [name, type, shape] of block) tensors.push([`blk.${layer}.${name}`, type, shape]);
  }
  const words = Array.from({ length: vocab }, (_, id) => (id < 256 ? byteCharacter(id) : `<${id}>`));
  const metadata = [
    ["general.architecture", STRING, "qwen"],
    ["qwen.context_length", UINT32, config.seq_length],
    ["qwen.embedding_length", UINT32, hidden],
    ["qwen.feed_forward_length", UINT32, config.intermediate_size],
    ["qwen.block_count", UINT32, layers],
    ["qwen.attention.head_count", UINT32, heads],
    ["qwen.attention.layer_norm_rms_epsilon", FLOAT32, config.layer_norm_epsilon],
    ["qwen.rope.freq_base", FLOAT32, config.rotary_emb_base],
    ["qwen.rope.dimension_count", UINT32, hidden / heads],
    ["tokenizer.ggml.model", STRING, "gpt2"],
    ["tokenizer.ggml.pre", STRING, "qwen2"],
    ["tokenizer.ggml.tokens", ARRAY, [STRING, words]],
    ["tokenizer.ggml.token_type", ARRAY, [INT32, words.map(() => 1)]],
    ["tokenizer.ggml.merges", ARRAY, [STRING, ["< >"]]],
    ["tokenizer.ggml.eos_token_id", UINT32, vocab - 1],
  ];

  const head = [Buffer.from("GGUF"), uint32(3), uint64(tensors.length), uint64(metadata.length)];
  for (const [key, type, value] of metadata) head.push(string(key), uint32(type), encoded(type, value));
  let offset = 0;
  const placed = tensors.map(([name, type, shape]) => {
    const count = shape.reduce((a, b) => a * b);
    const bytes = type === F32 ? count * 4 : (count / 32) * 18;
    head.push(string(name), uint32(shape.length), ...shape.map(uint64), uint32(type), uint64(offset));
    const tensor = { name, type, bytes, offset, cols: shape[0] };
    offset += Math.ceil(bytes / ALIGN) * ALIGN;
    return tensor;
  });
  const header = Buffer.concat(head);
  const begin = Math.ceil(header.length / ALIGN) * ALIGN;
  const file = Buffer.alloc(begin + offset);
  header.copy(file);
  let state = 1;
  for (const { name, type, bytes, offset, cols } of placed) {
    const at = begin + offset;
    if (type === F32) {
      if (name.endsWith("norm.weight")) for (let i = 0; i < bytes; i += 4) file.writeFloatLE(1, at + i);
      continue;
    }
    // Blocks of a scale in f16 and 32 codes; the scales keep activations at size 1.
    const scale = half(1 / (4.6 * Math.sqrt(cols)));
    for (let i = 0; i < bytes; i += 18) {
      file.writeUInt16LE(scale, at + i);
      for (let code = 2; code < 18; code += 4) {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        // The low bits of such numbers are not random.
        file.writeUInt32LE((state ^ (state >>> 13)) >>> 0, at + i + code);
      }
    }
  }
  return file;
}

function uint32(value) {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

function uint64(value) {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

function float32(value) {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return bytes;
}

function string(text) {
  const bytes = Buffer.from(text);
  return Buffer.concat([uint64(bytes.length), bytes]);
}

function encoded(type, value) {
  if (type === STRING) return string(value);
  if (type === FLOAT32) return float32(value);
  if (type !== ARRAY) return uint32(value);
  const [element, items] = value;
  return Buffer.concat([uint32(element), uint64(items.length), ...items.map((item) => encoded(element, item))]);
}

/** The bits of a positive normal half. */
function half(value) {
  const bits = float32(value).readUInt32LE();
  return (bits >>> 13) - ((127 - 15) << 10);
}

/** Returns the character that byte-level vocabularies write for a byte: the byte if it is printable, else the next unused one from U+0100 on. */
function byteCharacter(byte) {
  const printable = (code) => (code >= 33 && code <= 126) || (code >= 161 && code <= 172) || (code >= 174 && code <= 255);
  if (printable(byte)) return String.fromCodePoint(byte);
  let unused = 256;
  for (let code = 0; code < byte; code++) if (!printable(code)) unused++;
  return String.fromCodePoint(unused);
}
