// Bins of tokens by the distance of their logit to the largest: 32 to an octave, from 2^-8 to 2^24 times the temperature. The first one has
// the smaller distances too, the last one the larger ones. A bin is cut from the bits of the distance, so all kernels agree about every token.

const BINS: u32 = 1024u;

fn first_bin() -> u32 {
  return (max(bitcast<u32>(draw.temperature) >> 23u, 8u) - 8u) << 5u;
}

fn bin_of(distance: f32) -> u32 {
  let first = first_bin();
  return min(max(bitcast<u32>(abs(distance)) >> 18u, first) - first, BINS - 1u);
}

// The weight at the lower end of a bin, which no token of the bin exceeds. Zero past the last bin.
fn weight_of_bin(bin: u32) -> f32 {
  // Up to the largest finite number.
  let distance = bitcast<f32>(min(first_bin() + bin, 8159u) << 18u);
  return select(weight(select(distance, 0.0, bin == 0u)), 0.0, bin >= BINS);
}
