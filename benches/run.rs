//! Running a 4096 x 4096 matrix from each compressed form, at batch 1, 16 and 256. Eight weights take turns, so
//! that no cache holds them. `read` passes over the bytes of the dense matrix: what memory allows.

use bantam::{
    Activations, AffineQuantizer, LowRankFactorizer, MagnitudePruner, Result, Tensor, Weight,
    WeightCompressor,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rayon::prelude::*;
use std::hint::black_box;

const N: usize = 4096;
const TURNS: usize = 8;

fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(7).wrapping_add(7);
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    std::iter::repeat_with(next).take(n).collect()
}

type Form = (&'static str, Activations, Box<dyn Fn(Weight) -> Result<Weight>>);

fn forms() -> Vec<Form> {
    let form = |name, activations, make: fn(Weight) -> Result<Weight>| -> Form {
        (name, activations, Box::new(make))
    };
    let (float, int8) = (Activations::Float, Activations::Int8);
    let eight = |w| AffineQuantizer::bits(8).per_channel().apply(w);
    let four = |w| AffineQuantizer::bits(4).group(128).apply(w);
    vec![
        form("float32", float, Ok),
        form("int8 weights, int8 activations", int8, eight),
        form("int8 weights, float activations", float, eight),
        form("int4 group 128, int8 activations", int8, four),
        form("int4 group 128, float activations", float, four),
        form("sparse 90 %, float32", float, |w| MagnitudePruner::sparsity(0.9).apply(w)),
        form("sparse 50 %, float32", float, |w| MagnitudePruner::sparsity(0.5).apply(w)),
        form("2:4, float32", float, |w| MagnitudePruner::n_of_m(2, 4).apply(w)),
        form("2:4, int8", int8, |w| {
            AffineQuantizer::bits(8).per_channel().apply(MagnitudePruner::n_of_m(2, 4).apply(w)?)
        }),
        form("rank 256", float, |w| LowRankFactorizer::rank(256).apply(w)),
    ]
}

fn matmul(c: &mut Criterion) {
    let mut group = c.benchmark_group("matmul");
    group.sample_size(10);
    let dense = (0..TURNS as u32).map(|i| Tensor::new(&[N, N], numbers(N * N, i)).map(Weight::from));
    let Ok(dense) = dense.collect::<Result<Vec<_>>>() else { return };
    let read: Vec<Vec<f32>> = (0..TURNS as u32).map(|i| numbers(N * N, i)).collect();
    group.throughput(Throughput::Bytes((N * N * size_of::<f32>()) as u64));
    let mut turn = 0;
    group.bench_function(BenchmarkId::new("read", format!("{N}x{N} float32")), |b| {
        b.iter(|| {
            turn = (turn + 1) % TURNS;
            let largest = read[turn].par_chunks(1 << 16).map(|c| c.iter().fold(0, |m, x| m.max(x.to_bits())));
            black_box(largest.max())
        });
    });
    drop(read);
    for (name, activations, make) in forms() {
        // One factorization is enough to run it.
        let different = if name.starts_with("rank") { 1 } else { TURNS };
        let weights = dense.iter().take(different).map(|w| make(w.clone())).collect::<Result<Vec<_>>>();
        let Ok(weights) = weights else { continue };
        for batch in [1, 16, 256] {
            let Ok(x) = Tensor::new(&[batch, N], numbers(batch * N, 99)) else { return };
            group.throughput(Throughput::Elements((2 * batch * N * N) as u64));
            group.bench_function(BenchmarkId::new(name, format!("{N}x{N} batch {batch}")), |b| {
                b.iter(|| {
                    turn = (turn + 1) % different;
                    black_box(weights[turn].matmul_with(&x, activations))
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, matmul);
criterion_main!(benches);
