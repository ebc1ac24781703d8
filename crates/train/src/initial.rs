//! Weights before the first step.

use qwen_vl_format::ModelConfig;
use qwen_vl_format::config::POSITION_TABLE_SIDE;
use qwen_vl_reference::{Weight, Weights};

/// Random weights for a configuration, the same for the same seed.
pub fn weights(config: &ModelConfig, seed: u64) -> Weights {
    let mut random = Normal { random: fastrand::Rng::with_seed(seed), spare: None };
    let shapes = quantize::original_tensors(config);
    shapes.into_iter().map(|(name, shape)| (name.clone(), Weight { values: initial(config, &name, &shape, &mut random), shape })).collect()
}

/// Takes what all pictures share out of the patch embeddings, by the table of positions: else it is most of what the norms let through,
/// grows while the decoder learns what every answer has in common, and drowns what tells pictures apart. (In a run without this the image
/// features of all pictures had become the same to a thousandth after 10 000 of them, and stayed so.)
pub fn center_patches(weights: &mut Weights, mean_patch: &[f32]) {
    let kernels = &weights["transformer.visual.conv1.weight"].values;
    let mut mean: Vec<f32> = kernels
        .chunks_exact(mean_patch.len())
        .map(|kernel| kernel.iter().zip(mean_patch).map(|(weight, value)| weight * value).sum())
        .collect();
    let table = weights.get_mut("transformer.visual.positional_embedding").expect("a table of positions");
    let rows = (table.values.len() / mean.len()) as f32;
    for row in table.values.chunks_exact(mean.len()) {
        mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += value / rows);
    }
    for row in table.values.chunks_exact_mut(mean.len()) {
        row.iter_mut().zip(&mean).for_each(|(value, mean)| *value -= mean);
    }
}

fn initial(config: &ModelConfig, name: &str, shape: &[usize], random: &mut Normal) -> Vec<f32> {
    let count = shape.iter().product();
    // Positions are told apart from the start: a random table is learned slowly, and until then every query of the resampler sees the same.
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
        // Tokens and image features enter the decoder equally loud.
        "transformer.wte.weight" => 0.5,
        "transformer.visual.proj" => 0.5 * scaled,
        // Every token is equally likely at first.
        "lm_head.weight" => 0.1 * scaled,
        _ if name.ends_with("query") => 0.1,
        // What is added to the residual stream, so that the sum over the blocks does not grow with their number.
        _ if name.ends_with("c_proj.weight") || name.ends_with("out_proj.weight") => scaled / (2.0 * layers as f32).sqrt(),
        _ => scaled,
    };
    let mut values: Vec<f32> = (0..count).map(|_| deviation * random.next()).collect();
    if name.ends_with("attn_pool.attn.in_proj_weight") {
        // Keys begin as queries do, so that a query looks at its own place.
        values.copy_within(..count / 3, count / 3);
    }
    values
}

/// A table of two-dimensional sines laid out as the resampler's (`visual.py`, `get_2d_sincos_pos_embed`): the first half of the channels
/// follows the column, the second the row; in each half all sines, then all cosines. The wavelengths go from four places to four times
/// the side; the original's, up to 60 000 places, would leave most of a few hundred channels constant on grids as small as these.
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

/// Normal numbers, by Box and Muller.
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
