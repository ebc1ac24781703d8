//! Access to intermediate results.

use burn::tensor::Tensor;

/// Callback that receives every intermediate result with its name in the goldens. [`ignore`] does nothing with them.
pub type Observer<'a> = &'a mut dyn FnMut(&str, &Tensor<3>);

/// Ignores the result. For callers that need no [`Observer`].
pub fn ignore(_: &str, _: &Tensor<3>) {}
