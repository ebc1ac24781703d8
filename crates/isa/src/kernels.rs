//! The kernels of every model that is published, with names.

use anyhow::{Result, ensure};
use qwen_vl_format::{ModelConfig, Scheme};
use qwen_vl_kernels::argmax::Best;
use qwen_vl_kernels::mask::TokenMask;
use qwen_vl_kernels::presence::PresencePenalty;
use qwen_vl_kernels::sample::{DrawBuffer, Scratch, sample};
use qwen_vl_kernels::{Gpu, GpuError, Kernels, KvFormat, Shader};
use qwen_vl_runtime::{Model, ModelOptions, synthetic};
use std::collections::{BTreeMap, HashSet};

/// The kernel sets. A combination, such as `subgroups` with `f16`, has no kernel that these lack.
const SETS: [Kernels; 5] = [Kernels::PLAIN, Kernels::SUBGROUPS, Kernels::F16, Kernels::PACKED, Kernels::CPU];

/// The schemes of matrices, except f32.
const SCHEMES: [Scheme; 5] = [
    Scheme::Q4Z { group_size: 32 },
    Scheme::Q8 { group_size: 32 },
    Scheme::Int4 { group_size: 32 },
    Scheme::F16,
    Scheme::Q4 { group_size: 32 },
];

/// Returns the WGSL of every kernel by its name: the kernel and its set, as in the label, and the values that are compiled in.
pub fn all() -> Result<BTreeMap<String, String>> {
    let (mut named, mut known) = (BTreeMap::new(), HashSet::new());
    let models = models()?;
    for set in SETS {
        let mut shaders = of_set(set, &models)?;
        // The pipelines of a device have no order.
        shaders.sort_by(|a, b| (&a.label, &a.source).cmp(&(&b.label, &b.source)));
        for Shader { label, source } in shaders {
            // A set enables its features in all of its kernels.
            let code = source
                .strip_prefix("enable f16;\n")
                .filter(|code| !["f16>", "f16("].iter().any(|used| code.contains(used)))
                .unwrap_or(&source);
            if !known.insert(code.to_owned()) {
                continue;
            }
            let name = [vec![label], described(code)].concat().join(" ");
            ensure!(
                named.insert(name.clone(), code.to_owned()).is_none(),
                "two kernels have the name `{name}`: `described` misses what they differ in"
            );
        }
    }
    Ok(named)
}

fn of_set(set: Kernels, models: &[ModelConfig]) -> Result<Vec<Shader>> {
    let gpu = crate::request(set)?;
    for model in models {
        for scheme in SCHEMES {
            note(&gpu, model, scheme, KvFormat::F32)?;
        }
        for kv in [KvFormat::F16, KvFormat::Q8] {
            note(&gpu, model, SCHEMES[0], kv)?;
        }
    }
    gpu.dry_run(note_drawing)?;
    Ok(gpu.uncompiled())
}

/// Notes the kernels that a model makes when an answer first needs them.
fn note_drawing(gpu: &Gpu) -> Result<(), GpuError> {
    let (logits, token) = (gpu.activation("logits", 1, 32)?, gpu.storage("token", 4)?);
    sample(gpu, &logits, &Best::new(gpu)?, &Scratch::new(gpu, logits.cols)?, &DrawBuffer::new(gpu), &token);
    PresencePenalty::new(gpu, &logits, &token)?;
    TokenMask::new(gpu, &logits).map(|_| ())
}

fn note(gpu: &Gpu, model: &ModelConfig, scheme: Scheme, kv: KvFormat) -> Result<()> {
    let manifest = synthetic::manifest_in(model.clone(), |_| scheme);
    Ok(Model::note_kernels(gpu, &manifest, ModelOptions { kv, ..ModelOptions::default() })?)
}

/// The published models whose kernels differ. Of the others the widths alone differ, which no kernel knows.
pub fn models() -> Result<Vec<ModelConfig>> {
    let configurations = [
        include_str!("../models/Qwen-VL-Chat.config.json"),
        include_str!("../../../tests/fixtures/family/facts/Qwen2-VL-2B-Instruct.config.json"),
        include_str!("../../../tests/fixtures/family/facts/Qwen2.5-VL-3B-Instruct.config.json"),
        include_str!("../../../tests/fixtures/family/facts/Qwen3-VL-2B-Instruct.config.json"),
        include_str!("../../../tests/fixtures/family/facts/Qwen3-VL-4B-Instruct.config.json"),
    ];
    let mut models: Vec<ModelConfig> = configurations.iter().map(|json| quantize::model_config(json)).collect::<Result<_, _>>()?;
    // Qwen2.5-VL-7B has the tower of the 3B; the heads of its decoder are those of Qwen2-VL-7B too.
    let mut seven_billion = models[2].clone();
    let decoder = &mut seven_billion.decoder;
    (decoder.vocab_size, decoder.width, decoder.mlp_width) = (152_064, 3584, 18_944);
    (decoder.heads, decoder.kv_heads, decoder.tied_head) = (28, 4, false);
    models.push(seven_billion);
    Ok(models)
}

/// Returns the values that are compiled into a kernel and that its label does not name, as the generated lines of its source have them.
fn described(source: &str) -> Vec<String> {
    let between = |before: &str, after: &str| source.split_once(before)?.1.split_once(after).map(|(found, _)| found);
    let number = |name: &str| between(&format!("const {name}: u32 = "), "u;")?.parse::<usize>().ok();
    let keys = between("read> k: array<", ">;").or(between("key_cache: array<", ">;"));
    let kv = keys.map(|element| match element {
        "u32" => "kv q8",
        "vec2<u32>" => "kv f16",
        _ => "kv f32",
    });
    // Four values to a vector; a part is eight vectors at most.
    let width = between("fn head_vectors() -> u32 { return ", "u;").and_then(|vectors| vectors.parse().ok()).or(number("VECTORS"));
    let width = width.map(|vectors: usize| format!("heads of {}", 4 * vectors));
    let heads = number("HEADS").zip(number("KV_HEADS")).map(|(heads, kv_heads)| format!("{heads} heads on {kv_heads}"));
    let flag = |text: &str, word: &str| source.contains(text).then(|| word.to_owned());
    [
        between("// weight: ", "\n").map(str::to_owned),
        kv.map(str::to_owned),
        heads,
        number("GROUP").map(|heads| format!("groups of {heads}")),
        width.or(number("PARTS").map(|parts| format!("heads to {}", 32 * parts))),
        flag("const NORM: bool = true;", "norm"),
        flag("read> q_weight:", "norm"),
        flag("read> logn:", "logn"),
        flag("read> segments:", "segments"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::described;

    #[test]
    fn a_name_has_the_values_that_are_compiled_in() {
        let sources = [
            ("const NORM: bool = true;\n// weight: q4\nconst EVEN: bool = false;\n", "q4 norm"),
            ("const NORM: bool = false;\n// weight: f16\n", "f16"),
            (
                "var<storage, read> k: array<vec2<u32>>;\nconst PARTS: u32 = 4u;\nconst GROUP: u32 = 7u;\n\
                 fn head_vectors() -> u32 { return 32u; }\nvar<storage, read> segments: array<vec2<u32>>;\n",
                "kv f16 groups of 7 heads of 128 segments",
            ),
            (
                "var<storage, read> k: array<u32>;\nconst PARTS: u32 = 3u;\nfn head_vectors() -> u32 { return sizes.vectors; }\n",
                "kv q8 heads to 96",
            ),
            (
                "const HEADS: u32 = 28u;\nconst KV_HEADS: u32 = 4u;\nvar<storage, read_write> key_cache: array<vec4<f32>>;\n\
                 var<storage, read> logn: array<f32>;\n",
                "kv f32 28 heads on 4 logn",
            ),
            ("fn main() {}\n", ""),
        ];
        for (source, name) in sources {
            assert_eq!(described(source).join(" "), name);
        }
    }
}
