// output = softmax(q · kᵀ * sizes.scale) · v, head by head, in one pass over the keys (online softmax): no score matrix in memory.
// sizes.causal: row m has position step.start + m and attends to keys 0 ..= that position. Otherwise row m attends to the keys
// segment(m).x .. segment(m).y, and both grow from row to row.
//
// q, k, v, output  rows of sizes.*_stride elements of four values; head h begins at sizes.*_offset + h * vectors. k_vector and v_vector
// unpack an element; k_scale and v_scale are its factors
// GROUP heads of q share a head of k and v. Their rows are interleaved: row r of a kv head is row r / GROUP of head r % GROUP of its group.
// A workgroup of ROWS computes ROWS such rows, 32 keys at a time: an invocation scores 8 rows x 4 keys, then computes the softmax of one
// row, then sums values for 8 rows x PARTS vectors. Workgroup z computes the vectors from z * PARTS * 8 on, from the same scores.
// Lines with $r, $k, $p are repeated for 8 rows, 4 keys, PARTS vectors.
// Dispatch: x = kv heads, y = ceil(step.rows * GROUP / ROWS), z = ceil(vectors / (PARTS * 8)). Workgroup memory: 136 bytes * ROWS.

const TILE: u32 = 32u;
// One more than a tile, so that lanes that each read a row use different memory banks.
const STRIDE: u32 = 33u;

var<workgroup> scores: array<f32, ROWS * STRIDE>;  // [ROWS][STRIDE]: scores, then probabilities
var<workgroup> factors: array<f32, ROWS>;          // factor of the sums of a row

fn dots(x: vec4<f32>, a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) -> vec4<f32> {
  return vec4<f32>(dot(x, a), dot(x, b), dot(x, c), dot(x, d));
}

@compute @workgroup_size(ROWS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let vectors = head_vectors();
  let head = workgroup.x * vectors;
  let first = workgroup.y * ROWS;
  let column = lane & 7u;
  let band = (lane >> 3u) * 8u;  // first of this lane's 8 rows
  let vector = workgroup.z * PARTS * 8u + column;  // first of this lane's vectors
  let last_row = step.rows * GROUP - 1u;
  let last_key = step.keys - 1u;
  let own = segment(min(first + lane, last_row) / GROUP);
  let row_begin = own.x;
  var row_keys = own.y;  // one past the last key of row first + lane
  let begin = segment(first / GROUP).x;
  var keys = segment(min(first + ROWS - 1u, last_row) / GROUP).y;  // one past the last key of this workgroup
  if (sizes.causal != 0u) {
    keys = min(keys, step.start + (first + ROWS - 1u) / GROUP + 1u);
    row_keys = step.start + min(first + lane, last_row) / GROUP + 1u;
  }
  let row$r = min(first + band + $ru, last_row);
  let query$r = row$r / GROUP * sizes.q_stride + sizes.q_offset + head * GROUP + row$r % GROUP * vectors;
  var acc$r_$p = vec4<f32>(0.0);
  var largest = -3.0e38;
  var total = 0.0;
  for (var tile = begin; tile < keys; tile += TILE) {
    let key = min(vec4<u32>(tile + column * 4u) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(last_key));
    let key$k = key[$k] * sizes.k_stride + sizes.k_offset + head;
    let scale$k = k_scale(key[$k], workgroup.x);
    var score$r = vec4<f32>(0.0);
    for (var i = 0u; i < vectors; i++) {
      let k$k = k_vector(key$k + i);
      score$r += dots(q[query$r + i], k0, k1, k2, k3);
    }
    let scale = vec4<f32>(scale0, scale1, scale2, scale3) * sizes.scale;
    let at = band * STRIDE + column * 4u;
    scores[at + $ru * STRIDE] = score$r.x * scale.x;
    scores[at + $ru * STRIDE + 1u] = score$r.y * scale.y;
    scores[at + $ru * STRIDE + 2u] = score$r.z * scale.z;
    scores[at + $ru * STRIDE + 3u] = score$r.w * scale.w;
    workgroupBarrier();

    // Bounds exclude the keys to which the row does not attend: exp of a huge negative number differs by driver.
    let hidden = min(TILE, max(row_begin, tile) - tile);
    let visible = min(TILE, max(row_keys, tile) - tile);
    let row = lane * STRIDE;
    var tile_largest = largest;
    for (var j = hidden; j < visible; j++) {
      tile_largest = max(tile_largest, scores[row + j]);
    }
    var correction = 1.0;
    if (visible > hidden) {
      correction = exp(largest - tile_largest);
      largest = tile_largest;
      total *= correction;
    }
    for (var j = 0u; j < TILE; j++) {
      var probability = 0.0;
      if (j >= hidden && j < visible) {
        probability = exp(scores[row + j] - largest);
      }
      scores[row + j] = probability;
      total += probability;
    }
    factors[lane] = correction;
    workgroupBarrier();

    let factor$r = factors[band + $ru];
    acc$r_$p *= factor$r;
    let count = min(TILE, keys - tile);
    for (var j = 0u; j < count; j++) {
      let value = (tile + j) * sizes.v_stride + sizes.v_offset + head;
      let v_factor = v_scale(tile + j, workgroup.x);
      let v$p = v_vector(value + min(vector + $pu * 8u, vectors - 1u)) * v_factor;
      let p$r = scores[(band + $ru) * STRIDE + j];
      acc$r_$p += p$r * v$p;
    }
    workgroupBarrier();
  }
  factors[lane] = 1.0 / total;
  workgroupBarrier();
  // Only this copy is indexed, so that the sums can stay in registers.
  var sums = array<vec4<f32>, 8u * PARTS>(
    acc$r_$p,
  );
  for (var i = 0u; i < 8u * PARTS; i++) {
    let row = first + band + i / PARTS;
    let of_head = vector + i % PARTS * 8u;
    if (row <= last_row && of_head < vectors) {
      output[row / GROUP * sizes.out_stride + head * GROUP + row % GROUP * vectors + of_head] = sums[i] * factors[row - first];
    }
  }
}
