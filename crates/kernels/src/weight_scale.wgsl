// The f16 bits of a block's scale, in the lower half: rows of scales, two to a word, each row padded to whole words.
fn block_scale_bits(row: u32, block: u32, blocks: u32) -> u32 {
  let scales = (blocks + BLOCKS_PER_SCALE - 1u) / BLOCKS_PER_SCALE;
  let words = (scales + 1u) / 2u;
  let group = block / BLOCKS_PER_SCALE;
  return weight_scales[row * words + group / 2u] >> ((group & 1u) * 16u);
}

fn scale_from(bits: u32) -> f32 {
  return unpack2x16float(bits).x;
}

