//! Packs samples into batches.

use crate::recipe::{Recipe, StageRecipe};
use anyhow::{Context, Result, ensure};
use qwen_vl_format::{IMAGE_MEAN, IMAGE_STD, QwenVlConfig};
use qwen_vl_processor::Tokenizer;
use qwen_vl_reference::{Place, Splice};
use qwen_vl_world::{Encoded, Sample, Split, World};
use std::sync::mpsc::{Receiver, sync_channel};

/// The number of pictures is rounded up to a multiple of this, so that a GPU sees few shapes.
const PICTURES_STEP: usize = 4;
/// The number of targets is rounded up to a multiple of this, for the same reason.
const TARGETS_STEP: usize = 64;

/// Place of the tokens that fill a row.
const PADDING: Place = Place { sample: u32::MAX, thread: 0, position: 0 };

/// Rows of packed samples.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Inputs of the decoder, `rows · row_length`.
    pub splice: Splice,
    /// Sample, thread and index of every position of every row.
    pub places: Vec<Vec<Place>>,
    /// Patches, `[pictures, patches, 3 · patch²]`, with empty pictures at the end.
    pub patches: Vec<f32>,
    /// Number of pictures in `patches`.
    pub pictures: usize,
    /// Positions whose next token is learned, counted over all rows. Zeros at the end fill the list to a multiple of `TARGETS_STEP`.
    pub positions: Vec<i32>,
    /// Token that follows each of `positions`.
    pub targets: Vec<i32>,
    /// Answers that the targets form, in order: the kind of question ([`qwen_vl_world::Question::kind`]) and the number of targets.
    pub answers: Vec<(&'static str, usize)>,
    /// Labels of the tower's stage: for each of the [`crate::patches::heads`], pairs of a patch and its class. Empty in other stages.
    pub labels: Vec<Vec<(i32, i32)>>,
    /// Number of samples in the batch.
    pub sample_count: usize,
    /// Index of the first sample after the batch.
    pub next_sample: u64,
}

/// Makes the batches of a stage in order.
pub struct Packer {
    world: World,
    tokenizer: Tokenizer,
    config: QwenVlConfig,
    stage: StageRecipe,
    split: Split,
    seed: u64,
    next: u64,
}

impl Packer {
    /// Creates a packer that starts at sample `first`.
    pub fn new(recipe: &Recipe, stage: &StageRecipe, split: Split, first: u64) -> Result<Self> {
        Ok(Self {
            world: recipe.world_of(stage)?,
            tokenizer: qwen_vl_world::tokenizer(recipe.model.visual.n_queries)?,
            config: recipe.config(stage.image_size)?,
            stage: stage.clone(),
            split,
            seed: recipe.seed,
            next: first,
        })
    }

    /// Returns the next batch. Places each sample in the first row with enough room. The first sample without room begins the next batch.
    pub fn next_batch(&mut self) -> Result<Batch> {
        let (rows, length) = (self.stage.rows, self.stage.row_length);
        let mut packed: Vec<Vec<(u64, Encoded)>> = vec![Vec::new(); rows];
        let mut filled = vec![0; rows];
        let mut samples = std::collections::BTreeMap::new();
        let mut longer = 0;
        loop {
            let sample = self.sample(self.next);
            let encoded = sample.encode_within(&self.tokenizer, length).context("a sample of the world")?;
            if encoded.ids.len() > length {
                longer += 1;
                ensure!(longer < 1000, "stage {}: no sample fits into rows of {length} positions", self.stage.name);
                self.next += 1;
                continue;
            }
            let Some(row) = (0..rows).find(|row| filled[*row] + encoded.ids.len() <= length) else { break };
            filled[row] += encoded.ids.len();
            packed[row].push((self.next, encoded));
            samples.insert(self.next, sample);
            self.next += 1;
        }
        Ok(self.assemble(packed, &samples))
    }

    fn sample(&self, index: u64) -> Sample {
        let data = match self.stage.mix {
            // The fractions of the golden ratio's multiples spread these samples evenly.
            Some((other, share)) if (index as f64 * 0.618_033_988_749_895).fract() < share => other,
            _ => self.stage.data,
        };
        self.world.sample(self.split, data, self.seed, index)
    }

    fn assemble(&self, packed: Vec<Vec<(u64, Encoded)>>, samples: &std::collections::BTreeMap<u64, Sample>) -> Batch {
        let vision = &self.config.visual;
        let length = self.stage.row_length;
        let padding = self.tokenizer.special().endoftext;
        let mut splice = Splice::new(&self.config);
        let (mut places, mut patches, mut positions, mut targets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut answers: Vec<(&'static str, usize)> = Vec::new();
        let of_patches = self.stage.data == qwen_vl_world::Stage::Patches;
        let mut labels = if of_patches { vec![Vec::new(); crate::patches::heads(&self.world).len()] } else { Vec::new() };
        let mut sample_count = 0;
        for row in packed {
            let start = splice.len();
            let mut owners = Vec::with_capacity(length);
            for (number, Encoded { ids, loss, threads, images }) in row {
                let first = splice.len();
                owners.extend(sample_places(sample_count, &threads));
                sample_count += 1;
                let spliced = Splice::prompt(&self.config, &ids);
                assert_eq!(spliced.pictures(), images.len(), "every picture needs positions in the tokens");
                splice.append(&spliced);
                let sample = &samples[&number];
                for picture in &sample.pictures {
                    let pixels = picture.pixels(vision.image_size, IMAGE_MEAN, IMAGE_STD);
                    patches.extend(pixels.patches(vision.patch_size, vision.patch_values()));
                }
                if of_patches {
                    let first = (splice.pictures() - 1) * vision.patches();
                    let patches = crate::patches::labels(&self.world, &sample.scenes[0], vision.grid());
                    for (patch, classes) in patches.into_iter().enumerate() {
                        for (labels, class) in labels.iter_mut().zip(classes) {
                            labels.extend(class.map(|class| ((first + patch) as i32, class as i32)));
                        }
                    }
                    continue;
                }
                let mut kinds = sample.questions.iter().map(|question| question.kind);
                for at in (1..ids.len()).filter(|at| loss[*at]) {
                    // All tokens of a text are learned, both questions and answers, so a text counts as one answer.
                    if !loss[at - 1] || at == 1 {
                        answers.push((if sample.pictures.is_empty() { "text" } else { kinds.next().unwrap_or("text") }, 0));
                    }
                    answers.last_mut().expect("the first target adds an answer").1 += 1;
                    positions.push((first + at - 1) as i32);
                    targets.push(ids[at] as i32);
                }
            }
            while splice.len() < start + length {
                splice.token(padding);
            }
            // Padding sees only padding, and nothing else sees padding.
            owners.resize(length, PADDING);
            places.push(owners);
        }
        let full = targets.len().next_multiple_of(TARGETS_STEP);
        positions.resize(full, 0);
        targets.resize(full, 0);
        let pictures = splice.pictures().next_multiple_of(PICTURES_STEP);
        patches.resize(pictures * vision.patches() * vision.patch_values(), 0.0);
        let sample_count = sample_count as usize;
        Batch { splice, places, patches, pictures, positions, targets, answers, labels, sample_count, next_sample: self.next }
    }

    /// Makes `count` batches in a separate thread, ahead of the receiver.
    pub fn stream(mut self, count: usize) -> Receiver<Result<Batch>> {
        let (sender, receiver) = sync_channel(2);
        std::thread::spawn(move || {
            for _ in 0..count {
                if sender.send(self.next_batch()).is_err() {
                    break;
                }
            }
        });
        receiver
    }
}

/// Returns the places of a sample's positions. Each thread continues from the end of the shared part.
fn sample_places(sample: u32, threads: &[u32]) -> Vec<Place> {
    let shared = threads.iter().take_while(|thread| **thread == 0).count();
    let mut places: Vec<Place> = Vec::with_capacity(threads.len());
    for thread in threads {
        let position = match places.last() {
            Some(last) if last.thread == *thread => last.position + 1,
            Some(_) => shared,
            None => 0,
        };
        places.push(Place { sample, thread: *thread, position });
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packer(stage: usize, first: u64) -> Packer {
        let recipe = Recipe::read("nano").unwrap();
        Packer::new(&recipe, &recipe.stages[stage], Split::Train, first).unwrap()
    }

    #[test]
    fn rows_hold_whole_samples_and_their_targets() {
        for stage in 0..Recipe::read("nano").unwrap().stages.len() {
            let mut packer = packer(stage, 0);
            let batch = packer.next_batch().unwrap();
            let (rows, length) = (packer.stage.rows, packer.stage.row_length);
            assert_eq!(batch.splice.len(), rows * length);
            assert_eq!(batch.places.len(), rows);
            assert!(batch.places.iter().all(|row| row.len() == length));
            let filled = batch.places.iter().flatten().filter(|place| **place != PADDING).count();
            assert!(filled * 10 > rows * length * 7, "{}: {filled} of {} positions", packer.stage.name, rows * length);
            assert!(batch.next_sample as usize >= batch.sample_count);
            // A target follows the position that predicts it, in the same sample and thread.
            let place = |position: i32| batch.places[position as usize / length][position as usize % length];
            let counted: usize = batch.answers.iter().map(|(_, targets)| targets).sum();
            assert_eq!(batch.targets.len(), counted.next_multiple_of(TARGETS_STEP));
            for position in &batch.positions[..counted] {
                let before = place(*position);
                assert_ne!(before, PADDING);
                assert_eq!(place(position + 1), Place { position: before.position + 1, ..before });
            }
            let vision = &packer.config.visual;
            assert_eq!(batch.patches.len(), batch.pictures * vision.patches() * vision.patch_values());
            assert_eq!(batch.pictures, batch.splice.pictures().next_multiple_of(PICTURES_STEP));
            assert_eq!(batch.pictures == 0, packer.stage.data == qwen_vl_world::Stage::Text);
            let of_patches = packer.stage.data == qwen_vl_world::Stage::Patches;
            assert_eq!((batch.labels.is_empty(), batch.answers.is_empty()), (!of_patches, of_patches));
        }
    }

    #[test]
    fn batches_follow_from_the_number_of_their_first_sample() {
        let mut whole = packer(4, 0);
        let first = whole.next_batch().unwrap();
        let second = whole.next_batch().unwrap();
        let resumed = packer(4, first.next_sample).next_batch().unwrap();
        assert_eq!((second.targets, second.patches, second.next_sample), (resumed.targets, resumed.patches, resumed.next_sample));
    }
}
