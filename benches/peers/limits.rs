//! What this machine can do, measured beside the work: bytes a second, each read and each write counted, and
//! multiplications and additions a second.

use crate::row::Row;
use bantam::kernels::cpu::fast;
use bantam::kernels::memory::prefetch;
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::hint::black_box;
use std::time::Instant;

/// Values of a buffer: far larger than any cache.
const N: usize = 64 << 20;
/// Values that a thread takes at a time.
const BLOCK: usize = 1 << 20;
/// Bytes from what is read to what is brought near meanwhile.
const AHEAD: usize = 8 << 10;
/// Rows and columns of the matrices whose product is timed.
const SIDE: usize = 2048;
/// A measurement is the best of so many.
const TRIES: usize = 3;

pub struct Limits {
    /// What the work needs at least: bytes by kind of access, and operations.
    needs: Vec<(String, f64)>,
    from: Vec<f32>,
    to: Vec<f32>,
    factors: Option<[Mat<f32>; 2]>,
    product: Mat<f32>,
}

impl Limits {
    pub fn new(row: &Row, batch: usize) -> Self {
        let entries = (row.shape[0] * row.shape[1]) as f64;
        // The matrices of a product run in turn, and one of them is what is reported.
        let copies = if row.batches.is_empty() { row.copies as f64 } else { 1.0 };
        let needs: Vec<(String, f64)> = row
            .limit
            .iter()
            .map(|(kind, each)| {
                let times = if kind == "flops" { batch as f64 } else { copies };
                (kind.clone(), each * entries * times)
            })
            .collect();
        let has = |kinds: &[&str]| needs.iter().any(|(kind, _)| kinds.contains(&kind.as_str()));
        let buffer = |wanted, len| vec![1.0_f32; if wanted { len } else { 0 }];
        let read: f64 = needs.iter().filter(|(kind, _)| kind == "read").map(|(_, need)| need).sum();
        // Matrices that run in turn are read again and again, so that caches may keep a part of them.
        let len = if row.batches.is_empty() { N } else { (read as usize * row.copies / 4).max(BLOCK) };
        let (from, to) = (buffer(has(&["read", "copy"]), len), buffer(has(&["write", "copy", "inplace"]), N));
        let factor = || Mat::from_fn(SIDE, SIDE, |i, j| ((i * 7 + j * 3) % 11) as f32 - 5.0);
        let factors = has(&["flops"]).then(|| [factor(), factor()]);
        Self { needs, from, to, factors, product: Mat::zeros(SIDE, SIDE) }
    }

    /// The least time that the work can take, and the rates it follows from, in billions a second.
    pub fn measure(&mut self) -> Value {
        let (mut memory, mut arithmetic) = (0.0, 0.0);
        let mut line = json!({ "who": "limit" });
        for (kind, need) in self.needs.clone() {
            let rate = (0..TRIES).map(|_| self.rate(&kind)).fold(0.0, f64::max);
            line[&kind] = json!(rate / 1e9);
            match kind.as_str() {
                "flops" => arithmetic += need / rate,
                _ => memory += need / rate,
            }
        }
        // Arithmetic can hide behind memory, and memory behind arithmetic.
        line["ms"] = json!(f64::max(memory, arithmetic) * 1e3);
        line
    }

    fn rate(&mut self, kind: &str) -> f64 {
        let begin = Instant::now();
        let amount = match kind {
            "read" => {
                let sum: u64 = self.from.par_chunks(BLOCK).map(read).sum();
                black_box(sum);
                4 * self.from.len()
            }
            "write" => {
                let x = black_box(2.0);
                self.to.par_chunks_mut(BLOCK).for_each(|to| to.fill(x));
                4 * N
            }
            "inplace" => {
                let x = black_box(1.0);
                self.to.par_chunks_mut(BLOCK).for_each(|to| scale(to, x));
                8 * N
            }
            "copy" => {
                let from = self.from.par_chunks(BLOCK);
                self.to.par_chunks_mut(BLOCK).zip(from).for_each(|(to, from)| to.copy_from_slice(from));
                8 * N
            }
            _ => {
                let Some([a, b]) = &self.factors else { return 0.0 };
                product(self.product.as_mut(), a.as_ref(), b.as_ref(), rayon::current_num_threads());
                2 * SIDE * SIDE * SIDE
            }
        };
        amount as f64 / begin.elapsed().as_secs_f64()
    }
}

/// `c = a b`, its columns divided among the threads.
fn product(c: MatMut<'_, f32>, a: MatRef<'_, f32>, b: MatRef<'_, f32>, threads: usize) {
    if threads <= 1 {
        return matmul(c, Accum::Replace, a, b, 1.0, Par::Seq);
    }
    let at = b.ncols() / threads;
    let ((c0, c1), (b0, b1)) = (c.split_at_col_mut(at), b.split_at_col(at));
    rayon::join(|| product(c0, a, b0, 1), || product(c1, a, b1, threads - 1));
}

fn read(values: &[f32]) -> u64 {
    fast(
        #[inline(always)]
        || {
            let words = values.chunks_exact(32);
            let mut sums = [0_u32; 32];
            for chunk in words {
                prefetch(chunk, AHEAD);
                for (sum, x) in sums.iter_mut().zip(chunk) {
                    *sum = sum.wrapping_add(x.to_bits());
                }
            }
            sums.iter().map(|x| u64::from(*x)).sum()
        },
    )
}

fn scale(values: &mut [f32], by: f32) {
    fast(
        #[inline(always)]
        || values.iter_mut().for_each(|x| *x *= by),
    );
}
