// Stores the sums of an invocation of a tile of 64 x 64: 8 rows at a distance of 8, and in each 2 vectors of two pairs of columns.
// Only this copy is indexed, so that the sums can stay in registers.
fn store_tile(first_m: u32, first_n: u32, computed: array<vec4<f32>, 16>) {
  var sums = computed;
  for (var i = 0u; i < 16u; i++) {
    let m = first_m + i / 2u * 8u;
    if (m < step.rows) {
      let n = first_n + i % 2u * 32u;
      store_pair(m, n, sums[i].x, sums[i].y);
      store_pair(m, n + 16u, sums[i].z, sums[i].w);
    }
  }
}
