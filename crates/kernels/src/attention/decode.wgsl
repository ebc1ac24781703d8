// Attention of one row: output = softmax(q · kᵀ * sizes.scale) · v over all step.keys keys.
//
// A workgroup of LANES computes one head, or one of SPLITS slices of the context for one head. For LANES keys at a time each lane scores one
// key; then lanes (group, vector) sum the values of every GROUPS-th key. With several slices the output is an intermediate result: for each
// head and slice VECTORS sums, then the largest score and the total (see merge.wgsl). Dispatch: x = heads, y = SPLITS. Workgroup memory:
// 16 bytes * VECTORS + 24 * LANES, see reduce.wgsl.

const GROUPS: u32 = LANES / VECTORS;

var<workgroup> query: array<vec4<f32>, VECTORS>;
var<workgroup> scores: array<f32, LANES>;
var<workgroup> sums: array<vec4<f32>, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, lane: Lane) {
  let head = workgroup.x * VECTORS;
  if (lane.index < VECTORS) {
    query[lane.index] = q[sizes.q_offset + head + lane.index] * sizes.scale;
  }
  workgroupBarrier();
  let group = lane.index / VECTORS;
  let vector = lane.index % VECTORS;
  var largest = -3.0e38;
  var total = 0.0;
  var acc = vec4<f32>(0.0);
  let slice = (step.keys + SPLITS - 1u) / SPLITS;
  let last = min((workgroup.y + 1u) * slice, step.keys);
  for (var tile = workgroup.y * slice; tile < last; tile += LANES) {
    let key = tile + lane.index;
    var score = -3.0e38;
    if (key < last) {
      let at = key * sizes.k_stride + sizes.k_offset + head;
      var sum = vec4<f32>(0.0);
      for (var i = 0u; i < VECTORS; i++) {
        sum += query[i] * k_vector(at + i);
      }
      score = (sum.x + sum.y + sum.z + sum.w) * k_scale(key, workgroup.x);
    }
    let tile_largest = max(largest, workgroup_max(score, lane));
    let correction = exp(largest - tile_largest);
    largest = tile_largest;
    var probability = 0.0;
    if (key < last) {
      probability = exp(score - largest);
    }
    scores[lane.index] = probability;
    total = total * correction + workgroup_sum(probability, lane);
    acc *= correction;
    if (group < GROUPS) {
      let count = min(LANES, last - tile);
      for (var j = group; j < count; j += GROUPS) {
        acc += scores[j] * v_scale(tile + j, workgroup.x) * v_vector((tile + j) * sizes.v_stride + sizes.v_offset + head + vector);
      }
    }
    workgroupBarrier();
  }
  sums[lane.index] = acc;
  workgroupBarrier();
  if (lane.index < VECTORS) {
    for (var other = 1u; other < GROUPS; other++) {
      acc += sums[other * VECTORS + lane.index];
    }
    if (SPLITS == 1u) {
      output[head + lane.index] = acc / total;
    } else {
      let at = (workgroup.x * SPLITS + workgroup.y) * (VECTORS + 1u);
      output[at + lane.index] = acc;
      output[at + VECTORS] = vec4<f32>(largest, total, 0.0, 0.0);
    }
  }
}
