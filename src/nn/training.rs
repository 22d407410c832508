//! One layer in training, forward and back.

use super::layers::direct::Direct;
use super::layers::norm::{Maps, Moments, layer_backward, layer_forward};
use super::layers::{conv, dropout, linear, pool};
use super::param::Param;
use super::plan::{Layer, Work};
use crate::random::Random;
use crate::weight::zeros;
use crate::{Error, Float, Result};

/// How much of the running statistics of a batch norm a batch replaces.
const MOMENTUM: f64 = 0.1;

/// What a layer keeps from its forward pass for the way back.
#[derive(Clone, Debug, Default)]
pub(super) struct Saved<T> {
    /// Factors of dropout.
    factors: Vec<T>,
    /// Winners of max pooling.
    places: Vec<u32>,
    moments: Vec<Moments>,
    /// Whether the moments are the running ones, which do not depend on the input.
    fixed: bool,
    /// The input as its codes have it, and room for its gradient.
    pub(super) coded: Vec<T>,
    pub(super) before: Vec<T>,
}

/// Room that convolutions share.
#[derive(Clone, Debug, Default)]
pub(super) struct Scratch<T> {
    windows: Vec<T>,
    products: Vec<T>,
    window_gradients: Vec<T>,
}

pub(super) struct Run<'a, T: Float> {
    pub layer: &'a Layer,
    pub work: Work,
    pub params: &'a mut [Param<T>],
    pub saved: &'a mut Saved<T>,
    pub scratch: &'a mut Scratch<T>,
}

impl<T: Float> Run<'_, T> {
    fn vector(&self, place: usize) -> &[T] {
        self.layer.slots.get(place).map_or(&[], |s| self.params[*s].vector())
    }

    /// The gradient of a vector; `spare` where it is not trained.
    fn gradient_or<'b>(params: &'b mut Param<T>, spare: &'b mut Vec<T>) -> &'b mut [T] {
        let len = params.vector().len();
        match params.vector_gradient() {
            Some(gradient) => gradient,
            None => {
                spare.clear();
                spare.resize(len, T::zero());
                spare
            }
        }
    }

    /// `y` holds anything. `random` is there in training only.
    pub fn forward(&mut self, inputs: &[&[T]], y: &mut [T], random: Option<&mut Random>) -> Result<()> {
        match self.code_input(inputs[0])? {
            None => self.forward_plain(inputs, y, random),
            Some(coded) => {
                let result = self.forward_plain(&[&coded], y, random);
                self.saved.coded = coded;
                result
            }
        }
    }

    fn forward_plain(&mut self, inputs: &[&[T]], y: &mut [T], random: Option<&mut Random>) -> Result<()> {
        let x = inputs[0];
        match self.work {
            Work::Linear { n, rows, .. } => {
                self.params[self.layer.slots[0]].product(x, n, 0..rows, y);
                if self.layer.slots.len() > 1 {
                    linear::add_bias(self.vector(1), y);
                }
            }
            Work::Conv { n, out, geometry } => {
                if let Some(direct) = self.direct(&geometry, out) {
                    let bias = self.layer.slots.get(1).map_or(&[][..], |s| self.params[*s].vector());
                    let kernel = self.params[self.layer.slots[0]].matrix().unwrap_or_default();
                    direct.forward(x, kernel, bias, y);
                    return Ok(());
                }
                self.convolve(&geometry, n, out, x, y)?;
                if self.layer.slots.len() > 1 {
                    conv::add_bias(self.vector(1), geometry.windows(), y);
                }
            }
            Work::BatchNorm { maps, epsilon } => {
                self.moments(maps, epsilon, x, random.is_some());
                maps.forward(&self.saved.moments, self.vector(0), self.vector(1), x, y);
            }
            Work::LayerNorm { epsilon } => {
                let mut moments = std::mem::take(&mut self.saved.moments);
                layer_forward(epsilon, self.vector(0), self.vector(1), x, y, &mut moments);
                self.saved.moments = moments;
            }
            Work::Activation(f) => f.forward(x, y),
            Work::Max(window) => {
                self.saved.places.resize(y.len(), 0);
                pool::max_forward(&window, x, y, &mut self.saved.places);
            }
            Work::Average(window) => pool::average_forward(&window, x, y),
            Work::Global(size) => pool::global_forward(size, x, y),
            Work::Flatten => y.copy_from_slice(x),
            Work::Dropout(probability) => match random {
                Some(random) => {
                    self.saved.factors.resize(y.len(), T::zero());
                    dropout::draw(probability, random, &mut self.saved.factors);
                    dropout::forward(&self.saved.factors, x, y);
                }
                None => y.copy_from_slice(x),
            },
            Work::Add => y.iter_mut().zip(x.iter().zip(inputs[1])).for_each(|(y, (a, b))| *y = *a + *b),
        }
        Ok(())
    }

    /// How to convolve without unrolled windows, where that can be done with the form that the kernel has.
    fn direct(&self, geometry: &conv::Geometry, out: usize) -> Option<Direct> {
        self.params[self.layer.slots[0]].matrix().and_then(|_| Direct::both_ways(geometry, out))
    }

    /// Statistics for a batch norm. In training, those of the batch, which the running ones move towards.
    fn moments(&mut self, maps: Maps, epsilon: f64, x: &[T], training: bool) {
        let count = x.len() / maps.channels.max(1);
        // A single value has no variance to learn from.
        self.saved.fixed = !training || count < 2;
        if self.saved.fixed {
            let pairs = self.vector(2).iter().zip(self.vector(3));
            let running = pairs.map(|(m, v)| Moments::new(m.widen(), v.widen(), epsilon));
            self.saved.moments = running.collect();
            return;
        }
        self.saved.moments = maps.moments(x, epsilon);
        let moments = &self.saved.moments;
        let unbiased = count as f64 / (count as f64 - 1.0);
        let towards = |old: T, new: f64| T::narrow((1.0 - MOMENTUM) * old.widen() + MOMENTUM * new);
        let (mean, variance) = (self.layer.slots[2], self.layer.slots[3]);
        self.params[mean].measure(|c, old| towards(old, moments[c].mean));
        self.params[variance].measure(|c, old| towards(old, moments[c].variance * unbiased));
    }

    /// `dy` is the gradient of the output. `gradients` are those of all outputs before it, which are added
    /// to where they are `needed` (which is as before in the end); a `fresh` one holds anything, and is overwritten.
    pub fn backward(
        &mut self,
        inputs: &[&[T]],
        dy: &[T],
        gradients: &mut [Vec<T>],
        needed: &mut [bool],
        fresh: &mut [bool],
    ) -> Result<()> {
        match self.coded() {
            Some(coded) => self.backward_coded(coded, inputs[0], dy, gradients, needed, fresh),
            None => self.backward_plain(inputs, dy, gradients, needed, fresh),
        }
    }

    pub(super) fn backward_plain(
        &mut self,
        inputs: &[&[T]],
        dy: &[T],
        gradients: &mut [Vec<T>],
        needed: &[bool],
        fresh: &mut [bool],
    ) -> Result<()> {
        let x = inputs[0];
        if self.work == Work::Add {
            for from in self.layer.from.iter().filter(|f| needed[**f]) {
                put(dy, std::mem::take(&mut fresh[*from]), &mut gradients[*from]);
            }
            return Ok(());
        }
        let from = self.layer.from[0];
        let fresh = std::mem::take(&mut fresh[from]);
        let beta = if fresh { T::zero() } else { T::one() };
        let adds = match self.work {
            Work::Linear { .. } | Work::Activation(_) | Work::Max(_) | Work::Flatten => false,
            Work::Conv { out, geometry, .. } => self.direct(&geometry, out).is_none(),
            _ => true,
        };
        if fresh && adds {
            gradients[from].fill(T::zero());
        }
        if let Work::Conv { n, out, geometry } = self.work {
            let dx = if needed[from] { Some(&mut gradients[from][..]) } else { None };
            if let Some(bias) = self.layer.slots.get(1)
                && let Some(gradient) = self.params[*bias].vector_gradient()
            {
                conv::backward_bias(dy, geometry.windows(), gradient);
            }
            let Some(direct) = self.direct(&geometry, out) else {
                return self.convolve_back(&geometry, n, out, x, dy, dx);
            };
            let kernel = &mut self.params[self.layer.slots[0]];
            if let Some((beta, gradient)) = kernel.matrix_gradient() {
                direct.backward_weight(x, dy, beta, gradient);
            }
            if let Some(dx) = dx {
                direct.backward_input(kernel.matrix().unwrap_or_default(), dy, fresh, dx);
            }
            return Ok(());
        }
        let mut dx = if needed[from] { Some(&mut gradients[from][..]) } else { None };
        match (self.work, &mut dx) {
            (Work::Linear { n, rows, .. }, dx) => {
                if let Some(bias) = self.layer.slots.get(1)
                    && let Some(gradient) = self.params[*bias].vector_gradient()
                {
                    linear::backward_bias(dy, gradient);
                }
                let dx = dx.as_deref_mut().map(|dx| (beta, dx));
                self.params[self.layer.slots[0]].backward(x, dy, n, 0..rows, dx);
            }
            (Work::BatchNorm { .. } | Work::LayerNorm { .. }, dx) => {
                self.norm_back(x, dy, dx.as_deref_mut());
            }
            (Work::Activation(f), Some(dx)) => f.backward(x, dy, fresh, dx),
            (Work::Max(window), Some(dx)) => pool::max_backward(&window, &self.saved.places, dy, fresh, dx),
            (Work::Average(window), Some(dx)) => pool::average_backward(&window, dy, dx),
            (Work::Global(size), Some(dx)) => pool::global_backward(size, dy, dx),
            (Work::Flatten, Some(dx)) => put(dy, fresh, dx),
            (Work::Dropout(_), Some(dx)) => dropout::backward(&self.saved.factors, dy, dx),
            _ => {}
        }
        Ok(())
    }

    fn norm_back(&mut self, x: &[T], dy: &[T], dx: Option<&mut [T]>) {
        // Scale and shift are two slots of one list: the gradients of one wait in a buffer of their own.
        let weight = self.vector(0).to_vec();
        let (mut dweight, mut spare) = (vec![T::zero(); weight.len()], Vec::new());
        let dbias = Self::gradient_or(&mut self.params[self.layer.slots[1]], &mut spare);
        let Saved { moments, fixed, .. } = &*self.saved;
        match self.work {
            Work::BatchNorm { maps, .. } => {
                maps.backward(moments, *fixed, &weight, x, dy, &mut dweight, dbias, dx);
            }
            _ => layer_backward(moments, &weight, x, dy, &mut dweight, dbias, dx),
        }
        if let Some(gradient) = self.params[self.layer.slots[0]].vector_gradient() {
            put(&dweight, false, gradient);
        }
    }

    fn convolve(&mut self, g: &conv::Geometry, n: usize, out: usize, x: &[T], y: &mut [T]) -> Result<()> {
        let (windows, cols, m) = (g.windows(), g.cols(), out / g.groups);
        let Scratch { windows: unrolled, products, .. } = self.scratch;
        for part in conv::parts(g, n, out) {
            let unrolled = room(unrolled, part.windows * cols, &self.layer.label)?;
            let products = room(products, part.windows * m, &self.layer.label)?;
            let first = part.rows.start;
            conv::im2col(g, part.group, &x[part.x], unrolled);
            self.params[self.layer.slots[0]].product(unrolled, part.windows, part.rows, products);
            conv::to_maps(products, windows, m, out, first, &mut y[part.y]);
        }
        Ok(())
    }

    fn convolve_back(
        &mut self,
        g: &conv::Geometry,
        n: usize,
        out: usize,
        x: &[T],
        dy: &[T],
        mut dx: Option<&mut [T]>,
    ) -> Result<()> {
        let (windows, cols, m) = (g.windows(), g.cols(), out / g.groups);
        let Scratch { windows: unrolled, products, window_gradients } = self.scratch;
        let label = &self.layer.label;
        for part in conv::parts(g, n, out) {
            let unrolled = room(unrolled, part.windows * cols, label)?;
            let products = room(products, part.windows * m, label)?;
            conv::im2col(g, part.group, &x[part.x.clone()], unrolled);
            conv::to_rows(&dy[part.y], windows, m, out, part.rows.start, products);
            let param = &mut self.params[self.layer.slots[0]];
            match dx.as_deref_mut() {
                None => param.backward(unrolled, products, part.windows, part.rows, None),
                Some(dx) => {
                    let back = room(window_gradients, part.windows * cols, label)?;
                    let target = Some((T::zero(), &mut *back));
                    param.backward(unrolled, products, part.windows, part.rows, target);
                    conv::col2im(g, part.group, back, &mut dx[part.x]);
                }
            }
        }
        Ok(())
    }
}

/// Adds to what is there unless that is `fresh`.
pub(super) fn put<T: Float>(from: &[T], fresh: bool, to: &mut [T]) {
    if fresh {
        to.copy_from_slice(from);
    } else {
        to.iter_mut().zip(from).for_each(|(a, b)| *a += *b);
    }
}

/// The first `len` values of a buffer that grows where it must. They hold anything.
fn room<'b, T: Float>(buffer: &'b mut Vec<T>, len: usize, what: &str) -> Result<&'b mut [T]> {
    if buffer.len() < len {
        *buffer = zeros(1, len).map_err(|fault| Error::weight(what, fault))?;
    }
    Ok(&mut buffer[..len])
}
