// Attention of one row: output = softmax(q · kᵀ * sizes.scale) · v over all step.keys keys.
//
// A workgroup of LANES computes GROUP heads of q that share a head of k and v, for one of sizes.splits slices of the context. A slice has at
// least sizes.shortest keys, so that the last slices of a short context are empty; their workgroups end at once. For TILE keys at a time:
// 1. ALONG lanes side by side share the vectors of a key, and score 4 keys at a time for all heads.
// 2. Each lane takes the maximum and the exponential of its keys' scores, TILE / LANES for each head.
// 3. Lanes (team, vector) sum the values of every TEAMS-th key, VALUES keys at a time. If a head has more vectors than LANES, a lane sums
//    PARTS of them.
// The loads of 4 keys, and of VALUES keys or PARTS vectors, are independent, so that a GPU waits once for the memory.
// With several slices the output is an intermediate result: for each head and slice VECTORS sums, then the largest score and the total (see
// merge.wgsl).
// Lines with $h, $k, $v, $p are repeated for GROUP heads, 4 keys, VALUES keys, PARTS vectors. Dispatch: x = sizes.splits,
// y = heads / GROUP: a software adapter gives the first half of the workgroups to one core, and empty slices must not be all in one half.
// Workgroup memory: (16 * VECTORS + 4 * TILE + 4 * SCRATCH) * GROUP + 16 * LANES bytes.

// Keys that are scored at a time.
const STRIP: u32 = LANES / ALONG * 4u;

var<workgroup> query: array<vec4<f32>, GROUP * VECTORS>;
var<workgroup> scores: array<f32, GROUP * TILE>;     // [GROUP][TILE]: scores, then probabilities
// [GROUP][STRIP][PITCH]: a lane's part of a score. Later [GROUP][LANES]: maxima, then totals.
var<workgroup> scratch: array<f32, GROUP * SCRATCH>;
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
  var total = scratch[head * LANES];
  for (var team = 1u; team < TEAMS; team++) {
    total += scratch[head * LANES + team * VECTORS];
  }
  return total;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let slice = max((step.keys + sizes.splits - 1u) / sizes.splits, sizes.shortest);
  var keys = min(vec2<u32>(workgroup.x, workgroup.x + 1u) * slice, vec2<u32>(step.keys));
  // Uniform values on GPUs, as in attention.wgsl; all invocations run each of the loops below equally often for the same reason. A number of keys is
  // exact as f32, and workgroups of 8 heads have no memory left for another variable. Software adapters take longer for the barrier.
  if (ALONG > 1u) {
    if (lane == 0u) {
      sums[0] = vec4<f32>(vec2<f32>(keys), 0.0, 0.0);
    }
    keys = vec2<u32>(workgroupUniformLoad(&sums[0]).xy);
  }
  let first = keys.x;
  let last = keys.y;
  if (first >= last) {
    return;
  }
  let first_head = workgroup.y * GROUP;
  let kv_head = first_head / sizes.group;
  for (var i = lane; i < GROUP * VECTORS; i += LANES) {
    query[i] = q[sizes.q_offset + first_head * VECTORS + i] * sizes.scale;
  }
  workgroupBarrier();
  let along = lane % ALONG;
  let row = lane / ALONG * 4u;
  let team = lane / VECTORS;
  let vector$p = min(lane % VECTORS + $pu * LANES, VECTORS - 1u);
  var largest$h = -3.0e38;
  var total$h = 0.0;
  var acc$h_$p = vec4<f32>(0.0);
  for (var tile = first; tile < last; tile += TILE) {
    let count = min(TILE, last - tile);
    for (var strip = 0u; strip < count; strip += STRIP) {
      let at = strip + row;
      var score$h_$k = 0.0;
      if (ALONG > 1u || at < count) {
        let key$k = min(tile + at + $ku, last - 1u);
        let key_at$k = key$k * sizes.k_stride + sizes.k_offset + kv_head * VECTORS;
        for (var of_head = 0u; of_head < head_vectors(); of_head += ALONG) {
          let i = of_head + along;
          if (VECTORS % ALONG == 0u || i < VECTORS) {
            let k$k = k_vector(key_at$k + i);
            let q$h = query[$hu * VECTORS + i];
            score$h_$k += dot(q$h, k$k);
          }
        }
        score$h_$k *= k_scale(key_at$k, kv_head);
      }
      if (ALONG == 1u) {
        scores[$hu * TILE + at + $ku] = score$h_$k;
      } else {
        scratch[($hu * STRIP + row + $ku) * PITCH + along] = score$h_$k;
        workgroupBarrier();
        for (var i = lane; i < GROUP * STRIP; i += LANES) {
          var score = 0.0;
          for (var part = 0u; part < ALONG; part++) {
            score += scratch[i * PITCH + part];
          }
          scores[i / STRIP * TILE + strip + i % STRIP] = score;
        }
        workgroupBarrier();
      }
    }
    if (ALONG == 1u) {
      workgroupBarrier();
    }

    var lane_largest$h = -3.0e38;
    for (var j = lane; j < count; j += LANES) {
      lane_largest$h = max(lane_largest$h, scores[$hu * TILE + j]);
    }
    scratch[$hu * LANES + lane] = lane_largest$h;
    workgroupBarrier();
    for (var i = lane; i < GROUP * 4u; i += LANES) {
      // Lane (head, quarter) reads every fourth maximum; the first of them is its own to write.
      let at = i / 4u * LANES + i % 4u;
      var quarter = scratch[at];
      for (var other = 4u; other < LANES; other += 4u) {
        quarter = max(quarter, scratch[at + other]);
      }
      scratch[at] = quarter;
    }
    workgroupBarrier();
    let maxima$h = $hu * LANES;
    let tile_largest$h = max(max(max(scratch[maxima$h], scratch[maxima$h + 1u]), max(scratch[maxima$h + 2u], scratch[maxima$h + 3u])), largest$h);
    let correction$h = exp(largest$h - tile_largest$h);
    largest$h = tile_largest$h;
    for (var j = lane; j < count; j += LANES) {
      scores[$hu * TILE + j] = exp(scores[$hu * TILE + j] - largest$h);
    }
    workgroupBarrier();

    total$h *= correction$h;
    acc$h_$p *= correction$h;
    if (team < TEAMS) {
      for (var j = 0u; j < count; j += TEAMS * VALUES) {
        let j$v = j + $vu * TEAMS + team;
        let key$v = min(tile + j$v, last - 1u);
        let at$v = key$v * sizes.v_stride + sizes.v_offset + kv_head * VECTORS;
        let v$v_$p = v_vector(at$v + vector$p);
        let scale$v = v_scale(at$v, kv_head);
        let p$h_$v = select(0.0, scores[$hu * TILE + j$v], j$v < count);
        total$h += p$h_$v;
        acc$h_$p += p$h_$v * scale$v * v$v_$p;
      }
    }
    workgroupBarrier();
  }
  scratch[$hu * LANES + lane] = total$h;
  acc$h_$p = sum_of_teams(acc$h_$p, lane);
  total$h = total_of_teams($hu);
  if (lane < VECTORS) {
    if (sizes.splits == 1u) {
      let at = first_head * VECTORS + lane;
      if ($pu * LANES + lane < VECTORS) { output[at + $hu * VECTORS + $pu * LANES] = acc$h_$p / total$h; }
    } else {
      let at = (first_head * sizes.splits + workgroup.x) * (VECTORS + 1u) + lane;
      if ($pu * LANES + lane < VECTORS) { output[at + $hu * sizes.splits * (VECTORS + 1u) + $pu * LANES] = acc$h_$p; }
      if (lane == 0u) { output[at + $hu * sizes.splits * (VECTORS + 1u) + VECTORS] = vec4<f32>(largest$h, total$h, 0.0, 0.0); }
    }
  }
}
