//! Pruning against the limits of the memory: for each work the kernels on slices, the step as users call it on
//! a weight that nobody else holds, and the same on a weight that is shared.
//!
//! Rows named `limit` move the same bytes and do nothing else. Time of a step on memory of its own contains
//! giving back what is no longer needed.

#[path = "kernels/prune.rs"]
mod kernels;

use bantam::kernels::prune::{Magnitude, clear_others};
use bantam::{Kind, MagnitudePruner, Model, Pipeline, Tensor, Weight, WeightCompressor, WeightInfo};
use criterion::measurement::WallTime;
use criterion::{
    BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use kernels::{RUN, STRIP, keep, least_kept};
use rayon::prelude::*;
use std::hint::black_box;
use std::time::Duration;

const N: usize = 4096;
const LARGE: usize = 64 << 20;
/// Ninety of a hundred values lie below.
const CUT: f32 = 1.6449;

/// Values of roughly normal distribution: sums of uniform ones.
fn normal(n: usize) -> Vec<f32> {
    let mut values = vec![0.0; n];
    values.par_chunks_mut(RUN).enumerate().for_each(|(i, chunk)| {
        let mut state = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        for x in chunk {
            let mut sum = 0;
            for _ in 0..3 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                sum += (state >> 32 & 0xFFFF) + (state >> 48);
            }
            *x = (sum as f32 / 65_536.0 - 3.0) * std::f32::consts::SQRT_2;
        }
    });
    values
}

fn weight(n: usize, values: &[f32]) -> Weight {
    match Tensor::new(&[values.len() / n, n], values.to_vec()) {
        Ok(tensor) => tensor.into(),
        Err(_) => unreachable!("the shape holds all values"),
    }
}

/// The limits for `n` values: reading them, changing them in place, copying them.
fn limits(group: &mut BenchmarkGroup<'_, WallTime>, size: &str, values: &mut [f32]) {
    let bytes = size_of_val(values) as u64;
    group.throughput(Throughput::Bytes(bytes));
    group.bench_function(BenchmarkId::new("limit: read", size), |b| {
        b.iter(|| {
            let sum = |c: &[f32]| c.iter().fold(0, |a, x| a ^ x.to_bits());
            black_box(values.par_chunks(RUN).map(sum).reduce(|| 0, |a, b| a ^ b))
        });
    });
    group.throughput(Throughput::Bytes(2 * bytes));
    group.bench_function(BenchmarkId::new("limit: change in place", size), |b| {
        b.iter(|| values.par_chunks_mut(RUN).for_each(|c| c.iter_mut().for_each(|x| *x = -*x)));
    });
    let mut copy = values.to_vec();
    group.bench_function(BenchmarkId::new("limit: copy", size), |b| {
        b.iter(|| {
            let pairs = copy.par_chunks_mut(RUN).zip(values.par_chunks(RUN));
            pairs.for_each(|(a, b)| a.copy_from_slice(b));
        });
    });
}

/// A step on a weight of its own, and on one that is shared.
fn step(
    group: &mut BenchmarkGroup<'_, WallTime>,
    size: &str,
    n: usize,
    values: &[f32],
    step: &MagnitudePruner,
) {
    let shared = weight(n, values);
    let info = &WeightInfo::new("weight", Kind::Lone, shared.shape());
    group.bench_function(BenchmarkId::new("step, own memory", size), |b| {
        let own = || weight(n, values);
        b.iter_batched(own, |w| black_box(step.compress_weight(info, w)), BatchSize::PerIteration);
    });
    group.bench_function(BenchmarkId::new("step, shared memory", size), |b| {
        b.iter_with_large_drop(|| black_box(step.compress_weight(info, shared.clone())));
    });
}

/// Chooses and puts zeros in the place of the others.
fn zero(values: &mut [f32], choose: impl Fn(&[f32], &mut [u64]) -> bool + Sync) {
    values.par_chunks_mut(RUN).for_each(|values| {
        let mut words = [0; STRIP / 64];
        for strip in values.chunks_mut(STRIP) {
            assert!(choose(strip, &mut words));
            clear_others(strip, &words);
        }
    });
}

/// A kernel that changes `values` in place, on fresh values each time.
fn kernel<R>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: BenchmarkId,
    values: &[f32],
    work: &mut [f32],
    mut f: impl FnMut(&mut [f32]) -> R,
) {
    group.bench_function(id, |b| {
        b.iter_custom(|n| {
            (0..n)
                .map(|_| {
                    let pairs = work.par_chunks_mut(RUN).zip(values.par_chunks(RUN));
                    pairs.for_each(|(a, b)| a.copy_from_slice(b));
                    let start = std::time::Instant::now();
                    black_box(f(work));
                    start.elapsed()
                })
                .sum()
        });
    });
}

fn threshold(c: &mut Criterion) {
    let mut group = c.benchmark_group("prune/threshold");
    group.sample_size(20).measurement_time(Duration::from_secs(4));
    let values = normal(LARGE);
    let mut work = values.clone();
    let mut words = vec![0; LARGE / 64];
    limits(&mut group, "64M", &mut work);
    let least = CUT.magnitude();
    let choose = |values: &[f32], words: &mut [u64]| f32::at_least(values, least, words);
    kernel(&mut group, BenchmarkId::new("kernel: zeros", "64M"), &values, &mut work, |v| zero(v, choose));
    kernel(&mut group, BenchmarkId::new("kernel: keep", "64M"), &values, &mut work, |v| {
        keep(v, &mut words, choose)
    });
    drop(work);
    step(&mut group, "64M", 8192, &values, &MagnitudePruner::threshold(f64::from(CUT)));
    group.finish();
}

fn pattern(c: &mut Criterion) {
    let mut group = c.benchmark_group("prune/2:4");
    group.sample_size(20).measurement_time(Duration::from_secs(3));
    let values = normal(N * N);
    let mut work = values.clone();
    let mut words = vec![0; N * N / 64];
    let size = format!("{N}x{N}");
    limits(&mut group, &size, &mut work);
    let choose = |values: &[f32], words: &mut [u64]| f32::largest_of_groups(values, 2, 4, 1, words);
    kernel(&mut group, BenchmarkId::new("kernel: mask and zeros", &size), &values, &mut work, |v| {
        zero(v, choose);
    });
    kernel(&mut group, BenchmarkId::new("kernel: keep", &size), &values, &mut work, |v| {
        keep(v, &mut words, choose)
    });
    step(&mut group, &size, N, &values, &MagnitudePruner::n_of_m(2, 4));
    group.finish();
}

fn sparsity(c: &mut Criterion) {
    let mut group = c.benchmark_group("prune/sparsity 0.9");
    group.sample_size(20).measurement_time(Duration::from_secs(3));
    let values = normal(N * N);
    let mut work = values.clone();
    let size = format!("{N}x{N}");
    limits(&mut group, &size, &mut work);
    let select = |values: &[f32]| least_kept(values, values.len() / 10 * 9, CUT);
    kernel(&mut group, BenchmarkId::new("kernel: select", &size), &values, &mut work, |v| select(v));
    kernel(&mut group, BenchmarkId::new("kernel: select and zeros", &size), &values, &mut work, |v| {
        let least = select(v);
        zero(v, |values, words| f32::at_least(values, least, words));
    });
    step(&mut group, &size, N, &values, &MagnitudePruner::sparsity(0.9));
    group.finish();
}

fn global(c: &mut Criterion) {
    const MATRICES: usize = 12;
    let mut group = c.benchmark_group("prune/global sparsity 0.9");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    let size = format!("{MATRICES} of {N}x{N}");
    let mut all = normal(MATRICES * N * N);
    limits(&mut group, &size, &mut all);
    let tensors = || {
        let tensors = all.chunks(N * N).enumerate();
        Model::from_tensors(tensors.filter_map(|(i, values)| {
            Some((format!("m{i:02}.weight"), Tensor::new(&[N, N], values.to_vec()).ok()?))
        }))
    };
    let steps = || Pipeline::new().prune(MagnitudePruner::sparsity(0.9).global());
    group.bench_function(BenchmarkId::new("pipeline, own memory", &size), |b| {
        b.iter_batched(tensors, |model| model.map(|m| black_box(steps().run(m))), BatchSize::PerIteration);
    });
    let Ok(model) = tensors() else { return };
    group.bench_function(BenchmarkId::new("pipeline, shared memory", &size), |b| {
        b.iter_with_large_drop(|| black_box(steps().run(&model)));
    });
    group.finish();
}

criterion_group!(benches, threshold, pattern, sparsity, global);
criterion_main!(benches);
