// token[0] = one of sizes.cols logits, drawn from softmax(logits / draw.temperature) over the draw.top_k most likely ones (0: all), and of
// those the likeliest whose preceding mass is below draw.top_p. Of equals the first are kept. All bits are set if a logit is not finite.
//
// Nothing is sorted. A set of likeliest tokens is a bound on the logit, found by two bits per pass over all logits, and an index below which
// the tokens at the bound belong to the set. The draw inverts the cumulative distribution: it walks the kept probability mass lane by lane
// (lane i owns logits i, i + 256, …) and takes the token at which the mass reaches draw.random of the total. One workgroup of 256.
// Workgroup memory: 5 KiB.

const LANES: u32 = 256u;

var<workgroup> partial: array<vec4<f32>, 256>;
var<workgroup> reduced: vec4<f32>;
var<workgroup> chosen_lane: u32;
var<workgroup> chosen_mass: f32;

// A set of tokens: those above the bound, and those at the bound whose index is below the limit.
struct Kept { bound: u32, limit: u32 }

fn sum_of(value: vec4<f32>, lane: u32) -> vec4<f32> {
  partial[lane] = value;
  workgroupBarrier();
  for (var half = LANES / 2u; half > 0u; half >>= 1u) {
    if (lane < half) {
      partial[lane] += partial[lane + half];
    }
    workgroupBarrier();
  }
  if (lane == 0u) {
    reduced = partial[0];
  }
  return workgroupUniformLoad(&reduced);
}

fn max_of(value: f32, lane: u32) -> f32 {
  partial[lane].x = value;
  workgroupBarrier();
  for (var half = LANES / 2u; half > 0u; half >>= 1u) {
    if (lane < half) {
      partial[lane].x = max(partial[lane].x, partial[lane + half].x);
    }
    workgroupBarrier();
  }
  if (lane == 0u) {
    reduced = partial[0];
  }
  return workgroupUniformLoad(&reduced).x;
}

// Maps floats to integers of the same order.
fn order(value: f32) -> u32 {
  let bits = bitcast<u32>(value);
  return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}

fn is_kept(i: u32, kept: Kept) -> bool {
  let place = order(logits[i]);
  return place > kept.bound || (place == kept.bound && i < kept.limit);
}

// Zero far below the largest logit: exp of a huge negative number differs by driver.
fn weight(i: u32, largest: f32) -> f32 {
  let x = (logits[i] - largest) / draw.temperature;
  return select(0.0, exp(max(x, -80.0)), x > -80.0);
}

// The measure of a token: 1, or its weight.
fn measure(i: u32, largest: f32, by_mass: bool) -> f32 {
  if (by_mass) {
    return weight(i, largest);
  }
  return 1.0;
}

// Smallest set of likeliest tokens of `outer` whose total measure reaches `goal`.
fn likeliest(outer: Kept, goal: f32, largest: f32, by_mass: bool, lane: u32) -> Kept {
  // The largest bound whose tokens, including those at the bound, reach the goal.
  var bound = 0u;
  for (var shift = 32u; shift > 0u;) {
    shift -= 2u;
    let first = bound | (1u << shift);
    let second = bound | (2u << shift);
    let third = bound | (3u << shift);
    var sums = vec4<f32>(0.0);
    for (var i = lane; i < sizes.cols; i += LANES) {
      if (is_kept(i, outer)) {
        let place = order(logits[i]);
        let size = measure(i, largest, by_mass);
        sums += select(vec4<f32>(0.0), vec4<f32>(size), vec4<u32>(place) >= vec4<u32>(first, second, third, 0xffffffffu));
      }
    }
    let reached = sum_of(sums, lane) >= vec4<f32>(goal);
    bound = select(select(select(bound, first, reached.x), second, reached.y), third, reached.z);
  }
  bound = min(bound, order(largest));
  // As many tokens at the bound as are needed, at least one.
  var above = 0.0;
  var at_bound = vec2<f32>(0.0);
  for (var i = lane; i < sizes.cols; i += LANES) {
    if (is_kept(i, outer)) {
      let place = order(logits[i]);
      if (place > bound) {
        above += measure(i, largest, by_mass);
      } else if (place == bound) {
        at_bound += vec2<f32>(measure(i, largest, by_mass), 1.0);
      }
    }
  }
  let sums = sum_of(vec4<f32>(above, at_bound, 0.0), lane);
  let needed = max(1.0, ceil((goal - sums.x) / max(sums.y / max(sums.z, 1.0), 1e-37)));
  var limit = sizes.cols;
  if (needed < sums.z) {
    // The largest index with fewer than `needed` tokens at the bound before it is the last one of the set.
    var last = 0u;
    for (var bit = 1u << 20u; bit > 0u; bit >>= 1u) {
      var before = 0.0;
      for (var i = lane; i < min(last | bit, sizes.cols); i += LANES) {
        if (is_kept(i, outer) && order(logits[i]) == bound) {
          before += 1.0;
        }
      }
      last = select(last, last | bit, sum_of(vec4<f32>(before), lane).x < needed);
    }
    limit = last + 1u;
  }
  return Kept(bound, min(limit, select(sizes.cols, outer.limit, bound == outer.bound)));
}

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
  var broken = 0.0;
  var lane_largest = -3.4e38;
  for (var i = lane; i < sizes.cols; i += LANES) {
    // Tested on the bits: a compiler may assume that floats are never NaN.
    if ((bitcast<u32>(logits[i]) & 0x7f800000u) == 0x7f800000u) {
      broken = 1.0;
    }
    lane_largest = max(lane_largest, logits[i]);
  }
  let largest = max_of(lane_largest, lane);
  if (sum_of(vec4<f32>(broken), lane).x > 0.0) {
    if (lane == 0u) {
      token[0] = 0xffffffffu;
    }
    return;
  }

  var kept = Kept(0u, sizes.cols);
  if (draw.top_k > 0u && draw.top_k < sizes.cols) {
    kept = likeliest(kept, f32(draw.top_k), largest, false, lane);
  }
  if (draw.top_p < 1.0) {
    var mass = 0.0;
    for (var i = lane; i < sizes.cols; i += LANES) {
      if (is_kept(i, kept)) {
        mass += weight(i, largest);
      }
    }
    kept = likeliest(kept, draw.top_p * sum_of(vec4<f32>(mass), lane).x, largest, true, lane);
  }

  var mass = 0.0;
  for (var i = lane; i < sizes.cols; i += LANES) {
    if (is_kept(i, kept)) {
      mass += weight(i, largest);
    }
  }
  let total = sum_of(vec4<f32>(mass), lane).x;
  partial[lane].x = mass;
  workgroupBarrier();
  if (lane == 0u) {
    // If rounding leaves a remainder after the last lane, choose the last lane with non-zero mass.
    var left = draw.random * total;
    var found = false;
    for (var other = 0u; other < LANES; other++) {
      let size = partial[other].x;
      if (!found && size > 0.0) {
        chosen_lane = other;
        chosen_mass = left;
        found = left < size;
        left -= size;
      }
    }
  }
  workgroupBarrier();
  if (lane == chosen_lane) {
    var left = chosen_mass;
    var found = false;
    for (var i = lane; i < sizes.cols && !found; i += LANES) {
      if (is_kept(i, kept)) {
        let size = weight(i, largest);
        if (size > 0.0) {
          token[0] = i;
          found = left < size;
          left -= size;
        }
      }
    }
  }
}
