//! AdamW over one long vector of all trained weights. It clips by the norm of all gradients together, and each weight has its own learning
//! rate and weight decay. (burn's own optimiser clips each tensor separately and has one rate for a module.)

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor, TensorData};
use qwen_vl_reference::QwenVl;

// Table 8 of the paper, except for `EPSILON`.
const BETA_1: f32 = 0.9;
const BETA_2: f32 = 0.98;
/// The paper's 1e-6 is not small compared with the gradients of such a small tower.
const EPSILON: f32 = 1e-8;
const WEIGHT_DECAY: f32 = 0.05;
const CLIP: f32 = 1.0;

/// State of the optimiser. All tensors are `[weights]`, outside autodiff.
pub struct AdamW {
    trained: Vec<String>,
    weights: Tensor<1>,
    first_moment: Tensor<1>,
    second_moment: Tensor<1>,
    /// Factors of the learning rate.
    rates: Tensor<1>,
    /// Weight decays.
    decay: Tensor<1>,
    steps: i32,
}

/// Saved state of the optimiser.
pub struct State {
    /// Number of finished steps.
    pub steps: usize,
    /// Running mean of the gradient.
    pub first_moment: Vec<f32>,
    /// Running mean of the squared gradient.
    pub second_moment: Vec<f32>,
}

impl AdamW {
    /// Creates the optimiser of the tensors for which `rate` returns a factor of the learning rate. The others are frozen. Also returns the
    /// model, in which only the trained tensors require gradients.
    pub fn new(model: QwenVl, rate: impl Fn(&str) -> Option<f64>, saved: Option<State>) -> (Self, QwenVl) {
        let device = model.device().without_autodiff();
        let mut layout = Layout { rate, path: vec![], trained: vec![], weights: vec![], rates: vec![], decay: vec![] };
        let model = model.map(&mut layout);
        let count = layout.rates.len();
        let vector = |values: Vec<f32>| {
            assert_eq!(values.len(), count, "the saved state belongs to other weights");
            Tensor::from_data(TensorData::new(values, [count]), &device)
        };
        let saved = saved.unwrap_or_else(|| State { steps: 0, first_moment: vec![0.0; count], second_moment: vec![0.0; count] });
        let optimizer = Self {
            weights: Tensor::cat(layout.weights, 0),
            first_moment: vector(saved.first_moment),
            second_moment: vector(saved.second_moment),
            rates: vector(layout.rates),
            decay: vector(layout.decay),
            steps: saved.steps as i32,
            trained: layout.trained,
        };
        (optimizer, model)
    }

    /// Returns the number of trained weights.
    pub fn count(&self) -> usize {
        self.weights.dims()[0]
    }

    /// Makes one step. Returns the model and the norm of the gradient before clipping.
    pub fn step(&mut self, model: QwenVl, gradients: &mut Gradients, rate: f64) -> (QwenVl, f32) {
        let mut collector = Collector { gradients, trained: &self.trained, path: vec![], found: vec![] };
        model.visit(&mut collector);
        let gradient = Tensor::cat(collector.found, 0);
        let norm: f32 = gradient.clone().square().sum().sqrt().into_scalar();
        let gradient = gradient * (CLIP / (norm + 1e-6)).min(1.0);

        self.steps += 1;
        self.first_moment = self.first_moment.clone() * BETA_1 + gradient.clone() * (1.0 - BETA_1);
        self.second_moment = self.second_moment.clone() * BETA_2 + gradient.square() * (1.0 - BETA_2);
        let (first, second) = (1.0 - BETA_1.powi(self.steps), 1.0 - BETA_2.powi(self.steps));
        let root = (self.second_moment.clone() / second).sqrt() + EPSILON;
        let update = self.first_moment.clone() / first / root + self.weights.clone() * self.decay.clone();
        self.weights = self.weights.clone() - update * self.rates.clone() * rate as f32;

        let mut writer = Writer { weights: &self.weights, trained: &self.trained, path: vec![], at: 0 };
        (model.map(&mut writer), norm)
    }

    /// Returns the state to save.
    pub fn state(&self) -> State {
        let values = |tensor: &Tensor<1>| tensor.to_data().try_to_vec::<f32>().expect("weights are f32");
        State { steps: self.steps as usize, first_moment: values(&self.first_moment), second_moment: values(&self.second_moment) }
    }
}

/// Returns the gradients of the tensors that require them, by name.
#[cfg(test)]
pub fn gradients_by_name(model: &QwenVl, gradients: &mut Gradients) -> std::collections::BTreeMap<String, Vec<f32>> {
    struct Reader<'a>(Vec<String>, &'a mut Gradients, std::collections::BTreeMap<String, Vec<f32>>);
    impl ModuleVisitor for Reader<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.push(name.to_owned());
        }

        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.pop();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = param.val().grad_remove(self.1) {
                self.2.insert(self.0.join("."), gradient.to_data().try_to_vec::<f32>().expect("gradients are f32"));
            }
        }
    }
    let mut reader = Reader(vec![], gradients, Default::default());
    model.visit(&mut reader);
    reader.2
}

/// True if weight decay applies to a tensor: it does not apply to norms, biases and tables.
fn decays(name: &str, dimensions: usize) -> bool {
    dimensions > 1 && !name.ends_with("positional_embedding") && !name.ends_with("query")
}

struct Layout<F> {
    rate: F,
    path: Vec<String>,
    trained: Vec<String>,
    weights: Vec<Tensor<1>>,
    rates: Vec<f32>,
    decay: Vec<f32>,
}

impl<F: Fn(&str) -> Option<f64>> ModuleMapper for Layout<F> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.join(".");
        let Some(rate) = (self.rate)(&name) else { return param.set_require_grad(false) };
        let weights = param.val().inner();
        let count: usize = weights.dims().iter().product();
        self.weights.push(weights.reshape([count]));
        self.rates.resize(self.rates.len() + count, rate as f32);
        let decay = if decays(&name, D) { WEIGHT_DECAY } else { 0.0 };
        self.decay.resize(self.decay.len() + count, decay);
        self.trained.push(name);
        param.set_require_grad(true)
    }
}

struct Collector<'a> {
    gradients: &'a mut Gradients,
    trained: &'a [String],
    path: Vec<String>,
    found: Vec<Tensor<1>>,
}

impl ModuleVisitor for Collector<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.trained.get(self.found.len()) != Some(&self.path.join(".")) {
            return;
        }
        let weights = param.val();
        let count: usize = weights.dims().iter().product();
        // After a batch without pictures, the visual part has no gradients.
        let gradient = weights.grad_remove(self.gradients).unwrap_or_else(|| weights.inner().zeros_like());
        self.found.push(gradient.reshape([count]));
    }
}

struct Writer<'a> {
    weights: &'a Tensor<1>,
    trained: &'a [String],
    path: Vec<String>,
    at: usize,
}

impl ModuleMapper for Writer<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.trained.first() != Some(&self.path.join(".")) {
            return param;
        }
        self.trained = &self.trained[1..];
        let shape = param.dims();
        let count: usize = shape.iter().product();
        let weights = self.weights.clone().narrow(0, self.at, count).reshape(shape);
        self.at += count;
        param.map(|_| weights.autodiff().require_grad())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::initial;
    use crate::recipe::Recipe;
    use qwen_vl_reference::Weights;
    use qwen_vl_reference::burn::tensor::Device;

    /// Computes a loss with a known gradient: the sum of `factor · weight` over two tensors. The gradient of each weight is `factor`.
    fn loss(model: &QwenVl, factor: f32) -> Tensor<1> {
        (model.lm_head.weight.val().sum() + model.transformer.ln_f.weight.val().sum()) * factor
    }

    #[test]
    fn two_steps_follow_the_formula() {
        let recipe = Recipe::read("nano").unwrap();
        let config = recipe.config(56).unwrap();
        let before = initial::weights(&config, 1);
        let model = QwenVl::zeros(&config, &Device::flex().autodiff()).load(before.clone()).unwrap();
        let trained = |name: &str| match name {
            "lm_head.weight" => Some(1.0),
            "transformer.ln_f.weight" => Some(0.5),
            _ => None,
        };
        let (mut optimizer, mut model) = AdamW::new(model, trained, None);
        let count = config.vocab_size * config.hidden_size + config.hidden_size;
        assert_eq!(optimizer.count(), count);

        let mut want: Vec<(&str, f64, f64, Vec<f64>)> = [("lm_head.weight", 1.0, 0.05), ("transformer.ln_f.weight", 0.5, 0.0)]
            .map(|(name, factor, decay)| (name, factor, decay, before[name].values.iter().map(|value| f64::from(*value)).collect()))
            .into();
        let (mut m, mut v) = (0.0f64, 0.0f64);
        let rate = 1e-2;
        for (step, factor) in [(1, 0.5f64), (2, -2.0)] {
            let mut gradients = loss(&model, factor as f32).backward();
            let norm;
            (model, norm) = optimizer.step(model, &mut gradients, rate);
            let exact = factor.abs() * (count as f64).sqrt();
            assert!((f64::from(norm) / exact - 1.0).abs() < 1e-4, "norm {norm}, expected {exact}");
            let clipped = factor / exact;
            m = 0.9 * m + 0.1 * clipped;
            v = 0.98 * v + 0.02 * clipped * clipped;
            let update = m / (1.0 - 0.9f64.powi(step)) / ((v / (1.0 - 0.98f64.powi(step))).sqrt() + 1e-6);
            for (_, factor, decay, values) in &mut want {
                values.iter_mut().for_each(|value| *value -= rate * *factor * (update + *decay * *value));
            }
        }
        let after: Weights = model.weights();
        for (name, _, _, values) in want {
            for (got, want) in after[name].values.iter().zip(values) {
                assert!((f64::from(*got) - want).abs() < 1e-5, "{name}: {got}, expected {want}");
            }
        }
        for (name, weight) in before {
            assert!(trained(&name).is_some() || weight == after[&name], "{name}: a frozen tensor changed");
        }
    }
}
