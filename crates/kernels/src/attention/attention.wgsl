// output = softmax(q · kᵀ * sizes.scale) · v, head by head, in one pass over the keys (online softmax): no score matrix in memory.
// sizes.causal: row m stands at position step.start + m and sees keys 0 ..= that position. Otherwise every row sees all step.keys keys.
//
// q, k, v, output  vec4 rows of sizes.*_stride vectors; head h begins at sizes.*_offset + h * VECTORS
// A workgroup of 64 does 64 rows of one head, an invocation one row; keys and values pass through workgroup memory 16 at a time.
// Dispatch: x = heads, y = ceil(step.rows / 64). Workgroup memory: at most 16 KiB (head size 128).

const TILE: u32 = 16u;
const TILE_VECTORS: u32 = TILE * VECTORS;

var<workgroup> key_tile: array<vec4<f32>, TILE_VECTORS>;
var<workgroup> value_tile: array<vec4<f32>, TILE_VECTORS>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let head = workgroup.x * VECTORS;
  let first = workgroup.y * 64u;
  let row = first + lane;
  let row_read = min(row, step.rows - 1u);
  var keys = step.keys;       // that this workgroup looks at
  var row_keys = step.keys;   // that this row looks at
  if (sizes.causal != 0u) {
    keys = min(keys, step.start + first + 64u);
    row_keys = step.start + row_read + 1u;
  }

  var query: array<vec4<f32>, VECTORS>;
  var acc: array<vec4<f32>, VECTORS>;
  for (var i = 0u; i < VECTORS; i++) {
    query[i] = q[row_read * sizes.q_stride + sizes.q_offset + head + i] * sizes.scale;
    acc[i] = vec4<f32>(0.0);
  }
  var largest = -3.0e38;
  var total = 0.0;
  for (var tile = 0u; tile < keys; tile += TILE) {
    for (var i = lane; i < TILE_VECTORS; i += 64u) {
      let key = min(tile + i / VECTORS, step.keys - 1u);
      key_tile[i] = k[key * sizes.k_stride + sizes.k_offset + head + i % VECTORS];
      value_tile[i] = v[key * sizes.v_stride + sizes.v_offset + head + i % VECTORS];
    }
    workgroupBarrier();
    // Keys past the end are left out by bounds: exp of a huge negative number differs by driver.
    let count = min(TILE, max(row_keys, tile) - tile);
    var scores: array<f32, TILE>;
    var tile_largest = largest;
    for (var j = 0u; j < count; j++) {
      var sum = vec4<f32>(0.0);
      for (var i = 0u; i < VECTORS; i++) {
        sum += query[i] * key_tile[j * VECTORS + i];
      }
      scores[j] = sum.x + sum.y + sum.z + sum.w;
      tile_largest = max(tile_largest, scores[j]);
    }
    if (count > 0u) {
      let correction = exp(largest - tile_largest);
      largest = tile_largest;
      total *= correction;
      for (var i = 0u; i < VECTORS; i++) {
        acc[i] *= correction;
      }
    }
    for (var j = 0u; j < count; j++) {
      let probability = exp(scores[j] - largest);
      total += probability;
      for (var i = 0u; i < VECTORS; i++) {
        acc[i] += probability * value_tile[j * VECTORS + i];
      }
    }
    workgroupBarrier();
  }
  if (row < step.rows) {
    for (var i = 0u; i < VECTORS; i++) {
      output[row * sizes.out_stride + head + i] = acc[i] / total;
    }
  }
}
