// Functions that all kernels of a draw use.

const LANES: u32 = 256u;

// True if the draw keeps a number of tokens: draw.top_k.
fn by_count() -> bool {
  return draw.top_k > 0u && draw.top_k < sizes.cols;
}

// True if the draw keeps all tokens.
fn keeps_all() -> bool {
  return !by_count() && draw.top_p >= 1.0;
}

// The weight of a logit that is `distance` below the largest. Zero far below: exp of a huge negative number differs by driver.
fn weight(distance: f32) -> f32 {
  let x = distance / draw.temperature;
  return select(0.0, exp(-min(x, 80.0)), x < 80.0);
}
