// The product of matmul.wgsl for software adapters. A load costs them some tens of instructions per value, also from workgroup memory, which
// is several times the cost of decoding a weight. So an invocation has ROWS x COLUMNS sums and decodes its weights itself, a quarter of a
// block at a time, and no workgroup memory is used (SwiftShader compiles a store for each word to clear it, which is slow for 16 KiB).
//
// A workgroup of 8 computes ROWS rows x 8 * COLUMNS weight rows. Lines with $s are repeated for the ROWS rows, those with $q for the
// COLUMNS / 4 vectors. Dispatch: x = ceil(sizes.rows / (8 * COLUMNS)), y = ceil(step.rows / ROWS).

fn dots(x: vec4<f32>, a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) -> vec4<f32> {
  return vec4<f32>(dot(x, a), dot(x, b), dot(x, c), dot(x, d));
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first_n = (workgroup.x * 8u + lane) * COLUMNS;
  let first_m = workgroup.y * ROWS;
  // Rows past the last are replaced by the last; their results are not stored.
  let last_n = sizes.rows - 1u;
  let last_m = step.rows - 1u;
  let x$s = min(first_m + $su, last_m) * sizes.blocks * 8u;
  let n$q_0 = min(first_n + $qu * 4u, last_n);
  let n$q_1 = min(first_n + $qu * 4u + 1u, last_n);
  let n$q_2 = min(first_n + $qu * 4u + 2u, last_n);
  let n$q_3 = min(first_n + $qu * 4u + 3u, last_n);
  var acc$s_$q = vec4<f32>(0.0);
  for (var quarter = 0u; quarter < sizes.blocks * 4u; quarter++) {
    let block = quarter / 4u;
    let part = quarter % 4u;
    let a$s = input[x$s + quarter * 2u];
    let b$s = input[x$s + quarter * 2u + 1u];
    let w$q_0 = load_quarter(n$q_0, block, sizes.blocks, part);
    let w$q_1 = load_quarter(n$q_1, block, sizes.blocks, part);
    let w$q_2 = load_quarter(n$q_2, block, sizes.blocks, part);
    let w$q_3 = load_quarter(n$q_3, block, sizes.blocks, part);
    acc$s_$q += dots(a$s, w$q_0[0], w$q_1[0], w$q_2[0], w$q_3[0]) + dots(b$s, w$q_0[1], w$q_1[1], w$q_2[1], w$q_3[1]);
  }
  // Only this copy is indexed, so that the sums can stay in registers.
  var sums = array<vec4<f32>, ROWS * COLUMNS / 4u>(
    acc$s_$q,
  );
  for (var i = 0u; i < ROWS * COLUMNS / 4u; i++) {
    let m = first_m + i / (COLUMNS / 4u);
    let n = first_n + i % (COLUMNS / 4u) * 4u;
    if (m < step.rows) {
      store_pair(m, n, sums[i].x, sums[i].y);
      store_pair(m, n + 2u, sums[i].z, sums[i].w);
    }
  }
}
