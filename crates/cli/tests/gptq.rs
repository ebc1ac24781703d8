//! A checkpoint in the published Int4 format, converted and run. Needs a GPU adapter; a software one does.

use quantize::{Options, Rule, SchemeName, WebCheckpoint};
use qwen_vl_format::Scheme;
use qwen_vl_testkit::golden::fixtures;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// mini-a with the matrices of its decoder layer as GPTQ modules, which a script of Python wrote from the format's definition.
fn gptq_checkpoint(folder: &Path) {
    for entry in std::fs::read_dir(fixtures().join("checkpoints/mini-a")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
    }
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../quantize/tests/independent/mini_a_gptq_32.safetensors");
    let modules = std::fs::read(modules).unwrap();
    std::fs::write(folder.join("gptq.safetensors"), &modules).unwrap();
    let index_path = folder.join("pytorch_model.bin.index.json");
    let mut index: Value = serde_json::from_slice(&std::fs::read(&index_path).unwrap()).unwrap();
    let names = safetensors::SafeTensors::deserialize(&modules).unwrap();
    // The float matrices stay too: modules come first.
    index["weight_map"].as_object_mut().unwrap().extend(names.names().into_iter().map(|name| (name.to_owned(), "gptq.safetensors".into())));
    std::fs::write(&index_path, index.to_string()).unwrap();
    let how = json!({ "bits": 4, "group_size": 32, "desc_act": false, "sym": true });
    std::fs::write(folder.join("quantize_config.json"), how.to_string()).unwrap();
}

#[test]
fn tokens_are_those_of_the_dequantized_weights() {
    let folder = tempfile::tempdir().unwrap();
    let (source, int4, decoded) = (folder.path().join("source"), folder.path().join("int4"), folder.path().join("decoded"));
    std::fs::create_dir(&source).unwrap();
    gptq_checkpoint(&source);

    // Everything but the modules in f32, so that both runs have the same weights.
    let mut options = Options::new(&source, &int4);
    options.rules = ["vision", "resampler", "embedding", "lm_head"].map(|module| Rule::parse(&format!("{module}=f32")).unwrap()).to_vec();
    quantize::convert(&options, &mut |_| ()).unwrap();
    let web = WebCheckpoint::open(&int4).unwrap();
    let of_layers: Vec<_> = web.manifest().tensors.iter().filter(|tensor| tensor.name.starts_with("decoder.layers.")).collect();
    let repacked = of_layers.iter().filter(|tensor| tensor.scheme == Scheme::Int4 { group_size: 32 }).count();
    assert_eq!(repacked, 4, "{of_layers:?}");
    quantize::convert(&Options::new(&source, &decoded).scheme(SchemeName::F32), &mut |_| ()).unwrap();

    let tokens = |model: &Path, case: &str| -> Value {
        let (case, root) = (fixtures().join(format!("golden/mini-a/{case}.json")), fixtures());
        let args =
            ["ask", "--model", model.to_str().unwrap(), "--root", root.to_str().unwrap(), "--case", case.to_str().unwrap(), "--json"];
        let output = Command::new(env!("CARGO_BIN_EXE_qwenvl")).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        answer["tokens"].clone()
    };
    for case in ["text_en", "img_vqa"] {
        let found = tokens(&int4, case);
        assert_eq!(found, tokens(&decoded, case), "{case}");
        assert!(found.as_array().unwrap().len() > 10, "{case}: {found}");
        // Not by chance: the original weights of mini-a say something else.
        let golden: Value = serde_json::from_slice(&std::fs::read(fixtures().join(format!("golden/mini-a/{case}.json"))).unwrap()).unwrap();
        assert_ne!(found, golden["decode"]["tokens"], "{case}");
    }
}
