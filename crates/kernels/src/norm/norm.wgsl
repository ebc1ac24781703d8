// output[m] = normalised input[m] * weight (+ bias), row by row. sizes.layer_norm: (x - mean) / sqrt(variance + sizes.epsilon),
// otherwise RMS: x / sqrt(mean(x^2) + sizes.epsilon). The variance is computed from the differences, not from the squares.
//
// input, output  rows x sizes.vectors vec4; the padding of a row stays zero
// A workgroup of LANES computes one row. Dispatch: y = step.rows. Workgroup memory: 4 bytes per lane, see reduce.wgsl.

// The vector with its padding set to zero.
fn inside(value: vec4<f32>, vector: u32) -> vec4<f32> {
  return select(vec4<f32>(0.0), value, vec4<u32>(vector * 4u) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(sizes.cols));
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, lane: Lane) {
  let row = min(workgroup.y, step.rows - 1u) * sizes.vectors;
  var mean = 0.0;
  if (sizes.layer_norm != 0u) {
    var sum = 0.0;
    for (var i = lane.index; i < sizes.vectors; i += LANES) {
      sum += dot(input[row + i], vec4<f32>(1.0));
    }
    mean = workgroup_sum(sum, lane) / f32(sizes.cols);
  }
  var squares = 0.0;
  for (var i = lane.index; i < sizes.vectors; i += LANES) {
    let difference = inside(input[row + i] - mean, i);
    squares += dot(difference, difference);
  }
  let factor = inverseSqrt(workgroup_sum(squares, lane) / f32(sizes.cols) + sizes.epsilon);
  for (var i = lane.index; i < sizes.vectors; i += LANES) {
    output[row + i] = inside((input[row + i] - mean) * factor * weight[i] + bias[select(0u, i, sizes.layer_norm != 0u)], i);
  }
}
