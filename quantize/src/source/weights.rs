//! Chooses the weight files of a checkpoint.
//!
//! A folder often holds more than one set of weights, and files of training. The order of names is that of the `transformers` library,
//! `AutoModel.from_pretrained`. Other files in the folder do not change the result.

use super::json::Json;
use super::{Files, InputFile};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// The weight files of a checkpoint, in the order in which they are read.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct WeightFiles {
    pub names: Vec<String>,
    /// Other weight files in the folder.
    pub left_aside: Vec<String>,
    /// Sentences for the user.
    pub notes: Vec<String>,
}

/// True for weights of a LoRA adapter, and of modules that are trained with it.
fn is_lora(name: &str) -> bool {
    let weights = name.ends_with(".safetensors") || name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth");
    name == "adapter_config.json" || (weights && ["adapter_", "adapter.", "non_lora_"].iter().any(|start| name.starts_with(start)))
}

/// True for the name of a file with weights of a model.
fn is_weights(name: &str) -> bool {
    let training = ["optimizer", "scheduler", "rng_state", "random_states", "training_args"].iter().any(|start| name.starts_with(start));
    !training && !is_lora(name) && (name.ends_with(".safetensors") || (name.starts_with("pytorch_model") && name.ends_with(".bin")))
}

/// Chooses the weight files. Hidden files are not among [`Files`].
pub(crate) fn choose(input: &Files) -> Result<WeightFiles> {
    let weights: Vec<&str> = input.names().filter(|name| is_weights(name)).collect();
    let lora: Vec<&str> = input.names().filter(|name| is_lora(name)).collect();
    if weights.is_empty() && !lora.is_empty() {
        bail!(lora_alone(input));
    }

    let mut chosen = WeightFiles::default();
    for (stem, ending) in [("model", "safetensors"), ("pytorch_model", "bin")] {
        let (single, index) = (format!("{stem}.{ending}"), format!("{stem}.{ending}.index.json"));
        if weights.contains(&single.as_str()) {
            chosen.names = vec![single];
        } else if let Some(index) = input.find(&index) {
            chosen.names = of_index(input, index, Shards::find(&weights, stem, ending), &mut chosen.notes)?;
        } else if let Some(shards) = Shards::find(&weights, stem, ending) {
            chosen.names = shards.complete(input)?;
        } else {
            continue;
        }
        break;
    }
    if chosen.names.is_empty() {
        let safetensors = weights.iter().any(|name| name.ends_with(".safetensors"));
        chosen.names = weights.iter().filter(|name| name.ends_with(".safetensors") == safetensors).map(|name| (*name).to_owned()).collect();
    }
    if chosen.names.is_empty() {
        let partitioned = ["zero_to_fp32.py", "latest"].iter().any(|name| input.find(name).is_some())
            || input.folders().iter().any(|folder| folder.name().starts_with("global_step"));
        ensure!(
            !partitioned,
            "{input} has no weights but a training state of DeepSpeed: run its `zero_to_fp32.py` to join the parts, and put the result \
             next to config.json"
        );
        let below = input.folders().iter().find_map(|inner| {
            let lora = inner.names().any(is_lora);
            (lora || inner.names().any(is_weights)).then_some((inner, lora))
        });
        match below {
            Some((inner, true)) => bail!("{input} has no weights, and {}", lora_alone(inner)),
            Some((inner, false)) => bail!("{input} has no weights: they are in {inner}, so convert that folder"),
            None => bail!("{input} has no weights: no *.safetensors and no pytorch_model*.bin"),
        }
    }

    chosen.left_aside =
        weights.iter().filter(|name| !chosen.names.iter().any(|read| read == *name)).map(|name| (*name).to_owned()).collect();
    if !chosen.left_aside.is_empty() {
        chosen.notes.push(format!("the weights are read from {}; left aside: {}", list(&chosen.names), list(&chosen.left_aside)));
    }
    if !lora.is_empty() {
        let lora: Vec<String> = lora.into_iter().map(str::to_owned).collect();
        chosen.notes.push(format!(
            "a LoRA adapter lies next to the model ({}) and is not applied: if the model does not have it yet, merge it first",
            list(&lora)
        ));
    }
    Ok(chosen)
}

/// The error for a folder that holds a LoRA adapter and no model.
fn lora_alone(input: &Files) -> String {
    let config = input.find("adapter_config.json").and_then(|file| Json::read(file).ok());
    let base = config.as_ref().and_then(|config| config.value["base_model_name_or_path"].as_str());
    let of = base.map_or_else(String::new, |base| format!(" of `{base}`"));
    let quantized =
        base.is_some_and(|base| ["int4", "int8", "gptq", "awq", "4bit", "8bit"].iter().any(|word| base.to_lowercase().contains(word)));
    let step = if quantized {
        "peft cannot merge it into the quantized weights: load the unquantized base, apply the adapter to that, merge and convert the result"
    } else {
        "merge it first and convert the result: `PeftModel.from_pretrained(base, folder).merge_and_unload().save_pretrained(merged)` with \
         peft, and copy the files of the tokenizer there"
    };
    format!("{input} holds a LoRA adapter{of} and not a model: {step}")
}

/// Up to three names, and the number of the others.
pub(crate) fn list(names: &[String]) -> String {
    match names {
        [a, b, c, others @ ..] if !others.is_empty() => format!("{a}, {b}, {c} and {} more", others.len()),
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        _ => names.concat(),
    }
}

/// Files of the form `STEM-00001-of-00003.ENDING`, by their total and number.
#[derive(Debug, PartialEq)]
struct Shards {
    name_of: String,
    sets: BTreeMap<usize, BTreeMap<usize, String>>,
}

impl Shards {
    fn find(names: &[&str], stem: &str, ending: &str) -> Option<Self> {
        let mut sets: BTreeMap<usize, BTreeMap<usize, String>> = BTreeMap::new();
        for name in names {
            let numbers = name.strip_prefix(stem).and_then(|rest| rest.strip_prefix('-')?.strip_suffix(ending)?.strip_suffix('.'));
            let Some((number, total)) = numbers.and_then(|numbers| numbers.split_once("-of-")) else { continue };
            let (Ok(number), Ok(total)) = (number.parse::<usize>(), total.parse::<usize>()) else { continue };
            if (1..=total).contains(&number) {
                sets.entry(total).or_default().insert(number, (*name).to_owned());
            }
        }
        (!sets.is_empty()).then(|| Self { name_of: format!("{stem}-NUMBER-of-TOTAL.{ending}"), sets })
    }

    /// The names of the one set that is complete.
    fn complete(self, input: &Files) -> Result<Vec<String>> {
        let complete: Vec<usize> = self.sets.iter().filter(|(total, files)| **total == files.len()).map(|(total, _)| *total).collect();
        match complete[..] {
            [total] => Ok(self.sets[&total].values().cloned().collect()),
            [] => {
                let (total, files) = self.sets.iter().max_by_key(|(_, files)| files.len()).expect("`find` returns a set");
                let missing: Vec<String> =
                    (1..=*total).filter(|number| !files.contains_key(number)).map(|number| number.to_string()).collect();
                bail!(
                    "{input} has {} of the {total} weight files {}: missing is number {}",
                    files.len(),
                    self.name_of.replace("TOTAL", &format!("{total:05}")),
                    list(&missing)
                );
            }
            _ => {
                let first: Vec<String> = complete.iter().map(|total| self.sets[total][&1].clone()).collect();
                bail!("{input} has several whole sets of weights, which begin with {}: move all but one away", list(&first))
            }
        }
    }
}

/// Returns the files that an index lists. Its list of tensors is not used: the files themselves have one.
fn of_index(input: &Files, index: &InputFile, shards: Option<Shards>, notes: &mut Vec<String>) -> Result<Vec<String>> {
    let listed = read_index(index)?;
    let missing: Vec<String> = listed.iter().filter(|name| input.find(name).is_none()).cloned().collect();
    if missing.is_empty() {
        return Ok(listed.into_iter().collect());
    }
    if let Some(Ok(names)) = shards.map(|shards| shards.complete(input))
        && names.iter().all(|name| !listed.contains(name))
    {
        notes.push(format!("{} is about other files than those that are there, and is ignored", index.name()));
        return Ok(names);
    }
    bail!(
        "{} lists {} files, and these are missing in {input}: {}; fetch them, or remove the index if it is not of these files",
        index.name(),
        listed.len(),
        list(&missing)
    )
}

fn read_index(file: &InputFile) -> Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let place = file.place();
    let index: Index = serde_json::from_value(Json::read(file)?.value).with_context(|| format!("{place} is not an index of weights"))?;
    for (tensor, file) in &index.weight_map {
        // The name is joined to the folder: it must not lead out of it.
        ensure!(
            !file.contains(['/', '\\']) && (file.ends_with(".safetensors") || file.ends_with(".bin")),
            "{place}: tensor `{tensor}` is in `{file}`, expected the name of a .safetensors or .bin file"
        );
    }
    ensure!(!index.weight_map.is_empty(), "{place} lists no tensors");
    Ok(index.weight_map.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(names: &[&str]) -> Result<WeightFiles> {
        choose(&Files::in_memory(names.iter().map(|name| (*name, &[][..]))))
    }

    #[test]
    fn the_order_of_names() {
        for (names, want) in [
            (&["model.safetensors", "model-00001-of-00001.safetensors", "pytorch_model.bin"][..], &["model.safetensors"][..]),
            (&["pytorch_model.bin", "other.safetensors"], &["pytorch_model.bin"]),
            (&["pytorch_model-2.bin", "b.safetensors", "a.safetensors"], &["a.safetensors", "b.safetensors"]),
            (
                &["model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors", "model-00001-of-00003.safetensors"],
                &["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            ),
            (&["model.safetensors", "._model.safetensors", "optimizer.safetensors", "training_args.bin"], &["model.safetensors"]),
        ] {
            let chosen = choice(names).unwrap();
            assert_eq!(chosen.names, want, "{names:?}");
            let aside = names.iter().filter(|name| !name.starts_with('.') && is_weights(name)).count() - want.len();
            assert_eq!((chosen.left_aside.len(), chosen.notes.len()), (aside, usize::from(aside > 0)), "{names:?}: {:?}", chosen.notes);
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        for (names, part) in [
            (&["model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"][..], "has 2 of the 3 weight files"),
            (&["pytorch_model-00002-of-00002.bin"], "pytorch_model-NUMBER-of-00002.bin: missing is number 1"),
            (
                &["model-00001-of-00001.safetensors", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
                "several whole",
            ),
            (&["adapter_model.bin"], "a LoRA adapter and not a model"),
            (&["zero_to_fp32.py", "latest"], "DeepSpeed"),
            (&["README.md"], "no weights"),
        ] {
            let error = format!("{:#}", choice(names).unwrap_err());
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
    }

    #[test]
    fn names_in_a_sentence() {
        let names = |count: usize| (1..=count).map(|number| number.to_string()).collect::<Vec<_>>();
        let lists = [1, 2, 3, 4, 5].map(|count| list(&names(count)));
        assert_eq!(lists, ["1", "1 and 2", "1, 2 and 3", "1, 2, 3 and 1 more", "1, 2, 3 and 2 more"]);
    }
}
