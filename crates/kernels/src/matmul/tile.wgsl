// Stores the sums of an invocation of a tile: LANE_ROWS rows at a distance of 8, and in each LANE_VECTORS vectors of two pairs of columns.
fn store_tile(first_m: u32, first_n: u32, computed: array<vec4<f32>, LANE_ROWS * LANE_VECTORS>) {
  var sums = computed;
  for (var i = 0u; i < LANE_ROWS * LANE_VECTORS; i++) {
    let m = first_m + i / LANE_VECTORS * 8u;
    if (m < step.rows) {
      let n = first_n + i % LANE_VECTORS * 32u;
      store_pair(m, n, sums[0].x, sums[0].y);
      store_pair(m, n + 16u, sums[0].z, sums[0].w);
    }
    // The next sums move to the front, because an index that a compiler does not know keeps all of them in memory. The line is repeated for all
    // sums but the last.
    sums[$ju] = sums[$ju + 1u];
  }
}
