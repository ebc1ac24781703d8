// Rows of activations in 8 bits, for products of integers. A block of 32 values is divided by its scale, which maps the largest magnitude to 127,
// and rounded. With NORM the row is RMS-normalised first, as in matvec.wgsl.
//
// input   rows x blocks*32 f32, as vec4
// output  rows x blocks*3 vec4<u32>: 32 codes, four to a word; then the scale (f32), the sum of the codes, and two zeros
// A lane computes a block. Dispatch: x = ceil(sizes.blocks / LANES), y = rows. Workgroup memory: 4 bytes per lane, see reduce.wgsl.

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, lane: Lane) {
  let first = workgroup.y * sizes.blocks;
  var factor = 1.0;
  if (NORM) {
    var squares = 0.0;
    for (var i = lane.index; i < sizes.blocks * 8u; i += LANES) {
      let x = input[first * 8u + i];
      squares += dot(x, x);
    }
    factor = inverseSqrt(workgroup_sum(squares, lane) / sizes.cols + sizes.epsilon);
  }
  let block = workgroup.x * LANES + lane.index;
  if (block < sizes.blocks) {
    let at = (first + block) * 8u;
    var x$k = input[at + $ku];
    if (NORM) { x$k *= factor * norm_at(block * 8u + $ku); }
    var largest = vec4<f32>(0.0);
    largest = max(largest, abs(x$k));
    let scale = max(max(largest.x, largest.y), max(largest.z, largest.w)) / 127.0;
    // A block of zeros stays zero.
    let by = select(0.0, 1.0 / scale, scale > 0.0);
    var sums = vec4<i32>(0);
    let p$k = vec4<i32>(round(x$k * by));
    sums += p$k;
    let to = (first + block) * 3u;
    output[to] = vec4<u32>(pack4xI8(p0), pack4xI8(p1), pack4xI8(p2), pack4xI8(p3));
    output[to + 1u] = vec4<u32>(pack4xI8(p4), pack4xI8(p5), pack4xI8(p6), pack4xI8(p7));
    output[to + 2u] = vec4<u32>(bitcast<u32>(scale), bitcast<u32>(sums.x + sums.y + sums.z + sums.w), 0u, 0u);
  }
}
