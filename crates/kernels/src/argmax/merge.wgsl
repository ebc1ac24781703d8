// best[0] = the best of the slices in best[1] …, token[0] = its index, or NOT_FINITE (all bits set) if its place is BROKEN. One workgroup of
// LANES.

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32) {
  var mine = vec2<u32>(0u);
  for (var slice = lane; slice < sizes.slices; slice += LANES) {
    let other = best[1u + slice];
    if (other.x > mine.x) {
      mine = other;
    }
  }
  let found = best_of(mine.x, mine.y, lane);
  if (lane == 0u) {
    best[0] = found;
    token[0] = select(found.y, 0xffffffffu, found.x == BROKEN);
  }
}
