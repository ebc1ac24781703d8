// Rotates the queries and keys of a vision tower in place.
//
// qkv     rows x sizes.stride units of N neighbouring values, where N divides half a head: [q of all heads; k of all heads; v of all heads]
// angles  rows x sizes.half units of pairs (cos, sin); cosine_at and sine_at unpack a unit
// Pairs are (i, i + half), not neighbours. A workgroup of 64 computes one row. Dispatch: y = step.rows.

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let row = workgroup.y;
  if (row < step.rows) {
    for (var i = lane; i < sizes.heads * 2u * sizes.half; i += 64u) {
      let unit = i % sizes.half;
      let at = row * sizes.stride + i / sizes.half * sizes.half * 2u + unit;
      let cosine = cosine_at(row * sizes.half + unit);
      let sine = sine_at(row * sizes.half + unit);
      let low = qkv[at];
      let high = qkv[at + sizes.half];
      qkv[at] = low * cosine - high * sine;
      qkv[at + sizes.half] = high * cosine + low * sine;
    }
  }
}
