//! The product against its definition, in each of its forms.

use super::*;

fn numbers(n: usize, seed: u64) -> Vec<f64> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f64 / f64::from(1 << 23) - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn transposed(values: &[f64], rows: usize, cols: usize) -> Vec<f64> {
    (0..cols).flat_map(|c| (0..rows).map(move |r| values[r * cols + c])).collect()
}

fn check<T: Lanes>(narrow: impl Fn(f64) -> T, bound: f64) {
    let shapes = [
        [1, 1, 1],
        [7, 13, 17],
        [64, 50, 9],
        [9, 400, 70],
        [3, 0, 5],
        [130, 700, 33],
        [33, 700, 130],
        [40, 3, 300],
        [16, 16, 16],
        [6, 1300, 8],
        [100, 2100, 37],
    ];
    for [m, k, n] in shapes {
        let (a, b, c) = (numbers(m * k, 1), numbers(k * n, 2), numbers(m * n, 3));
        let (at, bt) = (transposed(&a, m, k), transposed(&b, k, n));
        for (alpha, beta) in [(1.0, 0.0), (-0.5, 1.0), (2.0, 0.25)] {
            for turns in 0..4 {
                let (a_turned, b_turned) = (turns & 1 > 0, turns & 2 > 0);
                let cast = |x: &[f64]| x.iter().map(|x| narrow(*x)).collect::<Vec<T>>();
                // A factor of 0 overwrites, whatever was there.
                let mut out = if beta == 0.0 { vec![T::nan(); m * n] } else { cast(&c) };
                let a_cast = cast(if a_turned { &at } else { &a });
                let b_cast = cast(if b_turned { &bt } else { &b });
                let (al, be) = (narrow(alpha), narrow(beta));
                gemm([m, k, n], al, (&a_cast, a_turned), (&b_cast, b_turned), be, &mut out);
                for i in 0..m * n {
                    let sum: f64 = (0..k).map(|p| a[i / n * k + p] * b[p * n + i % n]).sum();
                    let wanted = alpha * sum + beta * c[i];
                    let got = out[i].to_f64().unwrap_or(f64::NAN);
                    assert!((got - wanted).abs() <= bound * (k + 1) as f64, "{m} {k} {n}: {got} {wanted}");
                }
            }
        }
    }
}

#[test]
fn equals_its_definition() {
    check(|x| x, 1e-14);
    check(|x| x as f32, 1e-6);
}

#[test]
fn every_form_is_the_same_product() {
    for [m, k, n] in [[1, 1, 1], [29, 1100, 45], [13, 530, 7], [70, 64, 130]] {
        let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
        let mut wanted = vec![0.0; m * n];
        gemm([m, k, n], 1.0, (&a, false), (&b, false), 0.0, &mut wanted);
        for form in Form::all() {
            for turned in [false, true] {
                let mut c = vec![f64::NAN; m * n];
                let stride = if turned { m } else { n };
                let mut out = Out { values: &mut c, stride, turned };
                let part = Part { rows: 0..m, columns: 0..n, steps: k, alpha: 1.0, beta: 0.0 };
                let pack = |steps: Range<usize>, first, width, lanes, panel: &mut [f64]| {
                    Across(&b, n).pack(steps, first, width, lanes, panel);
                };
                f64::tiles(form, Along(&a, k), Operand::Loose(&pack), &part, &mut out);
                let c = if turned { transposed(&c, n, m) } else { c };
                assert!(c.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-12));
            }
        }
    }
}

#[cfg(feature = "threads")]
#[test]
fn does_not_depend_on_the_number_of_threads() {
    for [m, k, n] in [[64, 784, 300], [300, 64, 784], [500, 700, 40]] {
        let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
        let run = |threads: usize, turns: (bool, bool)| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut c = vec![0.0; m * n];
            pool.install(|| gemm([m, k, n], 1.0, (&a, turns.0), (&b, turns.1), 0.0, &mut c));
            c
        };
        for turns in [(false, false), (false, true), (true, false)] {
            assert_eq!(run(1, turns), run(3, turns));
        }
    }
}
