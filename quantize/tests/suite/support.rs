//! Folders to convert, and ways to change them.

use crate::cases;
use crate::ranges::{self, Listed};
use quantize::{ConversionRequest, Input, Options, Rule, SchemeName, Summary, WebCheckpoint};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

/// The folder of `mini-a` or `mini-b`, of `q2-a` (Qwen2-VL) or `q3-a` (Qwen3-VL).
pub fn checkpoint(name: &str) -> PathBuf {
    fixtures().join(if name.starts_with('q') { "family/checkpoints" } else { "checkpoints" }).join(name)
}

/// A copy of a fixture that a test may change.
pub fn copy(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(checkpoint(name)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
}

/// Converts a folder as the command does, and again from ranges of its files, as a browser does. Asserts that both give the same files and
/// notes, or the same error. See [`cases`] for the third way, the npm package.
pub fn run(options: &Options) -> anyhow::Result<Summary> {
    let Input::Folder(folder) = &options.source else { panic!("a list of files has other places in its errors than a folder") };
    let (listed, settings) = (Listed::read(folder), request(options));
    let result = quantize::convert(options, &mut |_| ());
    let outcome = match &result {
        Ok(summary) if options.dry_run => {
            // A dry run has no files, and must announce what the conversion gives.
            let out = tempfile::tempdir().unwrap();
            let mut real = options.clone();
            (real.dry_run, real.out) = (false, out.path().join("web"));
            let done = quantize::convert(&real, &mut |_| ()).unwrap();
            assert_eq!((&done.notes, done.shards, done.shard_bytes), (&summary.notes, summary.shards, summary.shard_bytes));
            Ok((files(&real.out), summary.notes.clone()))
        }
        Ok(summary) => Ok((files(&options.out), summary.notes.clone())),
        Err(error) => Err(format!("{error:#}")),
    };
    match (&outcome, ranges::convert(&listed, &settings)) {
        (Ok((files, notes)), Ok(made)) => {
            assert!(files.keys().eq(made.files.keys()), "from ranges: {:?}, from the folder: {:?}", made.files.keys(), files.keys());
            for (name, bytes) in files {
                assert!(*bytes == made.files[name], "{name} differs if it is made from ranges");
            }
            assert_eq!(*notes, made.notes);
        }
        (Err(error), Err(other)) => assert_eq!(format!("{other:#}"), *error, "the error of a conversion from ranges differs"),
        (Ok(_), Err(other)) => panic!("refused from ranges alone: {other:#}"),
        (Err(error), Ok(_)) => panic!("not refused from ranges: {error}"),
    }
    cases::write(&listed, &settings, &outcome);
    result
}

/// The settings of a conversion of remote files.
fn request(options: &Options) -> ConversionRequest {
    let name = |scheme: SchemeName| format!("{scheme:?}").to_lowercase();
    ConversionRequest {
        scheme: Some(name(options.scheme)),
        group_size: Some(options.group_size),
        keep: options.rules.iter().map(|Rule { module, scheme }| format!("{module}={}", name(*scheme))).collect(),
        allow_nonfinite: options.write.allow_nonfinite,
        shard_bytes: options.write.shard_bytes,
        ..ConversionRequest::default()
    }
}

/// The files of a folder.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    Listed::read(folder).files.into_iter().collect()
}

/// Converts a folder as the command does, and not again: for what [`cases::NOT_REPEATED`] names.
pub fn run_alone(options: &Options) -> anyhow::Result<Summary> {
    quantize::convert(options, &mut |_| ())
}

pub fn convert(source: &Path, scheme: SchemeName) -> anyhow::Result<(tempfile::TempDir, Summary)> {
    let out = tempfile::tempdir().unwrap();
    let summary = run(&Options::new(source, out.path().join("web")).scheme(scheme))?;
    Ok((out, summary))
}

pub fn open(out: &tempfile::TempDir) -> WebCheckpoint {
    WebCheckpoint::open(&out.path().join("web")).unwrap()
}

/// Returns the whole chain of an error. The conversion must fail and leave nothing under the output's name.
pub fn refusal(source: &Path) -> String {
    refusal_of(source, run)
}

pub fn refusal_of(source: &Path, run: impl Fn(&Options) -> anyhow::Result<Summary>) -> String {
    let out = tempfile::tempdir().unwrap();
    let target = out.path().join("web");
    let error = run(&Options::new(source, &target)).expect_err("the conversion must fail");
    assert!(!target.exists(), "a failed conversion left {}", target.display());
    format!("{error:#}")
}

pub fn assert_names(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

/// Converts a folder, which must succeed with this number of notes. Returns the notes and the bytes of the first shard.
pub fn converted(source: &Path, notes: usize) -> (Vec<String>, Vec<u8>) {
    let (out, summary) = convert(source, SchemeName::Q4).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(summary.notes.len(), notes, "{:?}", summary.notes);
    (summary.notes, std::fs::read(out.path().join("web/shard-00000.safetensors")).unwrap())
}

/// A tensor of a checkpoint.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub dtype: safetensors::Dtype,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
}

/// The tensors of all safetensors files of a folder.
pub fn tensors(folder: &Path) -> Vec<Tensor> {
    let mut tensors = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "safetensors") {
            continue;
        }
        let bytes = std::fs::read(path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        tensors.extend(file.iter().map(|(name, view)| Tensor {
            name: name.to_owned(),
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            data: view.data().to_vec(),
        }));
    }
    tensors
}

pub fn write_tensors(path: &Path, tensors: &[Tensor]) {
    let views = tensors
        .iter()
        .map(|tensor| (&tensor.name, safetensors::tensor::TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.data).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// mini-b without weights, and its tensors.
pub fn without_weights() -> (tempfile::TempDir, Vec<Tensor>) {
    let folder = copy("mini-b");
    let tensors = tensors(folder.path());
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().contains("safetensors") {
            std::fs::remove_file(path).unwrap();
        }
    }
    (folder, tensors)
}

/// mini-b with its weights in one `model.safetensors`.
pub fn single() -> tempfile::TempDir {
    let (folder, tensors) = without_weights();
    write_tensors(&folder.path().join("model.safetensors"), &tensors);
    folder
}

/// A ZIP archive of stored entries.
pub fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let at = archive.len() as u32;
        let sizes = [(data.len() as u32).to_le_bytes(), (data.len() as u32).to_le_bytes()].concat();
        let name_len = (name.len() as u16).to_le_bytes();
        archive.extend([b"PK\x03\x04".as_slice(), &[0; 14], &sizes, &name_len, &[0; 2], name.as_bytes(), data].concat());
        directory.extend([b"PK\x01\x02".as_slice(), &[0; 16], &sizes, &name_len, &[0; 12], &at.to_le_bytes(), name.as_bytes()].concat());
    }
    let (at, len) = ((archive.len() as u32).to_le_bytes(), (directory.len() as u32).to_le_bytes());
    let count = (entries.len() as u16).to_le_bytes();
    let end = [b"PK\x05\x06".as_slice(), &[0; 4], &count, &count, &len, &at, &[0; 2]].concat();
    [archive, directory, end].concat()
}

/// The pickle of a string.
pub fn pickled_text(text: &str) -> Vec<u8> {
    [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

/// The pickle of a dictionary.
pub fn pickled_dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let entries = entries.iter().flat_map(|(key, value)| [pickled_text(key), value.clone()].concat()).collect::<Vec<_>>();
    [b"}(".as_slice(), &entries, b"u"].concat()
}

/// The pickle of a state dict, whose tensor `i` has the storage `i`.
pub fn pickled_tensors(tensors: &[Tensor]) -> Vec<u8> {
    let number = |number: usize| [b"J".as_slice(), &(number as u32).to_le_bytes()].concat();
    let numbers = |numbers: &[usize]| [b"(".to_vec(), numbers.iter().flat_map(|size| number(*size)).collect(), b"t".to_vec()].concat();
    let entries: Vec<_> = tensors
        .iter()
        .enumerate()
        .map(|(index, tensor)| {
            let kind = match tensor.dtype {
                safetensors::Dtype::F64 => "DoubleStorage",
                safetensors::Dtype::F16 => "HalfStorage",
                other => panic!("no storage for {other:?}"),
            };
            let strides: Vec<usize> = (0..tensor.shape.len()).map(|axis| tensor.shape[axis + 1..].iter().product()).collect();
            let mut value = b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
            value.extend([pickled_text("storage"), format!("ctorch\n{kind}\n").into_bytes(), pickled_text(&index.to_string())].concat());
            value.extend([pickled_text("cpu"), number(tensor.shape.iter().product()), b"tQ".to_vec(), number(0)].concat());
            value.extend([numbers(&tensor.shape), numbers(&strides), b"\x89ccollections\nOrderedDict\n)RtR".to_vec()].concat());
            (tensor.name.as_str(), value)
        })
        .collect();
    pickled_dict(&entries)
}

/// A file as `torch.save` writes it: the pickle of a value, and the storages of tensors.
pub fn torch_archive(value: &[u8], tensors: &[Tensor]) -> Vec<u8> {
    let pickle = [b"\x80\x02", value, b"."].concat();
    let names: Vec<String> = (0..tensors.len()).map(|index| format!("archive/data/{index}")).collect();
    let mut entries = vec![("archive/data.pkl", pickle.as_slice()), ("archive/byteorder", b"little")];
    entries.extend(names.iter().map(String::as_str).zip(tensors.iter().map(|tensor| tensor.data.as_slice())));
    zip(&entries)
}

/// Changes a JSON file of a folder.
pub fn edit_json(path: &Path, edit: impl FnOnce(&mut serde_json::Value)) {
    let mut value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    edit(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

/// Changes header and data of a safetensors file.
pub fn edit_safetensors(path: &Path, edit: impl FnOnce(&mut serde_json::Value, &mut Vec<u8>)) {
    let bytes = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let mut data = bytes[8 + length..].to_vec();
    edit(&mut header, &mut data);
    let header = header.to_string();
    std::fs::write(path, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()).unwrap();
}

/// Replaces bytes of a file by others of the same length.
pub fn replace_bytes(path: &Path, from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes.windows(from.len()).position(|window| window == from).expect("the bytes are there");
    bytes[at..at + to.len()].copy_from_slice(to);
    std::fs::write(path, bytes).unwrap();
}
