use super::*;
use proptest::prelude::*;

fn bits(seed: u64, n: usize) -> impl Iterator<Item = u64> {
    (0..n as u64).map(move |i| {
        let x = (i + 1).wrapping_mul(seed | 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (x ^ (x >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 32
    })
}

proptest! {
    #[test]
    fn floats_stay_within_the_bound(
        m in 0_usize..30, k in 0_usize..1500, n in 0_usize..40, skip in 0_usize..5, seed in any::<u64>(), huge in any::<bool>(),
    ) {
        let stride = k + skip;
        let float = |x: u64| (x as u32 as f32 / u32::MAX as f32 - 0.5) * if huge { 1e16 } else { 1.0 };
        let w: Vec<f32> = bits(seed, m * stride + skip).map(float).collect();
        let x: Vec<f32> = bits(seed ^ 99, n * stride + skip).map(float).collect();
        let rows = Rows::new(&w, stride).skip_columns(skip);
        let panels = Panels::new(Rows::new(&x, stride).skip_columns(skip), k, n, k);
        let (mut c, mut decoded, mut plain) = (vec![1.0; m * n], vec![1.0; m * n], vec![1.0; m * n]);
        floats(Source::Rows(rows), &panels, m, &mut c);
        strips::floats_by(plain::Plain::<f32, false>::default(), Source::Rows(rows), &panels, m, &mut plain);
        #[cfg(target_arch = "x86_64")]
        let mut older = vec![1.0; m * n];
        #[cfg(target_arch = "x86_64")]
        match crate::kernels::cpu::Avx2::new() {
            Some(cpu) => strips::floats_by(avx2::Floats(cpu), Source::Rows(rows), &panels, m, &mut older),
            None => older.copy_from_slice(&c),
        }
        #[cfg(not(target_arch = "x86_64"))]
        let older = c.clone();
        let mut fill = |r: usize, columns: Range<usize>, to: &mut [f32]| to.copy_from_slice(rows.part(r, columns));
        floats(Source::Decoded(Box::new(&mut fill)), &panels, m, &mut decoded);
        let wide: Vec<f64> = w.iter().map(|w| f64::from(*w)).collect();
        let wide_x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        let panels = Panels::new(Rows::new(&wide_x, stride).skip_columns(skip), k, n, k);
        let mut double = vec![1.0; m * n];
        doubles(Source::Rows(Rows::new(&wide, stride).skip_columns(skip)), &panels, m, &mut double);
        for (i, double) in double.iter().enumerate() {
            let (r, b) = (i / n, i % n);
            let terms = (0..k).map(|i| wide[r * stride + skip + i] * wide_x[b * stride + skip + i]);
            let (sum, all) = terms.fold((1.0, 1.0), |(s, a), t| (s + t, a + f64::abs(t)));
            let bound = (k as f64 + 4.0) / 2.0 * all;
            for c in [c[i], decoded[i], plain[i], older[i]] {
                prop_assert!((f64::from(c) - sum).abs() <= bound * f64::from(f32::EPSILON), "{} {}", c, sum);
            }
            prop_assert!((double - sum).abs() <= 2.0 * bound * f64::EPSILON, "{} {}", double, sum);
        }
    }
}

#[test]
fn not_finite_values_spread_as_floats_do() {
    let mut w = vec![1.0_f32; 3 * 21];
    w[5] = f32::NAN;
    w[21 + 20] = f32::INFINITY;
    for n in [2, 9] {
        let panels = Panels::new(Rows::new(&[1.0; 9 * 21], 21), 21, n, 21);
        let mut c = vec![0.0; 3 * n];
        floats(Source::Rows(Rows::new(&w, 21)), &panels, 3, &mut c);
        assert!(c[..n].iter().all(|c| c.is_nan()));
        assert!(c[n..2 * n].iter().all(|c| *c == f32::INFINITY) && c[2 * n..].iter().all(|c| *c == 21.0));
    }
}
