// Sets the bit of token[0] in `answered`, unless it is above all tokens: NOT_FINITE.

@compute @workgroup_size(1)
fn main() {
  if (token[0] < sizes.cols) {
    answered[token[0] / 32u] |= 1u << (token[0] % 32u);
  }
}
