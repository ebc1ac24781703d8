//! Files of predictions: one for each model and data file, or one for each of their shards.

use super::{Part, read};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// An answer of a model, a line of a file of predictions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Prediction {
    pub(super) id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) answer: String,
    /// The first box of an answer of a later generation to something to locate, in thousandths of the picture: `[x1, y1, x2, y2]`.
    #[serde(default, rename = "box", skip_serializing_if = "Option::is_none")]
    pub(super) corners: Option<[u32; 4]>,
    /// Log-probabilities of each candidate's tokens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) candidates: Vec<Vec<f64>>,
}

/// The first line of a file of predictions: the model and the questions of its answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    /// Hash of the model; for later generations also of the limits of pictures and answers and of the words of prompts.
    pub(super) model: String,
    pub(super) data: String,
    pub(super) chat: bool,
    /// The shard, if the file does not have all questions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) shard: Option<Shard>,
}

/// A part of the questions of each file: every `of`th one, from number `number` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Shard {
    /// From 1 to `of`.
    number: usize,
    of: usize,
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

/// Parses a shard, `K/N`.
pub(super) fn shard(text: &str) -> Result<Shard, String> {
    let numbers = text.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
    match numbers {
        Some((number, of)) if (1..=of).contains(&number) => Ok(Shard { number, of }),
        _ => Err(format!("`{text}` is not a shard: expected K/N, K from 1 to N, such as 3/8")),
    }
}

impl Shard {
    /// True if it has the question with this index.
    pub(super) fn has(self, index: usize) -> bool {
        index % self.of == self.number - 1
    }
}

/// The file of a model's answers to a part, or to a shard of it.
pub(super) fn file(folder: &Path, model: &str, part: &Part, shard: Option<Shard>) -> PathBuf {
    let shard = shard.map(|Shard { number, of }| format!(".shard-{number}-of-{of}")).unwrap_or_default();
    folder.join(format!("{model}-{}{shard}.jsonl", part.name))
}

/// Opens a file of predictions in order to resume it, and reads its answers.
pub(super) fn resume(path: &Path, header: &Header) -> Result<(HashMap<String, Prediction>, File)> {
    let what = || format!("reading `{}`", path.display());
    let mut known = HashMap::new();
    // Only whole lines are kept. An interrupted run can leave part of a line at the end.
    let mut kept = String::new();
    if path.exists() {
        let text = read(path)?;
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        for (index, line) in whole.lines().enumerate() {
            if index == 0 {
                let found: Header = serde_json::from_str(line).with_context(what)?;
                let path = path.display();
                ensure!(
                    found == *header,
                    "`{path}` has answers of another model, data file, prompt or limit of pictures: delete it or give another `--predictions`"
                );
            } else {
                let prediction: Prediction = serde_json::from_str(line).with_context(what)?;
                known.insert(prediction.id.clone(), prediction);
            }
        }
        kept.push_str(whole);
    }
    if kept.is_empty() {
        kept = format!("{}\n", serde_json::to_string(header)?);
    }
    let written = || format!("writing `{}`", path.display());
    fs::write(path, kept).with_context(written)?;
    Ok((known, OpenOptions::new().append(true).open(path).with_context(written)?))
}

/// Most missing shards that an error names: the number of shards comes from a file, and can be any.
const MOST_MISSING: usize = 20;

/// A file of the predictions of a shard.
struct ShardFile {
    path: PathBuf,
    header: Header,
    shard: Shard,
    predictions: Vec<Prediction>,
}

impl ShardFile {
    fn read(path: &Path) -> Result<Self> {
        let what = || format!("reading `{}`", path.display());
        let text = read(path)?;
        let mut lines = text.lines();
        let header: Header = serde_json::from_str(lines.next().unwrap_or_default()).with_context(what)?;
        let shard = header.shard.filter(|shard| (1..=shard.of).contains(&shard.number));
        let shard = shard.with_context(|| format!("`{}` has no shard in its first line", path.display()))?;
        let predictions = lines.map(serde_json::from_str).collect::<Result<_, _>>();
        let predictions = predictions.with_context(|| format!("{}: run `--shard {shard}` again, which resumes it", what()))?;
        Ok(Self { path: path.to_owned(), header, shard, predictions })
    }
}

/// The names of the models that have shards of a part in these folders.
pub(super) fn models(folders: &[PathBuf], part: &Part) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for folder in folders {
        for name in files(folder)? {
            if let Some((stem, _)) = name.rsplit_once(".shard-")
                && let Some(model) = stem.strip_suffix(&format!("-{}", part.name))
            {
                found.insert(model.to_owned());
            }
        }
    }
    Ok(found)
}

fn files(folder: &Path) -> Result<Vec<String>> {
    let what = || format!("listing `{}`", folder.display());
    let entries = fs::read_dir(folder).with_context(what)?.collect::<Result<Vec<_>, _>>().with_context(what)?;
    Ok(entries.into_iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

/// Joins the predictions of all shards of a part, in the order of its questions.
///
/// # Errors
/// If a shard is missing, doubled or incomplete, or they are not of the same model, questions and prompts.
pub(super) fn merge(folders: &[PathBuf], model: &str, part: &Part) -> Result<Vec<Prediction>> {
    let begin = format!("{model}-{}.shard-", part.name);
    let mut shards: BTreeMap<Shard, ShardFile> = BTreeMap::new();
    for folder in folders {
        for name in files(folder)?.into_iter().filter(|name| name.starts_with(&begin) && name.ends_with(".jsonl")) {
            let file = ShardFile::read(&folder.join(name))?;
            if let Some(other) = shards.get(&file.shard) {
                bail!("shard {} is there twice: `{}` and `{}`", file.shard, other.path.display(), file.path.display());
            }
            shards.insert(file.shard, file);
        }
    }
    let what = format!("{model}, {}", part.name);
    let Some(first) = shards.values().next() else { bail!("{what}: no folder has a file `{begin}K-of-N.jsonl`") };
    let (first_path, first_header, of) = (first.path.display().to_string(), first.header.clone(), first.shard.of);
    ensure!(first_header.data == part.hash, "`{first_path}` has answers to other questions than those of the data that is given");
    let mut known: HashMap<String, Prediction> = HashMap::new();
    for ShardFile { path, header, shard, predictions } in shards.values() {
        let path = path.display();
        ensure!(shard.of == of, "`{path}` is one of {} shards, `{first_path}` one of {of}", shard.of);
        let header = Header { shard: first_header.shard, ..header.clone() };
        ensure!(
            header == first_header,
            "`{path}` has answers of another model, data file, prompt or limit of pictures than `{first_path}`"
        );
        let wanted = part.items.iter().enumerate().filter(|(index, _)| shard.has(*index)).map(|(_, item)| item.id.as_str());
        let wanted: BTreeSet<&str> = wanted.collect();
        for prediction in predictions {
            ensure!(
                wanted.contains(prediction.id.as_str()),
                "`{path}` has an answer to `{}`, which is not a question of its shard",
                prediction.id
            );
            if let Some(before) = known.insert(prediction.id.clone(), prediction.clone()) {
                bail!("`{path}` has two answers to `{}`", before.id);
            }
        }
        let found = predictions.len();
        ensure!(found == wanted.len(), "`{path}` has {found} of {} answers: run `--shard {shard}` again, which resumes it", wanted.len());
    }
    let missing = (1..=of).map(|number| Shard { number, of }).filter(|shard| !shards.contains_key(shard));
    let mut missing: Vec<String> = missing.take(MOST_MISSING + 1).map(|shard| shard.to_string()).collect();
    if missing.len() > MOST_MISSING {
        missing[MOST_MISSING] = "…".to_owned();
    }
    ensure!(missing.is_empty(), "{what}: missing are the shards {}", missing.join(", "));
    let of_item = |id: &String| known.remove(id).with_context(|| format!("{what}: no shard has an answer to `{id}`"));
    part.items.iter().map(|item| &item.id).map(of_item).collect()
}

/// Appends a prediction to a file.
pub(super) fn append(path: &Path, file: &mut File, prediction: &Prediction) -> Result<()> {
    let line = format!("{}\n", serde_json::to_string(prediction)?);
    file.write_all(line.as_bytes()).with_context(|| format!("writing `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use qwen_vl_eval::Task;

    #[test]
    fn a_file_of_an_impossible_shard_is_refused_and_of_many_missing_ones_some_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let part = Part { name: "data".to_owned(), task: Task::Exact, items: Vec::new(), root: PathBuf::new(), hash: "0".to_owned() };
        let error = |number: usize, of: usize| {
            let header = Header { model: String::new(), data: part.hash.clone(), chat: false, shard: Some(Shard { number, of }) };
            fs::write(folder.path().join("model-data.shard-1-of-1.jsonl"), serde_json::to_string(&header).unwrap()).unwrap();
            merge(&[folder.path().to_owned()], "model", &part).unwrap_err().to_string()
        };
        for (number, of) in [(0, 0), (1, 0), (0, 3), (4, 3)] {
            assert!(error(number, of).ends_with("has no shard in its first line"), "{number}/{of}");
        }
        assert!(error(1, 3).ends_with("missing are the shards 2/3, 3/3"));
        let many = error(1, usize::MAX);
        assert!(many.contains("missing are the shards 2/") && many.ends_with(", …") && many.len() < 1000, "{many}");
    }

    #[test]
    fn shards_are_numbers_of_a_number() {
        assert_eq!(shard("3/8"), Ok(Shard { number: 3, of: 8 }));
        for text in ["0/8", "9/8", "3", "3/", "/8", "a/8", "1/0", "-1/8", "3/8/2"] {
            assert!(shard(text).is_err(), "{text}");
        }
        // Each question is in one shard.
        for of in [1, 3, 7] {
            for index in 0..20 {
                assert_eq!((1..=of).filter(|number| Shard { number: *number, of }.has(index)).count(), 1);
            }
        }
    }
}
