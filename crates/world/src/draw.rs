//! Drawing of pictures: backgrounds, and sprites of any size and angle on them.

use crate::random::Random;
use ab_glyph::{Font, FontRef, PxScale, ScaleFont};
use serde::{Deserialize, Serialize};

/// Pixels of a picture, `[side, side, 3]`.
#[derive(Debug, Clone)]
pub(crate) struct Canvas {
    pub(crate) side: usize,
    pub(crate) rgb: Vec<u8>,
}

/// Kind of background.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Background {
    /// One colour.
    Plain,
    /// A gradient between two pale colours.
    Gradient,
    /// Stripes, checks or grain.
    Texture,
    /// A landscape: sky, horizon, rough ground.
    Photo,
}

/// A drawing with soft edges, in several sizes.
#[derive(Debug, Clone)]
pub(crate) struct Sprite {
    levels: Vec<Level>,
}

/// `[height, width, 4]`, colours multiplied by alpha, all 0 to 1.
#[derive(Debug, Clone)]
struct Level {
    width: usize,
    height: usize,
    rgba: Vec<[f32; 4]>,
}

/// Position, size and angle of a sprite.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pose {
    /// Pixels of the canvas.
    pub(crate) center: [f32; 2],
    /// Canvas pixels per sprite pixel.
    pub(crate) scale: f32,
    /// Radians, clockwise.
    pub(crate) angle: f32,
}

impl Sprite {
    pub(crate) fn new(width: usize, height: usize, pixel: impl Fn(usize, usize) -> [u8; 4]) -> Self {
        let rgba = (0..width * height).map(|at| {
            let [r, g, b, a] = pixel(at % width, at / width).map(|value| f32::from(value) / 255.0);
            [r * a, g * a, b * a, a]
        });
        let mut levels = vec![Level { width, height, rgba: rgba.collect() }];
        // Each level has 3/4 of the size before it. With steps this small, bilinear samples are neither jagged nor blurred.
        while levels[levels.len() - 1].width.min(levels[levels.len() - 1].height) > 12 {
            levels.push(levels[levels.len() - 1].shrunk(3, 4));
        }
        Self { levels }
    }

    /// Draws a line of white text. Its box is the box of its ink.
    pub(crate) fn text(font: &FontRef<'_>, text: &str, height: f32) -> Self {
        let scaled = font.as_scaled(PxScale::from(height));
        let mut pen = 0.0;
        let mut glyphs = Vec::new();
        for c in text.chars() {
            let id = scaled.glyph_id(c);
            let glyph = id.with_scale_and_position(height, ab_glyph::point(pen, scaled.ascent()));
            pen += scaled.h_advance(id);
            glyphs.extend(font.outline_glyph(glyph));
        }
        let edge = |pick: fn(&ab_glyph::Rect) -> f32, best: fn(f32, f32) -> f32| glyphs.iter().map(|g| pick(&g.px_bounds())).reduce(best);
        let left = edge(|r| r.min.x, f32::min).unwrap_or(0.0);
        let top = edge(|r| r.min.y, f32::min).unwrap_or(0.0);
        let width = (edge(|r| r.max.x, f32::max).unwrap_or(1.0) - left).max(1.0) as usize;
        let rows = (edge(|r| r.max.y, f32::max).unwrap_or(1.0) - top).max(1.0) as usize;
        let mut ink = vec![0.0_f32; width * rows];
        for glyph in &glyphs {
            let bounds = glyph.px_bounds();
            glyph.draw(|x, y, coverage| {
                let (x, y) = (x as usize + (bounds.min.x - left) as usize, y as usize + (bounds.min.y - top) as usize);
                if x < width && y < rows {
                    ink[y * width + x] = (ink[y * width + x] + coverage).min(1.0);
                }
            });
        }
        let rgba = ink.into_iter().map(|ink| [ink; 4]).collect();
        Self { levels: vec![Level { width, height: rows, rgba }] }
    }

    /// Width and height in pixels.
    pub(crate) fn size(&self) -> [f32; 2] {
        [self.levels[0].width as f32, self.levels[0].height as f32]
    }

    /// Fraction of the box that is covered.
    #[cfg(test)]
    pub(crate) fn covered(&self) -> f32 {
        self.levels[0].rgba.iter().map(|pixel| pixel[3]).sum::<f32>() / self.levels[0].rgba.len() as f32
    }

    /// Corners of the sprite's box on the canvas: top left, top right, bottom right, bottom left of the upright sprite.
    pub(crate) fn corners(&self, pose: Pose) -> [[f32; 2]; 4] {
        let [width, height] = self.size().map(|size| size * pose.scale / 2.0);
        let (sin, cos) = pose.angle.sin_cos();
        [[-width, -height], [width, -height], [width, height], [-width, height]]
            .map(|[x, y]| [pose.center[0] + x * cos - y * sin, pose.center[1] + x * sin + y * cos])
    }
}

impl Level {
    fn shrunk(&self, numerator: usize, denominator: usize) -> Self {
        let (width, height) = (self.width * numerator / denominator, self.height * numerator / denominator);
        let mut rgba = Vec::with_capacity(width * height);
        let (dx, dy) = (self.width as f32 / width as f32, self.height as f32 / height as f32);
        for y in 0..height {
            for x in 0..width {
                rgba.push(self.mean(x as f32 * dx, y as f32 * dy, dx, dy));
            }
        }
        Self { width, height, rgba }
    }

    /// Mean over a rectangle of at least one pixel.
    fn mean(&self, left: f32, top: f32, width: f32, height: f32) -> [f32; 4] {
        let mut sum = [0.0; 4];
        let (right, bottom) = (left + width, top + height);
        for y in top as usize..(bottom.ceil() as usize).min(self.height) {
            let tall = (y as f32 + 1.0).min(bottom) - (y as f32).max(top);
            for x in left as usize..(right.ceil() as usize).min(self.width) {
                let part = tall * ((x as f32 + 1.0).min(right) - (x as f32).max(left));
                for (sum, value) in sum.iter_mut().zip(self.rgba[y * self.width + x]) {
                    *sum += value * part;
                }
            }
        }
        sum.map(|sum| sum / (width * height))
    }

    /// Bilinear sample. Outside of the sprite all is transparent.
    fn at(&self, x: f32, y: f32) -> [f32; 4] {
        let (left, top) = (x.floor(), y.floor());
        let (fx, fy) = (x - left, y - top);
        let pixel = |x: f32, y: f32| {
            if x < 0.0 || y < 0.0 || x >= self.width as f32 || y >= self.height as f32 {
                return [0.0; 4];
            }
            self.rgba[y as usize * self.width + x as usize]
        };
        let corners = [pixel(left, top), pixel(left + 1.0, top), pixel(left, top + 1.0), pixel(left + 1.0, top + 1.0)];
        let weights = [(1.0 - fx) * (1.0 - fy), fx * (1.0 - fy), (1.0 - fx) * fy, fx * fy];
        std::array::from_fn(|channel| corners.iter().zip(weights).map(|(corner, weight)| corner[channel] * weight).sum())
    }
}

impl Canvas {
    /// Draws a sprite, multiplied by a colour. Returns the box of the visible pixels, `[left, top, right, bottom]`.
    pub(crate) fn draw(&mut self, sprite: &Sprite, pose: Pose, tint: [u8; 3]) -> [f32; 4] {
        let full = &sprite.levels[0];
        // The smallest level that does not have to be enlarged.
        let fits = |level: &&Level| level.width as f32 >= full.width as f32 * pose.scale * 0.999;
        let level = sprite.levels.iter().rev().find(fits).unwrap_or(full);
        let scale = pose.scale * full.width as f32 / level.width as f32;
        let tint = tint.map(|value| f32::from(value) / 255.0);
        let (sin, cos) = pose.angle.sin_cos();

        let corners = sprite.corners(pose);
        let low = |axis: usize| corners.iter().map(|corner| corner[axis]).fold(f32::MAX, f32::min).floor().max(0.0) as usize;
        let high = |axis: usize| (corners.iter().map(|corner| corner[axis]).fold(0.0, f32::max).ceil() as usize).min(self.side);
        let mut seen = [f32::MAX, f32::MAX, 0.0, 0.0];
        for y in low(1)..high(1) {
            for x in low(0)..high(0) {
                let (dx, dy) = (x as f32 + 0.5 - pose.center[0], y as f32 + 0.5 - pose.center[1]);
                let across = (dx * cos + dy * sin) / scale + level.width as f32 / 2.0 - 0.5;
                let down = (dy * cos - dx * sin) / scale + level.height as f32 / 2.0 - 0.5;
                let [r, g, b, alpha] = level.at(across, down);
                if alpha <= 0.0 {
                    continue;
                }
                if alpha > 0.3 {
                    let (x, y) = (x as f32, y as f32);
                    seen = [seen[0].min(x), seen[1].min(y), seen[2].max(x + 1.0), seen[3].max(y + 1.0)];
                }
                let place = (y * self.side + x) * 3;
                for (channel, value) in [r, g, b].into_iter().enumerate() {
                    let under = f32::from(self.rgb[place + channel]);
                    self.rgb[place + channel] = (value * tint[channel] * 255.0 + under * (1.0 - alpha) + 0.5) as u8;
                }
            }
        }
        seen
    }

    /// Draws a background. `color` is the colour of a plain one.
    pub(crate) fn background(side: usize, background: Background, color: [u8; 3], random: &mut Random) -> Self {
        let mut canvas = Self { side, rgb: Vec::with_capacity(side * side * 3) };
        match background {
            Background::Plain => canvas.rgb = color.repeat(side * side),
            Background::Gradient => {
                let (from, to) = (pale(random), pale(random));
                let angle = random.between(0.0, std::f32::consts::TAU);
                let (dx, dy) = (angle.cos(), angle.sin());
                let length = dx.abs() + dy.abs();
                canvas.fill(|x, y| {
                    let part = ((x - 0.5) * dx + (y - 0.5) * dy) / length + 0.5;
                    std::array::from_fn(|c| from[c] + (to[c] - from[c]) * part)
                });
            }
            Background::Texture => {
                let (from, to) = (pale(random), pale(random));
                let (style, count) = (random.below(3), random.between(4.0, 14.0));
                let angle = random.between(0.0, std::f32::consts::PI);
                let (dx, dy) = (angle.cos() * count, angle.sin() * count);
                let noise = Noise::new(random);
                canvas.fill(|x, y| {
                    let part = match style {
                        0 => ((x * dx + y * dy).rem_euclid(1.0) > 0.5) as u8 as f32,
                        1 => (((x * count) as usize + (y * count) as usize) % 2) as f32,
                        _ => noise.at(x * count * 2.0, y * count * 2.0),
                    };
                    std::array::from_fn(|c| from[c] + (to[c] - from[c]) * part)
                });
            }
            Background::Photo => {
                let sky = [random.between(150.0, 200.0), random.between(195.0, 225.0), random.between(225.0, 250.0)];
                let ground = [random.between(90.0, 190.0), random.between(130.0, 190.0), random.between(60.0, 130.0)];
                let (horizon, rough) = (random.between(0.35, 0.65), Noise::new(random));
                canvas.fill(|x, y| {
                    let hills = horizon + 0.12 * (rough.at(x * 3.0, 0.5) - 0.5);
                    if y < hills {
                        let haze = 40.0 * y / hills + 30.0 * rough.at(x * 4.0 + 7.0, y * 6.0).powi(2);
                        sky.map(|value| (value + haze).min(255.0))
                    } else {
                        let grain = rough.at(x * 9.0, y * 15.0) * 0.6 + rough.at(x * 31.0, y * 47.0) * 0.4;
                        ground.map(|value| (value * (0.75 + 0.5 * grain)).min(255.0))
                    }
                });
            }
        }
        canvas
    }

    /// Sets each pixel to `color` of its point, whose coordinates are 0 to 1.
    fn fill(&mut self, color: impl Fn(f32, f32) -> [f32; 3]) {
        let step = 1.0 / self.side as f32;
        for y in 0..self.side {
            for x in 0..self.side {
                let color = color((x as f32 + 0.5) * step, (y as f32 + 0.5) * step);
                self.rgb.extend(color.map(|value| value as u8));
            }
        }
    }
}

fn pale(random: &mut Random) -> [f32; 3] {
    std::array::from_fn(|_| random.between(165.0, 255.0))
}

/// Smooth noise of 0 to 1 on the plane, with a period of 16.
struct Noise([f32; 256]);

impl Noise {
    fn new(random: &mut Random) -> Self {
        Self(std::array::from_fn(|_| random.between(0.0, 1.0)))
    }

    fn at(&self, x: f32, y: f32) -> f32 {
        let (left, top) = (x as usize, y as usize);
        let smooth = |part: f32| part * part * (3.0 - 2.0 * part);
        let (fx, fy) = (smooth(x - left as f32), smooth(y - top as f32));
        let value = |x: usize, y: usize| self.0[(y % 16) * 16 + x % 16];
        let above = value(left, top) + (value(left + 1, top) - value(left, top)) * fx;
        let below = value(left, top + 1) + (value(left + 1, top + 1) - value(left, top + 1)) * fx;
        above + (below - above) * fy
    }
}
