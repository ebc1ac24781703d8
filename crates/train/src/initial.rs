//! Initial weights.

use qwen_vl_format::QwenVlConfig;
use qwen_vl_format::qwen_vl::POSITION_TABLE_SIDE;
use qwen_vl_reference::{Weight, Weights};

/// Returns random weights for a configuration. The same seed gives the same weights.
pub fn weights(config: &QwenVlConfig, seed: u64) -> Weights {
    let mut random = Normal { random: fastrand::Rng::with_seed(seed), spare: None };
    let shapes = quantize::original_tensors(&config.model());
    shapes.into_iter().map(|(name, shape)| (name.clone(), Weight { values: initial(config, &name, &shape, &mut random), shape })).collect()
}

/// Subtracts the mean of all pictures from the patch embeddings, through the table of positions. Otherwise the mean dominates the output of
/// the norms, grows while the decoder learns the common part of all answers, and hides the differences between pictures. (In a run without
/// this, the image features of all pictures were equal to within a thousandth after 10 000 pictures, and did not recover.)
pub fn center_patches(weights: &mut Weights, mean_patch: &[f32]) {
    let kernels = &weights["transformer.visual.conv1.weight"].values;
    let mut mean: Vec<f32> = kernels
        .chunks_exact(mean_patch.len())
        .map(|kernel| kernel.iter().zip(mean_patch).map(|(weight, value)| weight * value).sum())
        .collect();
    let table = weights.get_mut("transformer.visual.positional_embedding").expect("the weights have a table of positions");
    let rows = (table.values.len() / mean.len()) as f32;
    for row in table.values.chunks_exact(mean.len()) {
        mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += value / rows);
    }
    for row in table.values.chunks_exact_mut(mean.len()) {
        row.iter_mut().zip(&mean).for_each(|(value, mean)| *value -= mean);
    }
}

fn initial(config: &QwenVlConfig, name: &str, shape: &[usize], random: &mut Normal) -> Vec<f32> {
    let count = shape.iter().product();
    // Positions differ from the start. A random table learns slowly, and every query of the resampler sees the same during that time.
    if name.ends_with("positional_embedding") {
        return sines(POSITION_TABLE_SIDE, config.visual.width, 0.7);
    }
    if name.ends_with("pos_embed") {
        return sines(config.visual.n_queries.isqrt(), config.hidden_size, 2.0);
    }
    let is_norm = name.contains(".ln_");
    if name.ends_with("bias") || is_norm {
        return vec![if is_norm && name.ends_with("weight") { 1.0 } else { 0.0 }; count];
    }
    let fan_in: usize = shape[1..].iter().product();
    let scaled = 1.0 / (fan_in as f32).sqrt();
    let layers = if name.contains(".visual.") { config.visual.layers } else { config.num_hidden_layers };
    let deviation = match name {
        // Tokens and image features enter the decoder with the same magnitude.
        "transformer.wte.weight" => 0.5,
        "transformer.visual.proj" => 0.5 * scaled,
        // At first all tokens are about equally likely.
        "lm_head.weight" => 0.1 * scaled,
        _ if name.ends_with("query") => 0.1,
        // These outputs are added to the residual stream. The factor keeps the sum over the blocks independent of their number.
        _ if name.ends_with("c_proj.weight") || name.ends_with("out_proj.weight") => scaled / (2.0 * layers as f32).sqrt(),
        _ => scaled,
    };
    let mut values: Vec<f32> = (0..count).map(|_| deviation * random.next()).collect();
    if name.ends_with("attn_pool.attn.in_proj_weight") {
        // Keys start with the weights of the queries, so that a query attends to its own place.
        values.copy_within(..count / 3, count / 3);
    }
    values
}

/// Returns a table of two-dimensional sines in the layout of the resampler (`visual.py`, `get_2d_sincos_pos_embed`): the first half of the
/// channels follows the column, the second half the row. Each half has all sines, then all cosines. The wavelengths range from four places
/// to four times the side. The original's wavelengths, up to 60 000 places, would leave most of a few hundred channels constant on such small
/// grids.
fn sines(side: usize, width: usize, amplitude: f32) -> Vec<f32> {
    let quarter = width / 4;
    let mut table = Vec::with_capacity(side * side * width);
    for row in 0..side {
        for col in 0..side {
            for place in [col, row] {
                let wavelength = |i: usize| 4.0 * (side as f64).powf(i as f64 / (quarter - 1) as f64);
                let angle = |i: usize| std::f64::consts::TAU * place as f64 / wavelength(i);
                table.extend((0..quarter).map(|i| amplitude * angle(i).sin() as f32));
                table.extend((0..quarter).map(|i| amplitude * angle(i).cos() as f32));
            }
        }
    }
    table
}

/// Generator of normally distributed numbers (Box–Muller transform).
struct Normal {
    random: fastrand::Rng,
    spare: Option<f32>,
}

impl Normal {
    fn next(&mut self) -> f32 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let radius = (-2.0 * (1.0 - self.random.f64()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.random.f64()).sin_cos();
        self.spare = Some((radius * sin) as f32);
        (radius * cos) as f32
    }
}
