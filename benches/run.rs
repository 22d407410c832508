//! Running a 4096 x 4096 matrix from each compressed form, at batch 1, 16 and 256. Eight weights take turns, so
//! that no cache holds them. `read` passes over the bytes of the dense matrix: what memory allows. And a convolution
//! and LeNet-5, on floats and on integers.

use bantam::nn::{Conv2d, Graph, Input};
use bantam::{
    Activations, AffineQuantizer, LowRankFactorizer, MagnitudePruner, Model, Pipeline, Result, Tensor,
    Weight, WeightCompressor,
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
    let sparse_eight =
        |w| AffineQuantizer::bits(8).per_channel().apply(MagnitudePruner::sparsity(0.9).apply(w)?);
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
        form("sparse 90 %, 8 bits, int8 activations", int8, sparse_eight),
        form("sparse 90 %, 8 bits, float activations", float, sparse_eight),
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

fn conv() -> (Graph, Vec<(&'static str, Vec<usize>)>) {
    let graph = Graph::new().conv2d("conv", Conv2d::default().padding(1));
    (graph, vec![("conv.weight", vec![64, 64, 3, 3]), ("conv.bias", vec![64])])
}

fn lenet() -> (Graph, Vec<(&'static str, Vec<usize>)>) {
    let graph = Graph::new().conv2d("conv1", Conv2d::default()).max_pool(2);
    let graph = graph.conv2d("conv2", Conv2d::default()).max_pool(2).flatten();
    let graph = graph.linear("fc1").relu().linear("fc2");
    let shapes = vec![
        ("conv1.weight", vec![20, 1, 5, 5]),
        ("conv1.bias", vec![20]),
        ("conv2.weight", vec![50, 20, 5, 5]),
        ("conv2.bias", vec![50]),
        ("fc1.weight", vec![500, 800]),
        ("fc1.bias", vec![500]),
        ("fc2.weight", vec![10, 500]),
        ("fc2.bias", vec![10]),
    ];
    (graph, shapes)
}

/// The throughput is in samples.
fn networks(c: &mut Criterion) {
    let mut group = c.benchmark_group("network");
    let rows = [
        ("conv 3x3, 64 channels at 56x56", conv(), [64, 56, 56], [1, 16]),
        ("LeNet-5", lenet(), [1, 28, 28], [1, 64]),
    ];
    for (name, (graph, shapes), [channels, height, width], batches) in rows {
        let tensors = shapes
            .iter()
            .map(|(name, shape)| Ok((*name, Tensor::new(shape, numbers(shape.iter().product(), 1))?)));
        let eight = AffineQuantizer::bits(8).per_channel().activations(Activations::Int8);
        let model = tensors
            .collect::<Result<Vec<_>>>()
            .and_then(|tensors| Model::from_tensors(tensors)?.with_graph(graph));
        let Ok(model) = model else { return };
        for (kind, steps) in [("float32", Pipeline::new()), ("int8", Pipeline::new().quantize(eight))] {
            let Ok(network) = steps.run(&model).and_then(|after| after.model.network()) else { return };
            for batch in batches {
                let values = numbers(batch * channels * height * width, 2);
                let Ok(x) = Tensor::new(&[batch, channels, height, width], values) else { return };
                let x = Input::Values(x);
                group.throughput(Throughput::Elements(batch as u64));
                group.bench_function(
                    BenchmarkId::new(format!("{name}, {kind}"), format!("batch {batch}")),
                    |b| {
                        b.iter(|| black_box(network.forward(&x)));
                    },
                );
            }
        }
    }
    group.finish();
}

criterion_group!(benches, matmul, networks);
criterion_main!(benches);
