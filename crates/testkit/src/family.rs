//! Goldens of the later generations: the fixtures of this repository, and the larger reference set if it is on the machine.

use crate::golden::{Tensor, fixtures, read_tensors, repository};
use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Golden models of the generations that the runtime has.
const SETS: [&str; 3] = ["q2-a", "q25-a", "q3-a"];

/// The larger reference set, if it is there: the folder that `QWEN_VL_FAMILY_REFERENCE` names, or `../shared/reference-family` next to the
/// repository.
pub fn reference_family() -> Option<PathBuf> {
    let folder =
        std::env::var_os("QWEN_VL_FAMILY_REFERENCE").map_or_else(|| repository().join("../shared/reference-family"), PathBuf::from);
    folder.is_dir().then_some(folder)
}

/// A golden model of a later generation and its cases.
#[derive(Debug, Clone)]
pub struct FamilySet {
    /// Name of the model.
    pub name: String,
    /// Folder with `checkpoints`, `golden` and `images`.
    pub root: PathBuf,
}

impl FamilySet {
    /// All sets: those of the reference set, which contains the fixtures, or the fixtures alone. What is not run is printed.
    pub fn all() -> Vec<Self> {
        let root = reference_family().unwrap_or_else(|| {
            eprintln!("not run: most cases of {}; set QWEN_VL_FAMILY_REFERENCE to the folder of the larger reference set", SETS.join(", "));
            fixtures().join("family")
        });
        SETS.map(|name| Self { name: name.to_owned(), root: root.clone() }).into()
    }

    /// The Hugging Face folder.
    pub fn checkpoint(&self) -> PathBuf {
        self.root.join("checkpoints").join(&self.name)
    }

    /// All cases, by name. (The fixtures have prompts without results too, which are left out.)
    pub fn cases(&self) -> Result<Vec<FamilyCase>> {
        let folder = self.root.join("golden").join(&self.name);
        let mut paths: Vec<PathBuf> = fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "json") && path.with_extension("safetensors").is_file());
        paths.sort();
        paths.iter().map(|path| FamilyCase::read(path)).collect()
    }
}

/// One conversation with the results of the original code.
#[derive(Debug, Clone, Deserialize)]
pub struct FamilyCase {
    /// Name of the case.
    #[serde(skip)]
    pub name: String,
    /// The messages, as `transformers` takes them.
    pub messages: Vec<Value>,
    /// Token ids of the prompt.
    pub input_ids: Vec<u32>,
    /// Steps, rows and columns of each picture.
    #[serde(default)]
    pub image_grid_thw: Option<Vec<[usize; 3]>>,
    /// Steps, rows and columns of each video.
    #[serde(default)]
    pub video_grid_thw: Option<Vec<[usize; 3]>>,
    /// Limits of the size of a picture, if they differ from those of the checkpoint.
    #[serde(default)]
    pub image_size_limits: Option<SizeLimits>,
    /// Difference between the position of a generated token and its index.
    pub rope_delta: i64,
    /// The most likely token at every prompt position.
    pub argmax: Vec<u32>,
    /// Positions whose most likely token is too close to the second.
    #[serde(default)]
    pub argmax_near_ties: Vec<usize>,
    /// Greedy decoding.
    pub decode: crate::golden::Decode,
    /// f32 tensors by name.
    #[serde(skip)]
    pub tensors: BTreeMap<String, Tensor>,
    /// Time, height and width of each prompt position.
    #[serde(skip)]
    pub position_ids: Vec<[u32; 3]>,
}

/// Limits of the size of a picture, pixels in all.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct SizeLimits {
    /// Smallest.
    #[serde(rename = "shortest_edge")]
    pub min_pixels: u64,
    /// Largest.
    #[serde(rename = "longest_edge")]
    pub max_pixels: u64,
}

impl FamilyCase {
    fn read(path: &Path) -> Result<Self> {
        let what = || path.display().to_string();
        let json = fs::read_to_string(path).with_context(what)?;
        let mut case: Self = serde_json::from_str(&json).with_context(what)?;
        case.name = path.file_stem().with_context(what)?.to_string_lossy().into_owned();
        let (floats, integers) = read_tensors(&path.with_extension("safetensors"))?;
        case.tensors = floats;
        let positions = integers.get("position_ids").context("no `position_ids`").with_context(what)?;
        let count = case.input_ids.len();
        case.position_ids = (0..count).map(|token| std::array::from_fn(|axis| positions[axis * count + token] as u32)).collect();
        Ok(case)
    }

    /// The pictures and videos in order.
    pub fn seen(&self) -> Vec<Seen> {
        let parts = self.messages.iter().filter_map(|message| message["content"].as_array()).flatten();
        let path = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let seen = |part: &Value| match (&part["image"], &part["video"]) {
            (Value::String(image), _) => Some(Seen::Picture(image.clone())),
            (_, Value::Array(frames)) => {
                Some(Seen::Video { frames: frames.iter().map(path).collect(), fps: part["fps"].as_f64().unwrap_or(2.0) })
            }
            _ => None,
        };
        parts.filter_map(seen).collect()
    }
}

/// A picture or a video of a case, by paths relative to [`FamilySet::root`].
#[derive(Debug, Clone)]
pub enum Seen {
    /// A picture.
    Picture(String),
    /// A video.
    Video {
        /// Its frames, in their size for the model.
        frames: Vec<String>,
        /// Frames a second.
        fps: f64,
    },
}
