// The largest of each of GROUP values over a workgroup, in every lane, in a binary tree. Uses the scores of decode.wgsl as scratch.

fn workgroup_maxima(
  value$h: f32,
  lane: Lane
) -> array<f32, GROUP> {
  scores[$hu * LANES + lane.index] = value$h;
  workgroupBarrier();
  for (var half = LANES / 2u; half > 0u; half >>= 1u) {
    if (lane.index < half) {
      scores[$hu * LANES + lane.index] = max(scores[$hu * LANES + lane.index], scores[$hu * LANES + lane.index + half]);
    }
    workgroupBarrier();
  }
  let largest$h = scores[$hu * LANES];
  workgroupBarrier();
  return array<f32, GROUP>(
    largest$h,
  );
}
