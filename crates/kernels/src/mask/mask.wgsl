// logits[t] = EXCLUDED for every token t whose bit in `allowed` is not set. A logit that is NaN or infinite stays, so that it is reported. One
// invocation for each word of 32 tokens.

const EXCLUDED: f32 = -1e30;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let word = id.x;
  if (word >= sizes.words) {
    return;
  }
  let end = min(sizes.cols - word * 32u, 32u);
  for (var bits = ~allowed[word]; bits != 0u; bits &= bits - 1u) {
    let bit = countTrailingZeros(bits);
    if (bit < end && place_of(logits[word * 32u + bit]) != BROKEN) {
      logits[word * 32u + bit] = EXCLUDED;
    }
  }
}
