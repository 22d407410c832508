//! Sharing the values of 16.8 million entries: the kernels (feature `bench`), and the step as users call it.
//!
//! ```text
//! cargo bench --bench codebook --features bench
//! ```
//!
//! The two passes over the values are bound by memory: `limit: read`, in the bench of quantization, is what there is.

use bantam::{CodebookInit, CodebookQuantizer, Tensor, Weight, WeightCompressor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

const ROWS: usize = 4096;
const N: usize = ROWS * ROWS;

/// About normal: the sum of four uniform numbers.
fn values() -> Vec<f32> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..N).map(|_| next() + next() + next() + next()).collect()
}

fn id(name: &str, values: usize) -> BenchmarkId {
    BenchmarkId::new(name, format!("{ROWS}x{ROWS}, {values} values"))
}

fn steps(c: &mut Criterion) {
    let mut group = c.benchmark_group("codebook step");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(4 * N as u64));
    let weight =
        Tensor::new(&[ROWS, ROWS], values()).map_or_else(|_| Tensor::zeros(&[1]).into(), Weight::from);
    let of = CodebookQuantizer::values;
    let all = [
        ("linear", 16, of(16)),
        ("density", 16, of(16).init(CodebookInit::Density)),
        ("k-means++", 16, of(16).init(CodebookInit::PlusPlus { seed: 1 })),
        ("optimal", 16, of(16).optimal()),
        ("linear", 256, of(256)),
    ];
    for (name, values, step) in all {
        group.bench_function(id(name, values), |b| b.iter(|| black_box(step.apply(weight.clone()))));
    }
    if let Ok(shared) = of(16).apply(weight) {
        group.bench_function(id("decode", 16), |b| b.iter(|| black_box(shared.to_dense())));
    }
    group.finish();
}

#[cfg(feature = "bench")]
mod kernels {
    use super::{N, id, values};
    use bantam::kernels::codebook::{Bounds, Histogram, Points, linear, lloyd, optimal};
    use criterion::{Criterion, Throughput};
    use rayon::prelude::*;
    use std::hint::black_box;

    /// Values that a thread handles at a time.
    const BLOCK: usize = 1 << 16;

    fn histogram(values: &[f32]) -> Histogram<f32> {
        let tallies: Vec<_> = values
            .par_chunks(Histogram::<f32>::TALLY)
            .map(|values| {
                let mut tally = vec![0; Histogram::<f32>::BINS];
                let zeros = Histogram::tally(values, &mut tally);
                (tally, zeros)
            })
            .collect();
        let mut histogram = Histogram::new();
        tallies.iter().for_each(|(tally, zeros)| histogram.add(tally, *zeros));
        histogram
    }

    pub fn all(c: &mut Criterion) {
        let values = values();
        let mut group = c.benchmark_group("codebook kernel");
        group.sample_size(20);
        group.throughput(Throughput::Bytes(4 * N as u64));
        group.bench_function(id("histogram", 16), |b| b.iter(|| black_box(histogram(&values))));
        let found = histogram(&values);
        let mut codes = vec![0; N];
        for k in [16, 256] {
            let points = Points::of_histogram(&found, k);
            group.bench_function(id("lloyd", k), |b| {
                b.iter(|| black_box(lloyd(&points, linear(&points, k), 300)));
            });
            let centres = points.restore(&lloyd(&points, linear(&points, k), 300));
            let bounds = Bounds::new(&centres.iter().map(|x| *x as f32).collect::<Vec<f32>>());
            group.bench_function(id("codes", k), |b| {
                b.iter(|| {
                    let blocks = codes.par_chunks_mut(BLOCK).zip(values.par_chunks(BLOCK));
                    blocks.for_each(|(codes, values)| bounds.codes(values, codes));
                });
            });
        }
        let points = Points::of_histogram(&found, 16);
        group.bench_function(id("optimal", 16), |b| b.iter(|| black_box(optimal(&points, 16))));
        group.finish();
    }
}

#[cfg(not(feature = "bench"))]
mod kernels {
    pub fn all(_: &mut criterion::Criterion) {}
}

criterion_group!(benches, kernels::all, steps);
criterion_main!(benches);
