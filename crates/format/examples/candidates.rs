//! Errors of candidates for the next 4-bit code: `candidates [FILE.safetensors …]`. `quantize/README.md` has the table.
//!
//! Every candidate has 4.5 bits a weight: groups of 32 with one f16 scale. What a candidate chooses for each group is in the lowest bits of the
//! scale. The files' matrices are a third kind of weights.

#[path = "../tests/weights/mod.rs"]
mod weights;

use half::{bf16, f16};
use qwen_vl_format::Scheme;
use qwen_vl_format::block::{Q4_VALUES, decode_rows, encode_rows};
use std::time::Instant;

const COUNT: u64 = 1 << 20;
const GROUP: usize = 32;

/// The values of the 16 nibbles, in units of the scale.
type Values = [f32; 16];

/// A code whose groups choose one of several tables of values.
struct Code {
    name: &'static str,
    /// The values of each choice, computed in f32.
    exact: Vec<Values>,
    /// The same computed in f16.
    halves: Vec<Values>,
    /// True if the values are bytes in some unit.
    bytes: bool,
}

/// Squared errors over a kind of weights.
#[derive(Default)]
struct Errors {
    exact: f64,
    halves: f64,
    bytes: f64,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut kinds = vec![weights::weights(weights::gaussian, COUNT), weights::weights(weights::heavy_tailed, COUNT)];
    let mut matrices = Vec::new();
    for path in std::env::args().skip(1) {
        matrices.extend(read_matrices(&path)?);
    }
    if !matrices.is_empty() {
        kinds.push(matrices);
    }
    println!("{:<44} {:>23}  {:>23}  {:>23}  {:>8}", "", "exact", "in halves", "as bytes", "search");
    for (name, scheme) in [
        ("q4 of versions 1 and 2", Scheme::Q4 { group_size: 32 }),
        ("q4z of the converter", Scheme::Q4Z { group_size: 32 }),
        ("int4 of the converter", Scheme::Int4 { group_size: 32 }),
    ] {
        let started = Instant::now();
        let errors = kinds.iter().map(|kind| relative(kind, of_scheme(scheme, kind)));
        print_row(name, &[errors.collect()], started);
    }
    for code in codes() {
        let started = Instant::now();
        let errors: Vec<Errors> = kinds.iter().map(|kind| code.errors(kind)).collect();
        let column = |of: fn(&Errors) -> f64| kinds.iter().zip(&errors).map(|(kind, errors)| relative(kind, of(errors))).collect();
        print_row(code.name, &[column(|errors| errors.exact), column(|errors| errors.halves), column(|errors| errors.bytes)], started);
    }
    Ok(())
}

/// Prints the relative errors in one, or in three ways of computing, and the time of the search.
fn print_row(name: &str, columns: &[Vec<f64>], started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    let columns: Vec<String> = columns.iter().map(|errors| errors.iter().map(|error| format!(" {error:.5}")).collect::<String>()).collect();
    let column = |at: usize| columns.get(at).map_or("", String::as_str);
    println!("{name:<44} {:>23}  {:>23}  {:>23}  {seconds:>6.2} s", column(0), column(1), column(2));
}

/// Root of the mean squared error over that of the mean squared weight.
fn relative(weights: &[f32], squares: f64) -> f64 {
    (squares / weights.iter().map(|weight| f64::from(*weight).powi(2)).sum::<f64>()).sqrt()
}

fn of_scheme(scheme: Scheme, weights: &[f32]) -> f64 {
    let decoded = decode_rows(scheme, &encode_rows(scheme, weights, GROUP), GROUP);
    weights.iter().zip(decoded).map(|(weight, decoded)| f64::from(weight - decoded).powi(2)).sum()
}

/// Zero points of evenly spaced values, 7.5 and less: the sign of the scale mirrors them.
fn zero_points(count: u8) -> Vec<f32> {
    (0..count).map(|choice| 7.5 - 4.0 * f32::from(choice) / f32::from(count)).collect()
}

fn codes() -> Vec<Code> {
    // t + beta t³ + offset with t = nibble - 8; `betas` are in units of 1/64, so that 1 doubles the ends.
    let cubic = |name, betas: &[f32], offsets: &[f32]| {
        let choices: Vec<(f32, f32)> = betas.iter().flat_map(|beta| offsets.iter().map(move |offset| (beta / 64.0, *offset))).collect();
        let values = |of: fn(f32, f32, f32) -> f32| {
            choices.iter().map(|(beta, offset)| std::array::from_fn(|nibble| of(nibble as f32 - 8.0, *beta, *offset))).collect()
        };
        let in_halves = |t: f32, beta: f32, offset: f32| {
            let t = f16::from_f32(t);
            ((f16::from_f32(beta) * (t * t) + f16::ONE) * t).to_f32() + offset
        };
        Code { name, exact: values(|t, beta, offset| (beta * t * t + 1.0) * t + offset), halves: values(in_halves), bytes: false }
    };
    let exact = |name, exact: Vec<Values>| Code { name, halves: exact.clone(), exact, bytes: true };
    // The cubic with its end at -126, rounded.
    let whole = |beta: f32| {
        std::array::from_fn(|nibble| {
            let t = nibble as f32 / 8.0 - 1.0;
            (126.0 * (t + beta * t * t * t) / (1.0 + beta)).round()
        })
    };
    let even = |name, zeros: Vec<f32>| exact(name, zeros.iter().map(|zero| std::array::from_fn(|nibble| nibble as f32 - zero)).collect());
    let two = [0.45, 1.05];
    let five = [0.15, 0.45, 0.9, 1.5, 2.55];
    let eight: [f32; 8] = std::array::from_fn(|choice| 0.15 + 0.3 * choice as f32);
    vec![
        exact("q4 with the search of this program", vec![Q4_VALUES.map(f32::from)]),
        cubic("q4 without rounding", &[64.0 * 0.078_125 / 10.75], &[0.0]),
        exact("2 betas, rounded", two.map(whole).to_vec()),
        cubic("2 betas", &two, &[0.0]),
        exact("5 betas, rounded", five.map(whole).to_vec()),
        cubic("5 betas", &five, &[0.0]),
        exact("8 betas, rounded", eight.map(whole).to_vec()),
        cubic("8 betas", &eight, &[0.0]),
        cubic("4 betas, 8 offsets", &[0.3, 0.7, 1.1, 1.5], &[-0.84, -0.6, -0.36, -0.12, 0.12, 0.36, 0.6, 0.84]),
        even("even, zero point 8 (int4 with a search)", vec![8.0]),
        even("even, 8 zero points", zero_points(8)),
        even("even, 16 zero points", zero_points(16)),
        even("even, 32 zero points", zero_points(32)),
    ]
}

impl Code {
    fn errors(&self, weights: &[f32]) -> Errors {
        let mut sums = Errors::default();
        // The unit in which the values are rounded to bytes; zero points are multiples of an eighth.
        let unit = |values: &Values| if self.bytes { 0.0 } else { values.iter().fold(0.0f32, |most, value| most.max(value.abs())) / 127.0 };
        let bytes: Vec<Values> = self.exact.iter().map(|values| rounded(values, unit(values))).collect();
        for group in weights.as_chunks().0 {
            let (choice, scale) = self.search(group);
            let nibbles = nearest_nibbles(group, scale, &self.exact[choice]);
            let error = |values: &Values| -> f64 {
                let difference = |(weight, nibble): (&f32, usize)| f64::from(weight - values[nibble] * scale);
                group.iter().zip(nibbles).map(difference).map(|difference| difference * difference).sum()
            };
            sums.exact += error(&self.exact[choice]);
            sums.halves += error(&self.halves[choice]);
            sums.bytes += error(&bytes[choice]);
        }
        sums
    }

    /// Returns the choice and the scale with the least squared error, by the converter's search for every choice.
    fn search(&self, group: &[f32; GROUP]) -> (usize, f32) {
        const STARTS: [f32; 4] = [0.90, 0.96, 1.02, 1.08];
        let largest = group.iter().fold(0.0f32, |largest, weight| if weight.abs() > largest.abs() { *weight } else { largest });
        let mut best = (f32::INFINITY, 0, 0.0);
        for (choice, values) in self.exact.iter().enumerate() {
            let midpoints: [f32; 15] = std::array::from_fn(|at| f32::midpoint(values[at], values[at + 1]));
            let steps: [f32; 15] = std::array::from_fn(|at| values[at + 1] - values[at]);
            let fit = |scale: f32| fit(group, scale, values[0], &midpoints, &steps);
            for start in [values[0], values[15]].into_iter().flat_map(|end| STARTS.map(|start| largest / end * start)) {
                let mut scale = start;
                for _ in 0..2 {
                    let (products, squares) = fit(scale);
                    scale = if squares > 0.0 { products / squares } else { scale };
                }
                let scale = with_choice(scale, choice, self.exact.len());
                let (products, squares) = fit(scale);
                let error = scale * (scale * squares - 2.0 * products);
                if error < best.0 {
                    best = (error, choice, scale);
                }
            }
        }
        (best.1, best.2)
    }
}

fn rounded(values: &Values, unit: f32) -> Values {
    if unit == 0.0 { *values } else { values.map(|value| (value / unit).round() * unit) }
}

/// Returns the f16 scale next to `scale` whose lowest bits are `choice`.
fn with_choice(scale: f32, choice: usize, choices: usize) -> f32 {
    let step = choices.next_power_of_two() as u16;
    let at = f16::from_f32(scale).to_bits() & !(step - 1) | choice as u16;
    let near = [at.saturating_sub(step), at, at.saturating_add(step)].map(|bits| f16::from_bits(bits).to_f32());
    near.into_iter().min_by(|a, b| (a - scale).abs().total_cmp(&(b - scale).abs())).unwrap_or_default()
}

/// Returns the sums of weight · value and of value², for the values nearest to the weights.
fn fit(group: &[f32; GROUP], scale: f32, first: f32, midpoints: &[f32; 15], steps: &[f32; 15]) -> (f32, f32) {
    const LANES: usize = 8;
    let inverse = 1.0 / scale;
    let (mut products, mut squares) = ([0.0f32; LANES], [0.0f32; LANES]);
    for weights in group.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            let scaled = weights[lane] * inverse;
            let mut value = first;
            for (midpoint, step) in midpoints.iter().zip(steps) {
                value += if scaled > *midpoint { *step } else { 0.0 };
            }
            products[lane] += weights[lane] * value;
            squares[lane] += value * value;
        }
    }
    (products.iter().sum(), squares.iter().sum())
}

fn nearest_nibbles(group: &[f32; GROUP], scale: f32, values: &Values) -> [usize; GROUP] {
    let distance = |weight: f32, nibble: usize| (weight - values[nibble] * scale).abs();
    group.map(|weight| (0..16).min_by(|a, b| distance(weight, *a).total_cmp(&distance(weight, *b))).unwrap_or(0))
}

/// Returns the weights of all matrices of a file whose rows are whole groups.
fn read_matrices(path: &str) -> Result<Vec<f32>, Box<dyn std::error::Error>> {
    let bytes = std::fs::read(path)?;
    let (length, rest) = bytes.split_first_chunk().ok_or("no header")?;
    let (header, data) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length))?).ok_or("no header")?;
    let header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(header)?;
    let mut weights = Vec::new();
    for tensor in header.values() {
        let numbers = |key: &str| -> Vec<usize> { serde_json::from_value(tensor[key].clone()).unwrap_or_default() };
        let (&[_, cols], &[begin, end]) = (numbers("shape").as_slice(), numbers("data_offsets").as_slice()) else { continue };
        if !cols.is_multiple_of(GROUP) {
            continue;
        }
        let stored = data.get(begin..end).ok_or("a tensor ends behind the file")?;
        let halves = stored.as_chunks().0.iter();
        match tensor["dtype"].as_str() {
            Some("F32") => weights.extend(stored.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes))),
            Some("F16") => weights.extend(halves.map(|bytes| f16::from_le_bytes(*bytes).to_f32())),
            Some("BF16") => weights.extend(halves.map(|bytes| bf16::from_le_bytes(*bytes).to_f32())),
            _ => {}
        }
    }
    Ok(weights)
}
