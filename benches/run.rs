//! Running one 1024 x 1024 matrix from each compressed form, at batch 1 and 64.

use bantam::{
    Activations, AffineQuantizer, LowRankFactorizer, MagnitudePruner, Result, Tensor, Weight,
    WeightCompressor,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

const N: usize = 1024;

fn numbers(n: usize) -> Vec<f32> {
    let mut state = 7_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    std::iter::repeat_with(next).take(n).collect()
}

fn forms() -> Result<Vec<(&'static str, Weight, Activations)>> {
    let dense = Weight::from(Tensor::new(&[N, N], numbers(N * N))?);
    let int8 = AffineQuantizer::bits(8).per_channel().apply(dense.clone())?;
    Ok(vec![
        ("float32", dense.clone(), Activations::Float),
        ("int8 weights, float activations", int8.clone(), Activations::Float),
        ("int8 weights, int8 activations", int8, Activations::Int8),
        ("int4 group 128", AffineQuantizer::bits(4).group(128).apply(dense.clone())?, Activations::Float),
        ("90 % pruned", MagnitudePruner::sparsity(0.9).apply(dense.clone())?, Activations::Float),
        ("rank 64", LowRankFactorizer::rank(64).apply(dense)?, Activations::Float),
    ])
}

fn matmul(c: &mut Criterion) {
    let mut group = c.benchmark_group("matmul");
    let Ok(forms) = forms() else { return };
    for batch in [1, 64] {
        let Ok(x) = Tensor::new(&[batch, N], numbers(batch * N)) else { return };
        group.throughput(Throughput::Elements((2 * batch * N * N) as u64));
        for (name, weight, activations) in &forms {
            group.bench_function(BenchmarkId::new(*name, format!("{N}x{N} batch {batch}")), |b| {
                b.iter(|| black_box(weight.matmul_with(&x, *activations)));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, matmul);
criterion_main!(benches);
