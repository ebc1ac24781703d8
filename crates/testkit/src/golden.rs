//! Goldens of the original code: the fixtures of this repository, and the whole reference set where it lies beside it.

use anyhow::{Context, Result};
use safetensors::SafeTensors;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The repository's root.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The fixtures in the repository.
pub fn fixtures() -> PathBuf {
    repository().join("tests/fixtures")
}

/// The whole reference set: the folder named by `QWEN_VL_REFERENCE`, or `../shared/reference` beside the repository, if it is there.
pub fn reference() -> Option<PathBuf> {
    let folder = std::env::var_os("QWEN_VL_REFERENCE").map_or_else(|| repository().join("../shared/reference"), PathBuf::from);
    folder.is_dir().then_some(folder)
}

/// A checkpoint with the cases that the original code computed on it.
#[derive(Debug, Clone)]
pub struct GoldenSet {
    /// `mini-a`, `tiny-b` …
    pub name: String,
    /// Folder that the paths of pictures are relative to.
    pub root: PathBuf,
}

impl GoldenSet {
    /// The sets in the repository, and those of the reference where it is.
    pub fn all() -> Vec<Self> {
        let set = |root: PathBuf, name: &str| Self { name: name.to_owned(), root };
        let mut sets = vec![set(fixtures(), "mini-a"), set(fixtures(), "mini-b")];
        if let Some(reference) = reference() {
            sets.extend([set(reference.clone(), "tiny-a"), set(reference, "tiny-b")]);
        }
        sets
    }

    /// The Hugging Face folder.
    pub fn checkpoint(&self) -> PathBuf {
        self.root.join("checkpoints").join(&self.name)
    }

    /// The folder of the cases.
    pub fn golden(&self) -> PathBuf {
        self.root.join("golden").join(&self.name)
    }

    /// All cases, by name.
    pub fn cases(&self) -> Result<Vec<Case>> {
        let mut paths: Vec<PathBuf> = fs::read_dir(self.golden())?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "json") && !path.ends_with("summary.json"));
        paths.sort();
        paths.iter().map(|path| Case::read(path)).collect()
    }

    /// What the visual part computes for one picture (`images/photo_cat.png`), by stage.
    pub fn image_stages(&self, picture: &str) -> Result<BTreeMap<String, Tensor>> {
        let name = Path::new(picture).file_stem().context("a picture's path has a name")?;
        read_tensors(&self.golden().join("images").join(name).with_extension("safetensors"))
    }
}

/// One prompt and what the original code computes for it.
#[derive(Debug, Clone, Deserialize)]
pub struct Case {
    /// Its name.
    pub case: String,
    /// Token ids of the prompt.
    pub input_ids: Vec<u32>,
    /// Pictures in order.
    pub images: Vec<CaseImage>,
    /// NTK factor of the prompt.
    pub ntk_alpha: u32,
    /// Most likely token at every prompt position.
    pub argmax: Vec<u32>,
    /// Greedy steps.
    pub decode: Decode,
    /// What top-p sampling keeps at the first step.
    pub top_p_at_first_step: Vec<TopP>,
    /// Tensors by name.
    #[serde(skip)]
    pub tensors: BTreeMap<String, Tensor>,
}

/// A picture of a case.
#[derive(Debug, Clone, Deserialize)]
pub struct CaseImage {
    /// Relative to [`GoldenSet::root`].
    pub path: String,
}

/// Greedy steps of a case.
#[derive(Debug, Clone, Deserialize)]
pub struct Decode {
    /// The tokens, the first from the last prompt position.
    pub tokens: Vec<u32>,
}

/// The candidates of one top-p value.
#[derive(Debug, Clone, Deserialize)]
pub struct TopP {
    /// Mass to keep.
    pub top_p: f32,
    /// How many tokens stay.
    pub kept: usize,
    /// The most likely of them, at most 16.
    pub ids: Vec<u32>,
    /// Probabilities of these among all that stay.
    pub probabilities: Vec<f32>,
}

/// An f32 tensor.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values.
    pub values: Vec<f32>,
}

impl Case {
    fn read(path: &Path) -> Result<Self> {
        let json = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let mut case: Self = serde_json::from_str(&json).with_context(|| path.display().to_string())?;
        case.tensors = read_tensors(&path.with_extension("safetensors"))?;
        Ok(case)
    }
}

fn read_tensors(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    let file = SafeTensors::deserialize(&bytes).with_context(|| path.display().to_string())?;
    file.tensors()
        .into_iter()
        .map(|(name, view)| {
            anyhow::ensure!(view.dtype() == safetensors::Dtype::F32, "{}: `{name}` is not f32", path.display());
            let values = view.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
            Ok((name, Tensor { shape: view.shape().to_vec(), values }))
        })
        .collect()
}
