// A block: 32 consecutive weights of a row as eight vectors. `blocks` is the number of blocks in a stored row. Every weight_*.wgsl has a
// load_quarter, two vectors of a block.
fn load_block(row: u32, block: u32, blocks: u32) -> array<vec4<f32>, 8> {
  let a = load_quarter(row, block, blocks, 0u);
  let b = load_quarter(row, block, blocks, 1u);
  let c = load_quarter(row, block, blocks, 2u);
  let d = load_quarter(row, block, blocks, 3u);
  return array<vec4<f32>, 8>(a[0], a[1], b[0], b[1], c[0], c[1], d[0], d[1]);
}
