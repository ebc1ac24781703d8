//! Loads and returns weights by their names in the checkpoint.

use crate::QwenVl;
use anyhow::{Context, Result, ensure};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};
use std::collections::BTreeMap;

/// One tensor in f32.
#[derive(Debug, Clone, PartialEq)]
pub struct Weight {
    /// Shape, as in the checkpoint.
    pub shape: Vec<usize>,
    /// Values, row by row.
    pub values: Vec<f32>,
}

/// All tensors of a checkpoint by name.
pub type Weights = BTreeMap<String, Weight>;

/// True if a tensor is never trained. Only the sines of the resampler are frozen (`visual.py`: `requires_grad_(False)`).
pub fn frozen_always(name: &str) -> bool {
    name == "transformer.visual.attn_pool.pos_embed"
}

impl QwenVl {
    /// Opens a checkpoint in the Hugging Face layout: safetensors or pickled, any float type.
    #[cfg(feature = "files")]
    pub fn open(folder: &std::path::Path, device: &Device) -> Result<Self> {
        use quantize::{Input, source::Source};
        use qwen_vl_format::{Family, QwenVlConfig};

        let path = folder.join("config.json");
        let json = std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
        let config = QwenVlConfig::from_hf_json(&json).with_context(|| path.display().to_string())?;
        let source = Source::open(&Input::from(folder).files()?, Family::QwenVl)?;
        let mut weights = Weights::new();
        for (name, shape) in quantize::original_tensors(&config.model()) {
            source.expect_floats(&name, &shape)?;
            let rows = shape[0];
            let cols = shape[1..].iter().product();
            weights.insert(name.clone(), Weight { values: source.read_floats(&name, 0..rows, 0..cols)?, shape });
        }
        Self::zeros(&config, device).load(weights)
    }

    /// Loads the weights. Each tensor of the model must be present and have the expected shape.
    pub fn load(self, weights: Weights) -> Result<Self> {
        let mut loader = Loader { path: Vec::new(), weights, device: self.device(), problem: None };
        let model = self.map(&mut loader);
        match loader.problem {
            Some(problem) => Err(problem),
            None => Ok(model),
        }
    }

    /// Returns all weights.
    pub fn weights(&self) -> Weights {
        let mut reader = Reader::default();
        self.visit(&mut reader);
        reader.weights
    }
}

struct Loader {
    path: Vec<String>,
    weights: Weights,
    device: Device,
    problem: Option<anyhow::Error>,
}

impl Loader {
    fn take<const D: usize>(&mut self, shape: [usize; D]) -> Result<Tensor<D>> {
        let name = self.path.join(".");
        let weight = self.weights.remove(&name).with_context(|| format!("the checkpoint has no tensor `{name}`"))?;
        ensure!(weight.shape == shape, "tensor `{name}` has shape {:?}, expected {shape:?}, which follows from config.json", weight.shape);
        Ok(Tensor::from_data(TensorData::new(weight.values, shape), &self.device))
    }
}

impl ModuleMapper for Loader {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.take(param.dims()) {
            Ok(tensor) => Param::from_tensor(tensor),
            Err(problem) => {
                self.problem.get_or_insert(problem);
                param
            }
        }
    }
}

#[derive(Default)]
struct Reader {
    path: Vec<String>,
    weights: Weights,
}

impl ModuleVisitor for Reader {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.val();
        let shape = tensor.dims().to_vec();
        let values = tensor.into_data().try_to_vec().expect("parameters are f32");
        self.weights.insert(self.path.join("."), Weight { shape, values });
    }
}
