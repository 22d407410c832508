//! Matrix product, through ndarray (matrixmultiply), cut into row blocks for the threads.

use crate::parallel;
use ndarray::{ArrayView2, ArrayViewMut2, LinalgScalar, linalg::general_mat_mul};

/// Rows of the result that one thread computes at a time; more where they are short, so that each block is
/// worth a thread. The cut depends on the shape alone, never on the number of threads.
const BLOCK_ROWS: usize = 64;
/// Below this many multiplications a second thread costs more than it brings.
const MIN_PARALLEL: usize = 1 << 18;

/// `c [m, n] = alpha * op(a) [m, k] * op(b) [k, n] + beta * c`, all row-major; `true` beside an operand
/// means that it is stored transposed.
pub fn gemm<T: LinalgScalar + Send + Sync + PartialOrd>(
    [m, k, n]: [usize; 3],
    alpha: T,
    (a, a_transposed): (&[T], bool),
    (b, b_transposed): (&[T], bool),
    beta: T,
    c: &mut [T],
) {
    debug_assert!(a.len() == m * k && b.len() == k * n && c.len() == m * n);
    if m == 0 || n == 0 {
        return;
    }
    let a = view(a, m, k, a_transposed);
    let b = view(b, k, n, b_transposed);
    let rows = if m * k * n < MIN_PARALLEL { m } else { BLOCK_ROWS.max(MIN_PARALLEL / (k * n).max(1)) };
    parallel::for_each_chunk(c, rows * n, |block, c| {
        let first = block * rows;
        let height = c.len() / n;
        let Ok(mut c) = ArrayViewMut2::from_shape((height, n), c) else { return };
        let a = a.slice(ndarray::s![first..first + height, ..]);
        general_mat_mul(alpha, &a, &b, beta, &mut c);
    });
}

fn view<T>(values: &[T], rows: usize, cols: usize, transposed: bool) -> ArrayView2<'_, T> {
    let shape = if transposed { (cols, rows) } else { (rows, cols) };
    match ArrayView2::from_shape(shape, values) {
        Ok(v) if transposed => v.reversed_axes(),
        Ok(v) => v,
        Err(_) => unreachable!("operands are checked by the callers"),
    }
}
