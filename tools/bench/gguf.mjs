// Models of any geometry with random weights as llama.cpp reads them (GGUF 3), in memory: the decoder in Q4_0, the vision part in Q8_0.

import { constants } from "node:buffer";

const ALIGN = 32;
/** Types of tensors, with the bytes of a block of 32 values. */
const [F32, F16, Q4_0, Q8_0] = [0, 1, 2, 8];
const BLOCK_BYTES = { [F32]: 128, [F16]: 64, [Q4_0]: 18, [Q8_0]: 34 };
/** Types of metadata. */
const [UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY] = [4, 5, 6, 7, 8, 9];
/** llama.cpp's architectures, by the families of a manifest. */
const ARCHITECTURES = { qwen_vl: "qwen", qwen2_vl: "qwen2vl", qwen3_vl: "qwen3vl" };
/**
 * @param {object} manifest the manifest of a web checkpoint
 * @returns {Buffer} a file; its tokenizer makes a token of every byte, apart from added tokens
 */
export function randomDecoder({ config: { family, vision, decoder }, processor, generation }) {
  const { vocab_size: vocab, width, layers, heads, kv_heads, head_dim, mlp_width, norm_epsilon, rotary } = decoder;
  const arch = ARCHITECTURES[family];
  const [queries, keys] = [heads * head_dim, kv_heads * head_dim];
  const tensors = [
    ["token_embd.weight", Q4_0, [width, vocab]],
    ["output_norm.weight", F32, [width]],
    ...(decoder.tied_head ? [] : [["output.weight", Q4_0, [width, vocab]]]),
  ];
  // The 2023 model has one matrix for all three.
  const projections =
    family === "qwen_vl"
      ? [["qkv", queries + 2 * keys]]
      : [
          ["q", queries],
          ["k", keys],
          ["v", keys],
        ];
  for (let layer = 0; layer < layers; layer++) {
    const add = (name, type, shape) => tensors.push([`blk.${layer}.${name}`, type, shape]);
    add("attn_norm.weight", F32, [width]);
    for (const [name, rows] of projections) {
      add(`attn_${name}.weight`, Q4_0, [width, rows]);
      if (decoder.qkv_bias) add(`attn_${name}.bias`, F32, [rows]);
    }
    if (decoder.qk_norm) for (const name of ["q", "k"]) add(`attn_${name}_norm.weight`, F32, [head_dim]);
    add("attn_output.weight", Q4_0, [queries, width]);
    add("ffn_norm.weight", F32, [width]);
    add("ffn_gate.weight", Q4_0, [width, mlp_width]);
    add("ffn_up.weight", Q4_0, [width, mlp_width]);
    add("ffn_down.weight", Q4_0, [mlp_width, width]);
  }
  // llama.cpp finds the tokens of pictures and of a chat by their names.
  const added = new Map((processor.added_tokens ?? []).map(({ id, text }) => [id, text]));
  const words = Array.from({ length: vocab }, (_, id) => added.get(id) ?? (id < 256 ? byteCharacter(id) : `<${id}>`));
  const [NORMAL, CONTROL] = [1, 3];
  const metadata = [
    ["general.architecture", STRING, arch],
    [`${arch}.context_length`, UINT32, decoder.trained_context],
    [`${arch}.embedding_length`, UINT32, width],
    // In the 2023 configuration, it counts both branches.
    [`${arch}.feed_forward_length`, UINT32, family === "qwen_vl" ? 2 * mlp_width : mlp_width],
    [`${arch}.block_count`, UINT32, layers],
    [`${arch}.attention.head_count`, UINT32, heads],
    [`${arch}.attention.head_count_kv`, UINT32, kv_heads],
    [`${arch}.attention.key_length`, UINT32, head_dim],
    [`${arch}.attention.value_length`, UINT32, head_dim],
    [`${arch}.attention.layer_norm_rms_epsilon`, FLOAT32, norm_epsilon],
    [`${arch}.rope.freq_base`, FLOAT32, rotary.base],
    [`${arch}.rope.dimension_count`, UINT32, head_dim],
    ...(rotary.sections ? [[`${arch}.rope.dimension_sections`, ARRAY, [INT32, [...rotary.sections, 0]]]] : []),
    ...(vision.merger?.deepstack ? [[`${arch}.n_deepstack_layers`, UINT32, vision.merger.deepstack.length]] : []),
    ["tokenizer.ggml.model", STRING, "gpt2"],
    ["tokenizer.ggml.pre", STRING, "qwen2"],
    ["tokenizer.ggml.tokens", ARRAY, [STRING, words]],
    ["tokenizer.ggml.token_type", ARRAY, [INT32, words.map((_, id) => (added.has(id) ? CONTROL : NORMAL))]],
    ["tokenizer.ggml.merges", ARRAY, [STRING, ["< >"]]],
    ["tokenizer.ggml.eos_token_id", UINT32, generation.eos_token_id],
  ];
  return file(metadata, tensors);
}

/**
 * @param {object} manifest the manifest of a Qwen3-VL
 * @returns {Buffer} the file of the vision part ("mmproj")
 */
export function randomVision({ config: { vision, decoder } }) {
  const { width, layers, heads, mlp_width, patch_size, position_side, merger } = vision;
  const merged = width * merger.size ** 2;
  const tensors = [];
  const add = (name, type, shape) => tensors.push([name, type, shape]);
  const linear = (name, inputs, outputs) => {
    add(`${name}.weight`, Q8_0, [inputs, outputs]);
    add(`${name}.bias`, F32, [outputs]);
  };
  const norm = (name, values) => {
    add(`${name}.weight`, F32, [values]);
    add(`${name}.bias`, F32, [values]);
  };
  // One convolution for each of the two frames that the original makes of a still picture.
  for (const name of ["v.patch_embd.weight", "v.patch_embd.weight.1"]) add(name, F16, [patch_size, patch_size, 3, width]);
  add("v.patch_embd.bias", F32, [width]);
  add("v.position_embd.weight", F32, [width, position_side ** 2]);
  for (let layer = 0; layer < layers; layer++) {
    const block = `v.blk.${layer}`;
    norm(`${block}.ln1`, width);
    linear(`${block}.attn_qkv`, width, 3 * width);
    linear(`${block}.attn_out`, width, width);
    norm(`${block}.ln2`, width);
    linear(`${block}.ffn_up`, width, mlp_width);
    linear(`${block}.ffn_down`, mlp_width, width);
  }
  norm("v.post_ln", width);
  linear("mm.0", merged, merged);
  linear("mm.2", merged, decoder.width);
  for (const layer of merger.deepstack) {
    norm(`v.deepstack.${layer}.norm`, merged);
    linear(`v.deepstack.${layer}.fc1`, merged, merged);
    linear(`v.deepstack.${layer}.fc2`, merged, decoder.width);
  }
  const half = [0.5, 0.5, 0.5];
  const metadata = [
    ["general.architecture", STRING, "clip"],
    ["general.type", STRING, "mmproj"],
    ["clip.has_vision_encoder", BOOL, true],
    ["clip.projector_type", STRING, "qwen3vl_merger"],
    ["clip.use_gelu", BOOL, true],
    ["clip.vision.image_size", UINT32, position_side * patch_size],
    ["clip.vision.patch_size", UINT32, patch_size],
    ["clip.vision.embedding_length", UINT32, width],
    ["clip.vision.feed_forward_length", UINT32, mlp_width],
    ["clip.vision.block_count", UINT32, layers],
    ["clip.vision.attention.head_count", UINT32, heads],
    ["clip.vision.attention.layer_norm_epsilon", FLOAT32, vision.norm_epsilon],
    ["clip.vision.projection_dim", UINT32, decoder.width],
    ["clip.vision.spatial_merge_size", UINT32, merger.size],
    ["clip.vision.image_mean", ARRAY, [FLOAT32, half]],
    ["clip.vision.image_std", ARRAY, [FLOAT32, half]],
    ["clip.vision.is_deepstack_layers", ARRAY, [BOOL, Array.from({ length: layers }, (_, layer) => merger.deepstack.includes(layer))]],
  ];
  return file(metadata, tensors);
}

/** Returns a file of random tensors: weights that keep activations at size 1, norms of 1, biases of 0. */
function file(metadata, tensors) {
  const head = [Buffer.from("GGUF"), uint32(3), uint64(tensors.length), uint64(metadata.length)];
  for (const [key, type, value] of metadata) head.push(string(key), uint32(type), encoded(type, value));
  let offset = 0;
  const placed = tensors.map(([name, type, shape]) => {
    if (type !== F32 && type !== F16 && shape[0] % 32 !== 0) throw new Error(`${name}: rows of ${shape[0]} values are not blocks of 32`);
    const bytes = (shape.reduce((a, b) => a * b) / 32) * BLOCK_BYTES[type];
    head.push(string(name), uint32(shape.length), ...shape.map(uint64), uint32(type), uint64(offset));
    const tensor = { name, type, bytes, offset, shape };
    offset += Math.ceil(bytes / ALIGN) * ALIGN;
    return tensor;
  });
  const header = Buffer.concat(head);
  const begin = Math.ceil(header.length / ALIGN) * ALIGN;
  if (begin + offset > constants.MAX_LENGTH) throw new Error(`a file of ${begin + offset} bytes does not fit into a buffer`);
  const result = Buffer.alloc(begin + offset);
  header.copy(result);
  for (const tensor of placed) fill(result.subarray(begin + tensor.offset).subarray(0, tensor.bytes), tensor);
  return result;
}

function fill(bytes, { name, type, shape }) {
  const inputs = shape.slice(0, -1).reduce((a, b) => a * b, 1);
  if (type === F32) {
    const value = (at) => (shape.length > 1 ? noise(at) : name.endsWith(".weight") ? 1 : 0);
    for (let at = 0; at < bytes.length; at += 4) bytes.writeFloatLE(value(at), at);
  } else if (type === F16) {
    const size = half(1 / Math.sqrt(inputs));
    for (let at = 0; at < bytes.length; at += 2) bytes.writeUInt16LE(size | (noise(at) < 0 ? 0x8000 : 0), at);
  } else {
    // Blocks of a scale in f16 and 32 codes: 16 levels of deviation 4.6, or 256 of deviation 74.
    const scale = half(1 / ((type === Q4_0 ? 4.6 : 74) * Math.sqrt(inputs)));
    let state = 1;
    for (let block = 0; block < bytes.length; block += BLOCK_BYTES[type]) {
      bytes.writeUInt16LE(scale, block);
      for (let at = block + 2; at < block + BLOCK_BYTES[type]; at += 4) {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        // The low bits of such numbers are not random.
        bytes.writeUInt32LE((state ^ (state >>> 13)) >>> 0, at);
      }
    }
  }
}

/** A number from -1 to 1 that looks random. */
const noise = (at) => Math.sin(at * 12.9898);

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
  if (type === BOOL) return Buffer.from([value ? 1 : 0]);
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
