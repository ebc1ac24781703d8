//! Prepared launches of kernels.

use crate::Gpu;
use crate::pipelines::Pipelines;
use serde::Serialize;
use std::cell::OnceCell;
use std::sync::Arc;

/// The part of a launch that changes from step to step: `struct Step` in the shaders.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Step {
    /// Rows of the launch: positions, patches or queries.
    pub rows: u32,
    /// Position of the first row in the sequence; 0 outside the decoder.
    pub start: u32,
    /// Number of keys of attention: all positions up to the last of this launch.
    pub keys: u32,
    /// Pads the uniform to 16 bytes.
    pub reserved: u32,
}

/// WGSL of [`Step`], at binding 0 of the kernels that use it.
pub(crate) const STEP_WGSL: &str = "\
struct Step { rows: u32, start: u32, keys: u32, reserved: u32 }
@group(0) @binding(0) var<uniform> step: Step;
";

/// The fixed numbers of a launch, in a second uniform: `sizes.name` in the shader.
///
/// They are not constants in the source because compiling a pipeline takes longer than running it (seconds on a software adapter), and most
/// launches of a model differ only in these numbers. Only values that change the generated code (scheme, head size) are compiled in.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    members: String,
    words: Vec<u32>,
}

/// Binding of [`Sizes`].
const SIZES_BINDING: u32 = 7;

impl Sizes {
    /// Appends a count, an offset or a flag.
    pub(crate) fn u32(mut self, name: &str, value: usize) -> Self {
        self.members += &format!(" {name}: u32,");
        self.words.push(u32::try_from(value).expect("sizes of a launch fit 32 bits"));
        self
    }

    /// Appends a number.
    pub(crate) fn f32(mut self, name: &str, value: f32) -> Self {
        self.members += &format!(" {name}: f32,");
        self.words.push(value.to_bits());
        self
    }

    fn wgsl(&self) -> String {
        format!("struct Sizes {{{} }}\n@group(0) @binding({SIZES_BINDING}) var<uniform> sizes: Sizes;\n", self.members)
    }
}

/// The uniform with the [`Step`] of one plan.
#[derive(Debug, Clone)]
pub struct StepBuffer(wgpu::Buffer);

impl StepBuffer {
    /// Allocates a uniform of zeros.
    pub fn new(gpu: &Gpu) -> Self {
        Self(gpu.uniform("step", size_of::<Step>()))
    }

    /// Writes the uniform before the next submission.
    pub fn write(&self, gpu: &Gpu, rows: usize, start: usize, keys: usize) {
        let step = Step { rows: rows as u32, start: start as u32, keys: keys as u32, reserved: 0 };
        gpu.queue().write_buffer(&self.0, 0, bytemuck::bytes_of(&step));
    }
}

/// Workgroups of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grid {
    /// The same for all steps.
    Fixed([u32; 3]),
    /// One workgroup along y for each `tile` rows of the kernel, which has `times` rows for each row of the step.
    Rows {
        /// Rows of one workgroup.
        tile: u32,
        /// Rows of the kernel for each row of the step.
        times: u32,
        /// Workgroups along x.
        x: u32,
        /// Workgroups along z.
        z: u32,
    },
}

impl Grid {
    /// One workgroup along y for each row of the step.
    pub(crate) const ROW_BY_ROW: Self = Self::Rows { tile: 1, times: 1, x: 1, z: 1 };

    /// Returns the grid of a one-dimensional launch, folded into two dimensions if `count` passes WebGPU's 65,535. The index of a workgroup
    /// is `x + y * num_workgroups.x`; the shader checks it against its bound.
    pub(crate) fn linear(count: u32) -> Self {
        let x = count.min(65_535);
        Self::Fixed([x, count.div_ceil(x), 1])
    }
}

/// A kernel with its buffers, which can be launched any number of times.
pub struct Dispatch {
    label: &'static str,
    source: Arc<str>,
    sizes: Vec<u32>,
    /// Storage buffers with their bindings.
    buffers: Vec<(u32, wgpu::Buffer)>,
    /// The step, if the source uses it, and the sizes.
    uniforms: Vec<(u32, wgpu::Buffer)>,
    grid: Grid,
    pipelines: Pipelines,
    linked: OnceCell<Linked>,
    /// A launch that replaces this one in steps of at most this many rows.
    few_rows: Option<(usize, Box<Self>)>,
}

/// The device objects of a [`Dispatch`].
struct Linked {
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
}

/// A launch as plain data, so that another program can repeat it on its own WebGPU device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Launch {
    /// Name of the kernel.
    pub label: &'static str,
    /// WGSL with entry point `main`. Binding 0 is the [`Step`] uniform, if the source has one.
    pub source: String,
    /// Words of the uniform at binding 7.
    pub sizes: Vec<u32>,
    /// Binding and bytes of each storage buffer.
    pub buffers: Vec<(u32, u64)>,
    /// Workgroups along x, y, z.
    pub workgroups: [u32; 3],
}

impl Dispatch {
    /// Binds `sizes` and `buffers` to a kernel, and `step` if the source uses it. [`Gpu::compile`] or the first launch compiles the pipeline.
    pub(crate) fn new<'a>(
        gpu: &Gpu,
        label: &'static str,
        source: &str,
        sizes: Sizes,
        step: Option<&'a StepBuffer>,
        buffers: impl IntoIterator<Item = (u32, &'a wgpu::Buffer)>,
        grid: Grid,
    ) -> Self {
        let pipelines = gpu.pipeline_cache().clone();
        let (kernels, wgsl) = (gpu.kernels(), sizes.wgsl());
        let source = pipelines.register(format!("{label} {}", kernels.label()), format!("{}{STEP_WGSL}{wgsl}{source}", kernels.enables()));
        let buffers: Vec<_> = buffers.into_iter().map(|(binding, buffer)| (binding, buffer.clone())).collect();
        let mut uniforms: Vec<_> = step.map(|step| (0, step.0.clone())).into_iter().collect();
        uniforms.push((SIZES_BINDING, gpu.constant_uniform(&sizes.words)));
        Self { label, source, sizes: sizes.words, buffers, uniforms, grid, pipelines, linked: OnceCell::new(), few_rows: None }
    }

    /// Returns this launch with another one that replaces it in steps of at most `rows` rows.
    pub(crate) fn with_few_rows(self, rows: usize, other: Self) -> Self {
        Self { few_rows: Some((rows, Box::new(other))), ..self }
    }

    /// Returns the launch of steps of many rows alone, if another one replaces it in small steps.
    pub(crate) fn without_few_rows(self) -> Option<Self> {
        self.few_rows.is_some().then_some(Self { few_rows: None, ..self })
    }

    /// Returns the launch for a step of `rows` rows.
    fn for_rows(&self, rows: usize) -> &Self {
        match &self.few_rows {
            Some((most, other)) if rows <= *most => other,
            _ => self,
        }
    }

    fn linked(&self) -> &Linked {
        self.linked.get_or_init(|| {
            let pipeline = self.pipelines.get(&self.source);
            let entries: Vec<_> = self
                .uniforms
                .iter()
                .chain(&self.buffers)
                .map(|(binding, buffer)| wgpu::BindGroupEntry { binding: *binding, resource: buffer.as_entire_binding() })
                .collect();
            let bind_group = self.pipelines.device().create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(self.label),
                layout: &pipeline.get_bind_group_layout(0),
                entries: &entries,
            });
            Linked { pipeline, bind_group }
        })
    }

    /// Returns this launch for `rows` rows as plain data.
    pub fn describe(&self, rows: usize) -> Launch {
        let Self { label, source, sizes, buffers, .. } = self.for_rows(rows);
        let buffers = buffers.iter().map(|(binding, buffer)| (*binding, buffer.size())).collect();
        Launch { label, source: source.to_string(), sizes: sizes.clone(), buffers, workgroups: self.for_rows(rows).workgroups(rows) }
    }

    /// Returns the name of the kernel.
    pub fn label(&self) -> &'static str {
        self.label
    }

    fn workgroups(&self, rows: usize) -> [u32; 3] {
        match self.grid {
            Grid::Fixed(groups) => groups,
            Grid::Rows { tile, times, x, z } => [x, (rows as u32 * times).div_ceil(tile), z],
        }
    }
}

/// Encodes launches in order into one compute pass; each reads the results of those before it. `rows` must equal the rows in the step buffer
/// when the encoder is submitted.
pub fn encode<'a>(encoder: &mut wgpu::CommandEncoder, dispatches: impl IntoIterator<Item = &'a Dispatch>, rows: usize) {
    let mut pass = encoder.begin_compute_pass(&Default::default());
    for dispatch in dispatches {
        let dispatch = dispatch.for_rows(rows);
        let [x, y, z] = dispatch.workgroups(rows);
        let Linked { pipeline, bind_group } = dispatch.linked();
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, bind_group, &[]);
        pass.dispatch_workgroups(x, y, z);
    }
}
