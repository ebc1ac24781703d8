//! The tensors of a model on the GPU, by name.

use crate::{ModelOptions, RuntimeError};
use qwen_vl_format::{Manifest, ModelConfig};
use qwen_vl_kernels::matmul::{Epilogue, Product, packed_bytes};
use qwen_vl_kernels::norm::Norm;
use qwen_vl_kernels::{Activation, Gpu, Precision, Weight};
use std::collections::HashMap;

/// All tensors of a model. The manifest was validated against the table of names, so a missing name is a bug.
pub(crate) struct Weights {
    tensors: HashMap<String, Weight>,
    /// Memory for the input of a product in 8 bits, if the kernel set takes it. Every product uses the same.
    packed: Option<wgpu::Buffer>,
}

impl Weights {
    /// Allocates every tensor, filled with zeros.
    pub(crate) fn allocate(gpu: &Gpu, manifest: &Manifest, options: &ModelOptions) -> Result<Self, RuntimeError> {
        let mut tensors = HashMap::new();
        for tensor in &manifest.tensors {
            let part_rows: Vec<usize> = tensor.parts.iter().map(|part| part.rows).collect();
            tensors.insert(tensor.name.clone(), Weight::allocate(gpu, &tensor.name, tensor.scheme, tensor.shape[1], &part_rows)?);
        }
        let packed = match gpu.kernels().precision {
            Precision::Q8 => Some(gpu.storage("packed activations", packed_input(&manifest.config, options))?),
            _ => None,
        };
        Ok(Self { tensors, packed })
    }

    /// Returns a weight matrix.
    pub(crate) fn matrix(&self, name: &str) -> &Weight {
        self.tensors.get(name).unwrap_or_else(|| panic!("`{name}` is not in the tensor table"))
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
        Linear { weight: self.matrix(&format!("{name}.weight")), bias: self.bias(name), exact: false, packed: self.packed.as_ref() }
    }

    fn bias(&self, name: &str) -> Option<wgpu::Buffer> {
        let name = format!("{name}.bias");
        self.tensors.contains_key(&name).then(|| self.vector(&name))
    }
}

/// Returns the bytes of the largest input of a product in 8 bits.
pub(crate) fn packed_input(config: &ModelConfig, options: &ModelOptions) -> u64 {
    let (vision, decoder) = (&config.vision, &config.decoder);
    let (patches, chunk) = (options.max_patches(vision), options.prefill_chunk);
    let mut largest = packed_bytes(chunk, decoder.width.max(decoder.attention_width()).max(decoder.mlp_width));
    // The merger's inputs are the tower's rows, several to one.
    largest = largest.max(packed_bytes(patches, vision.patch_values().max(vision.width).max(vision.mlp_width)));
    if let Some(resampler) = &vision.resampler {
        largest = largest.max(packed_bytes(patches.max(resampler.queries), decoder.width));
    }
    largest
}

/// A weight with its bias.
pub(crate) struct Linear<'a> {
    weight: &'a Weight,
    bias: Option<wgpu::Buffer>,
    exact: bool,
    packed: Option<&'a wgpu::Buffer>,
}

impl Linear<'_> {
    /// Keeps products in f32, whatever the precision of the kernel set.
    pub(crate) fn exact(self, exact: bool) -> Self {
        Self { exact, ..self }
    }

    /// Returns the product of `input` with this layer.
    pub(crate) fn product<'a>(&'a self, input: &'a Activation, output: &'a Activation, epilogue: Epilogue) -> Product<'a> {
        Product { weight: self.weight, bias: self.bias.as_ref(), input, output, epilogue, exact: self.exact, packed: self.packed }
    }
}
