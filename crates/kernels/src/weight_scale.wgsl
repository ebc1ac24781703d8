// The scale of a block: rows of f16 scales, two to a word, each row padded to whole words.
fn block_scale(row: u32, block: u32, blocks: u32) -> f32 {
  let scales = (blocks + BLOCKS_PER_SCALE - 1u) / BLOCKS_PER_SCALE;
  let words = (scales + 1u) / 2u;
  let group = block / BLOCKS_PER_SCALE;
  let pair = unpack2x16float(weight_scales[row * words + group / 2u]);
  return select(pair.x, pair.y, (group & 1u) == 1u);
}

