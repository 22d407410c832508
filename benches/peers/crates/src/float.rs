//! Products of float matrices. Neither crate packs a factor beforehand, but both are faster on transposed weights
//! for more than one row of input, and these are transposed beforehand.

use crate::work::{Call, Error, FLOAT, Work, in_turn};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use gemm::Parallelism;
use rayon::prelude::*;

/// The weights [rows, columns] as factors [columns, rows], from one column to the next and from one row to the next.
fn factors(work: &Work) -> (Vec<&[f32]>, usize, usize) {
    if work.batch > 1 {
        (work.transposed().chunks(work.rows * work.cols).collect(), 1, work.rows)
    } else {
        (work.matrices().collect(), work.cols, 1)
    }
}

/// faer's product, its columns divided among the threads, which is faster than what faer does with several.
pub fn faer(work: &Work) -> Result<Call<'_>, Error> {
    let &Work { batch, rows, cols, threads, .. } = work;
    let (weights, ..) = factors(work);
    let x = MatRef::from_row_major_slice(&work.input, batch, cols);
    let out = vec![0.0_f32; batch * rows];
    in_turn(work, (&work.input, &work.values), FLOAT, weights, out, move |w, out| {
        let w = if batch > 1 {
            MatRef::from_row_major_slice(w, cols, rows)
        } else {
            MatRef::from_column_major_slice(w, cols, rows)
        };
        shared_out(MatMut::from_row_major_slice_mut(out, batch, rows), x, w, threads);
        Ok(())
    })
}

fn shared_out(out: MatMut<'_, f32>, x: MatRef<'_, f32>, w: MatRef<'_, f32>, threads: usize) {
    if threads <= 1 {
        return matmul(out, Accum::Replace, x, w, 1.0, Par::Seq);
    }
    let at = w.ncols() / threads;
    let ((out0, out1), (w0, w1)) = (out.split_at_col_mut(at), w.split_at_col(at));
    rayon::join(|| shared_out(out0, x, w0, 1), || shared_out(out1, x, w1, threads - 1));
}

/// `gemm::gemm`, with its kernels for AVX-512, on rayon's threads. For one row of input it has one thread only: its
/// columns are then divided among the threads.
pub fn gemm(work: &Work) -> Result<Call<'_>, Error> {
    let &Work { batch, cols, threads, .. } = work;
    let par = if threads > 1 && batch > 1 { Parallelism::Rayon(threads) } else { Parallelism::None };
    let x = work.input.as_slice();
    let (weights, next_column, next_row) = factors(work);
    let out = vec![0.0_f32; batch * work.rows];
    in_turn(work, (x, &work.values), FLOAT, weights, out, move |w, out| {
        if batch == 1 {
            let some = out.len().div_ceil(threads);
            let shares = out.par_chunks_mut(some).zip(w.par_chunks(some * cols));
            shares.for_each(|(out, w)| product(out, x, w, [1, cols], [next_column, next_row], par));
        } else {
            product(out, x, w, [batch, cols], [next_column, next_row], par);
        }
        Ok(())
    })
}

/// `out [batch, rows]` of some rows of weights.
fn product(
    out: &mut [f32],
    x: &[f32],
    w: &[f32],
    [batch, cols]: [usize; 2],
    [next_column, next_row]: [usize; 2],
    par: Parallelism,
) {
    let rows = out.len() / batch;
    assert!(x.len() == batch * cols && w.len() == rows * cols && out.len() == batch * rows);
    // SAFETY: the slices have as many values as the shapes and the strides reach. No value of the output is read.
    unsafe {
        gemm::gemm(
            batch,
            rows,
            cols,
            out.as_mut_ptr(),
            1,
            rows as isize,
            false,
            x.as_ptr(),
            1,
            cols as isize,
            w.as_ptr(),
            next_column as isize,
            next_row as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            par,
        );
    }
}
