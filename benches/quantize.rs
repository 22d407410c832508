//! Quantizing and decoding a 4096 x 11008 matrix against the limits of memory: the kernels (feature `bench`),
//! into memory that is mapped already, and the steps as users call them, which also get the memory for their
//! result.
//!
//! ```text
//! cargo bench --bench quantize --features bench
//! ```
//!
//! The limits are measured in the same run: reading all values, and writing as many bytes as the result has.

#[path = "kernels/quantize.rs"]
mod quantizing;

use bantam::{AffineQuantizer, Range, Tensor, Weight, WeightCompressor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

const ROWS: usize = 4096;
const COLS: usize = 11008;
const N: usize = ROWS * COLS;

fn values() -> Vec<f32> {
    let mut state = 1_u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..N).map(next).collect()
}

fn id(name: &str, bits: u8) -> BenchmarkId {
    BenchmarkId::new(name, format!("{ROWS}x{COLS}, {bits} bits"))
}

/// Bytes read and written, with codes of so many bits.
fn bytes(bits: u8) -> Throughput {
    Throughput::Bytes((N * 4 + N * usize::from(bits) / 8) as u64)
}

fn steps(c: &mut Criterion) {
    let mut group = c.benchmark_group("quantize step");
    group.sample_size(20);
    let weight =
        Tensor::new(&[ROWS, COLS], values()).map_or_else(|_| Tensor::zeros(&[1]).into(), Weight::from);
    let all = [
        ("per tensor, asymmetric", 8, AffineQuantizer::bits(8).asymmetric()),
        ("per channel", 8, AffineQuantizer::bits(8).per_channel()),
        ("group 128", 4, AffineQuantizer::bits(4).group(128)),
        ("group 128, asymmetric", 4, AffineQuantizer::bits(4).group(128).asymmetric()),
    ];
    for (name, bits, step) in all {
        group.throughput(bytes(bits));
        group.bench_function(id(name, bits), |b| b.iter(|| black_box(step.apply(weight.clone()))));
        let Ok(coded) = step.apply(weight.clone()) else { continue };
        group.bench_function(id(&format!("decode {name}"), bits), |b| b.iter(|| black_box(coded.to_dense())));
    }
    group.sample_size(10);
    for (name, range) in
        [("least squares", Range::LeastSquares), ("percentile 99.9", Range::Percentile(99.9))]
    {
        let step = AffineQuantizer::bits(4).group(128).range(range);
        group.throughput(bytes(4));
        group.bench_function(id(&format!("group 128, {name}"), 4), |b| {
            b.iter(|| black_box(step.apply(weight.clone())));
        });
    }
    group.finish();
}

mod kernels {
    use super::quantizing::{BLOCK, centred, decode, one_sided, runs, tensor};
    use super::{COLS, N, ROWS, bytes, id, values};
    use bantam::kernels::cpu::fast;
    use bantam::kernels::memory::{fill, reserve};
    use criterion::{BenchmarkId, Criterion, Throughput};
    use rayon::prelude::*;
    use std::hint::black_box;
    use std::mem::take;

    fn read(values: &[f32]) -> f32 {
        let sum = |block: &[f32]| {
            fast(
                #[inline(always)]
                || {
                    let mut sums = [0.0; 64];
                    for lanes in block.as_chunks::<64>().0 {
                        for (sum, x) in sums.iter_mut().zip(lanes) {
                            *sum += x;
                        }
                    }
                    sums.iter().sum::<f32>()
                },
            )
        };
        values.par_chunks(BLOCK).map(sum).sum()
    }

    /// Fills a vector that has been full before, so that its memory is mapped.
    fn write<T: bytemuck::Pod + Send + Sync>(out: Vec<T>, value: T) -> Vec<T> {
        let n = out.capacity();
        let pieces = (0..n.div_ceil(BLOCK)).map(|i| ((n - i * BLOCK).min(BLOCK), (n - i * BLOCK).min(BLOCK)));
        let buffer = [value; 1 << 12];
        let filled = fill(out, pieces, |mut left, slot| {
            while left > 0 {
                let now = left.min(buffer.len());
                slot.push(&buffer[..now]);
                left -= now;
            }
            Ok::<_, ()>(())
        });
        filled.map_or_else(|()| Vec::new(), |(values, _)| values)
    }

    fn mapped<T: bytemuck::Pod + Send + Sync>(n: usize) -> Vec<T> {
        write(reserve(n).unwrap_or_default(), T::zeroed())
    }

    pub fn all(c: &mut Criterion) {
        let values = values();
        let size = format!("{ROWS}x{COLS}");
        let mut group = c.benchmark_group("quantize kernel");
        group.sample_size(30);
        group.throughput(Throughput::Bytes(4 * N as u64));
        group.bench_function(BenchmarkId::new("limit: read", &size), |b| b.iter(|| black_box(read(&values))));
        let mut codes = mapped::<u8>(N);
        group.throughput(Throughput::Bytes(N as u64));
        group.bench_function(BenchmarkId::new("limit: write a quarter", &size), |b| {
            b.iter(|| codes = write(take(&mut codes), 1));
        });
        group.throughput(bytes(8));
        group.bench_function(id("per tensor, asymmetric", 8), |b| {
            b.iter(|| codes = tensor(&values, take(&mut codes)));
        });
        group.bench_function(id("per channel", 8), |b| {
            b.iter(|| codes = runs(&values, COLS, 8, take(&mut codes), centred));
        });
        let mut packed = mapped::<u8>(N / 2);
        group.throughput(bytes(4));
        for (name, fit) in [("group 128", centred as fn(_, _, _) -> _), ("group 128, asymmetric", one_sided)]
        {
            group.bench_function(id(name, 4), |b| {
                b.iter(|| packed = runs(&values, 128, 4, take(&mut packed), fit));
            });
        }
        let mut out = mapped::<f32>(N);
        group.throughput(Throughput::Bytes(4 * N as u64));
        group.bench_function(BenchmarkId::new("limit: write", &size), |b| {
            b.iter(|| out = write(take(&mut out), 1.0));
        });
        group.throughput(bytes(8));
        group.bench_function(id("decode", 8), |b| b.iter(|| out = decode(&codes, take(&mut out))));
        group.finish();
    }
}

criterion_group!(benches, kernels::all, steps);
criterion_main!(benches);
