// The product of matmul.wgsl with the output of quantize.wgsl. The inner product of a block with the codes of a weight block is an exact sum of
// integers, multiplied by both scales.
//
// A workgroup of 64 computes a tile of 64 rows x 64 weight rows, an invocation 8 x 8 of it, placed as in matmul.wgsl. Lines with $s are
// repeated for its 8 rows, those with $q for its 2 vectors of columns. Dispatch: x = ceil(sizes.rows / 64), y = ceil(step.rows / 64).
// Workgroup memory: 4.5 KiB.

var<workgroup> input_tile: array<vec4<u32>, 128>;   // [2 vectors along k][64 rows], four values to a word
var<workgroup> weight_tile: array<vec4<u32>, 128>;  // [2 vectors along k][64 weight rows]
var<workgroup> input_scales: array<f32, 64>;
var<workgroup> weight_scales_tile: array<f32, 64>;

fn packed_dot(x0: vec4<u32>, x1: vec4<u32>, w0: vec4<u32>, w1: vec4<u32>) -> f32 {
  return f32(
    dot4I8Packed(x0.x, w0.x) + dot4I8Packed(x0.y, w0.y) + dot4I8Packed(x0.z, w0.z) + dot4I8Packed(x0.w, w0.w)
      + dot4I8Packed(x1.x, w1.x) + dot4I8Packed(x1.y, w1.y) + dot4I8Packed(x1.z, w1.z) + dot4I8Packed(x1.w, w1.w));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first_n = workgroup.x * 64u;
  let first_m = workgroup.y * 64u;
  let tx = lane & 7u;
  let ty = lane >> 3u;
  // Lanes past the last row stage the last row again; their results are not stored.
  let weight_row = min(first_n + lane, sizes.rows - 1u);
  let input_row = min(first_m + lane, step.rows - 1u) * sizes.blocks;
  var acc$s_$q = vec4<f32>(0.0);
  for (var block = 0u; block < sizes.blocks; block++) {
    let codes = load_codes(weight_row, block, sizes.blocks);
    weight_tile[lane] = codes[0];
    weight_tile[64u + lane] = codes[1];
    weight_scales_tile[lane] = code_scale(weight_row, block, sizes.blocks);
    let at = (input_row + block) * 3u;
    input_tile[lane] = input[at];
    input_tile[64u + lane] = input[at + 1u];
    input_scales[lane] = bitcast<f32>(input[at + 2u].x);
    workgroupBarrier();
    let n$q = tx * 2u + $qu * 32u;
    let a$s = input_tile[ty + $su * 8u];
    let b$s = input_tile[64u + ty + $su * 8u];
    let d$q_0 = weight_tile[n$q];
    let d$q_1 = weight_tile[n$q + 1u];
    let d$q_2 = weight_tile[n$q + 16u];
    let d$q_3 = weight_tile[n$q + 17u];
    let e$q_0 = weight_tile[64u + n$q];
    let e$q_1 = weight_tile[64u + n$q + 1u];
    let e$q_2 = weight_tile[64u + n$q + 16u];
    let e$q_3 = weight_tile[64u + n$q + 17u];
    let scales$q = vec4<f32>(weight_scales_tile[n$q], weight_scales_tile[n$q + 1u], weight_scales_tile[n$q + 16u], weight_scales_tile[n$q + 17u]);
    acc$s_$q += input_scales[ty + $su * 8u] * scales$q * vec4<f32>(packed_dot(a$s, b$s, d$q_0, e$q_0), packed_dot(a$s, b$s, d$q_1, e$q_1), packed_dot(a$s, b$s, d$q_2, e$q_2), packed_dot(a$s, b$s, d$q_3, e$q_3));
    workgroupBarrier();
  }
  store_tile(first_m + ty, first_n + tx * 2u, array<vec4<f32>, LANE_ROWS * LANE_VECTORS>(
    acc$s_$q,
  ));
}
