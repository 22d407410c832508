//! A training step allocates nothing once it has been made before, with input of the same shape.

#![cfg(feature = "train")]
#![allow(unsafe_code)]

use bantam::distill::TrainStep;
use bantam::nn::{Conv2d, Examples, Graph, Input, Optimizer, Outputs, cross_entropy_into};
use bantam::{
    Activations, AffineQuantizer, BoxError, CodebookQuantizer, Distiller, FineTuner, MagnitudePruner, Model,
    Pipeline, Result, Tensor,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, which counts what each thread asks of it.
struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    // Not while a thread ends.
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call is passed on as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn perceptron() -> Result<Model> {
    let graph = Graph::new().flatten().linear("fc1").relu().linear("fc2").relu().linear("fc3");
    let shapes: &[(&str, &[usize])] = &[
        ("fc1.weight", &[300, 784]),
        ("fc1.bias", &[300]),
        ("fc2.weight", &[100, 300]),
        ("fc2.bias", &[100]),
        ("fc3.weight", &[10, 100]),
        ("fc3.bias", &[10]),
    ];
    Model::initialized(graph, shapes, 1)
}

fn convolutional() -> Result<Model> {
    let graph = Graph::new().conv2d("conv1", Conv2d::default()).max_pool(2);
    let graph = graph.conv2d("conv2", Conv2d::default().padding(1)).relu().max_pool(2).flatten();
    let graph = graph.linear("fc1").relu().linear("fc2");
    let shapes: &[(&str, &[usize])] = &[
        ("conv1.weight", &[20, 1, 5, 5]),
        ("conv1.bias", &[20]),
        ("conv2.weight", &[50, 20, 5, 5]),
        ("conv2.bias", &[50]),
        ("fc1.weight", &[500, 1250]),
        ("fc1.bias", &[500]),
        ("fc2.weight", &[10, 500]),
        ("fc2.bias", &[10]),
    ];
    Model::initialized(graph, shapes, 1)
}

/// Allocations of some steps, on this thread, after a few.
fn of_steps(model: &Model) -> Result<usize> {
    const BATCH: usize = 16;
    let pixels = (0..BATCH * 784).map(|i| (i * 7919 % 256) as f32 / 256.0).collect();
    let input = Input::Values(Tensor::new(&[BATCH, 1, 28, 28], pixels)?);
    let labels: Vec<u32> = (0..BATCH as u32).map(|i| i % 10).collect();
    let mut student = model.network()?.trainable(Optimizer::adam().into())?;
    let (mut outputs, mut gradients) = (Outputs::default(), Outputs::default());
    let mut step = || -> Result<()> {
        student.forward_into(&input, &[], &mut outputs)?;
        cross_entropy_into(&outputs.logits, &labels, &mut gradients.logits)?;
        student.backward(&gradients)?;
        student.step(1e-3)
    };
    (0..3).try_for_each(|_| step())?;
    let before = COUNT.get();
    (0..5).try_for_each(|_| step())?;
    Ok(COUNT.get() - before)
}

/// On a pool of one thread, where there are pools: then all work is done on this one.
fn alone(f: impl FnOnce() -> Result<usize> + Send) -> Result<usize> {
    #[cfg(feature = "threads")]
    if let Ok(pool) = rayon::ThreadPoolBuilder::new().num_threads(1).build() {
        return pool.install(f);
    }
    f()
}

#[test]
fn a_step_allocates_nothing() -> Result<()> {
    let pruned = Pipeline::new().prune(MagnitudePruner::sparsity(0.95)).run(perceptron()?)?.model;
    for (name, model) in
        [("perceptron", perceptron()?), ("pruned", pruned), ("convolutional", convolutional()?)]
    {
        assert_eq!(alone(|| of_steps(&model))?, 0, "{name}");
    }
    Ok(())
}

/// How much had been allocated at two steps of a training.
#[derive(Default)]
struct Watch([AtomicUsize; 2]);

impl Watch {
    /// Within one epoch, and more than once around whatever happens every ten steps.
    const STEPS: [usize; 2] = [5, 28];

    fn look(&self, step: &TrainStep) -> Result<ControlFlow<()>, BoxError> {
        for (at, seen) in Self::STEPS.iter().zip(&self.0) {
            if step.step == *at {
                seen.store(COUNT.get(), Ordering::Relaxed);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn count(&self) -> usize {
        let [before, after] = [0, 1].map(|i| self.0[i].load(Ordering::Relaxed));
        after - before
    }
}

/// 32 steps of 16 samples.
fn samples() -> Result<Examples> {
    let pixels = (0..512 * 784_u64).map(|i| (i * 7919 % 257) as f32 / 257.0).collect();
    Examples::new(Tensor::new(&[512, 784], pixels)?, (0..512).map(|i| i % 10).collect())
}

#[test]
fn a_step_of_a_training_allocates_nothing() -> Result<()> {
    let data = samples()?;
    let teacher = perceptron()?.network()?;
    type Training<'a> = (FineTuner<'a>, Distiller<'a>);
    type How = for<'a> fn(Training<'a>) -> Training<'a>;
    let with = |pipeline: Pipeline<'static>| -> Result<Model> { Ok(pipeline.run(perceptron()?)?.model) };
    let mut cases: Vec<(&str, Model, How)> = vec![
        ("dense", perceptron()?, |both| both),
        ("pruned", with(Pipeline::new().prune(MagnitudePruner::sparsity(0.95)))?, |both| both),
        (
            "quantized",
            with(Pipeline::new().quantize(AffineQuantizer::bits(8).activations(Activations::Int8)))?,
            |(a, b)| (a.code_inputs().learn_step_sizes(), b.code_inputs().learn_step_sizes()),
        ),
        ("codebook", with(Pipeline::new().then(CodebookQuantizer::values(16)))?, |both| both),
        ("moving", with(Pipeline::new().then(CodebookQuantizer::values(16)))?, |(a, b)| {
            (a.move_codes_until(0.95), b.move_codes_until(0.95))
        }),
    ];
    if cfg!(feature = "faer") {
        cases.push(("factored", with(Pipeline::new().factorize(8))?, |both| both));
    }
    for (name, model, how) in cases {
        let watches = [Watch::default(), Watch::default()];
        let tuner = FineTuner::new(&data).batch_size(16);
        let distiller = Distiller::new(&teacher, &data).batch_size(16).cache_logits();
        let (tuner, distiller) = how((tuner, distiller));
        alone(|| {
            let student = || model.network()?.trainable(Optimizer::adam().into());
            let tuner = tuner.after_step(|step, _| watches[0].look(step));
            tuner.fit(&mut student()?, &mut |_, _| Ok(()))?;
            let distiller = distiller.after_step(|step, _| watches[1].look(step));
            distiller.fit(&mut student()?, &mut |_, _| Ok(()))?;
            Ok(0)
        })?;
        assert_eq!(watches.map(|watch| watch.count()), [0, 0], "{name}: fine-tuned, distilled");
    }
    Ok(())
}
