// The order of logits as integers. A logit that is NaN or infinite has the place BROKEN, above all others; no logit has the place 0.

const BROKEN: u32 = 0xffffffffu;

fn place_of(value: f32) -> u32 {
  // Tested on the bits: a compiler may assume that floats are never NaN. Both zeros have one place.
  let bits = select(bitcast<u32>(value), 0u, bitcast<u32>(value) == 0x80000000u);
  let place = select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
  return select(place, BROKEN, (bits & 0x7f800000u) == 0x7f800000u);
}
