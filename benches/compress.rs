//! Compressing one 1024 x 1024 matrix with each step, as users call it, and the archive it is kept in; factorizing
//! larger ones.

use bantam::{
    AffineQuantizer, BoxError, CodebookQuantizer, Layout, LowRankFactorizer, MagnitudePruner, Model,
    Pipeline, Tensor, Weight, WeightCompressor,
};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

const N: usize = 1024;

fn numbers(n: usize) -> Vec<f32> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    std::iter::repeat_with(next).take(n).collect()
}

fn weight() -> Weight {
    matrix(N, N)
}

fn matrix(rows: usize, cols: usize) -> Weight {
    let shape = [rows, cols];
    let values = numbers(rows * cols);
    Tensor::new(&shape, values).map_or_else(|_| Tensor::zeros(&shape).into(), Weight::from)
}

fn prune(c: &mut Criterion) {
    let mut group = c.benchmark_group("prune");
    group.throughput(Throughput::Bytes((N * N * 4) as u64));
    let steps = [
        ("threshold", MagnitudePruner::threshold(0.25)),
        ("sparsity 0.9", MagnitudePruner::sparsity(0.9)),
        ("2:4", MagnitudePruner::n_of_m(2, 4)),
    ];
    for (name, step) in steps {
        group.bench_function(BenchmarkId::new(name, format!("{N}x{N}")), |b| {
            let weight = weight();
            b.iter(|| black_box(step.apply(weight.clone())));
        });
    }
    group.finish();
}

fn quantize(c: &mut Criterion) {
    let mut group = c.benchmark_group("quantize");
    group.throughput(Throughput::Bytes((N * N * 4) as u64));
    let steps = [
        ("8 bits per tensor", AffineQuantizer::bits(8)),
        ("8 bits per channel", AffineQuantizer::bits(8).per_channel()),
        ("4 bits group 128", AffineQuantizer::bits(4).group(128)),
    ];
    for (name, step) in steps {
        group.bench_function(BenchmarkId::new(name, format!("{N}x{N}")), |b| {
            let weight = weight();
            b.iter(|| black_box(step.apply(weight.clone())));
        });
    }
    group.finish();
}

fn factorize(c: &mut Criterion) {
    let mut group = c.benchmark_group("factorize");
    group.sample_size(10);
    #[cfg(feature = "bench")]
    for (rows, cols) in [(1024, 1024), (2048, 2048), (4096, 1024)] {
        let values = numbers(rows * cols);
        group.bench_function(BenchmarkId::new("thin SVD", format!("{rows}x{cols}")), |b| {
            b.iter(|| black_box(bantam::thin_svd(&values, rows, cols)));
        });
    }
    let weight = matrix(4096, 4096);
    for rank in [64, 256] {
        group.bench_function(BenchmarkId::new(format!("rank {rank}"), "4096x4096"), |b| {
            b.iter(|| black_box(LowRankFactorizer::rank(rank).apply(weight.clone())));
        });
    }
    group.finish();
}

/// Writing and opening the entropy-coded layout, in entries a second; the zeros count.
fn archive(c: &mut Criterion) {
    let mut group = c.benchmark_group("archive");
    group.throughput(Throughput::Elements((N * N) as u64)).sample_size(10);
    let recipes = [
        ("float32", Pipeline::new()),
        ("8 bits", Pipeline::new().quantize(8)),
        ("4 bits group 128", Pipeline::new().quantize(AffineQuantizer::bits(4).group(128))),
        ("90 % pruned, 8 bits", Pipeline::new().prune(MagnitudePruner::sparsity(0.9)).quantize(8)),
        (
            "98 % pruned, 16 values",
            Pipeline::new().prune(MagnitudePruner::sparsity(0.98)).then(CodebookQuantizer::values(16)),
        ),
    ];
    for (name, recipe) in recipes {
        let Ok((model, bytes)) = packed(&recipe) else { continue };
        let id = |work: &str| BenchmarkId::new(work, format!("{name}, {} bytes", bytes.len()));
        group.bench_function(id("write"), |b| b.iter(|| black_box(model.to_bytes_with(Layout::Archive))));
        group.bench_function(id("open"), |b| {
            b.iter_batched(
                || bytes.clone(),
                |bytes| black_box(Model::<f32>::from_bytes(bytes)),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn packed(recipe: &Pipeline<'_>) -> Result<(Model, Vec<u8>), BoxError> {
    let model = recipe.run(Model::from_tensors([("weight", weight().to_dense()?)])?)?.model;
    let bytes = model.to_bytes_with(Layout::Archive)?;
    Ok((model, bytes))
}

criterion_group!(benches, prune, quantize, factorize, archive);
criterion_main!(benches);
