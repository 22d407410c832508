//! Matrix products of a layer: `y [n, out] = x [n, in] W^T`, and biases.

use crate::{Float, parallel};

/// Rows of a batch whose contributions to a weight gradient are summed at a time. Fixed, so that the sum
/// does not depend on the number of threads.
const BLOCK_ROWS: usize = 2048;
/// Partial sums that are held at a time.
const BLOCKS: usize = 8;

/// `y = beta * y + x W^T` for `x [n, cols]`, `w [rows, cols]`, `y [n, rows]`.
pub fn forward<T: Float>([n, cols, rows]: [usize; 3], x: &[T], w: &[T], beta: T, y: &mut [T]) {
    T::gemm([n, cols, rows], T::one(), (x, false), (w, true), beta, y);
}

/// `dx = beta * dx + dy W`.
pub fn backward_input<T: Float>([n, cols, rows]: [usize; 3], dy: &[T], w: &[T], beta: T, dx: &mut [T]) {
    T::gemm([n, rows, cols], T::one(), (dy, false), (w, false), beta, dx);
}

/// `dw = beta * dw + dy^T x`.
///
/// A convolution has many rows and few outputs, too few to share out among threads: its rows are cut into
/// blocks instead, summed in order.
pub fn backward_weight<T: Float>([n, cols, rows]: [usize; 3], x: &[T], dy: &[T], beta: T, dw: &mut [T]) {
    if n <= BLOCK_ROWS || cols == 0 || rows == 0 {
        return T::gemm([rows, n, cols], T::one(), (dy, true), (x, false), beta, dw);
    }
    dw.iter_mut().for_each(|x| *x = if beta == T::zero() { beta } else { beta * *x });
    let blocks: Vec<(&[T], &[T])> = x.chunks(BLOCK_ROWS * cols).zip(dy.chunks(BLOCK_ROWS * rows)).collect();
    for blocks in blocks.chunks(BLOCKS) {
        let sums = parallel::map(blocks.len(), |i| {
            let (x, dy) = blocks[i];
            let mut sum = vec![T::zero(); rows * cols];
            T::gemm([rows, x.len() / cols, cols], T::one(), (dy, true), (x, false), T::zero(), &mut sum);
            sum
        });
        for sum in sums {
            dw.iter_mut().zip(sum).for_each(|(a, b)| *a += b);
        }
    }
}

/// Adds `bias [m]` to each row of `y [n, m]`.
pub fn add_bias<T: Float>(bias: &[T], y: &mut [T]) {
    for row in y.chunks_mut(bias.len().max(1)) {
        row.iter_mut().zip(bias).for_each(|(y, b)| *y += *b);
    }
}

/// `db += sum over the rows of dy`.
pub fn backward_bias<T: Float>(dy: &[T], db: &mut [T]) {
    for row in dy.chunks(db.len().max(1)) {
        db.iter_mut().zip(row).for_each(|(b, y)| *b += *y);
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradcheck::{check, dot, numbers};
    use super::*;

    fn run(shape: [usize; 3], x: &[f64], w: &[f64], b: &[f64]) -> Vec<f64> {
        let mut y = vec![f64::NAN; shape[0] * shape[2]];
        forward(shape, x, w, 0.0, &mut y);
        add_bias(b, &mut y);
        y
    }

    #[test]
    fn gradients() {
        let shape = [4, 3, 5];
        let (x, w, b) = (numbers(12, 1), numbers(15, 2), numbers(5, 3));
        let dy = numbers(20, 4);
        let (mut dx, mut dw, mut db) = (vec![0.0; 12], vec![0.0; 15], vec![0.0; 5]);
        backward_input(shape, &dy, &w, 1.0, &mut dx);
        backward_weight(shape, &x, &dy, 1.0, &mut dw);
        backward_bias(&dy, &mut db);
        check("input", &x, &dx, |x| dot(&run(shape, x, &w, &b), &dy));
        check("weight", &w, &dw, |w| dot(&run(shape, &x, w, &b), &dy));
        check("bias", &b, &db, |b| dot(&run(shape, &x, &w, b), &dy));
    }

    #[test]
    fn blocks_of_rows_sum_to_the_whole() {
        let n = BLOCK_ROWS * (BLOCKS + 1) + 3;
        let (x, dy) = (numbers(n * 2, 1), numbers(n, 2));
        let mut dw = vec![1.0, 2.0];
        backward_weight([n, 2, 1], &x, &dy, 1.0, &mut dw);
        for (c, dw) in dw.iter().enumerate() {
            let sum: f64 = (0..n).map(|i| x[i * 2 + c] * dy[i]).sum();
            assert!((dw - (c as f64 + 1.0) - sum).abs() < 1e-9 * n as f64);
        }
    }
}
