//! The files that the weights' licence requires next to changed weights: the agreement, a notice, and a statement of the change.

use crate::source::{InputFile, Source};
use anyhow::Result;
use qwen_vl_format::Family;

/// The file with the changes to the weights.
pub(crate) const MODIFICATIONS_FILE: &str = "MODIFICATIONS";

/// The names that the licence has in checkpoints.
const NAMES: [&str; 5] = ["LICENSE", "LICENSE.txt", "LICENSE.md", "License", "LICENCE"];

/// The licence files of an output folder, by name.
pub(crate) fn files(source: &Source, family: Family, modifications: &str) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let licence = first_of(source, &NAMES)?;
    let notice = first_of(source, &["NOTICE", "NOTICE.txt", "NOTICE.md", "Notice"])?;
    let mut text = match notice {
        Some(bytes) => String::from_utf8_lossy(&bytes).trim_end().to_owned() + "\n\n",
        None => String::new(),
    };
    // Prescribed by section 3(c) of the agreement.
    const TONGYI: &str =
        "Tongyi Qianwen is licensed under the Tongyi Qianwen LICENSE AGREEMENT, Copyright (c) Alibaba Cloud. All Rights Reserved.";
    let tongyi = licence.as_ref().is_some_and(|bytes| String::from_utf8_lossy(bytes).contains("Tongyi Qianwen"));
    if tongyi && !text.contains(TONGYI) {
        text += &format!("{TONGYI}\n\n");
    }
    if licence.is_none() {
        text += "No licence file came with the converted checkpoint. ";
        text += &match family {
            Family::QwenVl => format!(
                "If its weights derive from the published Qwen-VL, this applies to them:\n{TONGYI}\n\
                 That agreement requires that a copy of it is passed on with the weights.\n\n"
            ),
            Family::Qwen2Vl => apache("Qwen2-VL-2B and Qwen2-VL-7B"),
            Family::Qwen25Vl => format!(
                "{}The published Qwen2.5-VL-3B has the Qwen Research License, which excludes commercial use.\n\n",
                apache("Qwen2.5-VL-7B")
            ),
            Family::Qwen3Vl => apache("Qwen3-VL"),
        };
    }
    text += "The weights in this folder were changed: see MODIFICATIONS.\n";

    let mut files = Vec::new();
    if let Some(bytes) = licence {
        files.push(("LICENSE", bytes));
    }
    files.push(("NOTICE", text.into_bytes()));
    files.push((MODIFICATIONS_FILE, modifications_file(modifications)));
    Ok(files)
}

/// The contents of [`MODIFICATIONS_FILE`].
pub(crate) fn modifications_file(modifications: &str) -> Vec<u8> {
    format!("{modifications}\n").into_bytes()
}

/// The entries of the Hub's front matter for the licence file of the source; none if it is missing or another.
pub(crate) fn front_matter(source: &Source) -> Result<&'static str> {
    let licence = first_of(source, &NAMES)?.unwrap_or_default();
    let licence = String::from_utf8_lossy(&licence);
    Ok(if licence.contains("Tongyi Qianwen") {
        "license: other\nlicense_name: tongyi-qianwen\nlicense_link: LICENSE\n"
    } else if licence.contains("Apache License") && licence.contains("Version 2.0") {
        "license: apache-2.0\n"
    } else {
        ""
    })
}

/// A sentence about published models under the Apache License.
fn apache(models: &str) -> String {
    format!(
        "If its weights derive from the published {models}, the Apache License 2.0 applies to them, Copyright (c) Alibaba Cloud.\n\
         That licence requires that a copy of it (https://www.apache.org/licenses/LICENSE-2.0) is passed on with the weights.\n\n"
    )
}

/// Reads the first of the named files that the source has.
fn first_of(source: &Source, names: &[&str]) -> Result<Option<Vec<u8>>> {
    names.iter().find_map(|name| source.input().find(name)).map(InputFile::read_all).transpose()
}
