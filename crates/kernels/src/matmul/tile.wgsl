// Stores the sums of an invocation of a tile: LANE_ROWS rows at a distance of 8, and in each LANE_VECTORS vectors of two pairs of columns.
// Only this copy is indexed, so that the sums can stay in registers.
fn store_tile(first_m: u32, first_n: u32, computed: array<vec4<f32>, LANE_ROWS * LANE_VECTORS>) {
  var sums = computed;
  for (var i = 0u; i < LANE_ROWS * LANE_VECTORS; i++) {
    let m = first_m + i / LANE_VECTORS * 8u;
    if (m < step.rows) {
      let n = first_n + i % LANE_VECTORS * 32u;
      store_pair(m, n, sums[i].x, sums[i].y);
      store_pair(m, n + 16u, sums[i].z, sums[i].w);
    }
  }
}
