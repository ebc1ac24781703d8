//! The model card: `README.md` with the front matter that the Hub reads.

use crate::licence;
use crate::options::{ERROR_WIDTH, Summary};
use crate::source::Source;
use anyhow::Result;
use qwen_vl_format::Family;

/// The card's file name.
pub(crate) const CARD_FILE: &str = "README.md";

/// Bytes of a source's card that are read.
const READ_BYTES: u64 = 64 << 10;
/// Longest entry of a front matter that is copied, bytes.
const ENTRY_BYTES: usize = 1 << 10;

/// The front matter of the card of a conversion, without its two `---`.
///
/// # Arguments
/// * `name` - the name of the source
pub(crate) fn front(source: &Source, name: &str, family: Family) -> Result<String> {
    let published = source.input().find(CARD_FILE).map(|file| file.read_vec(0, file.len().min(READ_BYTES) as usize)).transpose()?;
    let published = String::from_utf8_lossy(&published.unwrap_or_default()).into_owned();
    let entries = entries(front_matter(&published).unwrap_or_default());
    let mut front = String::new();
    for key in ["license", "license_name", "license_link"] {
        front += entries.iter().find(|entry| entry.key == key).map_or("", |entry| entry.text);
    }
    if front.is_empty() {
        front += licence::front_matter(source)?;
    }
    // A repository is the base itself. What its card names as its base is the model that it was trained from.
    let base = match is_repository(name) {
        true => vec![name],
        false => entries.iter().find(|entry| entry.key == "base_model").map(Entry::repositories).unwrap_or_default(),
    };
    match &base[..] {
        [] => {}
        [one] => front += &format!("base_model: {one}\n"),
        several => front += &format!("base_model:\n{}", several.iter().map(|name| format!("- {name}\n")).collect::<String>()),
    }
    if !base.is_empty() {
        front += "base_model_relation: quantized\n";
    }
    let family = match family {
        Family::QwenVl => "qwen_vl",
        Family::Qwen2Vl => "qwen2_vl",
        Family::Qwen25Vl => "qwen2_5_vl",
        Family::Qwen3Vl => "qwen3_vl",
    };
    front += "library_name: qwen-vl-web\npipeline_tag: image-text-to-text\n";
    front += &format!("tags:\n- qwen-vl-web\n- webgpu\n- {family}\n");
    Ok(front)
}

/// Makes a card.
///
/// # Arguments
/// * `front` - its front matter
/// * `name` - the name of the source
/// * `summary` - the contents. With blanks in place of errors, a card has the same length
/// * `modifications` - the changes to the weights, in a sentence
pub(crate) fn card(front: &str, name: &str, summary: &Summary, modifications: &str) -> String {
    text(front, name, summary, modifications, true)
}

/// Makes the card of a web checkpoint whose codes were decoded. The front matter of its card is kept. Errors are left out: those against the
/// original are not known here, and decoding adds none.
#[cfg(feature = "files")]
pub(crate) fn decoded(card: &str, name: &str, summary: &Summary, modifications: &str) -> String {
    text(front_matter(card).unwrap_or_default(), name, summary, modifications, false)
}

/// The sentence below the table that explains its errors.
const EXPLANATION: &str = "The relative error was measured on all weights of a scheme while they were converted: the root mean square of \
                           their changes, divided by their own root mean square.\n\n";

/// The table of the schemes, with a column for errors or without.
fn table(summary: &Summary, with_errors: bool) -> String {
    let column = |cell: String| if with_errors { format!(" {cell} |") } else { String::new() };
    let row = |scheme: &str, tensors: usize, weights: u64, bytes: u64, error: Option<String>| {
        let bits = bytes as f64 * 8.0 / weights.max(1) as f64;
        let error = column(format!("{:>ERROR_WIDTH$}", error.unwrap_or_default()));
        format!("| {scheme} | {tensors} | {weights} | {bytes} | {bits:.2} |{error}\n")
    };
    let (heading, rule) = (column("relative error".to_owned()), column("---:".to_owned()));
    let mut table = format!("| scheme | tensors | weights | bytes | bits a weight |{heading}\n| --- | ---: | ---: | ---: | ---: |{rule}\n");
    for total in &summary.schemes {
        table += &row(&total.scheme, total.tensors, total.weights, total.bytes, total.error_text());
    }
    table + &row("all", summary.tensors, summary.weights, summary.schemes.iter().map(|total| total.bytes).sum(), None)
}

/// The front matter and the text.
fn text(front: &str, name: &str, summary: &Summary, modifications: &str, with_errors: bool) -> String {
    let (table, explanation) = (table(summary, with_errors), if with_errors { EXPLANATION } else { "" });
    let plain: String = name.chars().map(|letter| if letter == '`' || letter.is_control() { '_' } else { letter }).collect();
    let shards = if summary.shards == 1 { "1 shard".to_owned() } else { format!("{} shards", summary.shards) };
    format!(
        "---\n{front}---\n\n\
         # `{plain}` for the browser\n\n\
         The model `{plain}` as a web checkpoint of [qwen-vl-web](https://github.com/qwen-vl-web/qwen-vl-web), which runs it in a browser \
         with WebGPU. It answers questions about pictures and texts on the user's own device.\n\n\
         ## Contents\n\n\
         {table}\n{explanation}\
         The weights are in {shards} of {} bytes in all. `manifest.json` lists every file with its SHA-256.\n\n\
         ## Use\n\n\
         `OWNER/NAME` is the repository that holds these files:\n\n\
         ```js\n\
         import {{ QwenVL }} from \"qwen-vl-web\";\n\n\
         const model = await QwenVL.load(\"hf:OWNER/NAME\");\n\
         ```\n\n\
         The same files work in a folder of any web server: `QwenVL.load(\"https://example.org/model/\")`.\n\n\
         ## Licence and modifications\n\n\
         The licence of the original weights applies: see `LICENSE`, if it is here, and `NOTICE`.\n\n\
         {modifications}\n",
        summary.shard_bytes
    )
}

/// True for `OWNER/NAME`.
fn is_repository(name: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    name.split_once('/').is_some_and(|(owner, name)| plain(owner) && plain(name))
}

/// The lines between the two `---` at the beginning of a card.
fn front_matter(card: &str) -> Option<&str> {
    let rest = card.strip_prefix('\u{feff}').unwrap_or(card).strip_prefix("---")?;
    let (_, front) = rest.split_once('\n').filter(|(end, _)| end.trim().is_empty())?;
    let mut at = 0;
    for line in front.split_inclusive('\n') {
        if line.trim_end() == "---" {
            return Some(&front[..at]);
        }
        at += line.len();
    }
    None
}

/// An entry of a front matter: its lines, which begin with a key.
#[derive(Debug, PartialEq)]
struct Entry<'a> {
    key: &'a str,
    text: &'a str,
}

/// The entries of a front matter. Lines that begin with a space, a hyphen or a comment continue the entry before them.
fn entries(front: &str) -> Vec<Entry<'_>> {
    let mut starts: Vec<usize> = Vec::new();
    let mut at = 0;
    for line in front.split_inclusive('\n') {
        if line.starts_with(|letter: char| letter.is_ascii_alphabetic()) {
            starts.push(at);
        }
        at += line.len();
    }
    let ends = starts.iter().skip(1).copied().chain([at]);
    let entry = |(start, end): (&usize, usize)| {
        let text = &front[*start..end];
        let sound = text.len() <= ENTRY_BYTES && text.ends_with('\n') && !text.contains('\r');
        sound.then_some(Entry { key: text.split_once(':')?.0.trim_end(), text })
    };
    starts.iter().zip(ends).filter_map(entry).collect()
}

impl<'a> Entry<'a> {
    /// The repositories that it names: one, or a list of YAML in either form.
    fn repositories(&self) -> Vec<&'a str> {
        let value = self.text.split_once(':').map_or("", |(_, value)| value);
        let lines = value.lines().flat_map(|line| line.split(','));
        let names = lines.map(|item| item.trim().trim_start_matches(['[', '-']).trim_end_matches(']').trim().trim_matches(['"', '\'']));
        names.filter(|name| is_repository(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_a_front_matter() {
        let front =
            front_matter("---\nlicense: other\nlicense_name: >-\n  a\n  b\ntags:\n- x\n- y\nbase_model: a/b\n---\n# Title\n---\n").unwrap();
        let found: Vec<_> = entries(front).into_iter().map(|entry| (entry.key, entry.text)).collect();
        let expected = [
            ("license", "license: other\n"),
            ("license_name", "license_name: >-\n  a\n  b\n"),
            ("tags", "tags:\n- x\n- y\n"),
            ("base_model", "base_model: a/b\n"),
        ];
        assert_eq!(found, expected);
        for card in ["", "# Title", "---\nlicense: mit\n", "--- x\nlicense: mit\n---\n", "text\n---\nlicense: mit\n---\n"] {
            assert_eq!(front_matter(card), None, "{card:?}");
        }
        assert_eq!(front_matter("---\r\nlicense: mit\r\n---\r\n"), Some("license: mit\r\n"));
    }

    #[test]
    fn names_of_base_models() {
        for (text, names) in [
            ("base_model: Qwen/Qwen2-VL-2B\n", &["Qwen/Qwen2-VL-2B"][..]),
            ("base_model: \"Qwen/Qwen2-VL-2B\"\n", &["Qwen/Qwen2-VL-2B"]),
            ("base_model:\n- a/b\n- 'c/d'\n", &["a/b", "c/d"]),
            ("base_model: [a/b, c/d]\n", &["a/b", "c/d"]),
            ("base_model: ./folder/of/mine\n", &[]),
            ("base_model: a: {b/c}\n", &[]),
        ] {
            assert_eq!(Entry { key: "base_model", text }.repositories(), names, "{text}");
        }
    }
}
