// logits[t] -= penalty for every token t whose bit in `answered` is set. One invocation for each word of 32 tokens.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let word = id.x;
  if (word >= sizes.words) {
    return;
  }
  for (var bits = answered[word]; bits != 0u; bits &= bits - 1u) {
    logits[word * 32u + countTrailingZeros(bits)] -= presence.penalty;
  }
}
