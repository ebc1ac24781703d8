// Turns queries and keys by their positions; queries stay where they are, scaled for log-n attention, keys and values go to the cache.
//
// qkv           rows x QKV_STRIDE f32: [q of all heads; k of all heads; v of all heads]
// angles        context x HALF (cos, sin)            logn  context f32
// key_cache, value_cache   context x CACHE_STRIDE f32, row = position
// Halves are paired (i, i + HALF), not neighbours. A workgroup of 64 does one row. Dispatch: y = step.rows.

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let row = workgroup.y;
  let position = step.start + row;
  if (row < step.rows) {
    let scale = logn[position];
    for (var i = lane; i < HEADS * HALF; i += 64u) {
      let head = i / HALF;
      let pair = i % HALF;
      let turn = angles[position * HALF + pair];
      let column = head * HALF * 2u + pair;
      let q = row * QKV_STRIDE + column;
      let q_low = qkv[q];
      let q_high = qkv[q + HALF];
      qkv[q] = (q_low * turn.x - q_high * turn.y) * scale;
      qkv[q + HALF] = (q_high * turn.x + q_low * turn.y) * scale;
      let k = q + HIDDEN;
      let k_low = qkv[k];
      let k_high = qkv[k + HALF];
      let cached = position * CACHE_STRIDE + column;
      key_cache[cached] = k_low * turn.x - k_high * turn.y;
      key_cache[cached + HALF] = k_high * turn.x + k_low * turn.y;
      value_cache[cached] = qkv[k + HIDDEN];
      value_cache[cached + HALF] = qkv[k + HIDDEN + HALF];
    }
  }
}
