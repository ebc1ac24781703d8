// token[0] = one of sizes.cols tokens, drawn from softmax(logits / draw.temperature) over the draw.top_k most likely ones (0: all), and of
// those the likeliest whose preceding mass is below draw.top_p. Of equals the first are kept. All bits are set if a logit is not finite.
//
// Nothing is sorted. A set of likeliest tokens is a bound on the logit, found by two bits per pass over the candidates, and an index below
// which the tokens at the bound belong to the set. The draw inverts the cumulative distribution: it walks the kept probability mass lane by
// lane (lane i owns candidates i, i + 256, …) and takes the token at which the mass reaches draw.random of the total. If all tokens are kept,
// it walks the masses of the slices first, and then that slice. One workgroup of 256. Workgroup memory: 5 KiB.

var<workgroup> reduced: vec4<f32>;
var<workgroup> starts: array<u32, LANES>;

// A set of tokens: those above the bound, and those at the bound whose index is below the limit.
struct Kept { bound: u32, limit: u32 }

fn sum_of(value: vec4<f32>, lane: u32) -> vec4<f32> {
  partial[lane] = value;
  workgroupBarrier();
  for (var quarter = LANES / 4u; quarter > 0u; quarter >>= 2u) {
    if (lane < quarter) {
      partial[lane] += partial[lane + quarter] + partial[lane + 2u * quarter] + partial[lane + 3u * quarter];
    }
    workgroupBarrier();
  }
  if (lane == 0u) {
    reduced = partial[0];
  }
  return workgroupUniformLoad(&reduced);
}

// Returns the lane in whose mass `left` falls after the masses of the lanes before it, and what is left of it there.
fn stop_at(left: f32, mass: f32, lane: u32) -> vec2<f32> {
  partial[lane].x = mass;
  workgroupBarrier();
  if (lane == 0u) {
    // If rounding leaves a remainder after the last lane, choose the last lane with non-zero mass.
    var remaining = left;
    var found = false;
    for (var other = 0u; other < LANES; other++) {
      let size = partial[other].x;
      if (!found && size > 0.0) {
        reduced = vec4<f32>(f32(other), remaining, 0.0, 0.0);
        found = remaining < size;
        remaining -= size;
      }
    }
  }
  return workgroupUniformLoad(&reduced).xy;
}

// Moves the candidates of all slices together, to the beginning, and returns their number.
fn compact(of_slice: u32, lane: u32) -> u32 {
  let sums = scan(vec4<f32>(f32(of_slice)), lane);
  starts[lane] = u32(sums.before.x);
  if (lane == 0u) {
    reduced = sums.all;
  }
  let count = u32(workgroupUniformLoad(&reduced).x);
  for (var first = 0u; first < count; first += LANES) {
    let i = first + lane;
    // The last slice that starts at or before the candidate: slices without candidates start where the next one does.
    var slice = 0u;
    for (var bit = LANES / 2u; bit > 0u; bit >>= 1u) {
      slice = select(slice, slice | bit, starts[slice | bit] <= i);
    }
    var candidate = vec2<u32>(0u);
    if (i < count) {
      candidate = candidates[slice * sizes.length + i - starts[slice]];
    }
    // All are read before any is written. Candidates move forward, so these places are not read again.
    storageBarrier();
    if (i < count) {
      candidates[i] = candidate;
    }
    storageBarrier();
  }
  return count;
}

fn is_kept(entry: vec2<u32>, kept: Kept) -> bool {
  let place = place_of(bitcast<f32>(entry.y));
  return place > kept.bound || (place == kept.bound && entry.x < kept.limit);
}

// The measure of an entry: 1, or its weight.
fn measure(entry: vec2<u32>, largest: f32, by_mass: bool) -> f32 {
  if (by_mass) {
    return weight(largest - bitcast<f32>(entry.y));
  }
  return 1.0;
}

// Smallest set of likeliest candidates of `outer` whose total measure reaches `goal`.
fn likeliest(outer: Kept, goal: f32, count: u32, largest: f32, by_mass: bool, lane: u32) -> Kept {
  // The largest bound whose tokens, including those at the bound, reach the goal.
  var bound = 0u;
  for (var shift = 32u; shift > 0u;) {
    shift -= 2u;
    let first = bound | (1u << shift);
    let second = bound | (2u << shift);
    let third = bound | (3u << shift);
    var sums = vec4<f32>(0.0);
    for (var i = lane; i < count; i += LANES) {
      let entry = candidates[i];
      if (is_kept(entry, outer)) {
        let place = place_of(bitcast<f32>(entry.y));
        let size = measure(entry, largest, by_mass);
        sums += select(vec4<f32>(0.0), vec4<f32>(size), vec4<u32>(place) >= vec4<u32>(first, second, third, 0xffffffffu));
      }
    }
    let reached = sum_of(sums, lane) >= vec4<f32>(goal);
    bound = select(select(select(bound, first, reached.x), second, reached.y), third, reached.z);
  }
  bound = min(bound, place_of(largest));
  // As many tokens at the bound as are needed, at least one.
  var above = 0.0;
  var at_bound = vec2<f32>(0.0);
  for (var i = lane; i < count; i += LANES) {
    let entry = candidates[i];
    if (is_kept(entry, outer)) {
      let place = place_of(bitcast<f32>(entry.y));
      if (place > bound) {
        above += measure(entry, largest, by_mass);
      } else if (place == bound) {
        at_bound += vec2<f32>(measure(entry, largest, by_mass), 1.0);
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
      for (var i = lane; i < count; i += LANES) {
        let entry = candidates[i];
        if (entry.x < (last | bit) && is_kept(entry, outer) && place_of(bitcast<f32>(entry.y)) == bound) {
          before += 1.0;
        }
      }
      last = select(last, last | bit, sum_of(vec4<f32>(before), lane).x < needed);
    }
    limit = last + 1u;
  }
  return Kept(bound, min(limit, select(sizes.cols, outer.limit, bound == outer.bound)));
}

// A candidate, or one of all tokens: index and logit.
fn token_at(i: u32) -> vec2<u32> {
  if (keeps_all()) {
    return vec2<u32>(i, bitcast<u32>(logits[i]));
  }
  return candidates[i];
}

// The mass of this lane's kept tokens.
fn kept_mass(kept: Kept, first: u32, end: u32, largest: f32, lane: u32) -> f32 {
  var mass = 0.0;
  for (var i = first + lane; i < end; i += LANES) {
    let entry = token_at(i);
    if (is_kept(entry, kept)) {
      mass += measure(entry, largest, true);
    }
  }
  return mass;
}

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
  if (best[0].x == BROKEN) {
    if (lane == 0u) {
      token[0] = 0xffffffffu;
    }
    return;
  }
  // For the next draw.
  for (var bin = lane; bin < BINS; bin += LANES) {
    counts[bin] = 0u;
  }
  let largest = logits[best[0].y];
  var slice = vec2<u32>(0u);
  if (lane < sizes.slices) {
    slice = slices[lane];
  }
  let slice_mass = bitcast<f32>(slice.y);
  let all = sum_of(vec4<f32>(slice_mass), lane).x;

  var kept = Kept(0u, sizes.cols);
  var first = 0u;
  var end = 0u;
  var left = 0.0;
  if (keeps_all()) {
    let stop = stop_at(draw.random * all, slice_mass, lane);
    first = u32(stop.x) * sizes.length;
    end = min(first + sizes.length, sizes.cols);
    left = stop.y;
  } else {
    end = compact(slice.x, lane);
  }
  // Round 0 bounds the tokens by their number, round 1 by their mass, round 2 computes the mass of the kept ones. Compilers inline functions, and
  // `likeliest` is slow to compile: the loop has one copy of it.
  var mass = 0.0;
  for (var round = select(select(1u, 0u, by_count()), 2u, keeps_all()); round < 3u; round++) {
    if (round > 0u) {
      mass = kept_mass(kept, first, end, largest, lane);
    }
    let total = sum_of(vec4<f32>(mass), lane).x;
    if (round == 0u || (round == 1u && draw.top_p < 1.0)) {
      let goal = select(f32(draw.top_k), draw.top_p * select(all, total, by_count()), round == 1u);
      kept = likeliest(kept, goal, end, largest, round == 1u, lane);
    }
    if (round == 2u && !keeps_all()) {
      left = draw.random * total;
    }
  }
  let stop = stop_at(left, mass, lane);
  if (lane == u32(stop.x)) {
    left = stop.y;
    var found = false;
    for (var i = first + lane; i < end && !found; i += LANES) {
      let entry = token_at(i);
      if (is_kept(entry, kept)) {
        let size = measure(entry, largest, true);
        if (size > 0.0) {
          token[0] = entry.x;
          found = left < size;
          left -= size;
        }
      }
    }
  }
}
