// Rotates queries and keys by their positions, with NORM after an RMS norm of each head. Queries are scaled for log-n attention and stay in
// qkv; keys and values go to the cache.
//
// qkv           rows x sizes.qkv_stride vec4: [q of HEADS heads; k of KV_HEADS heads; v of KV_HEADS heads]
// angles        context x sizes.quads * 2 vec4: (cos, sin) of two angles; query_scale gives the factor of a position's queries
// key_cache, value_cache   context x sizes.cache_stride elements of four values, row = position; with SCALED the scales of the heads follow
// q_weight, k_weight       quads * 2 vec4: the norms' weights; q_norm and k_norm multiply vector `at` of a head by weight and factor
// Pairs are (i, i + half), not neighbours; a quad is four neighbours of a half. A workgroup of 64 computes one row.
// Dispatch: y = step.rows. Workgroup memory with NORM: 36 bytes for each head of q and k.

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
  let scale = query_scale(position);
  let cached = position * sizes.cache_stride;
  let vectors = sizes.quads * 2u;
  let keys = row * sizes.qkv_stride + HEADS * vectors;
  let values = keys + KV_HEADS * vectors;
  prepare_norms(row * sizes.qkv_stride, lane);
  for (var i = lane; i < HEADS * sizes.quads; i += 64u) {
    let quad = i % sizes.quads;
    let first = angles[(position * sizes.quads + quad) * 2u];
    let second = angles[(position * sizes.quads + quad) * 2u + 1u];
    let cosine = vec4<f32>(first.xz, second.xz);
    let sine = vec4<f32>(first.yw, second.yw);
    let head = i / sizes.quads;
    let column = head * vectors + quad;
    let q = row * sizes.qkv_stride + column;
    let q_low = q_norm(qkv[q], head, quad);
    let q_high = q_norm(qkv[q + sizes.quads], head, quad + sizes.quads);
    qkv[q] = (q_low * cosine - q_high * sine) * scale;
    qkv[q + sizes.quads] = (q_high * cosine + q_low * sine) * scale;
    if (head < KV_HEADS) {
      let k = keys + column;
      let v = values + column;
      let k_low = k_norm(qkv[k], head, quad);
      let k_high = k_norm(qkv[k + sizes.quads], head, quad + sizes.quads);
      let rotated_low = k_low * cosine - k_high * sine;
      let rotated_high = k_high * cosine + k_low * sine;
      if (SCALED) {
        qkv[k] = rotated_low;
        qkv[k + sizes.quads] = rotated_high;
      } else {
        store_key(cached + column, rotated_low);
        store_key(cached + column + sizes.quads, rotated_high);
        store_value(cached + column, qkv[v]);
        store_value(cached + column + sizes.quads, qkv[v + sizes.quads]);
      }
    }
  }
  if (SCALED) {
    storageBarrier();
    for (var head = lane; head < KV_HEADS; head += 64u) {
      let column = head * vectors;
      let key_scale = head_scale(keys + column);
      let value_scale = head_scale(values + column);
      // A head of zeros stays zero.
      let by_key = select(0.0, 1.0 / key_scale, key_scale > 0.0);
      let by_value = select(0.0, 1.0 / value_scale, value_scale > 0.0);
      for (var i = 0u; i < vectors; i++) {
        store_key(cached + column + i, qkv[keys + column + i] * by_key);
        store_value(cached + column + i, qkv[values + column + i] * by_value);
      }
      store_scales(cached + KV_HEADS * vectors + head, key_scale, value_scale);
    }
  }
}
