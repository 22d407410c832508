//! What is done with every model that opens.

use crate::memory::peak;
use bantam::{Activations, AffineQuantizer, Float, Layout, MagnitudePruner, Model, Pipeline, Result, Tensor};

/// Memory for opening `n` bytes. An archive expands: a byte of its stream holds up to 1024 bits.
pub fn allowed(n: usize) -> usize {
    (64 << 20) + 200 * n
}

/// Opens bytes in both number types; whatever opens is used. Gives whether it opened.
pub fn open(bytes: &[u8]) -> bool {
    open_as::<f32>(bytes) | open_as::<f64>(bytes)
}

fn open_as<T: Float>(bytes: &[u8]) -> bool {
    let owned = bytes.to_vec();
    let (model, most) = peak(|| Model::<T>::from_bytes_as(owned));
    assert!(most <= allowed(bytes.len()), "{most} bytes of memory for a file of {}", bytes.len());
    match model {
        Ok(model) => {
            used(&model);
            true
        }
        Err(e) => {
            says_something(&e);
            false
        }
    }
}

fn says_something(error: &bantam::Error) {
    let text = error.to_string();
    assert!(text.len() > 10 && !text.contains("called `Option"), "{text}");
    assert!(!format!("{error:?}").is_empty());
}

fn check<R>(result: Result<R>) -> Option<R> {
    result.map_err(|e| says_something(&e)).ok()
}

/// Entries of the dense tensor up to which it is asked for.
const DENSE: usize = 1 << 16;

pub fn used<T: Float>(model: &Model<T>) {
    let (mut small, mut sound) = (true, true);
    for (name, weight) in model.weights() {
        let _ = (
            weight.form(),
            weight.rank(),
            weight.sparsity(),
            weight.bits_per_weight(),
            weight.resident_bytes(),
        );
        // A claim may fit its file and still be far more than anybody can hold.
        if weight.len() > DENSE || weight.leaves().iter().any(|l| l.len() > DENSE || l.rows() > DENSE) {
            small = false;
            continue;
        }
        let dense = check(weight.to_dense());
        sound &= dense.is_some();
        if let Some(dense) = dense {
            assert_eq!(dense.shape(), weight.shape(), "{name}");
        }
        let cols = match weight.shape() {
            [] => 1,
            [n] => *n,
            [_, rest @ ..] => rest.iter().product(),
        };
        // Where it lies, and in memory: pruned ones run in other ways there.
        let loaded = check(weight.load());
        for weight in [Some(weight), loaded.as_ref()].into_iter().flatten() {
            for n in [1, 2] {
                let x = Tensor::new(&[n, cols], vec![T::one(); n * cols]).unwrap();
                for activations in [Activations::Float, Activations::Int8, weight.activations()] {
                    check(weight.matmul_with(&x, activations));
                }
            }
        }
    }
    if !small {
        return;
    }
    check(Pipeline::default().prune(0.1).run(model));
    check(Pipeline::default().quantize(AffineQuantizer::bits(3).per_channel().asymmetric()).run(model));
    check(Pipeline::default().prune(MagnitudePruner::sparsity(0.5).global()).run(model));
    check(Pipeline::default().factorize(1_usize).run(model));
    check(model.network());
    for layout in [Layout::Open, Layout::Archive] {
        if let Some(bytes) = check(model.to_bytes_with(layout)) {
            let again = Model::<T>::from_bytes_as(bytes).expect("what is saved opens");
            // Masks are read late: a model that cannot be decoded equals nothing.
            assert!(!sound || &again == model, "saved and opened again, it is another model");
        }
    }
}

/// Opens a file by its path: the error names it.
pub fn open_path(folder: &std::path::Path, bytes: &[u8]) {
    let path = folder.join("some model.safetensors");
    std::fs::write(&path, bytes).unwrap();
    match Model::<f32>::open_as(&path) {
        Ok(model) => used(&model),
        Err(e) => {
            says_something(&e);
            assert!(e.to_string().contains("some model.safetensors"), "no path in: {e}");
        }
    }
}
