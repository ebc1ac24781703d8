//! A checkpoint in the published layout: its tensors, and the places of their bytes. Weights are read on request.

pub(crate) mod file;
pub(crate) mod json;
pub(crate) mod names;
pub(crate) mod pickle;
pub(crate) mod recognise;
pub(crate) mod safetensors;
pub(crate) mod weights;
pub(crate) mod zip;

use anyhow::{Context, Result, bail, ensure};
pub use file::{Files, InputFile, ReadAt};
use half::slice::HalfFloatSliceExt;
use qwen_vl_format::Family;
use std::collections::BTreeMap;
use std::ops::Range;

/// Element type of a source tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE double.
    F64,
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// Packed words of a GPTQ checkpoint.
    I32,
    /// A type that no weight of this model has, by its name in the file. The file may have such a tensor, but it cannot be read.
    Other(String),
}

impl Dtype {
    /// The type of this name in the safetensors format.
    pub(crate) fn named(name: &str) -> Self {
        match name {
            "F64" => Self::F64,
            "F32" => Self::F32,
            "F16" => Self::F16,
            "BF16" => Self::Bf16,
            "I32" => Self::I32,
            other => Self::Other(other.to_owned()),
        }
    }

    /// The type's name in the safetensors format.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::I32 => "I32",
            Self::Other(name) => name,
        }
    }

    /// Bytes of an element; `None` for types that are not read.
    pub(crate) fn size(&self) -> Option<usize> {
        match self {
            Self::F64 => Some(8),
            Self::F32 | Self::I32 => Some(4),
            Self::F16 | Self::Bf16 => Some(2),
            Self::Other(_) => None,
        }
    }
}

/// The place of a tensor's elements.
#[derive(Debug, Clone)]
pub(crate) struct SourceTensor {
    pub file: usize,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Steps in elements, if the elements do not simply follow each other.
    pub strides: Option<Vec<usize>>,
    /// Byte of the first element in the file.
    pub offset: u64,
}

/// A block of a tensor seen as a matrix: of its first dimension by all the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block<'a> {
    pub name: &'a str,
    pub rows: Range<usize>,
    pub cols: Range<usize>,
}

/// The weights of a checkpoint in the published layout.
#[derive(Debug)]
pub struct Source {
    input: Files,
    files: Vec<InputFile>,
    tensors: BTreeMap<String, SourceTensor>,
    /// Weight files of the folder that are not read.
    left_aside: Vec<String>,
    notes: Vec<String>,
}

impl Source {
    /// Opens the weight files and reads their directories of tensors, which get their published names.
    pub fn open(input: &Files, family: Family) -> Result<Self> {
        let chosen = weights::choose(input)?;
        let mut source =
            Self { input: input.clone(), files: Vec::new(), tensors: BTreeMap::new(), left_aside: chosen.left_aside, notes: chosen.notes };
        let found = |name: &String| input.find(name).with_context(|| format!("`{name}` is missing in {input}"));
        let files: Vec<&InputFile> = chosen.names.iter().map(found).collect::<Result<_>>()?;
        files.iter().for_each(|file| announce_directory(file));
        for file in files {
            let index = source.files.len();
            let tensors = if is_safetensors(file) {
                safetensors::read_header(file, index)
            } else {
                read_torch_archive(file, index, &mut source.notes)
            };
            let tensors = tensors.with_context(|| format!("could not read the tensors of {}", file.place()));
            for (name, tensor) in tensors.map_err(|error| file.explain(error))? {
                if let Some(other) = source.tensors.insert(name.clone(), tensor) {
                    let other = source.files.get(other.file).unwrap_or(file).name();
                    bail!("tensor `{name}` is in {} and in {other}: move one of them away", file.name());
                }
            }
            source.files.push(file.clone());
        }
        source.refuse_lora()?;
        if let Some(prefix) = names::publish(&mut source.tensors, family) {
            source.notes.push(format!("the names of the tensors begin with `{prefix}`, which was taken off"));
        }
        Ok(source)
    }

    /// Refuses weights that were saved with the LoRA adapter next to them.
    fn refuse_lora(&self) -> Result<()> {
        if let Some((name, kind)) = self.tensors.keys().find_map(|name| Some((name, names::lora_part(name)?))) {
            bail!(
                "tensor `{name}` is {kind}: {} holds a LoRA adapter that is not merged; merge it into the model first \
                 (`merge_and_unload` of peft) and convert the result",
                self.input
            );
        }
        Ok(())
    }

    /// The files that it was opened from.
    pub(crate) fn input(&self) -> &Files {
        &self.input
    }

    /// Sentences for the user about the choice of files and names.
    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The weight files.
    pub(crate) fn files(&self) -> impl Iterator<Item = &InputFile> {
        self.files.iter()
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Sizes of a tensor, if there is one of this name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|tensor| &tensor.shape[..])
    }

    pub(crate) fn get(&self, name: &str) -> Result<&SourceTensor> {
        self.tensors.get(name).with_context(|| format!("tensor `{name}` is missing in {}", self.input))
    }

    /// The error for tensors that are missing: the first, the number of all, and what is there in its place.
    pub(crate) fn missing_error(&self, missing: &[String]) -> anyhow::Error {
        let mut text = format!("tensor `{}` is missing in {}", missing.first().map_or("", String::as_str), self.input);
        if missing.len() > 1 {
            text += &format!(", and {} more", missing.len() - 1);
        }
        let hints = missing.first().and_then(|name| names::nearest(name, || self.names()));
        text += &hints.map_or_else(String::new, |hint| format!(": {hint}"));
        if !self.left_aside.is_empty() {
            let read: Vec<String> = self.files.iter().map(|file| file.name().to_owned()).collect();
            text += &format!(
                "; read: {}; left aside: {}; move away the files of another model",
                weights::list(&read),
                weights::list(&self.left_aside)
            );
        }
        anyhow::anyhow!(text)
    }

    /// A whole tensor, if there is one of this name.
    pub(crate) fn whole<'a>(&self, name: &'a str) -> Option<Block<'a>> {
        let (rows, cols) = matrix_of(&self.tensors.get(name)?.shape);
        Some(Block { name, rows: 0..rows, cols: 0..cols })
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Checks that a tensor is there with this shape and elements of a float type.
    pub fn expect_floats(&self, name: &str, shape: &[usize]) -> Result<()> {
        let dtype = &self.expect_shape(name, shape)?.dtype;
        ensure!(
            matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::Bf16),
            "tensor `{name}` has elements of type {}, expected F64, F32, F16 or BF16",
            dtype.name()
        );
        Ok(())
    }

    /// Checks that a tensor is there with this shape.
    pub(crate) fn expect_shape(&self, name: &str, shape: &[usize]) -> Result<&SourceTensor> {
        let tensor = self.get(name)?;
        let file = self.files[tensor.file].name();
        ensure!(
            tensor.shape != [0] || shape == [0],
            "tensor `{name}` in {file} is empty, config.json asks for {shape:?}: DeepSpeed (ZeRO-3) keeps the weights in parts elsewhere; \
             run `zero_to_fp32.py` of its training folder to join them"
        );
        ensure!(tensor.shape == shape, "tensor `{name}` in {file} has shape {:?}, config.json asks for {shape:?}", tensor.shape);
        Ok(tensor)
    }

    /// Lists blocks that will be read.
    pub(crate) fn announce(&self, blocks: &[Block<'_>]) {
        let mut by_file: BTreeMap<usize, Vec<Range<u64>>> = BTreeMap::new();
        for block in blocks {
            // Reading reports what is wrong with a tensor.
            let Some(tensor) = self.tensors.get(block.name) else { continue };
            by_file.entry(tensor.file).or_default().extend(tensor.range_of(block));
        }
        by_file.into_iter().for_each(|(file, ranges)| self.files[file].announce(ranges));
    }

    /// Elements of a tensor seen as a matrix: `rows` and `cols` of its first dimension by all the others.
    /// Vectors are matrices of one column.
    pub fn read_floats(&self, name: &str, rows: Range<usize>, cols: Range<usize>) -> Result<Vec<f32>> {
        let tensor = self.get(name)?;
        let bytes = self.read_bytes(tensor, rows, cols).with_context(|| format!("tensor `{name}`"))?;
        Ok(match tensor.dtype {
            Dtype::F64 => bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes) as f32).collect(),
            Dtype::F32 => bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            Dtype::Bf16 => bytes.as_chunks().0.iter().map(|bytes| f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16)).collect(),
            Dtype::F16 => {
                // Converted as a slice: single conversions detect the processor's features each time.
                let halves: Vec<half::f16> = bytes.as_chunks().0.iter().map(|bytes| half::f16::from_le_bytes(*bytes)).collect();
                halves.to_f32_vec()
            }
            Dtype::I32 | Dtype::Other(_) => bail!("tensor `{name}` has elements of type {}", tensor.dtype.name()),
        })
    }

    /// Packed words of a tensor, in the order of [`Self::read_floats`].
    pub(crate) fn read_words(&self, name: &str, rows: Range<usize>, cols: Range<usize>) -> Result<Vec<i32>> {
        let tensor = self.get(name)?;
        ensure!(tensor.dtype == Dtype::I32, "tensor `{name}` has elements of type {}, expected I32", tensor.dtype.name());
        let bytes = self.read_bytes(tensor, rows, cols).with_context(|| format!("tensor `{name}`"))?;
        Ok(bytes.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect())
    }

    /// The little-endian elements of a block, row after row.
    fn read_bytes(&self, tensor: &SourceTensor, rows: Range<usize>, cols: Range<usize>) -> Result<Vec<u8>> {
        let (all_rows, all_cols) = matrix_of(&tensor.shape);
        assert!(rows.end <= all_rows && cols.end <= all_cols, "{rows:?} × {cols:?} of {all_rows} × {all_cols}");
        let size = tensor.dtype.size().with_context(|| format!("elements of type {}", tensor.dtype.name()))?;
        if rows.is_empty() || cols.is_empty() {
            return Ok(Vec::new());
        }
        let file = &self.files[tensor.file];
        // In 64 bits: a storage can have more elements than a browser has addresses.
        let at = |row: usize, row_step: usize, col: usize| tensor.offset + (row as u64 * row_step as u64 + col as u64) * size as u64;
        let (row_step, col_step) = tensor.matrix_strides()?;
        if col_step == 1 && row_step == all_cols && cols.len() == all_cols {
            return file.read_vec(at(rows.start, all_cols, 0), rows.len() * all_cols * size);
        }
        let mut bytes = vec![0; rows.len() * cols.len() * size];
        if col_step == 1 {
            for (row, out) in rows.zip(bytes.chunks_exact_mut(cols.len() * size)) {
                file.read_at(at(row, row_step, cols.start), out)?;
            }
        } else {
            // Stored by columns: read them and transpose.
            let mut column = vec![0; rows.len() * size];
            for (i, col) in cols.clone().enumerate() {
                file.read_at(at(col, col_step, rows.start), &mut column)?;
                for (j, element) in column.chunks_exact(size).enumerate() {
                    bytes[(j * cols.len() + i) * size..][..size].copy_from_slice(element);
                }
            }
        }
        Ok(bytes)
    }
}

impl SourceTensor {
    /// Bytes of its elements.
    pub(crate) fn bytes(&self) -> u64 {
        self.shape.iter().map(|size| *size as u64).product::<u64>() * self.dtype.size().unwrap_or_default() as u64
    }

    /// The bytes from the first element of a block to its last, those between its rows included; `None` for scattered elements.
    fn range_of(&self, block: &Block<'_>) -> Option<Range<u64>> {
        let size = self.dtype.size()?;
        let (row_step, col_step) = self.matrix_strides().ok()?;
        let (last_row, last_col) = (block.rows.end.checked_sub(1)?, block.cols.end.checked_sub(1)?);
        let at = |row: usize, col: usize| self.offset + (row as u64 * row_step as u64 + col as u64 * col_step as u64) * size as u64;
        Some(at(block.rows.start, block.cols.start)..at(last_row, last_col) + size as u64)
    }

    /// Steps of rows and columns of the tensor as a matrix, in elements; one of them is 1.
    fn matrix_strides(&self) -> Result<(usize, usize)> {
        let (_, cols) = matrix_of(&self.shape);
        let Some(strides) = &self.strides else { return Ok((cols, 1)) };
        // The columns must be contiguous: the stride of each dimension after the first is the size of those behind it.
        let mut run = 1;
        let contiguous = self.shape.iter().zip(strides).skip(1).rev().all(|(size, stride)| {
            let fits = *size == 1 || *stride == run;
            run = run.saturating_mul(*size);
            fits
        });
        match strides.as_slice() {
            [] => Ok((1, 1)),
            [row, ..] if contiguous => Ok((*row, 1)),
            [1, col] => Ok((1, *col)),
            strides => bail!("its elements are scattered (shape {:?}, strides {strides:?}); save a contiguous copy", self.shape),
        }
    }
}

/// Rows and columns of a tensor as a matrix: the first dimension by all the others.
pub(crate) fn matrix_of(shape: &[usize]) -> (usize, usize) {
    match shape {
        [] => (1, 1),
        // An empty tensor can have any other sizes.
        [rows, rest @ ..] => (*rows, rest.iter().fold(1, |product, size| product.saturating_mul(*size))),
    }
}

fn is_safetensors(file: &InputFile) -> bool {
    file.name().ends_with(".safetensors")
}

/// Announces the bytes where a weight file's directory of tensors begins.
fn announce_directory(file: &InputFile) {
    let range = if is_safetensors(file) { 0..safetensors::PREFIX_BYTES } else { file.len().saturating_sub(zip::TAIL_BYTES)..file.len() };
    file.announce([range]);
}

/// The tensors of a file that `torch.save` wrote.
fn read_torch_archive(file: &InputFile, file_index: usize, notes: &mut Vec<String>) -> Result<Vec<(String, SourceTensor)>> {
    const MAX_PICKLE: u64 = 64 << 20;
    let entries = zip::read_directory(file)?;
    let pickle_name = entries.keys().find(|name| name.ends_with("/data.pkl")).context("no data.pkl in the archive")?;
    let root = pickle_name.strip_suffix("data.pkl").unwrap_or_default();
    if let Some(order) = entries.get(&format!("{root}byteorder")) {
        let order = file.read_vec(order.offset, order.len.min(16) as usize)?;
        ensure!(order == b"little", "its byte order is `{}`, expected `little`", String::from_utf8_lossy(&order));
    }
    let pickle = entries[pickle_name];
    ensure!(pickle.len <= MAX_PICKLE, "its data.pkl has {} bytes, expected at most {MAX_PICKLE}", pickle.len);
    let pickle = file.read_vec(pickle.offset, pickle.len as usize)?;
    let found = pickle::read_state_dict(&pickle)?;
    if !found.inside.is_empty() {
        notes.push(format!("the weights of {} are those of its dictionary `{}`", file.name(), found.inside.join(".")));
    }
    if !found.left_out.is_empty() {
        let entries: Vec<String> = found.left_out.iter().map(|(key, kind)| format!("`{key}` ({kind})")).collect();
        notes.push(format!("not tensors, left out of {}: {}", file.name(), weights::list(&entries)));
    }
    found
        .tensors
        .into_iter()
        .map(|tensor| {
            let name = tensor.name.clone();
            let storage = entries.get(&format!("{root}data/{}", tensor.storage));
            let storage =
                storage.with_context(|| format!("tensor `{name}`: its storage `data/{}` is not in the archive", tensor.storage))?;
            let placed = place(tensor, *storage, file_index).with_context(|| format!("tensor `{name}`"))?;
            Ok((name, placed))
        })
        .collect()
}

/// Places a view of a storage in the file.
pub(crate) fn place(tensor: pickle::PickledTensor, storage: zip::Entry, file_index: usize) -> Result<SourceTensor> {
    let size = tensor.dtype.size().unwrap_or(1) as u64;
    // One past the last element that the view touches. Only the offset of an empty view counts.
    let steps = tensor.shape.iter().zip(&tensor.strides);
    let reach = steps.into_iter().try_fold(tensor.offset as u64 + 1, |reach, (length, stride)| {
        (*length as u64).saturating_sub(1).checked_mul(*stride as u64).and_then(|step| reach.checked_add(step))
    });
    let reach = if tensor.shape.contains(&0) { Some(tensor.offset as u64) } else { reach };
    ensure!(
        reach.and_then(|reach| reach.checked_mul(size)).is_some_and(|reach| reach <= storage.len),
        "shape {:?} and strides {:?} from element {} on: it does not fit its storage of {} bytes",
        tensor.shape,
        tensor.strides,
        tensor.offset,
        storage.len
    );
    Ok(SourceTensor {
        file: file_index,
        dtype: tensor.dtype,
        shape: tensor.shape,
        strides: Some(tensor.strides),
        offset: storage.offset + tensor.offset as u64 * size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source of one file with the values 0 to 23 and one tensor in it.
    fn source(shape: &[usize], strides: Option<&[usize]>, first: u64) -> Source {
        let bytes: Vec<u8> = (0..24u8).flat_map(|value| f32::from(value).to_le_bytes()).collect();
        let input = Files::in_memory([("weights", &bytes[..])]);
        let tensor =
            SourceTensor { file: 0, dtype: Dtype::F32, shape: shape.to_vec(), strides: strides.map(<[usize]>::to_vec), offset: first * 4 };
        let files = vec![input.find("weights").unwrap().clone()];
        Source { input, files, tensors: BTreeMap::from([("w".to_owned(), tensor)]), left_aside: Vec::new(), notes: Vec::new() }
    }

    /// Shape, strides, first element, rows, columns, and the expected values.
    type View<'a> = (&'a [usize], Option<&'a [usize]>, u64, Range<usize>, Range<usize>, &'a [f32]);

    #[test]
    fn views_are_read_by_their_strides() {
        let cases: [View<'_>; 7] = [
            (&[4, 6], None, 0, 1..3, 0..6, &[6., 7., 8., 9., 10., 11., 12., 13., 14., 15., 16., 17.]),
            (&[4, 6], None, 0, 1..3, 2..4, &[8., 9., 14., 15.]),
            // Columns 2 and 3 of it, as a view.
            (&[4, 2], Some(&[6, 1]), 2, 2..4, 0..2, &[14., 15., 20., 21.]),
            // Its transpose.
            (&[6, 4], Some(&[1, 6]), 0, 1..3, 0..4, &[1., 7., 13., 19., 2., 8., 14., 20.]),
            (&[6, 4], Some(&[1, 6]), 0, 1..3, 2..4, &[13., 19., 14., 20.]),
            // More dimensions are one row; sizes of 1 may have any stride.
            (&[2, 3, 1, 4], Some(&[12, 4, 99, 1]), 0, 1..2, 3..6, &[15., 16., 17.]),
            (&[5], Some(&[1]), 7, 1..3, 0..1, &[8., 9.]),
        ];
        for (shape, strides, first, rows, cols, want) in cases {
            let source = source(shape, strides, first);
            assert_eq!(source.read_floats("w", rows, cols).unwrap(), want, "shape {shape:?}, strides {strides:?}");
        }
    }

    #[test]
    fn scattered_views_are_refused() {
        for (shape, strides) in [([4, 3], [6, 2]), ([2, 2], [2, 3])] {
            let source = source(&shape, Some(&strides), 0);
            let error = format!("{:#}", source.read_floats("w", 0..2, 0..2).unwrap_err());
            assert!(error.contains("`w`") && error.contains("contiguous"), "{error}");
        }
    }

    /// Positions whose sums exceed u64, which random damage rarely makes.
    #[test]
    fn positions_near_the_end_of_numbers() {
        let header = br#"{"a":{"dtype":"I64","shape":[1],"data_offsets":[18446744073709551615,8]}}"#;
        let error = safetensors::parse_header(header, 100, 200, 0).expect_err("the tensor ends before it begins");
        assert!(format!("{error:#}").contains("`a`"), "{error:#}");

        let storage = zip::Entry { offset: 100, len: 64 };
        let view = |offset: usize, shape: &[usize], strides: &[usize]| {
            let tensor = pickle::PickledTensor {
                name: "a".into(),
                storage: "0".into(),
                dtype: Dtype::F32,
                offset,
                shape: shape.to_vec(),
                strides: strides.to_vec(),
            };
            place(tensor, storage, 0)
        };
        let huge = i64::MAX as usize;
        assert!(view(0, &[4, 4], &[4, 1]).is_ok() && view(8, &[2, 4], &[4, 1]).is_ok() && view(16, &[0], &[1]).is_ok());
        for (offset, shape, strides) in [
            (huge, vec![0], vec![1]),
            (huge, vec![], vec![]),
            (1, vec![4, 4], vec![4, 1]),
            (0, vec![huge, huge], vec![1, 1]),
            (0, vec![2, 2], vec![huge, huge]),
            (17, vec![0], vec![1]),
        ] {
            assert!(view(offset, &shape, &strides).is_err(), "{offset} {shape:?} {strides:?}");
        }
    }
}
