//! A prepared launch of a kernel.

use crate::Gpu;
use crate::gpu::Pipelines;
use serde::Serialize;
use std::cell::OnceCell;
use std::sync::Arc;

/// What changes from launch to launch, as every kernel sees it: `struct Step` in the shaders.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Step {
    /// Rows (positions, patches or queries) in this launch.
    pub rows: u32,
    /// Position of the first row in the sequence; 0 outside the decoder.
    pub start: u32,
    /// Keys that attention looks at: all positions up to and including this launch's.
    pub keys: u32,
    /// Fills the uniform up to 16 bytes.
    pub reserved: u32,
}

/// The WGSL side of [`Step`], at binding 0 of the kernels that use it.
pub(crate) const STEP_WGSL: &str = "\
struct Step { rows: u32, start: u32, keys: u32, reserved: u32 }
@group(0) @binding(0) var<uniform> step: Step;
";

/// The numbers of a launch that never change, as a second uniform: `sizes.name` in the shader.
///
/// They are not constants in the source because a pipeline takes longer to compile than to run (seconds on a software adapter), and most
/// launches of a model differ in nothing else. What shapes the code (a weight's scheme, vectors of a head) does stand in the source.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    members: String,
    words: Vec<u32>,
}

/// Where the kernels find [`Sizes`].
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

/// The uniform that holds the [`Step`] of one plan.
#[derive(Debug, Clone)]
pub struct StepBuffer(wgpu::Buffer);

impl StepBuffer {
    /// A uniform of all zeros.
    pub fn new(gpu: &Gpu) -> Self {
        Self(gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some("step"),
            size: size_of::<Step>() as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        }))
    }

    /// Takes effect before the next submission.
    pub fn write(&self, gpu: &Gpu, rows: usize, start: usize, keys: usize) {
        let step = Step { rows: rows as u32, start: start as u32, keys: keys as u32, reserved: 0 };
        gpu.queue().write_buffer(&self.0, 0, bytemuck::bytes_of(&step));
    }
}

/// Workgroups of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grid {
    /// Always the same.
    Fixed([u32; 3]),
    /// `y` grows with the rows of the step: one workgroup for `tile` rows.
    Rows {
        /// Rows of one workgroup.
        tile: u32,
        /// Workgroups along x.
        x: u32,
        /// Workgroups along z.
        z: u32,
    },
}

impl Grid {
    /// A one-dimensional launch of `count` workgroups, folded into two dimensions where it passes WebGPU's 65,535.
    /// The shader finds its index as `x + y * num_workgroups.x` and checks it against its own bound.
    pub(crate) fn linear(count: u32) -> Self {
        let x = count.min(65_535);
        Self::Fixed([x, count.div_ceil(x), 1])
    }
}

/// A kernel with its buffers, ready to be launched any number of times.
pub struct Dispatch {
    label: &'static str,
    source: Arc<str>,
    sizes: Vec<u32>,
    /// Storage buffers with their bindings.
    buffers: Vec<(u32, wgpu::Buffer)>,
    /// The step, where the source uses it, and the sizes.
    uniforms: Vec<(u32, wgpu::Buffer)>,
    grid: Grid,
    pipelines: Pipelines,
    linked: OnceCell<Linked>,
}

/// A [`Dispatch`] as the device sees it.
struct Linked {
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
}

/// A launch as plain data, so that it can be repeated without this library, on another WebGPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Launch {
    /// The kernel's name.
    pub label: &'static str,
    /// WGSL with entry point `main`. Binding 0 is the [`Step`] uniform where the source has one.
    pub source: String,
    /// Words of the uniform at binding 7.
    pub sizes: Vec<u32>,
    /// Binding and bytes of each storage buffer.
    pub buffers: Vec<(u32, u64)>,
    /// Workgroups along x, y, z.
    pub workgroups: [u32; 3],
}

impl Dispatch {
    /// Binds `sizes` and `buffers` to a kernel; `step` is given where the source uses it. Its pipeline is compiled by [`Gpu::compile`] or at the
    /// first launch.
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
        let source = pipelines.want(label, format!("{}{STEP_WGSL}{}{source}", gpu.kernels().enables(), sizes.wgsl()));
        let buffers: Vec<_> = buffers.into_iter().map(|(binding, buffer)| (binding, buffer.clone())).collect();
        let mut uniforms: Vec<_> = step.map(|step| (0, step.0.clone())).into_iter().collect();
        uniforms.push((SIZES_BINDING, gpu.uniform(&sizes.words)));
        Self { label, source, sizes: sizes.words, buffers, uniforms, grid, pipelines, linked: OnceCell::new() }
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

    /// This launch for `rows` rows as plain data.
    pub fn describe(&self, rows: usize) -> Launch {
        let buffers = self.buffers.iter().map(|(binding, buffer)| (*binding, buffer.size())).collect();
        let (sizes, workgroups) = (self.sizes.clone(), self.workgroups(rows));
        Launch { label: self.label, source: self.source.to_string(), sizes, buffers, workgroups }
    }

    /// The kernel's name.
    pub fn label(&self) -> &'static str {
        self.label
    }

    fn workgroups(&self, rows: usize) -> [u32; 3] {
        match self.grid {
            Grid::Fixed(groups) => groups,
            Grid::Rows { tile, x, z } => [x, (rows as u32).div_ceil(tile), z],
        }
    }
}

/// Encodes launches, in order, into one compute pass; each sees what those before it wrote.
/// `rows` must be the rows that the step buffer will hold when the encoder is submitted.
pub fn encode<'a>(encoder: &mut wgpu::CommandEncoder, dispatches: impl IntoIterator<Item = &'a Dispatch>, rows: usize) {
    let mut pass = encoder.begin_compute_pass(&Default::default());
    for dispatch in dispatches {
        let [x, y, z] = dispatch.workgroups(rows);
        let Linked { pipeline, bind_group } = dispatch.linked();
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, bind_group, &[]);
        pass.dispatch_workgroups(x, y, z);
    }
}
