// Rotates queries and keys by their positions. Queries are scaled for log-n attention and stay in qkv; keys and values go to the cache.
//
// qkv           rows x sizes.qkv_stride vec4: [q of all heads; k of all heads; v of all heads]
// angles        context x sizes.quads * 2 vec4: (cos, sin) of two angles      logn  context f32
// key_cache, value_cache   context x sizes.cache_stride elements of four values, row = position; with SCALED the scales of the heads follow
// Pairs are (i, i + half), not neighbours; a quad is four neighbours of a half. A workgroup of 64 computes one row.
// Dispatch: y = step.rows.

// The scale that maps the largest magnitude of a head to 127.
fn head_scale(at: u32) -> f32 {
  var largest = vec4<f32>(0.0);
  for (var i = 0u; i < sizes.quads * 2u; i++) {
    largest = max(largest, abs(qkv[at + i]));
  }
  return max(max(largest.x, largest.y), max(largest.z, largest.w)) / 127.0;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let row = min(workgroup.y, step.rows - 1u);
  let position = step.start + row;
  let scale = logn[position];
  let cached = position * sizes.cache_stride;
  let hidden = sizes.heads * sizes.quads * 2u;
  for (var i = lane; i < sizes.heads * sizes.quads; i += 64u) {
    let quad = i % sizes.quads;
    let first = angles[(position * sizes.quads + quad) * 2u];
    let second = angles[(position * sizes.quads + quad) * 2u + 1u];
    let cosine = vec4<f32>(first.xz, second.xz);
    let sine = vec4<f32>(first.yw, second.yw);
    let column = (i / sizes.quads) * sizes.quads * 2u + quad;
    let q = row * sizes.qkv_stride + column;
    let q_low = qkv[q];
    let q_high = qkv[q + sizes.quads];
    qkv[q] = (q_low * cosine - q_high * sine) * scale;
    qkv[q + sizes.quads] = (q_high * cosine + q_low * sine) * scale;
    let k = q + hidden;
    let k_low = qkv[k];
    let k_high = qkv[k + sizes.quads];
    let rotated_low = k_low * cosine - k_high * sine;
    let rotated_high = k_high * cosine + k_low * sine;
    if (SCALED) {
      qkv[k] = rotated_low;
      qkv[k + sizes.quads] = rotated_high;
    } else {
      store_key(cached + column, rotated_low);
      store_key(cached + column + sizes.quads, rotated_high);
      store_value(cached + column, qkv[k + hidden]);
      store_value(cached + column + sizes.quads, qkv[k + hidden + sizes.quads]);
    }
  }
  if (SCALED) {
    storageBarrier();
    for (var head = lane; head < sizes.heads; head += 64u) {
      let column = head * sizes.quads * 2u;
      let k = row * sizes.qkv_stride + hidden + column;
      let key_scale = head_scale(k);
      let value_scale = head_scale(k + hidden);
      // A head of zeros stays zero.
      let by_key = select(0.0, 1.0 / key_scale, key_scale > 0.0);
      let by_value = select(0.0, 1.0 / value_scale, value_scale > 0.0);
      for (var i = 0u; i < sizes.quads * 2u; i++) {
        store_key(cached + column + i, qkv[k + i] * by_key);
        store_value(cached + column + i, qkv[k + hidden + i] * by_value);
      }
      store_scales(cached + hidden + head, key_scale, value_scale);
    }
  }
}
