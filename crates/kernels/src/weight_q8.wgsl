// Four signed codes to a word, four words to an element: 32 consecutive weights of a row are two elements.
fn load_block(row: u32, block: u32, blocks: u32) -> array<vec4<f32>, 8> {
  let at = (row * blocks + block) * 2u;
  let a = weight_data[at];
  let b = weight_data[at + 1u];
  let scale = block_scale(row, block, blocks);
  return array<vec4<f32>, 8>(
    vec4<f32>(unpack4xI8(a.x)) * scale, vec4<f32>(unpack4xI8(a.y)) * scale,
    vec4<f32>(unpack4xI8(a.z)) * scale, vec4<f32>(unpack4xI8(a.w)) * scale,
    vec4<f32>(unpack4xI8(b.x)) * scale, vec4<f32>(unpack4xI8(b.y)) * scale,
    vec4<f32>(unpack4xI8(b.z)) * scale, vec4<f32>(unpack4xI8(b.w)) * scale);
}
