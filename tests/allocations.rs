//! A training step allocates nothing once it has been made before, with input of the same shape.

#![cfg(feature = "train")]
#![allow(unsafe_code)]

use bantam::nn::{Conv2d, Graph, Input, Optimizer, Outputs, cross_entropy_into};
use bantam::{MagnitudePruner, Model, Pipeline, Result, Tensor};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

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
