//! Names of tensors that are not quite the published ones.

use super::SourceTensor;
use qwen_vl_format::Family;
use std::collections::BTreeMap;

/// Prefixes of wrappers: `DataParallel`, `torch.compile`, peft, and classes with a model inside.
const WRAPPERS: [&str; 4] = ["module.", "_orig_mod.", "base_model.", "model."];
/// Prefixes of the decoder's tensors in the published files of Qwen3-VL and of Qwen2-VL and Qwen2.5-VL, and in those that releases of transformers wrote
/// between the two. The longest that fits counts.
const DECODERS: [&str; 4] = ["model.language_model.", "language_model.model.", "language_model.", "model."];
/// Prefixes of the vision tower in the same files.
const TOWERS: [&str; 2] = ["model.visual.", "visual."];
/// A module that every decoder has, quantized or not.
const EMBEDDING: &str = "embed_tokens.weight";

/// The published prefixes of the vision tower and of the decoder. The 2023 model has one for both.
pub(crate) fn prefixes(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::QwenVl => ("transformer.", "transformer."),
        Family::Qwen2Vl | Family::Qwen25Vl => ("visual.", "model."),
        Family::Qwen3Vl => ("model.visual.", "model.language_model."),
    }
}

/// A tensor that every checkpoint has: the embedding.
pub(crate) fn embedding(family: Family) -> String {
    match family {
        Family::QwenVl => "transformer.wte.weight".to_owned(),
        Family::Qwen2Vl | Family::Qwen25Vl | Family::Qwen3Vl => prefixes(family).1.to_owned() + EMBEDDING,
    }
}

/// Gives tensors their published names. Returns a prefix of [`WRAPPERS`] that was taken off; the layouts of transformers are not mentioned.
pub(crate) fn publish(tensors: &mut BTreeMap<String, SourceTensor>, family: Family) -> Option<String> {
    if family == Family::QwenVl {
        return take_prefix(tensors, &[embedding(family)]);
    }
    let taken = take_prefix(tensors, &DECODERS.map(|decoder| decoder.to_owned() + EMBEDDING));
    let (tower, decoder) = prefixes(family);
    let published = |name: &str| {
        if let Some(rest) = TOWERS.iter().find_map(|prefix| name.strip_prefix(prefix)) {
            return Some(tower.to_owned() + rest);
        }
        DECODERS.iter().find_map(|prefix| name.strip_prefix(prefix)).map(|rest| decoder.to_owned() + rest)
    };
    let renamed = tensors.keys().filter_map(|name| Some((name.clone(), published(name)?))).filter(|(from, to)| from != to);
    for (from, to) in renamed.collect::<Vec<_>>() {
        // A tensor that has its published name stays, and a second one remains under its own.
        if !tensors.contains_key(&to)
            && let Some(tensor) = tensors.remove(&from)
        {
            tensors.insert(to, tensor);
        }
    }
    taken
}

/// Takes a prefix of [`WRAPPERS`] off all names that begin with it, if it stands before one of the landmarks. Returns the prefix.
fn take_prefix(tensors: &mut BTreeMap<String, SourceTensor>, landmarks: &[String]) -> Option<String> {
    if landmarks.iter().any(|landmark| tensors.contains_key(landmark)) {
        return None;
    }
    let mut prefixes = tensors
        .keys()
        .filter_map(|name| landmarks.iter().find_map(|landmark| name.strip_suffix(landmark.as_str())))
        .filter(|prefix| is_wrapper(prefix));
    let (Some(prefix), None) = (prefixes.next().map(str::to_owned), prefixes.next()) else { return None };
    let wrapped: Vec<String> = tensors.keys().filter(|name| name.starts_with(&prefix)).cloned().collect();
    if wrapped.iter().any(|name| tensors.contains_key(&name[prefix.len()..])) {
        return None;
    }
    for name in wrapped {
        if let Some(tensor) = tensors.remove(&name) {
            tensors.insert(name[prefix.len()..].to_owned(), tensor);
        }
    }
    Some(prefix)
}

fn is_wrapper(mut prefix: &str) -> bool {
    let whole = prefix;
    while let Some(rest) = WRAPPERS.into_iter().find_map(|wrapper| prefix.strip_prefix(wrapper)) {
        prefix = rest;
    }
    prefix.is_empty() && !whole.is_empty()
}

/// Describes a tensor that is part of a LoRA adapter that is not merged; `None` for other tensors.
pub(crate) fn lora_part(name: &str) -> Option<&'static str> {
    if name.contains("lora_") {
        Some("of a LoRA adapter")
    } else if name.contains(".base_layer.") {
        Some("the part of a layer that a LoRA adapter changes")
    } else if name.contains(".modules_to_save.") || name.contains(".original_module.") {
        Some("one of two copies that peft keeps of a module")
    } else {
        None
    }
}

/// Describes the tensor that may stand for a missing one.
pub(crate) fn nearest<'a, I: Iterator<Item = &'a str>>(missing: &str, names: impl Fn() -> I) -> Option<String> {
    if let Some(name) = names().find(|name| name.strip_suffix(missing).is_some_and(|prefix| prefix.ends_with('.'))) {
        let prefix = &name[..name.len() - missing.len()];
        return Some(match names().all(|name| name.starts_with(prefix)) {
            true => format!("all names begin with `{prefix}`: save the model without this prefix"),
            false => format!("there is `{name}`"),
        });
    }
    // The name of a hostile file can be of any length.
    let comparable = names().filter(|name| name.len() <= 2 * missing.len());
    let (distance, name) = comparable.map(|name| (distance(missing, name), name)).min()?;
    (distance * 4 <= missing.len()).then(|| format!("the nearest name is `{name}`"))
}

/// Number of characters to insert, remove or replace between two names (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Dtype;

    fn tensors(names: &[&str]) -> BTreeMap<String, SourceTensor> {
        let tensor = SourceTensor { file: 0, dtype: Dtype::F32, shape: Vec::new(), strides: None, offset: 0 };
        names.iter().map(|name| ((*name).to_owned(), tensor.clone())).collect()
    }

    #[test]
    fn wrappers_are_taken_off() {
        for prefix in ["module.", "_orig_mod.", "model.", "base_model.model.", "module._orig_mod.", "base_model."] {
            let (wte, norm) = (format!("{prefix}transformer.wte.weight"), format!("{prefix}transformer.ln_f.weight"));
            let mut found = tensors(&[&wte, &norm, "lm_head.weight"]);
            assert_eq!(publish(&mut found, Family::QwenVl).as_deref(), Some(prefix));
            assert!(found.keys().eq(["lm_head.weight", "transformer.ln_f.weight", "transformer.wte.weight"]), "{:?}", found.keys());
        }
        for names in [
            &["transformer.wte.weight", "module.transformer.wte.weight"][..],
            &["ema.transformer.wte.weight"],
            &["model.transformer.wte.weight", "module.transformer.wte.weight"],
            &["model.transformer.wte.weight", "model.lm_head.weight", "lm_head.weight"],
            &["transformer.h.0.ln_1.weight"],
        ] {
            let mut found = tensors(names);
            assert_eq!(publish(&mut found, Family::QwenVl), None, "{names:?}");
            assert_eq!(found.len(), names.len());
        }
    }

    #[test]
    fn layouts_of_the_later_generations() {
        let published = [
            (Family::Qwen2Vl, ["lm_head.weight", "model.embed_tokens.weight", "model.norm.weight", "visual.merger.ln_q.bias"]),
            (
                Family::Qwen3Vl,
                [
                    "lm_head.weight",
                    "model.language_model.embed_tokens.weight",
                    "model.language_model.norm.weight",
                    "model.visual.merger.ln_q.bias",
                ],
            ),
        ];
        for (family, published) in published {
            for (tower, decoder) in [
                ("visual.", "model."),
                ("model.visual.", "model.language_model."),
                ("visual.", "language_model."),
                ("visual.", "language_model.model."),
            ] {
                for wrapper in ["", "module.", "base_model.model.", "_orig_mod.", "model."] {
                    let names = [
                        format!("{wrapper}{tower}merger.ln_q.bias"),
                        format!("{wrapper}{decoder}embed_tokens.weight"),
                        format!("{wrapper}{decoder}norm.weight"),
                    ];
                    let mut found = tensors(&[&names[0], &names[1], &names[2], "lm_head.weight"]);
                    let taken = publish(&mut found, family);
                    assert!(found.keys().eq(published), "{names:?}: {:?}", found.keys());
                    // A last `model.` can be part of the layout.
                    let alone = match (decoder, wrapper) {
                        ("language_model.", "model.") => "",
                        ("language_model.", "base_model.model.") => "base_model.",
                        _ => wrapper,
                    };
                    assert_eq!(taken.as_deref().unwrap_or_default(), alone, "{names:?}");
                }
            }
        }
        // Of two tensors for one name, the published one counts.
        let mut found = tensors(&["model.embed_tokens.weight", "visual.a", "model.visual.a"]);
        assert_eq!(publish(&mut found, Family::Qwen2Vl), None);
        assert!(found.keys().eq(["model.embed_tokens.weight", "model.visual.a", "visual.a"]));
        let mut found = tensors(&["ema.model.embed_tokens.weight"]);
        assert_eq!(publish(&mut found, Family::Qwen2Vl), None);
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn what_is_there_instead() {
        let hint = |missing: &str, names: &[&'static str]| nearest(missing, || names.iter().copied());
        assert!(hint("lm_head.weight", &["ema.lm_head.weight", "ema.x"]).unwrap().contains("all names begin with `ema.`"));
        assert!(hint("lm_head.weight", &["a.lm_head.weight", "b"]).unwrap().contains("there is `a.lm_head.weight`"));
        assert!(hint("transformer.h.0.mlp.w1.weight", &["transformer.h.0.mlp.w_1.weight", "b"]).unwrap().contains("mlp.w_1.weight"));
        assert_eq!(hint("lm_head.weight", &["something.else"]), None);
        assert_eq!(hint("lm_head.weight", &[]), None);
        assert_eq!([distance("", "abc"), distance("abc", "abc"), distance("kitten", "sitting")], [3, 0, 3]);
    }
}
