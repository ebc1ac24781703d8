//! The choice of the kernel set: by what is known about the adapter, then by measurement.

use crate::attention::{Attention, Heads, Span, attention_split, split_bytes};
use crate::chosen::{Choice, ChoiceOrigin, Trial, record};
use crate::matmul::{Epilogue, Product, matmul, matvec, packed_bytes};
use crate::{Dispatch, Gpu, GpuError, Kernels, Precision, StepBuffer, Temporary, Weight, WeightPart, encode};
use qwen_vl_format::Scheme;
use web_time::Instant;

/// Duration of a submission, in milliseconds. Short launches are batched up to it, so that the overhead of submitting is small.
const SUBMISSION_MILLIS: f64 = 4.0;
/// Most passes of a submission: encoding more would take longer than running them.
const MAX_PASSES: f64 = 64.0;
/// Rounds in which every variant is measured; its best counts.
const ROUNDS: usize = 3;
/// Time after which the kernels of decoding are not measured further, in milliseconds. The best set so far stays.
const DEADLINE_MILLIS: f64 = 2000.0;
/// Part of the time of the set so far that another one must reach to replace it. Noise must not choose.
const WIN: f64 = 0.97;
/// The same for [`Kernels::CPU`] on an adapter that may be a GPU, where that set spills hundreds of registers.
const CLEAR_WIN: f64 = 0.8;

/// Invocations of a workgroup that are measured in the product of one row.
const MATVEC_LANES: [u32; 4] = [32, 64, 128, 256];
/// The same in the attention of one row.
const DECODE_LANES: [u32; 3] = [32, 64, 128];

/// Options of [`choose`].
#[derive(Debug, Clone, Copy)]
pub struct ChoiceOptions<'a> {
    /// Coarsest precision to which the products of many rows may round.
    pub precision: Precision,
    /// True to tune the kernels of decoding on a GPU: to measure their workgroups, and to measure on the products of a whole layer instead of one.
    pub tuning: bool,
    /// The [`Choice::record`] of an earlier choice on the same adapter and driver, which then is not repeated. Any other text is ignored.
    pub record: Option<&'a str>,
}

impl Default for ChoiceOptions<'_> {
    fn default() -> Self {
        Self { precision: Precision::F32, tuning: true, record: None }
    }
}

/// Sets the fastest kernel set of the device, and returns it.
///
/// A software adapter gets [`Kernels::CPU`], and a GPU never does: this follows from [`Gpu::is_software`], without measurement. Where the
/// adapter does not say what it is, [`Kernels::CPU`] must be clearly faster than [`Kernels::PLAIN`] on the product of one row, which compiles
/// fast.
///
/// On GPUs one parameter of the kernels of decoding after the other is measured: subgroups, q4 values from a table, then the lanes of the product
/// and those of attention. The products are those of a decoder layer, and the sum of their times by their share of a token counts, so that one
/// set serves all of them. That is at most ten kernels in three rounds of some milliseconds. An adapter that needs more than two seconds
/// completes the round that it began, and keeps the best set so far. Variants that the driver rejects although it advertises their features are
/// skipped.
///
/// If rounding is allowed, the precisions that the adapter has are measured on a product of many rows.
pub async fn choose<'a>(gpu: &'a mut Gpu, options: ChoiceOptions<'_>) -> Result<&'a Choice, GpuError> {
    let ChoiceOptions { precision, tuning, .. } = options;
    let mut trials = Trials { started: Instant::now(), deadline: f64::INFINITY, list: Vec::new() };
    let stored = restored(gpu, options);
    let kernels = match stored {
        Some(kernels) => kernels,
        None => trials.choose(gpu, precision, tuning).await?,
    };
    let origin = match (stored, trials.list.is_empty()) {
        (Some(_), _) => ChoiceOrigin::Restored,
        (None, true) => ChoiceOrigin::Adapter,
        (None, false) => ChoiceOrigin::Measured,
    };
    gpu.set_kernels(kernels);
    Ok(gpu.set_choice(Choice { kernels, origin, millis: trials.millis(), trials: trials.list, precision }))
}

/// Returns the candidate with the record of the options, if there is one.
fn restored(gpu: &Gpu, ChoiceOptions { precision, record: text, .. }: ChoiceOptions<'_>) -> Option<Kernels> {
    text.and_then(|text| candidates(gpu, precision).into_iter().find(|kernels| record(*kernels, precision) == text))
}

/// Returns the precisions from f32 to `coarsest` that the device has.
fn precisions(gpu: &Gpu, coarsest: Precision) -> Vec<Precision> {
    let mut precisions = vec![Precision::F32, Precision::F16, Precision::Q8];
    precisions.retain(|precision| *precision <= coarsest && (*precision != Precision::F16 || gpu.has_f16()));
    precisions
}

fn with_subgroups(kernels: Kernels) -> Kernels {
    Kernels { subgroups: true, ..kernels }
}

/// Returns every set that [`choose`] can choose on this device. Only these are restored, so no text can set other parameters.
fn candidates(gpu: &Gpu, coarsest: Precision) -> Vec<Kernels> {
    let mut sets = Vec::new();
    if gpu.is_software() != Some(true) {
        for matvec_lanes in MATVEC_LANES {
            sets.extend(DECODE_LANES.map(|decode_lanes| Kernels { matvec_lanes, decode_lanes, ..Kernels::PLAIN }));
        }
        if gpu.has_subgroups() {
            sets.extend(sets.clone().into_iter().map(with_subgroups));
        }
    }
    if gpu.is_software() != Some(false) {
        sets.push(Kernels::CPU);
    }
    let rounded = |precision| sets.iter().map(move |kernels| Kernels { precision, ..*kernels });
    precisions(gpu, coarsest).into_iter().flat_map(rounded).collect()
}

/// Work that is measured.
struct Work {
    name: &'static str,
    shape: Shape,
    /// Share of a token, in runs per decoder layer.
    share: f64,
}

enum Shape {
    /// Products of `rows` rows with `parts` weights, one after the other. Several weights pass the cache of most GPUs, as those of a model do.
    Product { rows: usize, cols: usize, out: usize, parts: usize },
    /// Attention of one row.
    Attention { keys: usize, heads: usize, kv_heads: usize, head_dim: usize },
}

/// The product that distinguishes GPUs from software adapters. It compiles fast, and an adapter with a thousandth of a GPU's speed runs it.
const SMALL_ROW: Work = Work { name: "1 × 1024 → 512", shape: Shape::Product { rows: 1, cols: 1024, out: 512, parts: 1 }, share: 1.0 };
/// The products that rank the precisions.
const PRECISION: [Work; 2] = [MANY_ROWS, ONE_ROW];
const ONE_ROW: Work = Work { name: "1 × 4096 → 4096", shape: Shape::Product { rows: 1, cols: 4096, out: 4096, parts: 4 }, share: 1.0 };
const MANY_ROWS: Work = Work { name: "64 × 512 → 256", shape: Shape::Product { rows: 64, cols: 512, out: 256, parts: 1 }, share: 1.0 };
/// The products of one row of the model of 2023, by classes of shapes: few outputs, many outputs, long rows. The head and the product of queries,
/// keys and values count as runs of the class of many outputs: (22016 + 12288 + 151936 / 32) / 22016.
const PRODUCTS: [Work; 3] = [
    ONE_ROW,
    Work { name: "1 × 4096 → 22016", shape: Shape::Product { rows: 1, cols: 4096, out: 22_016, parts: 1 }, share: 1.8 },
    Work { name: "1 × 11008 → 4096", shape: Shape::Product { rows: 1, cols: 11_008, out: 4096, parts: 2 }, share: 1.0 },
];
/// Attention of Qwen3-VL-2B.
const ATTENTION: Work =
    Work { name: "attention over 1024 keys", shape: Shape::Attention { keys: 1024, heads: 16, kv_heads: 8, head_dim: 128 }, share: 1.0 };

/// The measurements of a choice.
struct Trials {
    started: Instant,
    /// Time after the start from which no more work is measured, in milliseconds.
    deadline: f64,
    list: Vec<Trial>,
}

impl Trials {
    /// Time since the start, in milliseconds.
    fn millis(&self) -> f64 {
        self.started.elapsed().as_secs_f64() * 1e3
    }

    async fn choose(&mut self, gpu: &mut Gpu, coarsest: Precision, tuning: bool) -> Result<Kernels, GpuError> {
        let mut kernels = match gpu.is_software() {
            Some(true) => Kernels::CPU,
            Some(false) => Kernels::PLAIN,
            None => self.fastest(gpu, &[SMALL_ROW], &[Kernels::PLAIN, Kernels::CPU], CLEAR_WIN).await?,
        };
        if kernels == Kernels::PLAIN {
            self.deadline = DEADLINE_MILLIS;
            kernels = self.tune(gpu, kernels, tuning).await?;
            self.deadline = f64::INFINITY;
        }
        let variants: Vec<_> = precisions(gpu, coarsest).into_iter().map(|precision| Kernels { precision, ..kernels }).collect();
        if variants.len() > 1 {
            kernels = self.fastest(gpu, &PRECISION, &variants, WIN).await?;
        }
        Ok(kernels)
    }

    /// Returns the fastest variant of a set for GPUs.
    async fn tune(&mut self, gpu: &mut Gpu, mut kernels: Kernels, tuning: bool) -> Result<Kernels, GpuError> {
        let products = if tuning { &PRODUCTS[..] } else { &PRODUCTS[..1] };
        if gpu.has_subgroups() {
            kernels = self.fastest(gpu, products, &[kernels, with_subgroups(kernels)], WIN).await?;
        }
        if tuning {
            let others = MATVEC_LANES.into_iter().filter(|lanes| *lanes != kernels.matvec_lanes);
            let variants: Vec<_> = others.map(|matvec_lanes| Kernels { matvec_lanes, ..kernels }).collect();
            kernels = self.fastest(gpu, products, &[&[kernels], &variants[..]].concat(), WIN).await?;
            let others = DECODE_LANES.into_iter().filter(|lanes| *lanes != kernels.decode_lanes);
            let variants: Vec<_> = others.map(|decode_lanes| Kernels { decode_lanes, ..kernels }).collect();
            kernels = self.fastest(gpu, &[ATTENTION], &[&[kernels], &variants[..]].concat(), WIN).await?;
        }
        Ok(kernels)
    }

    /// Returns the variant that does the works in the least time, or the first, unless another takes at most the part `win` of its time. Counts
    /// the works that it began before the deadline.
    async fn fastest(&mut self, gpu: &mut Gpu, works: &[Work], variants: &[Kernels], win: f64) -> Result<Kernels, GpuError> {
        let mut totals = vec![0.0; variants.len()];
        for work in works {
            if self.millis() > self.deadline {
                break;
            }
            let times = measure(gpu, &work.shape, variants, || self.millis() > self.deadline).await?;
            for ((millis, total), kernels) in times.into_iter().zip(&mut totals).zip(variants) {
                *total += millis * work.share;
                // A variant that does not run has no time.
                if millis.is_finite() {
                    self.list.push(Trial { kernels: *kernels, work: work.name, millis });
                }
            }
        }
        let best = (0..variants.len()).min_by(|a, b| totals[*a].total_cmp(&totals[*b])).unwrap_or(0);
        Ok(variants[if totals[best] <= win * totals[0] { best } else { 0 }])
    }
}

/// Launches of variants of kernels, with the memory that they use.
struct Prepared {
    launches: Vec<Vec<Dispatch>>,
    /// A result, which is read to wait for the launches.
    output: wgpu::Buffer,
    rows: usize,
    /// Runs of the work in one pass over the launches.
    runs: usize,
    _memory: Vec<Temporary>,
}

/// Prepares the work for each variant. Operands are zeros: the time of a kernel does not depend on the values.
fn prepare(gpu: &mut Gpu, shape: &Shape, variants: &[Kernels]) -> Result<Prepared, GpuError> {
    let step = StepBuffer::new(gpu);
    let mut memory = Vec::new();
    let mut allocate = |gpu: &Gpu, rows, cols| {
        let temporary = gpu.temporary("choice", rows, cols)?;
        let activation = temporary.clone();
        memory.push(temporary);
        Ok::<_, GpuError>(activation)
    };
    let mut launches = Vec::with_capacity(variants.len());
    let (output, rows, runs) = match *shape {
        Shape::Product { rows, cols, out, parts } => {
            let scheme = Scheme::Q4Z { group_size: 32 };
            let mut part = || {
                let (data, scales) = (allocate(gpu, out, cols / 8)?.buffer, allocate(gpu, out, cols / 64)?.buffer);
                Ok(WeightPart { rows: out, data, scales: Some(scales) })
            };
            let list = (0..parts).map(|_| part()).collect::<Result<_, GpuError>>()?;
            let weight = Weight { scheme, rows: parts * out, cols, parts: list };
            let (input, output) = (allocate(gpu, rows, cols)?, allocate(gpu, rows, parts * out)?);
            let packed = allocate(gpu, 1, packed_bytes(rows, cols) as usize / 4)?.buffer;
            let epilogue = Epilogue::Store;
            let product =
                Product { weight: &weight, bias: None, input: &input, output: &output, epilogue, exact: false, packed: Some(&packed) };
            step.write(gpu, rows, 0, rows);
            for kernels in variants {
                gpu.set_kernels(*kernels);
                launches.push(if rows == 1 { matvec(gpu, product, None) } else { matmul(gpu, &step, product) });
            }
            (output, rows, parts)
        }
        Shape::Attention { keys, heads, kv_heads, head_dim } => {
            let [queries, output] = [allocate(gpu, 1, heads * head_dim)?, allocate(gpu, 1, heads * head_dim)?];
            let [keys_of, values] = [allocate(gpu, keys, kv_heads * head_dim)?, allocate(gpu, keys, kv_heads * head_dim)?];
            let partial = allocate(gpu, 1, split_bytes(heads, head_dim) as usize / 4)?.buffer;
            let of = |rows| Heads { rows, first_col: 0 };
            let (queries, keys_of, values) = (of(&queries), of(&keys_of).into(), of(&values).into());
            let attention = Attention { queries, keys: keys_of, values, output: &output, heads, kv_heads, head_dim, span: Span::Causal };
            step.write(gpu, 1, keys - 1, keys);
            for kernels in variants {
                gpu.set_kernels(*kernels);
                launches.push(attention_split(gpu, &step, attention, &partial).into());
            }
            (output, 1, 1)
        }
    };
    Ok(Prepared { launches, output: output.buffer, rows, runs, _memory: memory })
}

/// Returns the time of a work with each variant, in milliseconds: infinity if the driver rejects the variant. Fails if it rejects all. One
/// round is enough if it is `late`.
async fn measure(gpu: &mut Gpu, shape: &Shape, variants: &[Kernels], late: impl Fn() -> bool) -> Result<Vec<f64>, GpuError> {
    let Prepared { launches, output, rows, runs, _memory } = prepare(gpu, shape, variants)?;
    let encoded = |variant: usize, passes: usize| {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        encode(&mut encoder, (0..passes).flat_map(|_| &launches[variant]), rows);
        encoder.finish()
    };
    let run = async |variant: usize, passes: usize| -> Result<f64, GpuError> {
        let commands = encoded(variant, passes);
        let started = Instant::now();
        gpu.queue().submit([commands]);
        gpu.read(&output, 0, 4).await?;
        Ok(started.elapsed().as_secs_f64() * 1e3)
    };
    // The first launch of each variant compiles it. Variants that the driver rejects are skipped.
    let mut working = Vec::with_capacity(variants.len());
    let mut rejected = None;
    for variant in 0..variants.len() {
        let launch = || {
            gpu.queue().submit([encoded(variant, 1)]);
        };
        match rejection(gpu.device(), launch).await {
            None => working.push(variant),
            Some(error) => _ = rejected.get_or_insert(error),
        }
        gpu.read(&output, 0, 4).await?;
    }
    let Some(&first) = working.first() else { return rejected.map_or_else(|| Ok(Vec::new()), Err) };
    let passes = passes(async |passes| run(first, passes).await).await?;
    let mut best = vec![f64::INFINITY; variants.len()];
    for round in 0..ROUNDS {
        if round > 0 && late() {
            break;
        }
        for &variant in &working {
            best[variant] = best[variant].min(run(variant, passes).await? / (passes * runs) as f64);
        }
    }
    Ok(best)
}

/// Returns the number of passes that fill a submission. `run` returns the time of a submission of passes, in milliseconds.
async fn passes(run: impl AsyncFn(usize) -> Result<f64, GpuError>) -> Result<usize, GpuError> {
    const SOME: usize = 5;
    let once = run(1).await?;
    if once >= SUBMISSION_MILLIS {
        return Ok(1);
    }
    // The difference is without the overhead of a submission.
    let each = (run(SOME).await? - once) / (SOME - 1) as f64;
    Ok((SUBMISSION_MILLIS / each.max(0.01)).clamp(1.0, MAX_PASSES) as usize)
}

/// Runs `work` and returns its error of any kind: a driver rejects a pipeline with an internal error, the launch of a pipeline that was
/// rejected is a validation error.
async fn rejection(device: &wgpu::Device, work: impl FnOnce()) -> Option<GpuError> {
    let scopes = [wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::OutOfMemory]
        .map(|filter| device.push_error_scope(filter));
    work();
    // Scopes are popped in reverse order, before anything else runs.
    let [validation, internal, memory] = scopes;
    let (memory, internal, validation) = (memory.pop(), internal.pop(), validation.pop());
    let errors = [memory.await, internal.await, validation.await];
    errors.into_iter().flatten().next().map(GpuError::from)
}

#[cfg(test)]
mod tests {
    use super::{CLEAR_WIN, ChoiceOptions, candidates, choose, restored, with_subgroups};
    use crate::chosen::{Choice, ChoiceOrigin, Trial, record};
    use crate::known_answers::{Checked, Difference, difference};
    use crate::{Gpu, GpuOptions, Kernels, Precision};
    use qwen_vl_format::Scheme;

    /// A device whose adapter is said to be software, a GPU, or unknown.
    fn gpu(software: Option<bool>) -> Gpu {
        let options = GpuOptions { default_limits: true, ..GpuOptions::default() };
        let mut gpu = pollster::block_on(Gpu::request(options)).expect("the tests need an adapter");
        gpu.assume_software(software);
        gpu
    }

    fn chosen(gpu: &mut Gpu, options: ChoiceOptions<'_>) -> Choice {
        pollster::block_on(choose(gpu, options)).unwrap().clone()
    }

    #[test]
    fn a_gpu_has_no_candidate_of_the_processors_set_and_a_software_adapter_no_other() {
        for coarsest in [Precision::F32, Precision::F16, Precision::Q8] {
            let is_cpu = |kernels: &Kernels| Kernels { precision: Precision::F32, ..*kernels } == Kernels::CPU;
            assert!(!candidates(&gpu(Some(false)), coarsest).iter().any(is_cpu));
            assert!(candidates(&gpu(Some(true)), coarsest).iter().all(is_cpu));
            let unknown = candidates(&gpu(None), coarsest);
            assert!(unknown.iter().any(is_cpu) && unknown.contains(&Kernels::PLAIN));
            assert!(unknown.iter().all(|kernels| kernels.precision <= coarsest));
        }
    }

    #[test]
    fn products_by_other_workgroups_are_the_same() {
        let mut gpu = gpu(None);
        // The fewest and the most; 64 are those of the named sets.
        for matvec_lanes in [32, 256] {
            let plain = Kernels { matvec_lanes, ..Kernels::PLAIN };
            let subgroups = gpu.has_subgroups().then(|| with_subgroups(plain));
            for kernels in std::iter::once(plain).chain(subgroups) {
                gpu.set_kernels(kernels);
                let checked = Checked::Matvec(Scheme::Q4Z { group_size: 32 }, true);
                let Difference { worst, largest } = pollster::block_on(difference(&gpu, &checked)).unwrap();
                assert!(largest > 0.5 && worst < 1e-6 * largest, "{kernels}: {worst} of {largest}");
            }
        }
    }

    #[test]
    fn records_distinguish_all_candidates() {
        let mut records: Vec<_> = candidates(&gpu(None), Precision::Q8).into_iter().map(|kernels| record(kernels, Precision::Q8)).collect();
        let count = records.len();
        records.sort();
        records.dedup();
        assert_eq!(records.len(), count);
    }

    #[test]
    fn a_software_adapter_needs_no_measurement() {
        let choice = chosen(&mut gpu(Some(true)), ChoiceOptions::default());
        assert_eq!((choice.kernels, choice.origin, choice.trials.len()), (Kernels::CPU, ChoiceOrigin::Adapter, 0));
    }

    #[test]
    fn a_gpu_is_measured_without_the_processors_set_and_within_the_deadline() {
        let mut gpu = gpu(Some(false));
        let choice = chosen(&mut gpu, ChoiceOptions::default());
        assert_eq!(choice.origin, ChoiceOrigin::Measured);
        assert!(choice.trials.iter().all(|trial| trial.kernels.matmul_registers.is_none()), "{:?}", choice.trials);
        assert!(candidates(&gpu, Precision::F32).contains(&choice.kernels));
        assert_eq!(gpu.allocated_bytes(), 0);
        println!("{:.0} ms: {}", choice.millis, choice.kernels);
        for trial in &choice.trials {
            println!("{:>8.3} ms  {:<24} {}", trial.millis, trial.work, trial.kernels);
        }
        // Refused, it measures what distinguishes the named sets, on one product.
        let refused = chosen(&mut gpu, ChoiceOptions { tuning: false, ..ChoiceOptions::default() });
        for Trial { kernels, work, .. } in &refused.trials {
            assert_eq!(*work, "1 × 4096 → 4096");
            let lanes = |kernels: &Kernels| (kernels.matvec_lanes, kernels.decode_lanes);
            assert_eq!(lanes(kernels), lanes(&Kernels::PLAIN));
        }
        println!("{:.0} ms without tuning: {}", refused.millis, refused.kernels);
    }

    #[test]
    fn an_unknown_adapter_gets_the_processors_set_if_it_clearly_wins() {
        let choice = chosen(&mut gpu(None), ChoiceOptions::default());
        assert_eq!(choice.origin, ChoiceOrigin::Measured);
        let [plain, cpu] = &choice.trials[..2] else { unreachable!("two sets are measured first") };
        assert_eq!((plain.kernels, cpu.kernels), (Kernels::PLAIN, Kernels::CPU));
        assert_eq!(choice.kernels == Kernels::CPU, cpu.millis <= CLEAR_WIN * plain.millis, "{:?}", choice.trials);
    }

    #[test]
    fn a_record_replaces_the_measurement_and_other_texts_do_not() {
        let mut gpu = gpu(Some(false));
        let kernels = Kernels { matvec_lanes: 128, decode_lanes: 32, ..Kernels::PLAIN };
        let text = record(kernels, Precision::F32);
        let choice = chosen(&mut gpu, ChoiceOptions { record: Some(&text), ..ChoiceOptions::default() });
        assert_eq!((choice.kernels, choice.origin, choice.trials.len()), (kernels, ChoiceOrigin::Restored, 0));
        assert_eq!((gpu.kernels(), gpu.choice().map(Choice::record)), (kernels, Some(text.clone())));
        assert_eq!(gpu.uncompiled(), [], "a restored choice prepares no kernels");
        let others = [
            String::new(),
            text.replace(env!("CARGO_PKG_VERSION"), "0.0.0"),
            text.replace("matvec_lanes: 128", "matvec_lanes: 0"),
            text.replace(" }", ", unknown: 1 }"),
            text[..text.len() - 1].to_owned(),
            format!("{text}\n"),
            record(kernels, Precision::Q8),
            record(Kernels::CPU, Precision::F32),
        ];
        for other in others {
            assert_ne!(other, text);
            assert!(restored(&gpu, ChoiceOptions { record: Some(&other), ..ChoiceOptions::default() }).is_none(), "{other}");
        }
    }
}
