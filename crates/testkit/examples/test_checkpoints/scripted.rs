//! A model that says what the tests expect: its next token depends on the latest token alone.
//!
//! The layers add nothing to the residual stream. Each token of the script is embedded as a separate axis, and the head's row of the next
//! token is that axis. Pictures and prompts still run through every kernel, but do not change the answer.

use anyhow::{Context, Result, bail, ensure};
use qwen_vl_format::Scheme;
use qwen_vl_format::block::encode_rows;
use qwen_vl_format::manifest::{FileEntry, MANIFEST_FILE, Manifest};
use std::fs;
use std::path::Path;

/// Token ids within the first 4096 ranks and their special tokens. Each occurs once, so that its successor is known. Prompts end in the
/// first one, a line feed; the text is `This is a<ref> person</ref><box>(12,34), (567 ,890)</box>.` and then `<|im_end|>`.
pub const QWEN_VL: &[usize] =
    &[198, 1986, 374, 264, 4304, 1697, 4305, 4306, 7, 16, 17, 11, 18, 19, 701, 320, 20, 21, 22, 1154, 23, 24, 15, 8, 4307, 13, 4098];

/// The same for the first 3100 ranks and the special tokens of `q3-a`. The text is that of [`QWEN_VL`] without tags, then an empty line and
/// `[{"bbox_2d"⏎: [13,4 ,567,⏎890],"label": "person"⏎⏎} ]` (⏎ is a line feed), and then `<|im_end|>`.
pub const QWEN3_VL: &[usize] = &[
    198, 1986, 374, 264, 1697, 13, 271, 58, 90, 1, 65, 2011, 62, 17, 67, 698, 25, 508, 16, 18, 11, 19, 1154, 20, 21, 22, 345, 23, 24, 15,
    60, 1335, 1502, 788, 330, 712, 930, 1837, 92, 2279, 3102,
];

/// [`QWEN_VL`] for the first 3000 ranks and the special tokens of `q2-a`.
pub const QWEN2_VL: &[usize] =
    &[198, 1986, 374, 264, 3003, 1697, 3004, 3005, 7, 16, 17, 11, 18, 19, 701, 320, 20, 21, 22, 1154, 23, 24, 15, 8, 3006, 13, 3002];

/// [`QWEN3_VL`] for the first 2900 ranks and the special tokens of `q25-a`.
pub const QWEN2_5_VL: &[usize] = &[
    198, 1986, 374, 264, 1697, 13, 271, 58, 90, 1, 65, 2011, 62, 17, 67, 698, 25, 508, 16, 18, 11, 19, 1154, 20, 21, 22, 345, 23, 24, 15,
    60, 1335, 1502, 788, 330, 712, 930, 1837, 92, 2279, 2902,
];

/// Rewrites a web checkpoint of f32 weights so that it says `script`.
pub fn rewrite(folder: &Path, script: &[usize]) -> Result<()> {
    let path = folder.join(MANIFEST_FILE);
    let mut manifest = Manifest::from_json(&fs::read_to_string(&path)?)?;
    let mut shards = manifest.shards.iter().map(|shard| Ok(fs::read(folder.join(&shard.file))?)).collect::<Result<Vec<_>>>()?;
    if manifest.config.decoder.tied_head {
        untie(&mut manifest, &mut shards)?;
    }
    for tensor in &manifest.tensors {
        let [rows, cols] = tensor.shape;
        let mut weights = vec![0.0; rows * cols];
        match tensor.name.as_str() {
            "decoder.embedding.weight" => script.iter().enumerate().for_each(|(axis, token)| weights[token * cols + axis] = 1.0),
            "head.weight" => script.iter().skip(1).enumerate().for_each(|(axis, token)| weights[token * cols + axis] = 1.0),
            "decoder.norm.weight" => weights.fill(1.0),
            name if name.ends_with(".attn.out.weight") && name.starts_with("decoder.") => {}
            name if name.ends_with(".mlp.down.weight") => {}
            _ => continue,
        }
        ensure!(tensor.scheme == Scheme::F32, "{}: {} is not stored as f32", path.display(), tensor.name);
        let [part] = &tensor.parts[..] else { bail!("{}: {} has several parts, expected one", path.display(), tensor.name) };
        let encoded = encode_rows(Scheme::F32, &weights, cols);
        shards[part.shard][part.data[0] as usize..part.data[1] as usize].copy_from_slice(&encoded.data);
    }
    for (entry, bytes) in manifest.shards.iter_mut().zip(&shards) {
        *entry = FileEntry::of_shard(&entry.file, bytes);
        fs::write(folder.join(&entry.file), bytes)?;
    }
    fs::write(&path, serde_json::to_string(&manifest)?).with_context(|| format!("could not write {}", path.display()))
}

/// Gives the head its own weights: a copy of the embedding at the end of the last shard.
fn untie(manifest: &mut Manifest, shards: &mut [Vec<u8>]) -> Result<()> {
    let embedding = manifest.tensors.iter().find(|tensor| tensor.name == "decoder.embedding.weight").context("no embedding")?;
    let [part] = &embedding.parts[..] else { bail!("the embedding has several parts, expected one") };
    let weights = shards[part.shard][part.data[0] as usize..part.data[1] as usize].to_vec();
    let mut head = embedding.clone();
    let (last, end) = (shards.len() - 1, shards.last().context("no shards")?.len() as u64);
    "head.weight".clone_into(&mut head.name);
    (head.parts[0].shard, head.parts[0].data) = (last, [end, end + weights.len() as u64]);
    shards[last].extend(weights);
    manifest.tensors.push(head);
    manifest.config.decoder.tied_head = false;
    Ok(())
}
