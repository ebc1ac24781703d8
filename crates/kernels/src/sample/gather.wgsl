// candidates[slice * sizes.length …] = index and logit, as bits, of the tokens of a slice that the draw can keep, slices[slice] = their
// number, and the mass of the whole slice if the draw needs it. None if the draw keeps all tokens. One workgroup of 256 for each slice.
//
// The candidates are those of the first bins that certainly have draw.top_k tokens or, if all can be kept, draw.top_p of the mass: the mass of
// a bin is at most that of its lower end for each of its tokens, and more than that of its upper end.

// Number of bins whose tokens are candidates.
var<workgroup> bins: atomic<u32>;

// Number of tokens of a bin, the least and the most mass that they can have.
fn measures(bin: u32) -> vec4<f32> {
  return f32(counts[bin]) * vec4<f32>(1.0, weight_of_bin(bin + 1u), weight_of_bin(bin), 0.0);
}

// Finds the number of bins; each workgroup finds the same.
fn count_bins(lane: u32) {
  let per_lane = BINS / LANES;
  var own = vec4<f32>(0.0);
  for (var bin = per_lane * lane; bin < per_lane * (lane + 1u); bin++) {
    own += measures(bin);
  }
  if (lane == 0u) {
    atomicStore(&bins, BINS);
  }
  let sums = scan(own, lane);
  var up_to = sums.before;
  for (var bin = per_lane * lane; bin < per_lane * (lane + 1u); bin++) {
    up_to += measures(bin);
    let enough_mass = up_to.y >= draw.top_p * (up_to.y + max(sums.all.z - up_to.z, 0.0));
    if (select(enough_mass, up_to.x >= f32(draw.top_k), by_count())) {
      atomicMin(&bins, bin + 1u);
    }
  }
  workgroupBarrier();
}

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) group: vec3<u32>) {
  if (best[0].x == BROKEN) {
    return;
  }
  var candidate_bins = 0u;
  if (!keeps_all()) {
    count_bins(lane);
    candidate_bins = atomicLoad(&bins);
  }
  let largest = logits[best[0].y];
  let begin = group.x * sizes.length;
  let end = min(begin + sizes.length, sizes.cols);
  var count = 0.0;
  var mass = 0.0;
  for (var i = begin + lane; i < end; i += LANES) {
    let distance = largest - logits[i];
    count += select(0.0, 1.0, bin_of(distance) < candidate_bins);
    if (!by_count()) {
      mass += weight(distance);
    }
  }
  let sums = scan(vec4<f32>(count, mass, 0.0, 0.0), lane);
  if (lane == 0u) {
    slices[group.x] = vec2<u32>(u32(sums.all.x), bitcast<u32>(sums.all.y));
  }
  if (keeps_all()) {
    return;
  }
  // A second look at the slice, which is short enough for a cache.
  var place = begin + u32(sums.before.x);
  for (var i = begin + lane; i < end; i += LANES) {
    let logit = logits[i];
    if (bin_of(largest - logit) < candidate_bins) {
      candidates[place] = vec2<u32>(i, bitcast<u32>(logit));
      place++;
    }
  }
}
