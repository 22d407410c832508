//! Products from the compressed form: floats equal the dense product, integers an exact reference.

use crate::cases::*;
use crate::common::{Random, Read};
use crate::quantize::{Coded, form_of};
use bantam::{
    Activations, AffineQuantizer, CodebookQuantizer, Error, Fault, Float, LowRankFactorizer, MagnitudePruner,
    Model, Pipeline, Tensor, Weight, WeightCompressor,
};
use proptest::prelude::*;

fn input<T: Float>(n: usize, cols: usize, seed: u64, size: f64) -> Tensor<T> {
    let mut random = Random(seed);
    Tensor::new(&[n, cols], (0..n * cols).map(|_| T::narrow(random.unit() * size)).collect()).unwrap()
}

/// The product in f64, and the sum of the absolute terms of each entry.
fn reference<T: Float>(x: &Tensor<T>, w: &[f64], n: usize, rows: usize, cols: usize) -> Vec<(f64, f64)> {
    let term = |b: usize, r: usize, c: usize| x.as_slice()[b * cols + c].widen() * w[r * cols + c];
    (0..n)
        .flat_map(|b| (0..rows).map(move |r| (b, r)))
        .map(|(b, r)| {
            let terms = (0..cols).map(|c| term(b, r, c));
            terms.fold((0.0, 0.0), |(sum, all), t| (sum + t, all + t.abs()))
        })
        .collect()
}

fn float_product<T: Float>(case: &Case, steps: &[AnyStep], n: usize, seed: u64) {
    let Some(after) = if_it_fits(pipeline::<T>(steps).run(case.tensor::<T>())) else { return };
    let weight = after.model.weight("weight").unwrap();
    let (rows, cols) = (case.rows(), case.inputs());
    let x = input::<T>(n, cols, seed, 1.0);
    let y = weight.matmul(&x).unwrap();
    assert_eq!(y.shape(), [n, rows]);
    if case.look == Look::Huge {
        return;
    }
    let dense: Vec<f64> = weight.to_dense().unwrap().iter().map(|x| x.widen()).collect();
    // A factored weight passes through a hidden layer, whose terms may be larger than those of the product.
    let size: f64 = weight
        .leaves()
        .iter()
        .map(|l| l.to_vec().unwrap().iter().map(|x| x.widen().powi(2)).sum::<f64>())
        .sum();
    let slack = T::epsilon().widen() * 64.0;
    for (y, (exact, all)) in y.iter().zip(reference(&x, &dense, n, rows, cols)) {
        let allowed = slack * (all + if weight.form().factored { size } else { 0.0 }) * (cols as f64).sqrt();
        assert!(
            (y.widen() - exact).abs() <= allowed + T::min_positive_value().widen(),
            "{y} {exact} {allowed}"
        );
    }
}

/// What the documentation of `Activations::Int8` says: codes of a row of the input.
fn input_codes<T: Float>(row: &[T], fixed: Option<(f64, f64)>) -> (f64, Vec<i64>) {
    let (low, high) = fixed.unwrap_or_else(|| {
        row.iter().fold((0.0_f64, 0.0_f64), |(l, h), x| (l.min(x.widen()), h.max(x.widen())))
    });
    // Rounded to the type of the weights, as documented: a code may hang on it.
    let scale = T::narrow((high - low) / 255.0).widen();
    if scale == 0.0 {
        return (1.0, vec![0; row.len()]);
    }
    let zero = (-low / scale).round_ties_even().clamp(0.0, 255.0);
    let code = |x: &T| ((x.widen() / scale).round_ties_even() + zero).clamp(0.0, 255.0) as i64 - zero as i64;
    (scale, row.iter().map(code).collect())
}

/// `code - zero` of every entry, zero where it is pruned, and the scale of each block.
fn weight_codes<T: Float>(weight: &Weight<T>) -> (Vec<i64>, Vec<f64>, usize) {
    let file = Read::new(&Model::from(weight.clone()).to_bytes().unwrap());
    let coded =
        Coded::read::<T>(&file, "weight", &form_of(&file).unwrap(), weight.leaves()[0].kept()).unwrap();
    let dense = weight.to_dense().unwrap();
    // A whole number of scales: exact up to rounding of one product.
    let whole = |(i, x): (usize, &T)| (x.widen() / coded.scales[i / coded.block]).round() as i64;
    (dense.iter().enumerate().map(whole).collect(), coded.scales, coded.block)
}

fn exact_product<T: Float>(weight: &Weight<T>, x: &Tensor<T>, fixed: Option<(f64, f64)>) -> Vec<f64> {
    let (codes, scales, block) = weight_codes(weight);
    let cols = x.shape()[1];
    let rows = codes.len().checked_div(cols).unwrap_or(0);
    let mut out = Vec::new();
    for row in x.as_slice().chunks(cols) {
        let (scale, qx) = input_codes(row, fixed);
        for r in 0..rows {
            let mut sum = 0.0;
            let mut c = 0;
            while c < cols {
                let b = (r * cols + c) / block;
                let end = cols.min((b + 1) * block - r * cols);
                let whole: i64 = (c..end).map(|c| qx[c] * codes[r * cols + c]).sum();
                sum += scales[b] * whole as f64;
                c = end;
            }
            out.push(sum * scale);
        }
    }
    out
}

fn close<T: Float>(y: &Tensor<T>, exact: &[f64]) {
    let largest = exact.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
    for (y, exact) in y.iter().zip(exact) {
        let error = (y.widen() - exact).abs();
        assert!(error <= 1e-6 * exact.abs() + 1e-9 * largest + 1e-40 || y.is_infinite(), "{y} {exact}");
    }
}

fn integer_product<T: Float>(case: &Case, q: &AffineQuantizer, sparsity: Option<f64>, n: usize, fixed: bool) {
    let steps = Pipeline::<T>::default();
    let steps = sparsity.into_iter().fold(steps, |p, s| p.prune(MagnitudePruner::sparsity(s)));
    let Some(after) = if_it_fits(steps.quantize(q.clone()).run(case.tensor::<T>())) else { return };
    let weight = after.model.weight("weight").unwrap();
    let x = input::<T>(n, case.inputs(), case.seed ^ 1, 3.0);
    let fixed = fixed.then_some((-1.0, 2.0));
    let how = fixed.map_or(Activations::Int8, |(low, high)| Activations::Int8Static { low, high });
    let y = weight.matmul_with(&x, how);
    if !weight.form().quantized {
        assert!(y.is_err(), "integers need codes");
        return;
    }
    let y = y.unwrap();
    close(&y, &exact_product(weight, &x, fixed));
    // Neither the place of the mask nor the file makes a difference.
    let again = Model::<T>::from_bytes_as(after.model.to_bytes().unwrap()).unwrap();
    assert_eq!(again.weight("weight").unwrap().matmul_with(&x, how).unwrap(), y);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn matmul_equals_the_product_with_to_dense(
        case in any_case(), steps in steps(), n in prop_oneof![0_usize..4, 5_usize..90], seed in any::<u64>(),
        double in any::<bool>(),
    ) {
        if double { float_product::<f64>(&case, &steps, n, seed) } else { float_product::<f32>(&case, &steps, n, seed) }
    }

    #[test]
    fn integer_matmul_equals_an_exact_reference(
        case in any_case(), q in quantizer(), sparsity in prop::option::of(fraction()),
        n in prop_oneof![1_usize..4, 5_usize..70], fixed in any::<bool>(), double in any::<bool>(),
    ) {
        if case.look != Look::Huge && case.look != Look::Denormal {
            if double { integer_product::<f64>(&case, &q, sparsity, n, fixed) }
            else { integer_product::<f32>(&case, &q, sparsity, n, fixed) }
        }
    }

    #[test]
    fn integer_matmul_of_factors_runs_factor_by_factor(seed in any::<u64>(), rank in 1_usize..5, bits in 4_u8..=8) {
        let case = Case { shape: vec![24, 48], look: Look::Mixed, seed };
        let after = Pipeline::new().factorize(rank).quantize(AffineQuantizer::bits(bits))
            .run(case.tensor::<f32>()).unwrap();
        let weight = after.model.weight("weight").unwrap();
        prop_assume!(weight.form().quantized);
        let factor = |i: usize| {
            let leaf = weight.leaves()[i];
            let dense = Tensor::new(&[leaf.rows(), leaf.cols()], leaf.to_vec().unwrap()).unwrap();
            // The same values on the same grid: quantizing again finds the same codes.
            AffineQuantizer::bits(bits).apply(dense).unwrap()
        };
        let x = input::<f32>(3, 48, seed, 1.0);
        let hidden = factor(1).matmul_with(&x, Activations::Int8).unwrap();
        let expected = factor(0).matmul_with(&hidden, Activations::Int8).unwrap();
        let y = weight.matmul_with(&x, Activations::Int8).unwrap();
        let size = expected.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
        for (a, b) in y.iter().zip(expected.iter()) {
            // One step of the hidden layer's codes at most.
            prop_assert!((a - b).abs() <= 0.02 * size, "{} {}", a, b);
        }
    }
}

fn products_in_forms<T: Float>() {
    type Make<T> = fn(Weight<T>) -> bantam::Result<Weight<T>>;
    fn few<T: Float>(w: Weight<T>) -> bantam::Result<Weight<T>> {
        MagnitudePruner::sparsity(0.9).apply(w)
    }
    let forms: [(Activations, Make<T>); 15] = [
        (Activations::Float, Ok),
        (Activations::Float, |w| AffineQuantizer::bits(4).group(4).apply(w)),
        (Activations::Float, |w| MagnitudePruner::sparsity(0.5).apply(w)),
        (Activations::Float, few),
        (Activations::Float, |w| AffineQuantizer::bits(8).per_channel().asymmetric().apply(few(w)?)),
        (Activations::Float, |w| AffineQuantizer::bits(8).group(4).apply(few(w)?)),
        (Activations::Float, |w| AffineQuantizer::bits(4).per_channel().apply(few(w)?)),
        (Activations::Float, |w| CodebookQuantizer::bits(4).apply(few(w)?)),
        (Activations::Int8, |w| AffineQuantizer::bits(8).per_channel().apply(w)),
        (Activations::Int8, |w| AffineQuantizer::bits(8).per_channel().asymmetric().apply(w)),
        (Activations::Int8, |w| AffineQuantizer::bits(4).group(4).apply(w)),
        (Activations::Int8, |w| AffineQuantizer::bits(4).per_channel().apply(w)),
        (Activations::Int8, |w| {
            let pruned = MagnitudePruner::sparsity(0.5).apply(w)?;
            AffineQuantizer::bits(8).per_channel().asymmetric().apply(pruned)
        }),
        (Activations::Int8, |w| {
            let pruned = MagnitudePruner::n_of_m(2, 4).apply(w)?;
            AffineQuantizer::bits(8).per_channel().asymmetric().apply(pruned)
        }),
        (Activations::Int8, |w| AffineQuantizer::bits(8).per_channel().apply(few(w)?)),
    ];
    for (m, k) in [(100, 1100), (49, 4), (17, 320), (1, 2048), (200, 36), (49, 4224)] {
        for (how, make) in forms {
            let weight = make(Weight::from(input::<T>(m, k, 3, 1.0))).unwrap();
            if how == Activations::Int8 && !weight.form().quantized {
                assert_eq!(k, 4, "only where so few are kept that scales would take more than they save");
                continue;
            }
            let dense: Vec<f64> = weight.to_dense().unwrap().iter().map(|x| x.widen()).collect();
            for n in [1, 5, 17, 33, 130] {
                let x = input::<T>(n, k, 7, 2.0);
                let y = weight.matmul_with(&x, how).unwrap();
                if how == Activations::Int8 {
                    close(&y, &exact_product(&weight, &x, None));
                    continue;
                }
                for (y, (exact, all)) in y.iter().zip(reference(&x, &dense, n, m, k)) {
                    let allowed = (k + 4) as f64 * T::epsilon().widen() / 2.0 * all;
                    assert!((y.widen() - exact).abs() <= allowed, "{m} {k} {n}: {y} {exact}");
                }
            }
        }
    }
}

#[test]
fn products_of_many_rows_columns_and_inputs() {
    products_in_forms::<f32>();
    products_in_forms::<f64>();
}

/// Groups as they are used, whole vectors of codes or not.
#[test]
fn products_of_groups_of_4_bits() {
    fn products<T: Float>(group: usize, k: usize, asymmetric: bool) {
        let (m, coding) = (21, AffineQuantizer::bits(4).group(group));
        let coding = if asymmetric { coding.asymmetric() } else { coding };
        let weight = coding.apply(Weight::from(input::<T>(m, k, 3, 1.0))).unwrap();
        let dense: Vec<f64> = weight.to_dense().unwrap().iter().map(|x| x.widen()).collect();
        for n in [1, 2, 5, 17, 40] {
            let x = input::<T>(n, k, 7, 2.0);
            close(&weight.matmul_with(&x, Activations::Int8).unwrap(), &exact_product(&weight, &x, None));
            let y = weight.matmul(&x).unwrap();
            for (y, (exact, all)) in y.iter().zip(reference(&x, &dense, n, m, k)) {
                let allowed = (k + 4) as f64 * T::epsilon().widen() / 2.0 * all;
                assert!((y.widen() - exact).abs() <= allowed, "{group} {k} {n}: {y} {exact}");
            }
        }
    }
    for (group, k) in
        [(32, 96), (32, 800), (32, 4224), (64, 320), (64, 4224), (96, 768), (128, 4224), (256, 768)]
    {
        for asymmetric in [false, true] {
            products::<f32>(group, k, asymmetric);
            products::<f64>(group, k, asymmetric);
        }
    }
}

/// Rows whose columns are more than 16 bits tell apart.
#[test]
fn products_of_long_rows_of_which_few_are_kept() {
    fn product<T: Float>(n: usize) {
        let (m, k) = (2, 70_001);
        let weight = MagnitudePruner::sparsity(0.95).apply(Weight::from(input::<T>(m, k, 3, 1.0))).unwrap();
        let dense: Vec<f64> = weight.to_dense().unwrap().iter().map(|x| x.widen()).collect();
        let x = input::<T>(n, k, 7, 2.0);
        let y = weight.matmul(&x).unwrap();
        for (y, (exact, all)) in y.iter().zip(reference(&x, &dense, n, m, k)) {
            let allowed = (k + 4) as f64 * T::epsilon().widen() / 2.0 * all;
            assert!((y.widen() - exact).abs() <= allowed, "{n}: {y} {exact}");
        }
    }
    for n in [1, 3] {
        product::<f32>(n);
        product::<f64>(n);
    }
}

#[test]
fn the_first_product_finds_kept_entries_for_later_ones() {
    let dense = Weight::from(input::<f32>(40, 300, 3, 1.0));
    let weight = MagnitudePruner::sparsity(0.9).apply(dense).unwrap();
    let x = input::<f32>(1, 300, 7, 1.0);
    let before = weight.resident_bytes();
    let first = weight.matmul(&x).unwrap();
    let after = weight.resident_bytes();
    assert!(after >= before + weight.leaves()[0].kept(), "{before} {after}");
    assert_eq!(weight.matmul(&x).unwrap(), first);
    assert_eq!(weight.resident_bytes(), after);
    // A weight in a file keeps nothing.
    let stored = Model::<f32>::from_bytes_as(Model::from(weight).to_bytes().unwrap()).unwrap();
    let stored = stored.weight("weight").unwrap();
    let before = stored.resident_bytes();
    let y = stored.matmul(&x).unwrap();
    assert_eq!(stored.resident_bytes(), before);
    assert!(y.iter().zip(first.iter()).all(|(a, b)| (a - b).abs() < 1e-4));
    // Loaded, it finds them as before.
    let loaded = stored.load().unwrap();
    assert_eq!(loaded.matmul(&x).unwrap(), first);
    assert!(loaded.resident_bytes() >= loaded.leaves()[0].kept() * 5);
}

#[test]
fn long_integer_sums_do_not_overflow() {
    let k = 300_000;
    for x in [1.0_f32, -1.0] {
        let weight =
            AffineQuantizer::bits(8).asymmetric().apply(Tensor::new(&[1, k], vec![x; k]).unwrap()).unwrap();
        let y = weight.matmul_with(&Tensor::new(&[1, k], vec![1.0; k]).unwrap(), Activations::Int8).unwrap();
        assert!((y.as_slice()[0] - x * k as f32).abs() < 1e-3 * k as f32, "{y:?}");
    }
}

#[test]
fn integer_products_of_huge_and_bad_inputs() {
    let weight = AffineQuantizer::bits(8).apply(Tensor::new(&[2, 4], vec![0.5_f64; 8]).unwrap()).unwrap();
    let x = |v: f64| Tensor::new(&[1, 4], vec![v, -v, 0.0, 0.0]).unwrap();
    for huge in [1e308, f64::MAX, 1e-320, 0.0] {
        let y = weight.matmul_with(&x(huge), Activations::Int8).unwrap();
        assert!(y.iter().all(|y| y.is_finite() && y.abs() <= huge / 50.0), "{huge}: {y:?}");
    }
    for bad in [f64::NAN, f64::INFINITY] {
        assert!(weight.matmul_with(&x(bad), Activations::Int8).is_err());
        // It is the input's fault, and the place is that in the whole input.
        let mut rows = Tensor::<f64>::zeros(&[10, 4]);
        rows.as_mut_slice()[35] = bad;
        for how in [Activations::Int8, Activations::Int8Static { low: -1.0, high: 1.0 }] {
            let error = weight.matmul_with(&rows, how).unwrap_err();
            let Error::Weight { fault: Fault::Input { index, value }, .. } = error else { panic!("{error}") };
            assert_eq!((index, value), (35, bad.to_string()));
        }
    }
    let wrong = Tensor::new(&[1, 5], vec![0.0; 5]).unwrap();
    assert!(weight.matmul(&wrong).unwrap_err().to_string().contains("[_, 4]"));
    let factored =
        LowRankFactorizer::rank(1).apply(Tensor::new(&[8, 8], vec![0.5_f64; 64]).unwrap()).unwrap();
    assert!(factored.matmul_with(&Tensor::zeros(&[1, 8]), Activations::Int8).is_err());
}
