//! The wasm edge of answers that have a form, for a separate worker, which starts with the first of them.
#![deny(clippy::expect_used, clippy::unwrap_used)]

use js_sys::{Object, Reflect};
use qwen_vl_constrain::{ConstrainError, Form, Token};
use wasm_bindgen::prelude::*;

/// Runs once when the module is instantiated.
#[wasm_bindgen(start)]
fn start() {
    console_error_panic_hook::set_once();
}

/// A vocabulary, prepared for forms.
#[wasm_bindgen]
pub struct Constrainer(qwen_vl_constrain::Constrainer);

#[wasm_bindgen]
impl Constrainer {
    /// Prepares a vocabulary. `bytes` are those of all tokens in the order of their ids, and `ends` the index after the last byte of each. `special`
    /// are the ids of the tokens that are not part of a text, and `stops` those that end it.
    #[wasm_bindgen(constructor)]
    pub fn new(bytes: &[u8], ends: &[u32], special: &[u32], stops: &[u32]) -> Result<Self, JsValue> {
        let mut is_special = vec![false; ends.len()];
        special.iter().filter_map(|id| usize::try_from(*id).ok()).for_each(|id| {
            if let Some(flag) = is_special.get_mut(id) {
                *flag = true;
            }
        });
        let mut start = 0;
        let tokens = ends.iter().zip(&is_special).map(|(end, special)| {
            let bytes = bytes.get(start..*end as usize).unwrap_or_default();
            start = *end as usize;
            Token { bytes, special: *special }
        });
        Ok(Self(qwen_vl_constrain::Constrainer::new(tokens, stops).map_err(thrown)?))
    }

    /// Compiles a form, a `Form`, for a text that begins with `prefix`.
    pub fn open(&mut self, form: JsValue, prefix: &str) -> Result<Constrained, JsValue> {
        let form: Form = serde_wasm_bindgen::from_value(form).map_err(|error| coded("INVALID_ARGUMENT", &error.to_string()))?;
        Ok(Constrained(self.0.open(&form, prefix).map_err(thrown)?))
    }
}

/// The state of one text.
#[wasm_bindgen]
pub struct Constrained(qwen_vl_constrain::Constrained);

#[wasm_bindgen]
impl Constrained {
    /// Takes the latest token of the text, if there is one, and returns the tokens that may come next, a bit each.
    pub fn next(&mut self, token: Option<u32>) -> Result<Vec<u32>, JsValue> {
        if let Some(token) = token {
            self.0.accept(token).map_err(thrown)?;
        }
        self.0.allowed().map_err(thrown)
    }
}

fn thrown(error: ConstrainError) -> JsValue {
    let code = match error {
        ConstrainError::Form { .. } | ConstrainError::Prefix { .. } | ConstrainError::Mask { .. } => "INVALID_ARGUMENT",
        ConstrainError::Vocabulary { .. } | ConstrainError::Token { .. } => "INTERNAL",
    };
    coded(code, &error.to_string())
}

fn coded(code: &str, message: &str) -> JsValue {
    let object: Object = js_sys::Error::new(message).into();
    // Setting a property of a new object cannot fail.
    let _ = Reflect::set(&object, &"code".into(), &code.into());
    object.into()
}
