// output = softmax(q · kᵀ * sizes.scale) · v, head by head, in one pass over the keys (online softmax): no score matrix in memory.
// sizes.causal: row m has position step.start + m and attends to keys 0 ..= that position. Otherwise row m attends to the keys
// segment(m).x .. segment(m).y, and both grow from row to row.
//
// q, k, v, output  rows of sizes.*_stride elements of four values; head h begins at sizes.*_offset + h * vectors. k_vector and v_vector
// unpack an element; k_scale and v_scale are its factors
// GROUP heads of q share a head of k and v. Their rows are interleaved: row r of a kv head is row r / GROUP of head r % GROUP of its group.
// A workgroup of ROWS * 8 / LANE_ROWS computes ROWS such rows, 32 keys at a time: an invocation scores LANE_ROWS rows x 4 keys, then the first ROWS
// invocations compute the softmax of one row each, then an invocation sums values for LANE_ROWS rows x PARTS vectors. Workgroup z computes the
// vectors from z * PARTS * 8 on, from the same scores.
// Lines with $r, $k, $p, $j are repeated for LANE_ROWS rows, 4 keys, PARTS vectors, all sums but the last. OF_TILE is j with or without a bound.
// Dispatch: x = kv heads, y = ceil(step.rows * GROUP / ROWS), z = ceil(vectors / (PARTS * 8)). Workgroup memory: 144 bytes * ROWS + 8.
//
// The loop over a head's vectors needs the most registers: 108 for heads of 128 and LANE_ROWS = 4, which are 64 of values' sums, 16 scores, 20 of keys
// and queries, 8 addresses. On RDNA3 six workgroups fit a SIMD up to 120, so little else may be in use across this loop.

const TILE: u32 = 32u;
// One more than a tile, so that lanes that each read a row use different memory banks.
const STRIDE: u32 = 33u;

var<workgroup> scores: array<f32, ROWS * STRIDE>;  // [ROWS][STRIDE]: scores, then probabilities
var<workgroup> factors: array<f32, ROWS>;          // factor of the sums of a row
// The largest score of a row so far, and the sum of its probabilities: as variables they would take registers that the products need.
var<workgroup> largest: array<f32, ROWS>;
var<workgroup> totals: array<f32, ROWS>;
// The first key of this workgroup, and one past the last.
var<workgroup> span: vec2<u32>;

fn dots(x: vec4<f32>, a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) -> vec4<f32> {
  return vec4<f32>(dot(x, a), dot(x, b), dot(x, c), dot(x, d));
}

// The softmax of a tile for the row of a lane. It is not a part of main because naga gives each loop counters, which are variables of its
// function: those of main would take registers during the products.
fn softmax(lane: u32, tile: u32, position: u32) {
  // Bounds exclude the keys to which the row does not attend: exp of a huge negative number differs by driver.
  let of_row = segment(position);
  let row_keys = select(of_row.y, step.start + position + 1u, sizes.causal != 0u);
  let hidden = min(TILE, max(of_row.x, tile) - tile);
  let visible = min(TILE, max(row_keys, tile) - tile);
  // No lane has a larger number, but now Tint knows it, and adds no bound to each access.
  let row = min(lane, ROWS - 1u) * STRIDE;
  var tile_largest = largest[lane];
  for (var j = hidden; j < visible; j++) {
    tile_largest = max(tile_largest, scores[row + j]);
  }
  var correction = 1.0;
  if (visible > hidden) {
    correction = exp(largest[lane] - tile_largest);
    largest[lane] = tile_largest;
  }
  var total = totals[lane] * correction;
  for (var j = 0u; j < TILE; j++) {
    var probability = 0.0;
    if (j >= hidden && j < visible) {
      probability = exp(scores[row + j] - tile_largest);
    }
    scores[row + j] = probability;
    total += probability;
  }
  totals[lane] = total;
  factors[lane] = correction;
}

@compute @workgroup_size(ROWS * 8u / LANE_ROWS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let vectors = head_vectors();
  let head = workgroup.x * vectors;
  let first = workgroup.y * ROWS;
  let column = lane & 7u;
  let band = (lane >> 3u) * LANE_ROWS;  // first of this lane's rows
  let vector = workgroup.z * PARTS * 8u + column;  // first of this lane's vectors
  let last_row = step.rows * GROUP - 1u;
  let last_key = step.keys - 1u;
  if (lane == 0u) {
    var end = segment(min(first + ROWS - 1u, last_row) / GROUP).y;
    if (sizes.causal != 0u) {
      end = min(end, step.start + (first + ROWS - 1u) / GROUP + 1u);
    }
    span = vec2<u32>(segment(first / GROUP).x, end);
  }
  // The bounds of the loop are loaded as uniform values: NVK does not see that a value of the workgroup's number is one, and keeps three copies
  // of the variables of a loop whose end could differ between invocations.
  let bounds = workgroupUniformLoad(&span);
  let begin = bounds.x;
  let keys = bounds.y;
  let row$r = min(first + band + $ru, last_row);
  // No sum is below its term. The bound keeps NVK from carrying two terms of each query's address through the loop, to add three there.
  let query$r = max(row$r / GROUP * sizes.q_stride + sizes.q_offset + head * GROUP + row$r % GROUP * vectors, sizes.q_offset);
  let at = band * STRIDE + column * 4u;  // first of this lane's scores
  var acc$r_$p = vec4<f32>(0.0);
  if (lane < ROWS) {
    largest[lane] = -3.0e38;
    totals[lane] = 0.0;
  }
  for (var tile = begin; tile < keys; tile += TILE) {
    let key$k = min(tile + column * 4u + $ku, last_key);
    let key_at$k = key$k * sizes.k_stride + sizes.k_offset + head;
    var score$r = vec4<f32>(0.0);
    for (var i = 0u; i < vectors; i++) {
      let k$k = k_vector(key_at$k + i);
      score$r += dots(q[query$r + i], k0, k1, k2, k3);
    }
    let scale$k = k_scale(key_at$k, workgroup.x);
    let scale = vec4<f32>(scale0, scale1, scale2, scale3) * sizes.scale;
    scores[at + $ru * STRIDE] = score$r.x * scale.x;
    scores[at + $ru * STRIDE + 1u] = score$r.y * scale.y;
    scores[at + $ru * STRIDE + 2u] = score$r.z * scale.z;
    scores[at + $ru * STRIDE + 3u] = score$r.w * scale.w;
    workgroupBarrier();

    if (lane < ROWS) {
      softmax(lane, tile, min(first + lane, last_row) / GROUP);
    }
    workgroupBarrier();

    let factor$r = factors[band + $ru];
    acc$r_$p *= factor$r;
    let count = min(TILE, keys - tile);
    for (var j = 0u; j < count; j++) {
      let value = (tile + j) * sizes.v_stride + sizes.v_offset + head;
      let v_factor = v_scale(value, workgroup.x);
      let v$p = v_vector(value + min(vector + $pu * 8u, vectors - 1u)) * v_factor;
      let p$r = scores[(band + $ru) * STRIDE + OF_TILE];
      acc$r_$p += p$r * v$p;
    }
    workgroupBarrier();
  }
  if (lane < ROWS) {
    factors[lane] = 1.0 / totals[lane];
  }
  workgroupBarrier();
  var sums = array<vec4<f32>, LANE_ROWS * PARTS>(
    acc$r_$p,
  );
  // Compared in place of rows, whose numbers compilers would keep in registers from the start on.
  let last_of_group = last_row - first;
  for (var i = 0u; i < LANE_ROWS * PARTS; i++) {
    let of_group = band + i / PARTS;
    let row = first + of_group;
    let of_head = vector + i % PARTS * 8u;
    if (of_group <= last_of_group && of_head < vectors) {
      output[row / GROUP * sizes.out_stride + head * GROUP + row % GROUP * vectors + of_head] = sums[0] * factors[of_group];
    }
    // As in tile.wgsl of the products.
    sums[$ju] = sums[$ju + 1u];
  }
}
