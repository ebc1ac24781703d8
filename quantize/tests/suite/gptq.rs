//! The published Int4 format: 4-bit integers of GPTQ, repacked without loss.

use crate::support::{Tensor, convert, copy, edit_json, edit_safetensors, open, refusal, replace_bytes, run, tensors, write_tensors};
use quantize::{Options, Rule, SchemeName};
use qwen_vl_format::{Scheme, ShardHash};
use std::collections::BTreeMap;
use std::path::Path;

const FILE: &str = "gptq.safetensors";
const MODULES: [&str; 5] = ["attn.c_attn", "attn.c_proj", "mlp.w1", "mlp.w2", "mlp.c_proj"];

/// mini-a with the matrices of its decoder layer replaced by those that `tests/independent/gptq.py` wrote.
fn checkpoint(group_size: u32) -> tempfile::TempDir {
    let folder = copy("mini-a");
    let gptq: &[u8] = match group_size {
        128 => include_bytes!("../independent/mini_a_gptq_128.safetensors"),
        _ => include_bytes!("../independent/mini_a_gptq_32.safetensors"),
    };
    std::fs::write(folder.path().join(FILE), gptq).unwrap();
    let names = safetensors::SafeTensors::deserialize(gptq).unwrap();
    edit_json(&folder.path().join("pytorch_model.bin.index.json"), |index| {
        let map = index["weight_map"].as_object_mut().unwrap();
        for module in MODULES {
            // The float matrix gets an unused name in the index and in the pickle.
            let name = format!("transformer.h.0.{module}.weight");
            let file = map.remove(&name).unwrap();
            let path = folder.path().join(file.as_str().unwrap());
            let unused = name.replace(".weight", ".former");
            replace_bytes(&path, name.as_bytes(), unused.as_bytes());
            map.insert(unused, file);
        }
        map.extend(names.names().into_iter().map(|name| (name.to_owned(), FILE.into())));
    });
    let config = serde_json::json!({ "bits": 4, "group_size": group_size, "desc_act": false, "sym": true });
    std::fs::write(folder.path().join("quantize_config.json"), config.to_string()).unwrap();
    folder
}

/// Hashes by tensor, for a group size and an order of the groups.
fn expected(group_size: u32, order: &str) -> BTreeMap<String, String> {
    let all: serde_json::Value = serde_json::from_str(include_str!("../independent/mini_a_gptq.json")).unwrap();
    serde_json::from_value(all[group_size.to_string()][order].clone()).unwrap()
}

fn assert_hashes(web: &quantize::WebCheckpoint, expected: BTreeMap<String, String>) {
    assert_eq!(expected.len(), 4);
    for (name, hash) in expected {
        let bytes: Vec<u8> = web.tensor(&name).unwrap().iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(ShardHash::of(&bytes), hash, "{name}");
    }
}

fn edit(folder: &tempfile::TempDir, change: impl FnOnce(&mut serde_json::Value, &mut Vec<u8>)) {
    edit_safetensors(&folder.path().join(FILE), change);
}

/// Sets all words of an I32 tensor.
fn fill(header: &serde_json::Value, data: &mut [u8], name: &str, word: impl Fn(usize) -> u32) {
    let [begin, end] = [0, 1].map(|i| header[name]["data_offsets"][i].as_u64().unwrap() as usize);
    for (at, bytes) in data[begin..end].chunks_exact_mut(4).enumerate() {
        bytes.copy_from_slice(&word(at).to_le_bytes());
    }
}

#[test]
fn the_repack_is_exact() {
    for group_size in [128, 32] {
        let source = checkpoint(group_size);
        for scheme in [SchemeName::Q4, SchemeName::F32] {
            let (out, summary) = convert(source.path(), scheme).unwrap();
            let web = open(&out);
            assert_eq!(summary.unused_tensors.len(), 5, "{:?}", summary.unused_tensors);
            let want = if scheme == SchemeName::Q4 { Scheme::Int4 { group_size } } else { Scheme::F32 };
            for name in expected(group_size, "in_order").keys() {
                assert_eq!(web.manifest().tensor(name).unwrap().scheme, want, "{name}");
            }
            assert_hashes(&web, expected(group_size, "in_order"));
            // Other tensors are stored as without GPTQ.
            assert_eq!(web.manifest().tensor("head.weight").unwrap().scheme, scheme.with_group_size(32));
            assert_eq!(web.manifest().provenance.modifications.contains("as int4"), scheme == SchemeName::Q4);
        }
    }
}

/// Groups out of order (activation order) have no exact scheme: such modules are decoded and encoded anew.
#[test]
fn groups_out_of_order_are_decoded() {
    let source = checkpoint(32);
    for (module, inputs) in MODULES.into_iter().zip([128, 128, 128, 128, 64]) {
        let name = format!("transformer.h.0.{module}.g_idx");
        edit(&source, |header, data| fill(header, data, &name, |input| (inputs / 32 - 1 - input / 32) as u32));
    }
    let (decoded, _) = convert(source.path(), SchemeName::F32).unwrap();
    assert_hashes(&open(&decoded), expected(32, "reversed"));
    assert_ne!(expected(32, "reversed"), expected(32, "in_order"));
    let (coded, _) = convert(source.path(), SchemeName::Q4).unwrap();
    for name in expected(32, "in_order").keys() {
        assert_eq!(open(&coded).manifest().tensor(name).unwrap().scheme, Scheme::Q4Z { group_size: 32 }, "{name}");
    }
}

#[test]
fn a_rule_encodes_anew() {
    let source = checkpoint(128);
    let out = tempfile::tempdir().unwrap();
    let mut options = Options::new(source.path(), out.path().join("web"));
    options.rules = vec![Rule::parse("decoder.layers.0.mlp=q8").unwrap()];
    run(&options).unwrap();
    let web = open(&out);
    let scheme = |name: &str| web.manifest().tensor(name).unwrap().scheme;
    assert_eq!(scheme("decoder.layers.0.mlp.down.weight"), Scheme::Q8 { group_size: 32 });
    assert_eq!(scheme("decoder.layers.0.attn.out.weight"), Scheme::Int4 { group_size: 128 });
}

/// Zero points other than 8 have no exact scheme either.
#[test]
fn other_zero_points_are_decoded() {
    let (plain, _) = convert(checkpoint(128).path(), SchemeName::F32).unwrap();
    let name = "decoder.layers.0.mlp.down.weight";
    let plain = open(&plain).tensor(name).unwrap();

    // All zero points 5 instead of 8: every weight grows by three scales.
    let source = checkpoint(128);
    edit(&source, |header, data| fill(header, data, "transformer.h.0.mlp.c_proj.qzeros", |_| 0x4444_4444));
    let (coded, _) = convert(source.path(), SchemeName::Q4).unwrap();
    assert_eq!(open(&coded).manifest().tensor(name).unwrap().scheme, Scheme::Q4Z { group_size: 32 });
    let (decoded, _) = convert(source.path(), SchemeName::F32).unwrap();
    let decoded = open(&decoded).tensor(name).unwrap();
    let cols = 64;
    for (plain, decoded) in plain.chunks(cols).zip(decoded.chunks(cols)) {
        let shift = decoded[0] - plain[0];
        assert!(shift > 0.0 && plain.iter().zip(decoded).all(|(plain, decoded)| (decoded - plain - shift).abs() < 1e-6));
    }

    // `gptq_v2` stores zero points unchanged, so that the stored 7 means 7.
    let source = checkpoint(128);
    edit_json(&source.path().join("quantize_config.json"), |config| config["checkpoint_format"] = "gptq_v2".into());
    let (coded, _) = convert(source.path(), SchemeName::Q4).unwrap();
    assert_eq!(open(&coded).manifest().tensor(name).unwrap().scheme, Scheme::Q4Z { group_size: 32 });
}

#[test]
fn bad_modules() {
    let assert_names = |source: &Path, parts: &[&str]| crate::support::assert_names(&refusal(source), parts);
    let source = checkpoint(128);
    std::fs::remove_file(source.path().join("quantize_config.json")).unwrap();
    assert_names(source.path(), &["transformer.h.0.attn.c_attn.qweight", "quantize_config.json"]);

    for (key, value) in [("bits", serde_json::json!(3)), ("group_size", serde_json::json!(-1)), ("quant_method", serde_json::json!("awq"))]
    {
        let source = checkpoint(128);
        edit_json(&source.path().join("quantize_config.json"), |config| config[key] = value.clone());
        assert_names(source.path(), &["quantize_config.json", key, &value.to_string()]);
    }

    let source = checkpoint(128);
    edit_json(&source.path().join("quantize_config.json"), |config| config["group_size"] = 32.into());
    assert_names(source.path(), &["transformer.h.0.attn.c_attn.qzeros", "[1, 48]", "[4, 48]"]);

    let source = checkpoint(128);
    edit(&source, |header, data| fill(header, data, "transformer.h.0.mlp.w1.g_idx", |input| u32::from(input == 9)));
    assert_names(source.path(), &["transformer.h.0.mlp.w1.g_idx", "group 1 for input 9"]);

    let source = checkpoint(128);
    edit(&source, |header, data| fill(header, data, "transformer.h.0.mlp.w1.bias", |_| 0x3c00_0000));
    assert_names(source.path(), &["transformer.h.0.mlp.w1.bias", "must be zero"]);

    let source = checkpoint(128);
    edit(&source, |header, data| fill(header, data, "transformer.h.0.mlp.w1.scales", |_| 0x7c00_7c00));
    assert_names(source.path(), &["transformer.h.0.mlp.w1.scales", "inf"]);
}

/// A module of Qwen2-VL with random codes and scales.
struct Module {
    name: String,
    outputs: usize,
    inputs: usize,
    group_size: usize,
    codes: Vec<u8>,
    /// `[groups, outputs]`.
    scales: Vec<half::f16>,
}

impl Module {
    fn new(name: String, outputs: usize, inputs: usize, group_size: usize, random: &mut fastrand::Rng) -> Self {
        let codes = (0..outputs * inputs).map(|_| random.u8(0..16)).collect();
        let scales = (0..inputs.div_ceil(group_size) * outputs).map(|_| half::f16::from_f32(0.001 + 0.03 * random.f32())).collect();
        Self { name, outputs, inputs, group_size, codes, scales }
    }

    /// The tensors of the file.
    fn tensors(&self) -> Vec<Tensor> {
        let tensor = |leaf: &str, dtype, shape: &[usize], data: Vec<u8>| Tensor {
            name: format!("{}.{leaf}", self.name),
            dtype,
            shape: shape.to_vec(),
            data,
        };
        let (outputs, inputs, groups) = (self.outputs, self.inputs, self.inputs.div_ceil(self.group_size));
        let word =
            |word: usize, output: usize| -> u32 { (0..8).map(|i| u32::from(self.codes[output * inputs + 8 * word + i]) << (4 * i)).sum() };
        let words = (0..inputs / 8).flat_map(|at| (0..outputs).map(move |output| (at, output)));
        let scales = self.scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
        let order = (0..inputs).flat_map(|input| ((input / self.group_size) as u32).to_le_bytes()).collect();
        vec![
            tensor(
                "qweight",
                safetensors::Dtype::I32,
                &[inputs / 8, outputs],
                words.flat_map(|(at, output)| word(at, output).to_le_bytes()).collect(),
            ),
            tensor("qzeros", safetensors::Dtype::I32, &[groups, outputs / 8], [0x77; 4].repeat(groups * outputs / 8)),
            tensor("scales", safetensors::Dtype::F16, &[groups, outputs], scales),
            tensor("g_idx", safetensors::Dtype::I32, &[inputs], order),
        ]
    }

    /// Row of weights.
    fn row(&self, output: usize) -> Vec<f32> {
        let weight = |input: usize| {
            let scale = self.scales[input / self.group_size * self.outputs + output].to_f32();
            (f32::from(self.codes[output * self.inputs + input]) - 8.0) * scale
        };
        (0..self.inputs).map(weight).collect()
    }
}

/// q2-a with GPTQ modules in its decoder. Modules without a bias in the model have one of zeros, as AutoGPTQ writes them.
fn qwen2_vl(group_size: usize) -> (tempfile::TempDir, Vec<Module>) {
    let (folder, mut random) = (copy("q2-a"), fastrand::Rng::with_seed(7));
    let mut all = tensors(folder.path());
    let mut modules = Vec::new();
    for layer in 0..3 {
        let kinds = [
            ("self_attn.q_proj", 192, 192),
            ("self_attn.k_proj", 32, 192),
            ("self_attn.v_proj", 32, 192),
            ("self_attn.o_proj", 192, 192),
            ("mlp.gate_proj", 320, 192),
            ("mlp.up_proj", 320, 192),
            ("mlp.down_proj", 192, 320),
        ];
        for (kind, outputs, inputs) in kinds {
            let module = Module::new(format!("model.layers.{layer}.{kind}"), outputs, inputs, group_size, &mut random);
            all.retain(|tensor| tensor.name != format!("{}.weight", module.name));
            all.extend(module.tensors());
            if !all.iter().any(|tensor| tensor.name == format!("{}.bias", module.name)) {
                let zeros = vec![0; 2 * outputs];
                all.push(Tensor {
                    name: format!("{}.bias", module.name),
                    dtype: safetensors::Dtype::F16,
                    shape: vec![outputs],
                    data: zeros,
                });
            }
            modules.push(module);
        }
    }
    write_tensors(&folder.path().join("model.safetensors"), &all);
    edit_json(&folder.path().join("config.json"), |config| {
        config["quantization_config"] =
            serde_json::json!({ "bits": 4, "group_size": group_size, "desc_act": false, "sym": true, "quant_method": "gptq" });
    });
    (folder, modules)
}

/// The published Int4 format of Qwen2-VL: three modules are one tensor of ours, two are interleaved, and the tower is float.
#[test]
fn modules_of_qwen2_vl_are_joined() {
    for group_size in [32, 64, 128] {
        let (source, modules) = qwen2_vl(group_size);
        let (out, summary) = convert(source.path(), SchemeName::Q4).unwrap();
        assert_eq!((summary.notes.len(), summary.unused_tensors.len()), (0, 0), "{:?} {:?}", summary.notes, summary.unused_tensors);
        let web = open(&out);
        assert_eq!(quantize::verify(&out.path().join("web"), &mut |_| ()).unwrap(), []);
        for layer in 0..3 {
            let module = |kind: &str| modules.iter().find(|module| module.name == format!("model.layers.{layer}.{kind}")).unwrap();
            let rows = |kind: &str| -> Vec<Vec<f32>> { (0..module(kind).outputs).map(|output| module(kind).row(output)).collect() };
            let [up, gate] = ["mlp.up_proj", "mlp.gate_proj"].map(rows);
            let expected = [
                ("attn.qkv", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"].map(rows).concat().concat()),
                ("attn.out", rows("self_attn.o_proj").concat()),
                ("mlp.gate_up", up.into_iter().zip(gate).flat_map(|(up, gate)| [up, gate].concat()).collect()),
                ("mlp.down", rows("mlp.down_proj").concat()),
            ];
            for (name, weights) in expected {
                let name = format!("decoder.layers.{layer}.{name}.weight");
                assert_eq!(web.manifest().tensor(&name).unwrap().scheme, Scheme::Int4 { group_size: group_size as u32 }, "{name}");
                assert!(web.tensor(&name).unwrap() == weights, "{name} in groups of {group_size}");
            }
        }
        assert_eq!(web.manifest().tensor("vision.blocks.0.attn.qkv.weight").unwrap().scheme, Scheme::Q8 { group_size: 32 });
        // The biases of the model are those of the file.
        let (plain, _) = convert(&crate::support::checkpoint("q2-a"), SchemeName::Q4).unwrap();
        let bias = "decoder.layers.2.attn.qkv.bias";
        assert_eq!(web.tensor(bias).unwrap(), open(&plain).tensor(bias).unwrap());
    }
}

/// One module without an exact scheme makes the joined tensor one that is encoded anew.
#[test]
fn a_joined_tensor_needs_all_its_modules() {
    let (source, modules) = qwen2_vl(64);
    let path = source.path().join("model.safetensors");
    edit_safetensors(&path, |header, data| fill(header, data, "model.layers.1.self_attn.k_proj.g_idx", |input| (2 - input / 64) as u32));
    let (out, _) = convert(source.path(), SchemeName::Q4).unwrap();
    let scheme = |name: &str| open(&out).manifest().tensor(name).unwrap().scheme;
    assert_eq!(scheme("decoder.layers.1.attn.qkv.weight"), Scheme::Q4Z { group_size: 32 });
    assert_eq!(scheme("decoder.layers.0.attn.qkv.weight"), Scheme::Int4 { group_size: 64 });
    assert_eq!(scheme("decoder.layers.1.attn.out.weight"), Scheme::Int4 { group_size: 64 });
    // The other rows keep their values in f32.
    let (out, _) = convert(source.path(), SchemeName::F32).unwrap();
    let query = modules.iter().find(|module| module.name == "model.layers.1.self_attn.q_proj").unwrap();
    let expected: Vec<f32> = (0..192).flat_map(|output| query.row(output)).collect();
    assert_eq!(open(&out).tensor("decoder.layers.1.attn.qkv.weight").unwrap()[..192 * 192], expected);

    let (source, _) = qwen2_vl(64);
    let path = source.path().join("model.safetensors");
    edit_safetensors(&path, |header, data| {
        let at = header["model.layers.1.self_attn.o_proj.bias"]["data_offsets"][0].as_u64().unwrap() as usize;
        data[at + 1] = 0x3c;
    });
    crate::support::assert_names(&refusal(source.path()), &["model.layers.1.self_attn.o_proj.bias", "must be zero"]);
}
