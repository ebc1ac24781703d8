// output[m, n] = epilogue(sum over k of input[m, k] * weight[n, k] + bias[n])
//
// input   rows x blocks*32 f32, as vec4            bias    f32, as many as weight rows (sizes.has_bias)
// output  rows x out_stride f32                    weight  rows x blocks*32, see weight_*.wgsl
// A workgroup of 64 computes a tile of 64 rows x 64 weight rows; an invocation 8 x 8 of it, its columns in adjacent pairs
// (SwiGLU multiplies the two of a pair). Dispatch: x = ceil(sizes.rows / 64), y = ceil(step.rows / 64). Workgroup memory: 16 KiB.

var<workgroup> input_tile: array<vec4<f32>, 512>;   // [8 vectors along k][64 rows]
var<workgroup> weight_tile: array<vec4<f32>, 512>;  // [8 vectors along k][64 weight rows]

fn dots(x: vec4<f32>, a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) -> vec4<f32> {
  return vec4<f32>(dot(x, a), dot(x, b), dot(x, c), dot(x, d));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first_n = workgroup.x * 64u;
  let first_m = workgroup.y * 64u;
  let tx = lane & 7u;
  let ty = lane >> 3u;
  // Lanes past the last row stage it once more; what they compute is not stored.
  let input_row = min(first_m + lane, step.rows - 1u) * sizes.blocks * 8u;
  let weight_row = min(first_n + lane, sizes.rows - 1u);
  var acc: array<array<vec4<f32>, 2>, 8>;
  for (var block = 0u; block < sizes.blocks; block++) {
    let w = load_block(weight_row, block, sizes.blocks);
    weight_tile[lane] = w[0];
    weight_tile[64u + lane] = w[1];
    weight_tile[128u + lane] = w[2];
    weight_tile[192u + lane] = w[3];
    weight_tile[256u + lane] = w[4];
    weight_tile[320u + lane] = w[5];
    weight_tile[384u + lane] = w[6];
    weight_tile[448u + lane] = w[7];
    for (var i = 0u; i < 8u; i++) {
      input_tile[i * 64u + lane] = input[input_row + block * 8u + i];
    }
    workgroupBarrier();
    for (var k = 0u; k < 512u; k += 64u) {
      let n = k + tx * 2u;
      let w0 = weight_tile[n];
      let w1 = weight_tile[n + 1u];
      let w2 = weight_tile[n + 16u];
      let w3 = weight_tile[n + 17u];
      let w4 = weight_tile[n + 32u];
      let w5 = weight_tile[n + 33u];
      let w6 = weight_tile[n + 48u];
      let w7 = weight_tile[n + 49u];
      let m = k + ty;
      let x0 = input_tile[m];
      acc[0][0] += dots(x0, w0, w1, w2, w3);
      acc[0][1] += dots(x0, w4, w5, w6, w7);
      let x1 = input_tile[m + 8u];
      acc[1][0] += dots(x1, w0, w1, w2, w3);
      acc[1][1] += dots(x1, w4, w5, w6, w7);
      let x2 = input_tile[m + 16u];
      acc[2][0] += dots(x2, w0, w1, w2, w3);
      acc[2][1] += dots(x2, w4, w5, w6, w7);
      let x3 = input_tile[m + 24u];
      acc[3][0] += dots(x3, w0, w1, w2, w3);
      acc[3][1] += dots(x3, w4, w5, w6, w7);
      let x4 = input_tile[m + 32u];
      acc[4][0] += dots(x4, w0, w1, w2, w3);
      acc[4][1] += dots(x4, w4, w5, w6, w7);
      let x5 = input_tile[m + 40u];
      acc[5][0] += dots(x5, w0, w1, w2, w3);
      acc[5][1] += dots(x5, w4, w5, w6, w7);
      let x6 = input_tile[m + 48u];
      acc[6][0] += dots(x6, w0, w1, w2, w3);
      acc[6][1] += dots(x6, w4, w5, w6, w7);
      let x7 = input_tile[m + 56u];
      acc[7][0] += dots(x7, w0, w1, w2, w3);
      acc[7][1] += dots(x7, w4, w5, w6, w7);
    }
    workgroupBarrier();
  }
  for (var i = 0u; i < 8u; i++) {
    let m = first_m + i * 8u + ty;
    if (m < step.rows) {
      for (var pair = 0u; pair < 4u; pair++) {
        let column = (pair & 1u) * 2u;
        store_pair(m, first_n + pair * 16u + tx * 2u, acc[i][pair >> 1u][column], acc[i][pair >> 1u][column + 1u]);
      }
    }
  }
}
