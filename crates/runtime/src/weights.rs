//! The tensors of a model on the GPU, by name.

use crate::RuntimeError;
use qwen_vl_format::manifest::TensorEntry;
use qwen_vl_kernels::matmul::{Epilogue, Product};
use qwen_vl_kernels::norm::Norm;
use qwen_vl_kernels::{Activation, Gpu, Weight};
use std::collections::HashMap;

/// All tensors of a model. The manifest was validated against the table of names, so a missing name is a bug.
pub(crate) struct Weights(HashMap<String, Weight>);

impl Weights {
    /// Allocates every tensor, filled with zeros.
    pub(crate) fn allocate(gpu: &Gpu, tensors: &[TensorEntry]) -> Result<Self, RuntimeError> {
        let mut weights = HashMap::new();
        for tensor in tensors {
            let part_rows: Vec<usize> = tensor.parts.iter().map(|part| part.rows).collect();
            weights.insert(tensor.name.clone(), Weight::allocate(gpu, &tensor.name, tensor.scheme, tensor.shape[1], &part_rows)?);
        }
        Ok(Self(weights))
    }

    /// Returns a weight matrix.
    pub(crate) fn matrix(&self, name: &str) -> &Weight {
        self.0.get(name).unwrap_or_else(|| panic!("`{name}` is not in the tensor table"))
    }

    /// Returns a table as activations: f32 rows in one buffer.
    pub(crate) fn rows(&self, name: &str) -> Activation {
        let weight = self.matrix(name);
        let [part] = &weight.parts[..] else { panic!("table `{name}` is in several parts") };
        Activation { buffer: part.data.clone(), rows: weight.rows, cols: weight.cols }
    }

    /// Returns a vector: a table of one row.
    pub(crate) fn vector(&self, name: &str) -> wgpu::Buffer {
        self.rows(name).buffer
    }

    /// Returns a norm by its name before `.weight`: a LayerNorm if the model has a bias of this name, otherwise an RMS norm.
    pub(crate) fn norm(&self, name: &str, epsilon: f32) -> Norm {
        Norm { weight: self.vector(&format!("{name}.weight")), bias: self.bias(name), epsilon }
    }

    /// Returns the projection to logits: the embedding if the model has no other.
    pub(crate) fn head(&self, tied: bool) -> Linear<'_> {
        self.linear(if tied { "decoder.embedding" } else { "head" })
    }

    /// Returns a linear layer by its name before `.weight`; with a bias if the model has one.
    pub(crate) fn linear(&self, name: &str) -> Linear<'_> {
        Linear { weight: self.matrix(&format!("{name}.weight")), bias: self.bias(name), exact: false }
    }

    fn bias(&self, name: &str) -> Option<wgpu::Buffer> {
        let name = format!("{name}.bias");
        self.0.contains_key(&name).then(|| self.vector(&name))
    }
}

/// A weight with its bias.
pub(crate) struct Linear<'a> {
    weight: &'a Weight,
    bias: Option<wgpu::Buffer>,
    exact: bool,
}

impl Linear<'_> {
    /// Keeps products in f32, whatever the precision of the kernel set.
    pub(crate) fn exact(self, exact: bool) -> Self {
        Self { exact, ..self }
    }

    /// Returns the product of `input` with this layer.
    pub(crate) fn product<'a>(&'a self, input: &'a Activation, output: &'a Activation, epilogue: Epilogue) -> Product<'a> {
        Product { weight: self.weight, bias: self.bias.as_ref(), input, output, epilogue, exact: self.exact }
    }
}
