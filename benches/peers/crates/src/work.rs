//! The values that all work on, and how results are checked before anything is timed.

use std::cell::OnceCell;
use std::fs;
use std::hint::black_box;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub type Error = Box<dyn std::error::Error>;

/// One timed call. What it gives is dropped after the clock stops.
pub type Call<'a> = Box<dyn FnMut() -> Result<Duration, Error> + 'a>;

/// Of the values that a peer gives, as root mean square of the errors by that of the values.
pub const FLOAT: f64 = 1e-5;
pub const EIGHT_BITS: f64 = 0.015;
pub const FOUR_BITS: f64 = 0.12;
pub const EXACT: f64 = 0.0;
/// No single error is larger than so many times that.
const WORST: f64 = 8.0;
/// Entries of a product that are looked at, and from one to the next: a prime, so that they are of all rows.
const SAMPLE: usize = 4096;
const STRIDE: usize = 7919;

/// A row: matrices [rows, columns], run in turn on an input [batch, columns].
pub struct Work {
    pub rows: usize,
    pub cols: usize,
    pub batch: usize,
    pub threads: usize,
    pub input: Vec<f32>,
    /// All matrices.
    pub values: Vec<f32>,
    transposed: OnceCell<Vec<f32>>,
    codes: OnceCell<Vec<i8>>,
    input_u8: OnceCell<Vec<u8>>,
    input_i8: OnceCell<Vec<i8>>,
}

impl Work {
    /// Reads what our side has written.
    pub fn new(
        folder: PathBuf,
        rows: usize,
        cols: usize,
        copies: usize,
        batch: usize,
    ) -> Result<Self, Error> {
        let read = |n: usize| -> Result<Vec<f32>, Error> {
            let bytes = fs::read(folder.join(format!("normal-{n}.f32")))?;
            Ok(bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect())
        };
        Ok(Self {
            rows,
            cols,
            batch,
            threads: rayon::current_num_threads(),
            // Rows that only compress have no input.
            input: if batch > 0 { read(batch * cols)? } else { Vec::new() },
            values: read(copies * rows * cols)?,
            transposed: OnceCell::new(),
            codes: OnceCell::new(),
            input_u8: OnceCell::new(),
            input_i8: OnceCell::new(),
        })
    }

    pub fn matrices(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks(self.rows * self.cols)
    }

    /// All matrices, [columns, rows].
    pub fn transposed(&self) -> &[f32] {
        self.transposed.get_or_init(|| {
            let transpose = |matrix| (0..self.cols).flat_map(move |j| column(matrix, j, self.cols));
            self.matrices().flat_map(transpose).collect()
        })
    }

    /// All matrices in 8 bits, with a scale for each row that integer peers leave out.
    pub fn codes(&self) -> &[i8] {
        self.codes.get_or_init(|| {
            let code = |row: &[f32]| -> Vec<i8> {
                let scale = 127.0 / row.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
                row.iter().map(|x| (x * scale).round() as i8).collect()
            };
            self.values.chunks(self.cols).flat_map(code).collect()
        })
    }

    /// As for `ort MatMulInteger`.
    pub fn input_u8(&self) -> &[u8] {
        self.input_u8.get_or_init(|| self.input.iter().map(|x| (x * 32.0 + 128.0) as u8).collect())
    }

    pub fn input_i8(&self) -> &[i8] {
        self.input_i8.get_or_init(|| self.input.iter().map(|x| (x * 32.0) as i8).collect())
    }

    /// Compares matrices that a peer has coded and decoded.
    pub fn check_decoded(&self, decoded: &[f32], tolerance: f64) -> Result<(), Error> {
        if decoded.len() != self.values.len() {
            return Err("another number of values".into());
        }
        let pairs = decoded.iter().zip(&self.values).map(|(y, x)| (f64::from(*y), f64::from(*x)));
        check(pairs, tolerance)
    }
}

fn column(matrix: &[f32], at: usize, cols: usize) -> impl Iterator<Item = f32> {
    matrix.iter().skip(at).step_by(cols).copied()
}

/// Pairs of what a peer gives and of what is right.
fn check(pairs: impl Iterator<Item = (f64, f64)>, tolerance: f64) -> Result<(), Error> {
    let (mut wrong, mut worst, mut size, mut n) = (0.0, 0.0_f64, 0.0, 0);
    for (given, right) in pairs {
        let error = (given - right).abs();
        wrong += error * error;
        worst = if error.is_nan() { f64::INFINITY } else { worst.max(error) };
        size += right * right;
        n += 1;
    }
    let size = (size / f64::from(n)).sqrt();
    let (mean, worst) = ((wrong / f64::from(n)).sqrt() / size, worst / size);
    if mean <= tolerance && worst <= WORST * tolerance {
        return Ok(());
    }
    Err(format!("wrong by {mean:.2e}, at worst {worst:.2e} of the values; {tolerance:.0e} is right").into())
}

/// Memory that a product is written to, [batch, rows].
pub trait Output {
    fn values(&self) -> Result<Vec<f64>, Error>;
}

impl<T: Copy + Into<f64>> Output for Vec<T> {
    fn values(&self) -> Result<Vec<f64>, Error> {
        Ok(self.iter().map(|x| (*x).into()).collect())
    }
}

/// A call that runs all layers, one for each of the `matrices`, and takes the mean of their times. Each product is
/// checked once, here.
pub fn in_turn<'a, L: 'a, O: Output + 'a, X: Copy + Into<f64>, W: Copy + Into<f64>>(
    work: &'a Work,
    (input, matrices): (&[X], &[W]),
    tolerance: f64,
    layers: Vec<L>,
    mut out: O,
    mut product: impl FnMut(&L, &mut O) -> Result<(), Error> + 'a,
) -> Result<Call<'a>, Error> {
    for (layer, matrix) in layers.iter().zip(matrices.chunks(work.rows * work.cols)) {
        product(layer, &mut out)?;
        let values = out.values()?;
        if values.len() != work.batch * work.rows {
            return Err("another number of values".into());
        }
        let pairs = (0..SAMPLE).map(|i| {
            let at = i * STRIDE % values.len();
            let (sample, row) = (at / work.rows, at % work.rows);
            let (x, w) = (&input[sample * work.cols..], &matrix[row * work.cols..]);
            let right = x.iter().zip(w).take(work.cols).map(|(x, w)| (*x).into() * (*w).into()).sum();
            (values[at], right)
        });
        check(pairs, tolerance)?;
    }
    Ok(Box::new(move || {
        let begin = Instant::now();
        for layer in &layers {
            product(layer, &mut out)?;
            black_box(&mut out);
        }
        Ok(begin.elapsed() / layers.len() as u32)
    }))
}

/// A call that gives something new.
pub fn timed<'a, R>(mut f: impl FnMut() -> Result<R, Error> + 'a) -> Call<'a> {
    Box::new(move || {
        let begin = Instant::now();
        let result = f()?;
        let time = begin.elapsed();
        drop(black_box(result));
        Ok(time)
    })
}
