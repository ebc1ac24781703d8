//! Byte-level BPE: tokens as texts in which each character stands for a byte, and a list of merges.

use anyhow::{Context, Result, bail, ensure};
use qwen_vl_format::{AddedToken, Vocabulary};
use serde_json::Value;
use std::collections::HashMap;

/// Tokens of one byte.
const BYTES: usize = 256;

/// A vocabulary and its merges as the files have them.
pub(super) struct Merges {
    /// Texts by id. The characters stand for bytes.
    tokens: HashMap<u64, String>,
    merges: Vec<[String; 2]>,
}

impl Merges {
    /// The `model` of a `tokenizer.json`.
    pub(super) fn of_json(model: &Value) -> Result<Self> {
        let list = model["merges"].as_array().context("`model.merges` is missing")?;
        let merge = |merge: &Value| match merge {
            // In files of before tokenizers 0.20.
            Value::String(merge) => pair(merge),
            merge => serde_json::from_value(merge.clone()).ok(),
        };
        let merges = list.iter().enumerate().map(|(number, found)| {
            merge(found).with_context(|| format!("merge {number} of `model.merges` is {found}, expected two tokens"))
        });
        Ok(Self { tokens: tokens(&model["vocab"]).context("`model.vocab`")?, merges: merges.collect::<Result<_>>()? })
    }

    /// The contents of `vocab.json` and `merges.txt`.
    pub(super) fn of_files(vocabulary: &Value, merges: &str) -> Result<Self> {
        let is_header = |line: usize, text: &str| line == 0 && text.starts_with("#version");
        let lines = merges.lines().enumerate().filter(|(line, text)| !text.is_empty() && !is_header(*line, text));
        let merges = lines.map(|(line, text)| {
            pair(text).with_context(|| format!("line {} of the merges is `{text}`, expected two tokens with a blank between", line + 1))
        });
        Ok(Self { tokens: tokens(vocabulary)?, merges: merges.collect::<Result<_>>()? })
    }

    /// The tokens by rank. Checks that the merges follow from the ranks, which the web checkpoint keeps alone.
    pub(super) fn vocabulary(mut self, added: &[AddedToken]) -> Result<Vocabulary> {
        // Some files list the added tokens among the others.
        for token in added {
            if self.tokens.get(&u64::from(token.id)) == Some(&token.text) {
                self.tokens.remove(&u64::from(token.id));
            }
        }
        let count = self.tokens.len();
        ensure!(
            count == BYTES + self.merges.len(),
            "it has {count} tokens and {} merges, expected {BYTES} tokens more than merges",
            self.merges.len()
        );
        let bytes = bytes_by_char();
        let decoded = |text: &str| -> Result<Vec<u8>> {
            let byte = |char| bytes.get(&char).copied().with_context(|| format!("`{text}` has `{char}`, which stands for no byte"));
            text.chars().map(byte).collect()
        };
        let mut by_rank = Vec::with_capacity(count);
        for id in 0..count as u64 {
            let text = self.tokens.get(&id).with_context(|| format!("it has {count} tokens, and none has the id {id}"))?;
            by_rank.push(decoded(text).with_context(|| format!("token {id}"))?);
        }
        for (number, [left, right]) in self.merges.iter().enumerate() {
            let rank = BYTES + number;
            ensure!(
                by_rank[rank] == [decoded(left)?, decoded(right)?].concat(),
                "merge {number} (`{left}` and `{right}`) does not make token {rank}: the ids are not the order of the merges"
            );
        }
        let vocabulary = Vocabulary::from_tokens(&by_rank)?;
        for (number, [left, right]) in self.merges.iter().enumerate() {
            let rank = BYTES + number;
            let Some([first, second]) = vocabulary.last_merge(rank as u32) else {
                bail!("merge {number} (`{left}` and `{right}`): no sequence of earlier merges leads to token {rank}");
            };
            ensure!(
                *first == decoded(left)?,
                "merge {number} is `{left}` and `{right}`, but by the order of the tokens the parts of token {rank} have {} and {} bytes",
                first.len(),
                second.len()
            );
        }
        Ok(vocabulary)
    }
}

/// Returns the contents of `vocab.json` and `merges.txt` for a vocabulary whose first 256 tokens are the bytes.
pub fn bpe_files(vocabulary: &Vocabulary) -> Result<[String; 2]> {
    let chars: HashMap<u8, char> = bytes_by_char().into_iter().map(|(char, byte)| (byte, char)).collect();
    let text = |token: &[u8]| -> String { token.iter().map(|byte| chars[byte]).collect() };
    let tokens: serde_json::Map<String, Value> =
        (0..).zip(vocabulary.tokens()).map(|(rank, token)| (text(token), Value::from(rank))).collect();
    let mut merges = "#version: 0.2\n".to_owned();
    for rank in BYTES as u32..vocabulary.len() as u32 {
        let [left, right] = vocabulary.last_merge(rank).with_context(|| format!("no sequence of merges leads to token {rank}"))?;
        merges += &format!("{} {}\n", text(left), text(right));
    }
    Ok([Value::from(tokens).to_string(), merges])
}

/// Two tokens with a blank between.
fn pair(text: &str) -> Option<[String; 2]> {
    let (left, right) = text.split_once(' ')?;
    (!left.is_empty() && !right.is_empty() && !right.contains(' ')).then(|| [left.to_owned(), right.to_owned()])
}

/// The texts of a vocabulary by id.
fn tokens(vocabulary: &Value) -> Result<HashMap<u64, String>> {
    let entries = vocabulary.as_object().context("is not an object of tokens and ids")?;
    let mut tokens = HashMap::with_capacity(entries.len());
    for (text, id) in entries {
        let id = id.as_u64().with_context(|| format!("token `{text}` has the id {id}"))?;
        if let Some(other) = tokens.insert(id, text.clone()) {
            bail!("tokens `{other}` and `{text}` have the id {id}");
        }
    }
    Ok(tokens)
}

/// The byte that each character of a byte-level token stands for (`bytes_to_unicode` of GPT-2): a printable character of Latin-1 for its
/// own byte, and the characters from U+0100 on for the other bytes in their order.
fn bytes_by_char() -> HashMap<char, u8> {
    let printable = |byte: &u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let others = (0..=u8::MAX).filter(|byte| !printable(byte)).zip('\u{100}'..).map(|(byte, char)| (char, byte));
    (0..=u8::MAX).filter(printable).map(|byte| (char::from(byte), byte)).chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Characters of the 256 bytes, in the order of the published vocabulary: the printable ones first.
    fn single() -> Vec<String> {
        let mut chars: Vec<char> = bytes_by_char().into_keys().collect();
        chars.sort_unstable();
        chars.into_iter().map(String::from).collect()
    }

    fn merges(tokens: &[&str], pairs: &[[&str; 2]]) -> Merges {
        let texts = single().into_iter().chain(tokens.iter().map(|token| (*token).to_owned()));
        Merges { tokens: (0..).zip(texts).collect(), merges: pairs.iter().map(|pair| pair.map(str::to_owned)).collect() }
    }

    #[test]
    fn characters_stand_for_bytes() {
        let bytes = bytes_by_char();
        assert_eq!(bytes.len(), 256);
        for (char, byte) in
            [('!', 0x21), ('~', 0x7e), ('Ā', 0), ('Ġ', b' '), ('Ċ', b'\n'), ('ġ', 0x7f), ('ł', 0xa0), ('Ń', 0xad), ('ÿ', 0xff)]
        {
            assert_eq!(bytes[&char], byte, "{char}");
        }
    }

    #[test]
    fn ranks_of_merges() {
        let vocabulary =
            merges(&["ab", "Ġab", "cd", "Ġabcd"], &[["a", "b"], ["Ġ", "ab"], ["c", "d"], ["Ġab", "cd"]]).vocabulary(&[]).unwrap();
        assert_eq!(
            (vocabulary.len(), vocabulary.token(257), vocabulary.token(259)),
            (260, Some(b" ab".as_slice()), Some(b" abcd".as_slice()))
        );
        assert_eq!(vocabulary.token(0), Some(b"!".as_slice()));
        let added = AddedToken { id: 257, text: "<|x|>".into(), special: true };
        let mut with_added = merges(&["ab", "<|x|>"], &[["a", "b"]]);
        assert_eq!(with_added.tokens.len(), 258);
        with_added = Merges { tokens: with_added.tokens, merges: with_added.merges };
        assert_eq!(with_added.vocabulary(&[added]).unwrap().len(), 257);
    }

    #[test]
    fn what_ranks_alone_cannot_hold() {
        let error = |tokens: &[&str], pairs: &[[&str; 2]]| format!("{:#}", merges(tokens, pairs).vocabulary(&[]).unwrap_err());
        for (found, part) in [
            (error(&["ab"], &[]), "257 tokens and 0 merges"),
            (error(&["ab", "cd"], &[["c", "d"], ["a", "b"]]), "merge 0 (`c` and `d`) does not make token 256"),
            (error(&["ab", "bc", "abc"], &[["a", "b"], ["b", "c"], ["a", "bc"]]), "parts of token 258 have 2 and 1 bytes"),
            (error(&["abc"], &[["ab", "c"]]), "no sequence of earlier merges leads to token 256"),
            (error(&["a€"], &[["a", "€"]]), "stands for no byte"),
            (error(&["ab", "ab"], &[["a", "b"], ["a", "b"]]), "same token"),
        ] {
            assert!(found.contains(part), "`{part}` is not in: {found}");
        }
    }

    #[test]
    fn forms_of_files() {
        let text = "#version: 0.2\nĠ Ġ\n# #\n\n";
        let merges = Merges::of_files(&serde_json::json!({"!": 0}), text).unwrap();
        assert_eq!(merges.merges, [["Ġ", "Ġ"], ["#", "#"]].map(|pair| pair.map(str::to_owned)));
        for bad in ["Ġ\n", "a b c\n", " a\n"] {
            assert!(Merges::of_files(&serde_json::json!({}), bad).is_err(), "{bad}");
        }
        let json = serde_json::json!({"vocab": {"!": 0}, "merges": [["Ġ", "Ġ"], "# #"]});
        assert_eq!(Merges::of_json(&json).unwrap().merges, merges.merges);
        for bad in [
            serde_json::json!({"vocab": {"!": 0}}),
            serde_json::json!({"vocab": {"!": 0}, "merges": [["a"]]}),
            serde_json::json!({"vocab": {"!": -1}, "merges": []}),
            serde_json::json!({"vocab": {"!": 0, "#": 0}, "merges": []}),
            serde_json::json!({"merges": []}),
        ] {
            assert!(Merges::of_json(&bad).is_err(), "{bad}");
        }
    }
}
