// Operations on a product before it is stored. sizes.epilogue: 0 none, 1 adds the content of the output, 2 GELU, 3 SwiGLU over pairs of
// columns, 4 QuickGELU, 5 the tanh form of GELU.

// Abramowitz and Stegun 7.1.26: absolute error below 1.5e-7. WGSL has no erf.
fn erf(x: f32) -> f32 {
  let t = 1.0 / (1.0 + 0.3275911 * abs(x));
  let poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return sign(x) * (1.0 - poly * exp(-x * x));
}

fn bias_at(n: u32) -> f32 {
  return bias[select(0u, sizes.first_row + n, sizes.has_bias != 0u)];
}

fn gelu(x: f32) -> f32 {
  return 0.5 * x * (1.0 + erf(x * 0.7071067811865476));
}

// x * sigmoid(y), where exp does not overflow.
fn gated(x: f32, y: f32) -> f32 {
  return x / (1.0 + exp(min(-y, 80.0)));
}

fn store_one(m: u32, n: u32, value: f32) {
  if (n < sizes.rows) {
    let at = m * sizes.out_stride + sizes.first_row + n;
    if (sizes.epilogue == 1u) {
      output[at] += value;
    } else if (sizes.epilogue == 2u) {
      output[at] = gelu(value);
    } else if (sizes.epilogue == 4u) {
      output[at] = gated(value, 1.702 * value);
    } else if (sizes.epilogue == 5u) {
      output[at] = gated(value, 1.5957691216057308 * value * (1.0 + 0.044715 * value * value));
    } else {
      output[at] = value;
    }
  }
}

// Stores columns n and n + 1 (n is even) of row m.
fn store_pair(m: u32, n: u32, first: f32, second: f32) {
  let a = first + bias_at(n);
  let b = second + bias_at(n + 1u);
  if (sizes.epilogue == 3u) {
    if (n < sizes.rows) {
      output[m * sizes.out_stride + (sizes.first_row + n) / 2u] = a * (b / (1.0 + exp(-b)));
    }
  } else {
    store_one(m, n, a);
    store_one(m, n + 1u, b);
  }
}
