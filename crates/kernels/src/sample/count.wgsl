// counts[bin] += number of the logits of a slice in each bin. One workgroup of 256 for each slice of sizes.length logits. Workgroup memory:
// 4 KiB.

var<workgroup> own: array<atomic<u32>, BINS>;

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) group: vec3<u32>) {
  if (best[0].x == BROKEN || keeps_all()) {
    return;
  }
  for (var bin = lane; bin < BINS; bin += LANES) {
    atomicStore(&own[bin], 0u);
  }
  workgroupBarrier();
  let largest = logits[best[0].y];
  let end = min((group.x + 1u) * sizes.length, sizes.cols);
  for (var i = group.x * sizes.length + lane; i < end; i += LANES) {
    atomicAdd(&own[bin_of(largest - logits[i])], 1u);
  }
  workgroupBarrier();
  for (var bin = lane; bin < BINS; bin += LANES) {
    let count = atomicLoad(&own[bin]);
    if (count > 0u) {
      atomicAdd(&counts[bin], count);
    }
  }
}
