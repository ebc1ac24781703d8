// best[1 + slice] = place and index of the largest logit of a slice, the lowest index on ties. The place is BROKEN if any of its logits is NaN
// or infinite. One workgroup of LANES for each slice of sizes.length logits, a multiple of 4.

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) group: vec3<u32>) {
  let end = min((group.x + 1u) * sizes.length, sizes.cols);
  var place = 0u;
  var places = vec4<u32>(0u);
  var index = 0u;
  for (var i = group.x * sizes.length + 4u * lane; i < end; i += 4u * LANES) {
    let values = logits[i / 4u];
    let all = vec4<u32>(place_of(values.x), place_of(values.y), place_of(values.z), place_of(values.w));
    // The last vector can contain padding.
    let four = select(vec4<u32>(0u), all, vec4<u32>(i) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(end));
    let most = max(max(four.x, four.y), max(four.z, four.w));
    if (most > place) {
      place = most;
      places = four;
      index = i;
    }
  }
  index += select(select(select(3u, 2u, places.z == place), 1u, places.y == place), 0u, places.x == place);
  let found = best_of(place, index, lane);
  if (lane == 0u) {
    best[1u + group.x] = found;
  }
}
