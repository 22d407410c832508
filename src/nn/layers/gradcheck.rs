//! Gradients against central differences in double precision.

/// `n` numbers in -2..2, no two alike. Made here, so that builds without the feature `train` are tested too.
pub fn numbers(n: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    (0..n).map(|_| 4.0 * next() - 2.0).collect()
}

/// Sum of `a[i] * b[i]`: a scalar loss whose gradient with respect to `a` is `b`.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Fails unless `gradient` is that of `loss` at `at`.
pub fn check(what: &str, at: &[f64], gradient: &[f64], mut loss: impl FnMut(&[f64]) -> f64) {
    assert_eq!(at.len(), gradient.len(), "{what}");
    let mut x = at.to_vec();
    for i in 0..x.len() {
        let step = 1e-5 * at[i].abs().max(1.0);
        x[i] = at[i] + step;
        let up = loss(&x);
        x[i] = at[i] - step;
        let down = loss(&x);
        x[i] = at[i];
        let numeric = (up - down) / (2.0 * step);
        let error = (numeric - gradient[i]).abs();
        assert!(
            error <= 1e-6 * numeric.abs().max(1.0),
            "{what}[{i}]: gradient {} but differences say {numeric}",
            gradient[i]
        );
    }
}
