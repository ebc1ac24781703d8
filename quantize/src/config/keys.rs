//! Keys of a JSON object, with their path for messages.

use qwen_vl_format::ConfigError;
use qwen_vl_format::config::unsupported;
use serde::de::Error;
use serde_json::Value;

/// An object of a configuration, at most two levels deep. Null counts as absent.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    /// Keys that lead to the object; empty strings at the top.
    path: [&'static str; 2],
    value: &'a Value,
}

impl<'a> Keys<'a> {
    /// The whole file.
    pub(super) fn root(value: &'a Value) -> Self {
        Self { path: [""; 2], value }
    }

    /// The path of a key, with dots.
    pub(super) fn path(&self, key: &str) -> String {
        self.path.into_iter().filter(|part| !part.is_empty()).chain([key]).collect::<Vec<_>>().join(".")
    }

    /// The error for a key that is missing.
    pub(super) fn missing(&self, key: &str) -> ConfigError {
        ConfigError::from(serde_json::Error::custom(format!("missing field `{}`", self.path(key))))
    }

    pub(super) fn value(&self, key: &str) -> Option<&'a Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn required(&self, key: &str) -> Result<&'a Value, ConfigError> {
        self.value(key).ok_or_else(|| self.missing(key))
    }

    /// The object of this key, if there is one.
    pub(super) fn object(&self, key: &'static str) -> Option<Self> {
        let [first, _] = self.path;
        let path = if first.is_empty() { [key, ""] } else { [first, key] };
        self.value(key).filter(|value| value.is_object()).map(|value| Self { path, value })
    }

    fn read<T>(&self, key: &str, expected: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| unsupported(self.path(key), value, expected))
    }

    pub(super) fn optional_size(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        self.read(key, "a positive integer", |value| value.as_u64().and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0))
    }

    pub(super) fn size(&self, key: &str) -> Result<usize, ConfigError> {
        self.optional_size(key)?.ok_or_else(|| self.missing(key))
    }

    pub(super) fn optional_token(&self, key: &str) -> Result<Option<u32>, ConfigError> {
        self.read(key, "the id of a token", |value| value.as_u64().and_then(|id| u32::try_from(id).ok()))
    }

    pub(super) fn token(&self, key: &str) -> Result<u32, ConfigError> {
        self.optional_token(key)?.ok_or_else(|| self.missing(key))
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        self.read(key, "a number", Value::as_f64)
    }

    pub(super) fn required_number(&self, key: &str) -> Result<f64, ConfigError> {
        self.number(key)?.ok_or_else(|| self.missing(key))
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.read(key, "true or false", Value::as_bool)
    }

    /// Refuses every value of a key but one. The key may be absent.
    pub(super) fn only(&self, key: &str, expected: impl Into<Value>) -> Result<(), ConfigError> {
        let expected = expected.into();
        let equal = |found: &Value| *found == expected || found.as_f64().is_some_and(|found| expected.as_f64() == Some(found));
        match self.value(key).filter(|found| !equal(found)) {
            Some(found) => Err(unsupported(self.path(key), found, expected)),
            None => Ok(()),
        }
    }

    /// Refuses every value of a key but some texts. Returns the text, if the key is there.
    pub(super) fn one_of(&self, key: &str, expected: &[&str]) -> Result<Option<&'a str>, ConfigError> {
        self.read(key, &format!("one of {}", expected.join(", ")), |value| value.as_str().filter(|text| expected.contains(text)))
    }
}
