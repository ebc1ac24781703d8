// The same for one row: output = softmax(q · kᵀ * sizes.scale) · v over all step.keys keys.
//
// A workgroup of LANES does one head, or one of SPLITS slices of the context for one head: for LANES keys at a time a lane scores one, then
// lanes (group, vector) sum the values of every GROUPS-th key. With several slices the output is not the attention but, for each head and
// slice, VECTORS sums and then its largest score and total: see merge.wgsl. Dispatch: x = heads, y = SPLITS. Workgroup memory:
// 16 bytes * VECTORS + 24 * LANES.

const GROUPS: u32 = LANES / VECTORS;

var<workgroup> query: array<vec4<f32>, VECTORS>;
var<workgroup> scores: array<f32, LANES>;
var<workgroup> scratch: array<f32, LANES>;
var<workgroup> sums: array<vec4<f32>, LANES>;

fn workgroup_max(value: f32, lane: u32) -> f32 {
  scratch[lane] = value;
  workgroupBarrier();
  for (var half = LANES / 2u; half > 0u; half >>= 1u) {
    if (lane < half) {
      scratch[lane] = max(scratch[lane], scratch[lane + half]);
    }
    workgroupBarrier();
  }
  let largest = scratch[0];
  workgroupBarrier();
  return largest;
}

fn workgroup_sum(value: f32, lane: u32) -> f32 {
  scratch[lane] = value;
  workgroupBarrier();
  for (var half = LANES / 2u; half > 0u; half >>= 1u) {
    if (lane < half) {
      scratch[lane] += scratch[lane + half];
    }
    workgroupBarrier();
  }
  let sum = scratch[0];
  workgroupBarrier();
  return sum;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let head = workgroup.x * VECTORS;
  if (lane < VECTORS) {
    query[lane] = q[sizes.q_offset + head + lane] * sizes.scale;
  }
  workgroupBarrier();
  let group = lane / VECTORS;
  let vector = lane % VECTORS;
  var largest = -3.0e38;
  var total = 0.0;
  var acc = vec4<f32>(0.0);
  let slice = (step.keys + SPLITS - 1u) / SPLITS;
  let last = min((workgroup.y + 1u) * slice, step.keys);
  for (var tile = workgroup.y * slice; tile < last; tile += LANES) {
    let key = tile + lane;
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
    scores[lane] = probability;
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
  sums[lane] = acc;
  workgroupBarrier();
  if (lane < VECTORS) {
    for (var other = 1u; other < GROUPS; other++) {
      acc += sums[other * VECTORS + lane];
    }
    if (SPLITS == 1u) {
      output[head + lane] = acc / total;
    } else {
      let at = (workgroup.x * SPLITS + workgroup.y) * (VECTORS + 1u);
      output[at + lane] = acc;
      output[at + VECTORS] = vec4<f32>(largest, total, 0.0, 0.0);
    }
  }
}
