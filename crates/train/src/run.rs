//! Runs the stages in order.

use crate::adamw::AdamW;
use crate::batch::{Batch, Packer};
use crate::checkpoint::{Progress, export};
use crate::recipe::{Recipe, StageRecipe};
use crate::{initial, patches, plot};
use anyhow::{Context, Result, ensure};
use qwen_vl_format::QwenVlConfig;
use qwen_vl_reference::burn::tensor::{Device, Int, Tensor, TensorData, activation};
use qwen_vl_reference::{Positions, QwenVl, Weight, Weights, ignore, packed_mask};
use qwen_vl_world::Split;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Steps between two lines of the log.
const LOG_EVERY: usize = 20;
/// Steps between two measurements on the validation split.
const VALIDATE_EVERY: usize = 200;
/// Number of batches of the validation split.
const VALIDATION_BATCHES: usize = 8;

/// Settings of a run that are not part of its recipe.
pub struct Settings {
    /// Device that computes, with autodiff.
    pub device: Device,
    /// Output folder.
    pub out: PathBuf,
    /// Checkpoint with initial weights. Tensors of the same shape take its values.
    pub start_from: Option<PathBuf>,
    /// Time between two checkpoints.
    pub checkpoint_every: Duration,
    /// Time after which the run stops with a checkpoint.
    pub stop_after: Option<Duration>,
}

/// A line of `log.jsonl`.
#[derive(Serialize)]
struct LogLine<'a> {
    stage: &'a str,
    step: usize,
    /// Mean loss over the steps since the last line, in nats per token, weighted as in training.
    loss: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    validation_loss: Option<f32>,
    /// Share of right answers of the validation split, by kind of question. An answer is right if each of its tokens is the most likely
    /// one after the true tokens before it. This is too strict for boxes, whose last digits are not visible. In the tower's stage: share of right
    /// patches, by head.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    validation_exact: BTreeMap<&'static str, f32>,
    rate: f64,
    /// Norm of the gradient of the last step, before clipping.
    gradient_norm: f32,
    samples: u64,
    samples_per_sec: f64,
    seconds: f64,
}

/// Runs all unfinished stages. Exports the model after each stage, also after the finished ones.
pub fn run(recipe: &Recipe, settings: &Settings) -> Result<()> {
    std::fs::create_dir_all(&settings.out).with_context(|| format!("could not create {}", settings.out.display()))?;
    let recipe_file = settings.out.join("recipe.json");
    let json = serde_json::to_string_pretty(recipe)?;
    if recipe_file.is_file() {
        let held = std::fs::read_to_string(&recipe_file)?;
        ensure!(held == json, "{} contains a run of another recipe: choose another folder, or delete this one", settings.out.display());
    } else {
        std::fs::write(&recipe_file, json)?;
    }
    let begun = Instant::now();
    let mut weights = initial::weights(&recipe.config(recipe.stages[0].image_size)?, recipe.seed);
    initial::center_patches(&mut weights, &mean_patch(recipe)?);
    if let Some(file) = &settings.start_from {
        let progress = Progress::read(file)?.with_context(|| format!("{}: the checkpoint does not exist", file.display()))?;
        let fits = |(name, weight): &(String, Weight)| weights.get(name).is_some_and(|old| old.shape == weight.shape);
        let taken: Vec<_> = progress.weights.into_iter().filter(fits).collect();
        println!("{} of {} tensors start with the weights of {}", taken.len(), weights.len(), file.display());
        weights.extend(taken);
    }
    for stage in &recipe.stages {
        let (after, done) = run_stage(recipe, stage, weights, settings, begun)?;
        weights = after;
        let last = stage.data == qwen_vl_world::Stage::Chat;
        let folder = settings.out.join(format!("{}-{}", recipe.name, if last { "chat" } else { &stage.name }));
        export(recipe, stage, &weights, &folder)?;
        plot::write(&settings.out)?;
        if !done {
            println!("stopped in {}; run the same command to resume", stage.name);
            return Ok(());
        }
    }
    Ok(())
}

/// Prints the mean loss on texts of the validation split after each stage of a run. It shows how much text ability the decoder keeps (the
/// paper's E.4).
pub fn print_text_kept(recipe: &Recipe, settings: &Settings) -> Result<()> {
    let text = recipe
        .stages
        .iter()
        .find(|stage| stage.data == qwen_vl_world::Stage::Text)
        .context("the recipe has no stage with `data` \"text\"")?;
    let mut packer = Packer::new(recipe, text, Split::Validation, 0)?;
    let batches: Vec<Batch> = (0..VALIDATION_BATCHES).map(|_| packer.next_batch()).collect::<Result<_>>()?;
    let config = recipe.config(text.image_size)?;
    let tables = Tables::new(&recipe.world()?, &config, text, &settings.device);
    for stage in &recipe.stages {
        let file = checkpoint_path(&settings.out, stage);
        let progress = Progress::read(&file)?.with_context(|| format!("{} does not exist: run the recipe first", file.display()))?;
        let model = QwenVl::zeros(&config, &settings.device).load(progress.weights)?;
        println!("{:12} {:.3} nats per token", stage.name, tables.validate(&model, &batches).0);
    }
    Ok(())
}

fn checkpoint_path(out: &Path, stage: &StageRecipe) -> PathBuf {
    out.join(format!("{}.checkpoint.safetensors", stage.name))
}

/// Returns the mean patch of some pictures of the stage with the largest pictures, `[3 · patch²]`.
fn mean_patch(recipe: &Recipe) -> Result<Vec<f32>> {
    let largest = recipe.stages.iter().max_by_key(|stage| stage.image_size).expect("a recipe has stages");
    let stage = StageRecipe { data: qwen_vl_world::Stage::Pretrain, mix: None, rows: 64, ..largest.clone() };
    let batch = Packer::new(recipe, &stage, Split::Train, 0)?.next_batch()?;
    let vision = recipe.config(stage.image_size)?.visual;
    let seen = &batch.patches[..batch.splice.pictures() * vision.patches() * vision.patch_values()];
    let mut mean = vec![0.0; vision.patch_values()];
    for patch in seen.chunks_exact(mean.len()) {
        mean.iter_mut().zip(patch).for_each(|(mean, value)| *mean += value);
    }
    let patches = (seen.len() / mean.len()) as f32;
    mean.iter_mut().for_each(|mean| *mean /= patches);
    Ok(mean)
}

/// Trains one stage from `weights`, or resumes it from its checkpoint. Returns the weights, and true if the stage is finished.
fn run_stage(recipe: &Recipe, stage: &StageRecipe, weights: Weights, settings: &Settings, begun: Instant) -> Result<(Weights, bool)> {
    let file = checkpoint_path(&settings.out, stage);
    let progress = Progress::read(&file)?.unwrap_or(Progress { weights, optimizer: None, steps: 0, next_sample: 0 });
    if progress.steps >= stage.steps {
        return Ok((progress.weights, true));
    }
    let config = recipe.config(stage.image_size)?;
    let model = QwenVl::zeros(&config, &settings.device).load(progress.weights)?;
    let layers = config.visual.layers;
    let rate_factor = |name: &str| stage.trains(name).then(|| stage.rate_factor(name, layers));
    let (mut optimizer, mut model) = AdamW::new(model, rate_factor, progress.optimizer);
    println!("{}: {} of {} weights are trained, steps {} to {}", stage.name, optimizer.count(), count(&model), progress.steps, stage.steps);

    let tables = Tables::new(&recipe.world()?, &config, stage, &settings.device);
    let mut validation = Packer::new(recipe, stage, Split::Validation, 0)?;
    let validation: Vec<Batch> = (0..VALIDATION_BATCHES).map(|_| validation.next_batch()).collect::<Result<_>>()?;
    let batches = Packer::new(recipe, stage, Split::Train, progress.next_sample)?.stream(stage.steps - progress.steps);
    let mut log = OpenOptions::new().create(true).append(true).open(settings.out.join(plot::LOG_FILE))?;
    let (mut losses, mut samples) = (Vec::new(), 0);
    let (mut saved, mut logged) = (Instant::now(), Instant::now());
    for step in progress.steps..stage.steps {
        let batch = batches.recv().context("the thread that makes the samples ended early")??;
        let loss = tables.loss(&model, &batch);
        let mut gradients = loss.backward();
        let gradient_norm;
        (model, gradient_norm) = optimizer.step(model, &mut gradients, stage.rate(step));
        ensure!(
            gradient_norm.is_finite(),
            "stage {}, step {step}: the norm of the gradient is {gradient_norm}, expected a finite number",
            stage.name
        );
        losses.push(loss.inner());
        samples += batch.sample_count;
        let next_sample = batch.next_sample;

        let done = step + 1;
        if done.is_multiple_of(LOG_EVERY) || done == stage.steps {
            let loss = Tensor::cat(std::mem::take(&mut losses), 0).mean().into_scalar::<f32>();
            let validated = (done.is_multiple_of(VALIDATE_EVERY) || done == stage.steps).then(|| tables.validate(&model, &validation));
            let (validation_loss, validation_exact) = validated.unzip();
            let line = LogLine {
                stage: &stage.name,
                step: done,
                loss,
                validation_loss,
                validation_exact: validation_exact.unwrap_or_default(),
                rate: stage.rate(step),
                gradient_norm,
                samples: next_sample,
                samples_per_sec: samples as f64 / logged.elapsed().as_secs_f64(),
                seconds: begun.elapsed().as_secs_f64(),
            };
            let line = serde_json::to_string(&line)?;
            println!("{line}");
            writeln!(log, "{line}")?;
            (logged, samples) = (Instant::now(), 0);
        }
        let stop = settings.stop_after.is_some_and(|limit| begun.elapsed() >= limit);
        if done == stage.steps || stop || saved.elapsed() >= settings.checkpoint_every {
            let finished = done == stage.steps;
            let optimizer = (!finished).then(|| optimizer.state());
            Progress { weights: model.weights(), optimizer, steps: done, next_sample }.write(&file)?;
            saved = Instant::now();
            if stop && !finished {
                return Ok((model.weights(), false));
            }
        }
    }
    Ok((model.weights(), true))
}

fn count(model: &QwenVl) -> usize {
    use qwen_vl_reference::burn::module::Module;
    model.num_params()
}

/// Data that all batches of a stage share.
struct Tables {
    config: QwenVlConfig,
    heads: Vec<patches::Head>,
    patches: usize,
    patch_values: usize,
    rows: usize,
    device: Device,
}

impl Tables {
    fn new(world: &qwen_vl_world::World, config: &QwenVlConfig, stage: &StageRecipe, device: &Device) -> Self {
        let device = device.clone().without_autodiff();
        Self {
            config: config.clone(),
            heads: patches::heads(world),
            patches: config.visual.patches(),
            patch_values: config.visual.patch_values(),
            rows: stage.rows,
            device,
        }
    }

    /// Returns, for each head with labels, its name, ln p of its classes at the labelled patches, and the right classes, `[labels, 1]`.
    fn patch_answers(&self, model: &QwenVl, batch: &Batch) -> Vec<(&'static str, Tensor<2>, Tensor<2, Int>)> {
        let visual = &model.transformer.visual;
        let shape = [batch.pictures, self.patches, self.patch_values];
        let patches = visual.tower(Tensor::from_data(TensorData::new(batch.patches.clone(), shape), &self.device), &mut ignore);
        let logits = visual.attn_pool.kv_proj.forward(patches).flatten::<2>(0, 1);
        let asked = self.heads.iter().zip(&batch.labels).filter(|(_, labels)| !labels.is_empty());
        asked
            .map(|(head, labels)| {
                let (at, classes): (Vec<i32>, Vec<i32>) = labels.iter().copied().unzip();
                let logits = logits.clone().narrow(1, head.first, head.classes).select(0, self.integers(&at));
                (head.name, activation::log_softmax(logits, 1), self.integers(&classes).reshape([classes.len(), 1]))
            })
            .collect()
    }

    /// Returns the mean over the heads of the mean of −ln p, `[1]`.
    fn patch_loss(&self, model: &QwenVl, batch: &Batch) -> Tensor<1> {
        let answers = self.patch_answers(model, batch);
        let heads = answers.len() as f32;
        let losses = answers.into_iter().map(|(_, log_probabilities, classes)| -log_probabilities.gather(1, classes).mean());
        Tensor::cat(losses.collect(), 0).sum() / heads
    }

    /// Returns ln p of all tokens at each target of a batch, `[targets, vocab]`.
    fn log_probabilities(&self, model: &QwenVl, batch: &Batch) -> Tensor<2> {
        let features = (batch.pictures > 0).then(|| {
            let shape = [batch.pictures, self.patches, self.patch_values];
            model.transformer.visual.forward(Tensor::from_data(TensorData::new(batch.patches.clone(), shape), &self.device), &mut ignore)
        });
        let embedded = model.embed(&batch.splice, features, self.rows);
        let mask = packed_mask(&batch.places, &self.device);
        let positions: Vec<Vec<usize>> = batch.places.iter().map(|row| row.iter().map(|place| place.position).collect()).collect();
        let positions = Positions::of_rows(&self.config, 1.0, &positions, &self.device);
        let states = model.decode(embedded, &positions, &mask, None, &mut ignore);
        let [rows, length, hidden] = states.dims();
        let logits = model.lm_head.forward(states.reshape([rows * length, hidden]).select(0, self.integers(&batch.positions)));
        activation::log_softmax(logits, 1)
    }

    fn integers(&self, values: &[i32]) -> Tensor<1, Int> {
        Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), &self.device)
    }

    /// Returns the loss of a batch, `[1]`: the weighted mean of −ln p over its targets, or the loss of its patches.
    fn loss(&self, model: &QwenVl, batch: &Batch) -> Tensor<1> {
        if !batch.labels.is_empty() {
            return self.patch_loss(model, batch);
        }
        self.mean_loss(self.log_probabilities(model, batch), batch)
    }

    fn mean_loss(&self, log_probabilities: Tensor<2>, batch: &Batch) -> Tensor<1> {
        let count = batch.targets.len();
        // The weight of an answer is the root of its length. Otherwise the digits of boxes, which are most of the tokens and mostly noise,
        // would dominate the names.
        let mut shares: Vec<f32> =
            batch.answers.iter().flat_map(|(_, targets)| std::iter::repeat_n(1.0 / (*targets as f32).sqrt(), *targets)).collect();
        let all: f32 = shares.iter().sum();
        shares.iter_mut().for_each(|share| *share /= -all);
        shares.resize(count, 0.0);
        let chosen = log_probabilities.gather(1, self.integers(&batch.targets).reshape([count, 1])).reshape([count]);
        (chosen * Tensor::from_data(TensorData::new(shares, [count]), &self.device)).sum()
    }

    /// Returns the loss and, by kind of question, the share of right answers.
    fn validate(&self, model: &QwenVl, batches: &[Batch]) -> (f32, BTreeMap<&'static str, f32>) {
        let mut loss = 0.0;
        let mut counts: BTreeMap<&'static str, (f32, f32)> = BTreeMap::new();
        for batch in batches {
            if !batch.labels.is_empty() {
                loss += self.patch_loss(model, batch).into_scalar::<f32>() / batches.len() as f32;
                for (head, log_probabilities, classes) in self.patch_answers(model, batch) {
                    let all = classes.dims()[0] as f32;
                    let right: i32 = log_probabilities.inner().argmax(1).equal(classes).int().sum().into_scalar();
                    let counts = counts.entry(head).or_default();
                    *counts = (counts.0 + right as f32, counts.1 + all);
                }
                continue;
            }
            let log_probabilities = self.log_probabilities(model, batch).inner();
            let likeliest = log_probabilities.clone().argmax(1).into_data().iter::<i32>().collect::<Vec<_>>();
            loss += self.mean_loss(log_probabilities, batch).into_scalar::<f32>() / batches.len() as f32;
            let mut at = 0;
            for (kind, targets) in &batch.answers {
                let (right, all) = counts.entry(*kind).or_default();
                let exact = likeliest[at..at + targets] == batch.targets[at..at + targets];
                *right += f32::from(u8::from(exact));
                *all += 1.0;
                at += targets;
            }
        }
        (loss, counts.into_iter().map(|(kind, (right, all))| (kind, right / all)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a recipe that runs in seconds.
    fn short() -> Recipe {
        let mut recipe = Recipe::read("nano").unwrap();
        (recipe.model.num_hidden_layers, recipe.model.visual.layers) = (1, 1);
        for stage in &mut recipe.stages {
            (stage.steps, stage.warmup, stage.rows) = (2, 1, 2);
        }
        recipe
    }

    fn settings(out: &Path, stop_after: Option<Duration>) -> Settings {
        let device = Device::flex().autodiff();
        Settings { device, out: out.to_owned(), checkpoint_every: Duration::from_secs(3600), start_from: None, stop_after }
    }

    #[test]
    fn a_run_resumes_to_the_same_weights_and_its_models_convert() {
        let folder = tempfile::tempdir().unwrap();
        let (whole, stopped) = (folder.path().join("whole"), folder.path().join("stopped"));
        run(&short(), &settings(&whole, None)).unwrap();
        // Each call makes at least one step, so 12 calls are enough for six stages of two steps.
        for _ in 0..12 {
            run(&short(), &settings(&stopped, Some(Duration::ZERO))).unwrap();
        }
        for stage in short().stages {
            let name = format!("{}.checkpoint.safetensors", stage.name);
            let read = |out: &Path| Progress::read(&out.join(&name)).unwrap().unwrap();
            let (whole, stopped) = (read(&whole), read(&stopped));
            assert_eq!((whole.steps, whole.next_sample), (stopped.steps, stopped.next_sample), "{name}");
            assert_eq!(whole.weights, stopped.weights, "{name}");
        }
        let options = quantize::Options::new(whole.join("nano-chat"), folder.path().join("web"));
        quantize::convert(&options, &mut |_| ()).unwrap();
        assert!(whole.join("loss.svg").is_file());

        let mut other = short();
        other.seed += 1;
        let error = run(&other, &settings(&whole, None)).unwrap_err().to_string();
        assert!(error.contains("another recipe"), "{error}");
    }

    #[test]
    fn each_stage_trains_its_parts() {
        let recipe = Recipe::read("nano").unwrap();
        let trained: Vec<[bool; 4]> = recipe
            .stages
            .iter()
            .map(|stage| {
                let tensor = |name: &str| stage.trains(&format!("transformer.{name}"));
                [
                    tensor("h.0.mlp.w1.weight"),
                    tensor("visual.conv1.weight"),
                    tensor("visual.attn_pool.query"),
                    tensor("visual.attn_pool.pos_embed"),
                ]
            })
            .collect();
        let (yes, no) = (true, false);
        // Columns: decoder, tower, resampler, sines of the resampler.
        // Rows: text, tower, stage 1, stage 2 with one object, stage 2, stage 3.
        let all = [yes, yes, yes, no];
        assert_eq!(trained, [[yes, no, no, no], [no, yes, no, no], [no, yes, yes, no], all, all, [yes, no, yes, no]]);
    }

    /// Compares the gradient of each tensor with differences of the loss. This checks burn's derivatives of every operation in the graph.
    #[test]
    fn gradients_agree_with_differences() {
        let recipe = short();
        for name in ["tower", "stage2"] {
            let stage = recipe.stages.iter().find(|stage| stage.name == name).unwrap();
            check_gradients(&recipe, &StageRecipe { rows: 1, ..stage.clone() });
        }
    }

    fn check_gradients(recipe: &Recipe, stage: &StageRecipe) {
        let config = recipe.config(stage.image_size).unwrap();
        let device = Device::flex().autodiff();
        let weights = initial::weights(&config, 5);
        let tables = Tables::new(&recipe.world().unwrap(), &config, stage, &device);
        let batch = Packer::new(recipe, stage, Split::Train, 0).unwrap().next_batch().unwrap();
        let model = |weights: &Weights| QwenVl::zeros(&config, &device).load(weights.clone()).unwrap();
        let loss = |weights: &Weights| f64::from(tables.loss(&model(weights), &batch).into_scalar::<f32>());

        let (_, trained) = AdamW::new(model(&weights), |name| stage.trains(name).then_some(1.0), None);
        let gradients = crate::adamw::gradients_by_name(&trained, &mut tables.loss(&trained, &batch).backward());
        for (name, gradient) in gradients {
            let square: f64 = gradient.iter().map(|value| f64::from(*value).powi(2)).sum();
            // Biases of keys have no gradient, because a softmax ignores a constant that is added to all its scores.
            if square < 1e-8 {
                continue;
            }
            // By the gradient, this step moves the loss by 2e-3 in each direction.
            let step = (2e-3 / square).min(0.05 / square.sqrt());
            let moved = |sign: f64| {
                let mut moved = weights.clone();
                let values = &mut moved.get_mut(&name).unwrap().values;
                values.iter_mut().zip(&gradient).for_each(|(value, by)| *value += (sign * step * f64::from(*by)) as f32);
                loss(&moved)
            };
            let slope = (moved(1.0) - moved(-1.0)) / (2.0 * step);
            assert!(
                (slope / square - 1.0).abs() < 0.05,
                "{name}: the slope of the loss is {slope:e}, expected {square:e} from the gradient"
            );
        }
    }
}
