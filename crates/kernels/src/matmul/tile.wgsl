// Stores what an invocation of a tile of 64 x 64 has summed: SIDE rows, ACROSS apart, and in each SIDE / 4 vectors of two pairs of columns.
// Only this copy is indexed, so that the sums themselves can stay in registers.
fn store_tile(first_m: u32, first_n: u32, computed: array<vec4<f32>, SIDE * SIDE / 4u>) {
  var sums = computed;
  for (var i = 0u; i < SIDE * SIDE / 4u; i++) {
    let m = first_m + i / (SIDE / 4u) * ACROSS;
    if (m < step.rows) {
      let n = first_n + i % (SIDE / 4u) * ACROSS * 4u;
      store_pair(m, n, sums[i].x, sums[i].y);
      store_pair(m, n + ACROSS * 2u, sums[i].z, sums[i].w);
    }
  }
}
