//! The errors of the stored weights, measured while they are encoded.
//!
//! Every host encodes the same slices of rows in the same order, and adds their sums in that order, so that all get the same bits. The sums of
//! a shard are kept next to it: a run that resumes begins with them.

use crate::plan::{Plan, PlannedPart, ShardPlan};
use crate::scheme::describe_scheme;
use anyhow::{Context, Result, ensure};
use qwen_vl_format::Scheme;
use qwen_vl_format::block::SquareSums;
use qwen_vl_format::manifest::FileEntry;
use serde::{Deserialize, Serialize};

/// Sums over the weights of each scheme that is not exact, in the order in which the schemes first occur.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Errors(Vec<SchemeSums>);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct SchemeSums {
    /// The scheme in words.
    scheme: String,
    #[serde(with = "bits")]
    error: f64,
    #[serde(with = "bits")]
    weight: f64,
}

impl Errors {
    /// Adds the sums of some weights.
    pub(crate) fn add(&mut self, scheme: Scheme, sums: SquareSums) {
        if !is_exact(scheme) {
            self.add_sums(&describe_scheme(scheme), sums);
        }
    }

    /// The sums of several shards, in their order.
    pub(crate) fn of(shards: &[FinishedShard]) -> Self {
        let mut errors = Self::default();
        for SchemeSums { scheme, error, weight } in shards.iter().flat_map(|shard| &shard.errors.0) {
            errors.add_sums(scheme, SquareSums { error: *error, weight: *weight });
        }
        errors
    }

    fn add_sums(&mut self, scheme: &str, SquareSums { error, weight }: SquareSums) {
        match self.0.iter_mut().find(|total| total.scheme == scheme) {
            Some(total) => {
                total.error += error;
                total.weight += weight;
            }
            None => self.0.push(SchemeSums { scheme: scheme.to_owned(), error, weight }),
        }
    }

    /// The relative error of a scheme in words: the root of the mean squared error over that of the mean squared weight.
    pub(crate) fn relative(&self, scheme: &str) -> f64 {
        match self.0.iter().find(|total| total.scheme == scheme) {
            Some(SchemeSums { error, weight, .. }) if *error > 0.0 => (error / weight).sqrt(),
            _ => 0.0,
        }
    }

    /// True if these can be the sums of parts of a shard.
    fn can_be_of(&self, parts: &[PlannedPart], plan: &Plan) -> bool {
        let mut expected = Self::default();
        parts.iter().for_each(|part| expected.add(plan.tensors[part.tensor].scheme, SquareSums::default()));
        self.0.iter().map(|total| &total.scheme).eq(expected.0.iter().map(|total| &total.scheme))
    }
}

/// Sums as JSON: the bits of a number in hexadecimal digits, so that every program reads what was written.
mod bits {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{:016x}", number.to_bits()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        let bits = String::deserialize(deserializer)?;
        let number = u64::from_str_radix(&bits, 16).ok().map(f64::from_bits);
        number.filter(|number| number.is_finite() && *number >= 0.0).ok_or_else(|| D::Error::custom("a sum of squares is not a number"))
    }
}

/// True for schemes that hold every weight that they are given: f32, and the 4-bit integers of GPTQ, which are repacked.
pub(crate) fn is_exact(scheme: Scheme) -> bool {
    matches!(scheme, Scheme::F32 | Scheme::Int4 { .. })
}

/// The begin of a shard that a run has made, as it is kept for the next one.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Number of bytes: up to the end of a part of a tensor.
    pub bytes: u64,
    /// The sums over the weights in them.
    pub errors: Errors,
}

impl Progress {
    /// Reads the record of a shard, of one that is finished too, of which `stored` bytes exist. Returns it with the number of whole parts;
    /// `None` if a run cannot go on there. Older versions kept no sums.
    pub(crate) fn read(record: &str, stored: u64, plan: &Plan, shard: &ShardPlan) -> Option<(Self, usize)> {
        let progress: Self = serde_json::from_str(record).ok()?;
        let parts = shard.parts_before(progress.bytes)?;
        (progress.bytes <= stored && progress.errors.can_be_of(&shard.parts[..parts], plan)).then_some((progress, parts))
    }
}

/// A shard that is complete, as it is kept for a run that resumes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FinishedShard {
    /// Its manifest entry.
    #[serde(flatten)]
    pub entry: FileEntry,
    pub(crate) errors: Errors,
}

impl FinishedShard {
    /// The record as JSON: the keys of the entry, and the sums.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).context("could not write the record of a shard as JSON")
    }

    /// Reads a record. (The derived reader of a flat object takes more wasm.)
    pub(crate) fn from_json(record: &str) -> Result<Self> {
        let entry: FileEntry = serde_json::from_str(record).context("the record of a shard cannot be read")?;
        let Progress { errors, .. } = serde_json::from_str(record).context("the record of a shard has no sums")?;
        Ok(Self { entry, errors })
    }

    /// Refuses a record that is not of a shard.
    pub(crate) fn check(&self, plan: &Plan, shard: &ShardPlan) -> Result<()> {
        let FileEntry { file, bytes, .. } = &self.entry;
        ensure!(*file == shard.file && *bytes == shard.bytes, "the record of {} is of {file}, {bytes} bytes", shard.file);
        if let Some(problem) = self.entry.problem() {
            anyhow::bail!("the record of {file}: {problem}");
        }
        ensure!(self.errors.can_be_of(&shard.parts, plan), "the record of {file} has sums of other schemes");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(sums: &[(Scheme, f64, f64)]) -> Errors {
        let mut errors = Errors::default();
        sums.iter().for_each(|(scheme, error, weight)| errors.add(*scheme, SquareSums { error: *error, weight: *weight }));
        errors
    }

    #[test]
    fn sums_pass_through_json_bit_for_bit() {
        let (q4, f16) = (Scheme::Q4Z { group_size: 32 }, Scheme::F16);
        let sums = errors(&[(q4, 0.1 + 0.2, 1.0 / 3.0), (f16, f64::MIN_POSITIVE / 3.0, f64::MAX), (Scheme::F32, 0.0, 1.0)]);
        let json = serde_json::to_string(&sums).unwrap();
        let q4 = r#"{"scheme":"q4z in groups of 32","error":"3fd3333333333334","weight":"3fd5555555555555"}"#;
        let f16 = r#"{"scheme":"f16","error":"0005555555555555","weight":"7fefffffffffffff"}"#;
        assert_eq!(json, format!("[{q4},{f16}]"));
        assert_eq!(serde_json::from_str::<Errors>(&json).unwrap(), sums);
        for number in ["7ff0000000000000", "7ff8000000000000", "bff0000000000000", "", "x", "10000000000000000"] {
            let damaged = json.replace("3fd5555555555555", number);
            assert!(serde_json::from_str::<Errors>(&damaged).is_err(), "{number}");
        }
    }

    #[test]
    fn relative_errors() {
        let (q4, q8) = (Scheme::Q4Z { group_size: 32 }, Scheme::Q8 { group_size: 32 });
        let sums = errors(&[(q4, 1.0, 3.0), (q4, 0.5, 3.0), (q8, 0.0, 0.0), (Scheme::Int4 { group_size: 32 }, 1.0, 1.0)]);
        let found = ["q4z in groups of 32", "q8 in groups of 32", "int4 in groups of 32", "f32"].map(|scheme| sums.relative(scheme));
        assert_eq!(found, [0.5, 0.0, 0.0, 0.0]);
    }
}
