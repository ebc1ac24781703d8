// Attention of one row: output = softmax(q · kᵀ * sizes.scale) · v over all step.keys keys.
//
// A workgroup of LANES computes GROUP heads of q that share a head of k and v, or one of SPLITS slices of the context for them. For LANES
// keys at a time each lane scores one key for all heads; then lanes (team, vector) sum the values of every TEAMS-th key, and if a head has
// more vectors than LANES, a lane sums PARTS of them. With several slices the output is an intermediate result: for each head and slice
// VECTORS sums, then the largest score and the total (see merge.wgsl).
// Lines with $h, $p are repeated for GROUP heads, PARTS vectors. Dispatch: x = heads / GROUP, y = SPLITS.
// Workgroup memory: (16 bytes * VECTORS + 4 * LANES) * GROUP + 16 * LANES.

var<workgroup> query: array<vec4<f32>, GROUP * VECTORS>;
var<workgroup> scores: array<f32, GROUP * LANES>;  // [GROUP][LANES]: scores, then probabilities, then totals
var<workgroup> sums: array<vec4<f32>, LANES>;

// The sum over the teams, in the lanes of the first team.
fn sum_of_teams(value: vec4<f32>, lane: u32) -> vec4<f32> {
  sums[lane] = value;
  workgroupBarrier();
  var sum = value;
  if (lane < VECTORS) {
    for (var team = 1u; team < TEAMS; team++) {
      sum += sums[team * VECTORS + lane];
    }
  }
  workgroupBarrier();
  return sum;
}

fn total_of_teams(head: u32) -> f32 {
  var total = scores[head * LANES];
  for (var team = 1u; team < TEAMS; team++) {
    total += scores[head * LANES + team * VECTORS];
  }
  return total;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, lane: Lane) {
  let first_head = workgroup.x * GROUP;
  let kv_head = first_head / sizes.group;
  for (var i = lane.index; i < GROUP * VECTORS; i += LANES) {
    query[i] = q[sizes.q_offset + first_head * VECTORS + i] * sizes.scale;
  }
  workgroupBarrier();
  let team = lane.index / VECTORS;
  let vector$p = min(lane.index % VECTORS + $pu * LANES, VECTORS - 1u);
  var largest$h = -3.0e38;
  var total$h = 0.0;
  var acc$h_$p = vec4<f32>(0.0);
  let slice = (step.keys + SPLITS - 1u) / SPLITS;
  let last = min((workgroup.y + 1u) * slice, step.keys);
  for (var tile = workgroup.y * slice; tile < last; tile += LANES) {
    let key = tile + lane.index;
    var score$h = -3.0e38;
    if (key < last) {
      let at = key * sizes.k_stride + sizes.k_offset + kv_head * VECTORS;
      var sum$h = vec4<f32>(0.0);
      for (var i = 0u; i < head_vectors(); i++) {
        let k = k_vector(at + i);
        sum$h += query[$hu * VECTORS + i] * k;
      }
      let scale = k_scale(key, kv_head);
      score$h = (sum$h.x + sum$h.y + sum$h.z + sum$h.w) * scale;
    }
    let maxima = workgroup_maxima(
      score$h,
      lane
    );
    let tile_largest$h = max(largest$h, maxima[$h]);
    let correction$h = exp(largest$h - tile_largest$h);
    largest$h = tile_largest$h;
    var probability$h = 0.0;
    if (key < last) {
      probability$h = exp(score$h - largest$h);
    }
    scores[$hu * LANES + lane.index] = probability$h;
    workgroupBarrier();
    total$h *= correction$h;
    acc$h_$p *= correction$h;
    if (team < TEAMS) {
      let count = min(LANES, last - tile);
      for (var j = team; j < count; j += TEAMS) {
        let at = (tile + j) * sizes.v_stride + sizes.v_offset + kv_head * VECTORS;
        let scale = v_scale(tile + j, kv_head);
        let v$p = v_vector(at + vector$p) * scale;
        let p$h = scores[$hu * LANES + j];
        total$h += p$h;
        acc$h_$p += p$h * v$p;
      }
    }
    workgroupBarrier();
  }
  scores[$hu * LANES + lane.index] = total$h;
  acc$h_$p = sum_of_teams(acc$h_$p, lane.index);
  total$h = total_of_teams($hu);
  if (lane.index < VECTORS) {
    if (SPLITS == 1u) {
      let at = first_head * VECTORS + lane.index;
      if ($pu * LANES + lane.index < VECTORS) { output[at + $hu * VECTORS + $pu * LANES] = acc$h_$p / total$h; }
    } else {
      let at = (first_head * SPLITS + workgroup.y) * (VECTORS + 1u) + lane.index;
      if ($pu * LANES + lane.index < VECTORS) { output[at + $hu * SPLITS * (VECTORS + 1u) + $pu * LANES] = acc$h_$p; }
      if (lane.index == 0u) { output[at + $hu * SPLITS * (VECTORS + 1u) + VECTORS] = vec4<f32>(largest$h, total$h, 0.0, 0.0); }
    }
  }
}
