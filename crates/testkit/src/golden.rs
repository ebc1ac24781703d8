//! Goldens of the original code: the fixtures of this repository, and the larger reference set if it is on the machine.

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

/// The larger reference set, if it is there: the folder that `QWEN_VL_REFERENCE` names, or `../shared/reference` next to the repository.
pub fn reference() -> Option<PathBuf> {
    let folder = std::env::var_os("QWEN_VL_REFERENCE").map_or_else(|| repository().join("../shared/reference"), PathBuf::from);
    folder.is_dir().then_some(folder)
}

/// Golden models of the repository's fixtures.
const FIXTURE_SETS: [&str; 2] = ["mini-a", "mini-b"];
/// Golden models of the larger reference set.
const REFERENCE_SETS: [&str; 2] = ["tiny-a", "tiny-b"];

/// Why [`GoldenSet::missing`] are missing, and what to do.
pub const MISSING_REFERENCE: &str = "the larger reference set is not there: set QWEN_VL_REFERENCE to its folder";

/// A checkpoint with the cases that the original code computed on it.
#[derive(Debug, Clone)]
pub struct GoldenSet {
    /// `mini-a`, `tiny-b` …
    pub name: String,
    /// Folder that the paths of pictures are relative to.
    pub root: PathBuf,
}

impl GoldenSet {
    /// The sets of the repository, and those of the larger reference set if it is there. [`GoldenSet::missing`] names the others.
    pub fn all() -> Vec<Self> {
        let sets = |root: &Path, names: [&str; 2]| names.map(|name| Self { name: name.to_owned(), root: root.to_owned() });
        let mut all = Vec::from(sets(&fixtures(), FIXTURE_SETS));
        match reference() {
            Some(root) => all.extend(sets(&root, REFERENCE_SETS)),
            None => eprintln!("not run: {}; {MISSING_REFERENCE}", Self::missing().join(", ")),
        }
        all
    }

    /// Names of the sets that this machine does not have.
    pub fn missing() -> &'static [&'static str] {
        if reference().is_some() { &[] } else { &REFERENCE_SETS }
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

    /// Outputs of the vision tower's stages for one picture (such as `images/photo_cat.png`), by name.
    pub fn image_stages(&self, picture: &str) -> Result<BTreeMap<String, Tensor>> {
        let name = Path::new(picture).file_stem().with_context(|| format!("{picture}: the path has no file name"))?;
        Ok(read_tensors(&self.golden().join("images").join(name).with_extension("safetensors"))?.0)
    }
}

/// One prompt with the results of the original code.
#[derive(Debug, Clone, Deserialize)]
pub struct Case {
    /// Name of the case.
    pub case: String,
    /// Token ids of the prompt.
    pub input_ids: Vec<u32>,
    /// Pictures in the order of the prompt.
    pub images: Vec<CaseImage>,
    /// NTK factor of the prompt.
    pub ntk_alpha: u32,
    /// The most likely token at every prompt position.
    pub argmax: Vec<u32>,
    /// Greedy decoding.
    pub decode: Decode,
    /// Tokens that top-p sampling keeps at the first step.
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

/// Greedy decoding of a case.
#[derive(Debug, Clone, Deserialize)]
pub struct Decode {
    /// The tokens. The first one comes from the last prompt position.
    pub tokens: Vec<u32>,
}

/// The candidates of one top-p value.
#[derive(Debug, Clone, Deserialize)]
pub struct TopP {
    /// Probability mass to keep.
    pub top_p: f32,
    /// Number of tokens that it keeps.
    pub kept: usize,
    /// The most likely of them, 16 at most.
    pub ids: Vec<u32>,
    /// Probabilities of these, normalised over all kept tokens.
    pub probabilities: Vec<f32>,
}

/// An f32 tensor.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// Values in row-major order.
    pub values: Vec<f32>,
}

impl Case {
    fn read(path: &Path) -> Result<Self> {
        let json = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let mut case: Self = serde_json::from_str(&json).with_context(|| path.display().to_string())?;
        case.tensors = read_tensors(&path.with_extension("safetensors"))?.0;
        Ok(case)
    }
}

/// Tensors of a file by name: floats, and integers without their shapes.
pub(crate) type Tensors = (BTreeMap<String, Tensor>, BTreeMap<String, Vec<i32>>);

pub(crate) fn read_tensors(path: &Path) -> Result<Tensors> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    let file = SafeTensors::deserialize(&bytes).with_context(|| path.display().to_string())?;
    let (mut floats, mut integers) = Tensors::default();
    for (name, view) in file.tensors() {
        let words = view.data().as_chunks().0;
        match view.dtype() {
            safetensors::Dtype::F32 => {
                let values = words.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
                floats.insert(name, Tensor { shape: view.shape().to_vec(), values });
            }
            safetensors::Dtype::I32 => {
                integers.insert(name, words.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect());
            }
            other => anyhow::bail!("{}: `{name}` is {other:?}, expected F32 or I32", path.display()),
        }
    }
    Ok((floats, integers))
}
