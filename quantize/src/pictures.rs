//! The settings of pictures: `preprocessor_config.json`, or `image_processor` in `processor_config.json`.

use crate::source::Files;
use crate::source::json::Json;
use anyhow::{Context, Result, bail, ensure};
use qwen_vl_format::{Family, IMAGE_MEAN, IMAGE_STD, ModelConfig};
use serde_json::Value;

const OLD_FILE: &str = "preprocessor_config.json";
const NEW_FILE: &str = "processor_config.json";

/// The settings of pictures that a web checkpoint has.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pictures {
    pub mean: [f32; 3],
    pub std: [f32; 3],
    pub min_pixels: Option<u64>,
    pub max_pixels: Option<u64>,
}

/// The published settings.
fn published(family: Family) -> Pictures {
    let (mean, std) = match family {
        Family::QwenVl | Family::Qwen2Vl | Family::Qwen25Vl => (IMAGE_MEAN, IMAGE_STD),
        Family::Qwen3Vl => ([0.5; 3], [0.5; 3]),
    };
    let (min_pixels, max_pixels) = match family {
        Family::QwenVl => (None, None),
        Family::Qwen2Vl | Family::Qwen25Vl => (Some(3136), Some(12_845_056)),
        Family::Qwen3Vl => (Some(65_536), Some(16_777_216)),
    };
    Pictures { mean, std, min_pixels, max_pixels }
}

/// Reads the settings and checks them against the configuration. Adds notes about missing and contradicting values.
pub(crate) fn read(input: &Files, config: &ModelConfig, notes: &mut Vec<String>) -> Result<Pictures> {
    let published = published(config.family);
    // The 2023 model has its settings in the code.
    let Some(merger) = &config.vision.merger else { return Ok(published) };
    let Some((file, json)) = find(input)? else {
        notes.push(format!("there is neither {OLD_FILE} nor {NEW_FILE}: the published settings of pictures are used"));
        return Ok(published);
    };
    let file = Settings { file, json };
    for (key, expected) in [("patch_size", config.vision.patch_size), ("merge_size", merger.size), ("temporal_patch_size", 2)] {
        file.only(key, &expected.into())?;
    }
    for key in ["do_resize", "do_rescale", "do_normalize"] {
        file.only(key, &true.into())?;
    }
    // Bicubic.
    file.only("resample", &3.into())?;
    let rescale = file.json["rescale_factor"].as_f64().unwrap_or(1.0 / 255.0);
    ensure!((rescale * 255.0 - 1.0).abs() < 1e-6, "{}: `rescale_factor` is {rescale}, expected 1/255", file.file);

    let mut pixels = [None; 2];
    for (found, [key, edge]) in pixels.iter_mut().zip([["min_pixels", "shortest_edge"], ["max_pixels", "longest_edge"]]) {
        let size = &file.json["size"];
        let (own, of_size) = (file.pixels(key, &file.json[key])?, file.pixels(&format!("size.{edge}"), &size[edge])?);
        if let (Some(own), Some(of_size)) = (own, of_size)
            && own != of_size
        {
            notes.push(format!("{}: `{key}` is {own} and `size.{edge}` is {of_size}: {own} is used, as in transformers", file.file));
        }
        *found = own.or(of_size);
    }
    let [min_pixels, max_pixels] = pixels;
    let [Some(min), Some(max)] = [min_pixels.or(published.min_pixels), max_pixels.or(published.max_pixels)] else {
        bail!("{}: `min_pixels` and `max_pixels` are missing", file.file)
    };
    ensure!(min <= max, "{}: `min_pixels` is {min} and `max_pixels` is {max}, expected at least as many", file.file);
    Ok(Pictures {
        mean: file.channels("image_mean")?.unwrap_or(published.mean),
        std: file.channels("image_std")?.unwrap_or(published.std),
        min_pixels: Some(min),
        max_pixels: Some(max),
    })
}

/// The settings of pictures and the name of their file.
fn find(input: &Files) -> Result<Option<(&'static str, Value)>> {
    if let Some(file) = input.find(NEW_FILE) {
        let settings = &Json::read(file)?.value["image_processor"];
        if settings.is_object() {
            return Ok(Some((NEW_FILE, settings.clone())));
        }
    }
    input.find(OLD_FILE).map(|file| Ok((OLD_FILE, Json::read(file)?.value))).transpose()
}

struct Settings {
    file: &'static str,
    json: Value,
}

impl Settings {
    /// Refuses every value of a key but one. The key may be absent.
    fn only(&self, key: &str, expected: &Value) -> Result<()> {
        let found = &self.json[key];
        ensure!(found.is_null() || found == expected, "{}: `{key}` is {found}, expected {expected}", self.file);
        Ok(())
    }

    fn pixels(&self, key: &str, value: &Value) -> Result<Option<u64>> {
        if value.is_null() {
            return Ok(None);
        }
        let pixels = value.as_u64().filter(|pixels| (1..=1 << 32).contains(pixels));
        pixels.map(Some).with_context(|| format!("{}: `{key}` is {value}, expected a number of pixels", self.file))
    }

    fn channels(&self, key: &str) -> Result<Option<[f32; 3]>> {
        let value = &self.json[key];
        if value.is_null() {
            return Ok(None);
        }
        let channels = serde_json::from_value(value.clone()).ok();
        channels.map(Some).with_context(|| format!("{}: `{key}` is {value}, expected three numbers", self.file))
    }
}
