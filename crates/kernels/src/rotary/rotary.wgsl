// Turns queries and keys by their positions; queries stay where they are, scaled for log-n attention, keys and values go to the cache.
//
// qkv           rows x sizes.qkv_stride f32: [q of all heads; k of all heads; v of all heads]
// angles        context x sizes.half (cos, sin)            logn  context f32
// key_cache, value_cache   context x sizes.cache_stride f32, row = position
// Halves are paired (i, i + sizes.half), not neighbours. A workgroup of 64 does one row. Dispatch: y = step.rows.

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let row = workgroup.y;
  let position = step.start + row;
  if (row < step.rows) {
    let scale = logn[position];
    for (var i = lane; i < sizes.heads * sizes.half; i += 64u) {
      let head = i / sizes.half;
      let pair = i % sizes.half;
      let turn = angles[position * sizes.half + pair];
      let column = head * sizes.half * 2u + pair;
      let q = row * sizes.qkv_stride + column;
      let q_low = qkv[q];
      let q_high = qkv[q + sizes.half];
      qkv[q] = (q_low * turn.x - q_high * turn.y) * scale;
      qkv[q + sizes.half] = (q_high * turn.x + q_low * turn.y) * scale;
      let k = q + sizes.hidden;
      let k_low = qkv[k];
      let k_high = qkv[k + sizes.half];
      let cached = position * sizes.cache_stride + column;
      key_cache[cached] = k_low * turn.x - k_high * turn.y;
      key_cache[cached + sizes.half] = k_high * turn.x + k_low * turn.y;
      value_cache[cached] = qkv[k + sizes.hidden];
      value_cache[cached + sizes.half] = qkv[k + sizes.hidden + sizes.half];
    }
  }
}
