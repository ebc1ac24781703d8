// maxima_tree.wgsl by subgroups: first in each subgroup, then over the subgroups' results.

fn workgroup_maxima(
  value$h: f32,
  lane: Lane
) -> array<f32, GROUP> {
  let of_subgroup$h = subgroupMax(value$h);
  if (lane.in_subgroup == 0u) {
    scores[$hu * LANES + lane.index / lane.subgroup_size] = of_subgroup$h;
  }
  workgroupBarrier();
  var largest$h = scores[$hu * LANES];
  for (var i = 1u; i < subgroups(lane); i++) {
    largest$h = max(largest$h, scores[$hu * LANES + i]);
  }
  workgroupBarrier();
  return array<f32, GROUP>(
    largest$h,
  );
}
