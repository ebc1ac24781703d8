//! Files of a run: the checkpoints that it resumes from, and the model in the Hugging Face layout.

use crate::adamw::State;
use crate::recipe::{Recipe, StageRecipe};
use anyhow::{Context, Result, ensure};
use half::f16;
use qwen_vl_reference::{Weight, Weights};
use safetensors::tensor::{Dtype, TensorView};
use std::collections::HashMap;
use std::path::Path;

const FIRST_MOMENT: &str = "adamw.first_moment";
const SECOND_MOMENT: &str = "adamw.second_moment";

/// Progress of a stage.
pub struct Progress {
    /// Weights of the model, f32.
    pub weights: Weights,
    /// State of the optimiser, if the stage is not finished.
    pub optimizer: Option<State>,
    /// Number of finished steps.
    pub steps: usize,
    /// Index of the next sample.
    pub next_sample: u64,
}

impl Progress {
    /// Writes the file as a whole: an interruption leaves the old file or the new one.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> =
            self.weights.iter().map(|(name, weight)| (name.clone(), weight.shape.clone(), bytes(&weight.values))).collect();
        if let Some(state) = &self.optimizer {
            for (name, moment) in [(FIRST_MOMENT, &state.first_moment), (SECOND_MOMENT, &state.second_moment)] {
                tensors.push((name.to_owned(), vec![moment.len()], bytes(moment)));
            }
        }
        let metadata = [("steps", self.steps.to_string()), ("next_sample", self.next_sample.to_string())];
        write_safetensors(path, &tensors, Dtype::F32, metadata.map(|(key, value)| (key.to_owned(), value)).into())
    }

    /// Reads the file. Returns `None` if it does not exist.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        if !path.is_file() {
            return Ok(None);
        }
        Self::parse(&std::fs::read(path)?)
            .with_context(|| format!("{}: could not read the checkpoint; delete it to restart the stage", path.display()))
            .map(Some)
    }

    fn parse(file: &[u8]) -> Result<Self> {
        let (_, header) = safetensors::SafeTensors::read_metadata(file)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let number =
            |key: &str| -> Result<u64> { Ok(metadata.get(key).with_context(|| format!("`{key}` is missing in the metadata"))?.parse()?) };
        let mut weights = Weights::new();
        for (name, view) in safetensors::SafeTensors::deserialize(file)?.iter() {
            ensure!(view.dtype() == Dtype::F32, "tensor `{name}` is {:?}, expected F32", view.dtype());
            let values = view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            weights.insert(name.to_owned(), Weight { shape: view.shape().to_vec(), values });
        }
        let steps = number("steps")? as usize;
        let optimizer = match (weights.remove(FIRST_MOMENT), weights.remove(SECOND_MOMENT)) {
            (Some(first), Some(second)) => Some(State { steps, first_moment: first.values, second_moment: second.values }),
            _ => None,
        };
        Ok(Self { weights, optimizer, steps, next_sample: number("next_sample")? })
    }
}

/// Writes a checkpoint that `quantize` converts: f16 weights, configuration, vocabulary.
pub fn export(recipe: &Recipe, stage: &StageRecipe, weights: &Weights, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("could not create {}", folder.display()))?;
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("could not write {}", path.display()))
    };
    let end = qwen_vl_world::tokenizer(recipe.model.visual.n_queries)?.special().endoftext;
    let chat = stage.data == qwen_vl_world::Stage::Chat;
    let generation = serde_json::json!({
        "chat_format": if chat { "chatml" } else { "raw" }, "do_sample": false, "eos_token_id": end, "pad_token_id": end,
        "max_new_tokens": 128, "max_window_size": 2 * recipe.model.seq_length, "top_k": 0, "top_p": 0.3
    });
    let tokenizer = serde_json::json!({ "model_max_length": recipe.model.seq_length, "tokenizer_class": "QWenTokenizer" });
    write("config.json", serde_json::to_string_pretty(&recipe.config_json(stage.image_size)?)?.as_bytes())?;
    write("generation_config.json", serde_json::to_string_pretty(&generation)?.as_bytes())?;
    write("tokenizer_config.json", serde_json::to_string_pretty(&tokenizer)?.as_bytes())?;
    write("qwen.tiktoken", qwen_vl_world::VOCABULARY)?;
    write("LICENSE", b"Made by this project; licensed under MIT or Apache-2.0, at your option.\n")?;
    let tensors: Vec<_> = weights
        .iter()
        .map(|(name, weight)| {
            let halves = weight.values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect();
            (name.clone(), weight.shape.clone(), halves)
        })
        .collect();
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    write_safetensors(&folder.join("model.safetensors"), &tensors, Dtype::F16, metadata)
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn write_safetensors(
    path: &Path,
    tensors: &[(String, Vec<usize>, Vec<u8>)],
    dtype: Dtype,
    metadata: HashMap<String, String>,
) -> Result<()> {
    let views: Result<Vec<_>, _> =
        tensors.iter().map(|(name, shape, bytes)| Ok((name, TensorView::new(dtype, shape.clone(), bytes)?))).collect();
    let file = safetensors::serialize(views.map_err(|error: safetensors::SafeTensorError| error)?, Some(metadata))?;
    let partial = path.with_extension("partial");
    std::fs::write(&partial, file).with_context(|| format!("could not write {}", partial.display()))?;
    std::fs::rename(&partial, path).with_context(|| format!("could not write {}", path.display()))
}
