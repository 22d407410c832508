//! Statement 2: codes, scales and zero points, read back from a saved file without bantam.

use crate::cases::*;
use crate::common::Read;
use bantam::{AffineQuantizer, Float, MagnitudePruner, Model, Pipeline, Range, Tensor, WeightCompressor};
use proptest::prelude::*;

/// How a coded tensor lies in a file.
pub struct Coded {
    pub bits: u8,
    pub symmetric: bool,
    pub scales: Vec<f64>,
    pub zeros: Vec<i64>,
    /// Of the kept entries.
    pub codes: Vec<i64>,
    /// Entries that share a scale.
    pub block: usize,
}

pub fn unpack(bytes: &[u8], bits: u8, n: usize) -> Vec<i64> {
    let bit = |i: usize| i64::from(bytes[i / 8] >> (i % 8) & 1);
    (0..n).map(|i| (0..usize::from(bits)).map(|b| bit(i * usize::from(bits) + b) << b).sum()).collect()
}

impl Coded {
    /// The part called `name` of the weight that `form` describes.
    pub fn read<T: Float>(file: &Read, name: &str, form: &serde_json::Value, kept: usize) -> Option<Self> {
        let affine = form["leaf"]["affine"].as_object()?;
        let bits = affine["bits"].as_u64()? as u8;
        let shape: Vec<usize> = serde_json::from_value(form["shape"].clone()).ok()?;
        let (rows, cols) = match shape.as_slice() {
            [] => (1, 1),
            [n] => (1, *n),
            [m, rest @ ..] => (*m, rest.iter().product()),
        };
        let block = match &affine["granularity"] {
            serde_json::Value::String(s) if s == "tensor" => rows * cols,
            serde_json::Value::String(_) => cols,
            group => group["group"]["size"].as_u64()? as usize,
        };
        let blocks = rows * cols / block;
        let size = size_of::<T>();
        let scales = file.get(&format!("{name}.scale"))?[..blocks * size].chunks(size).map(|b| match size {
            4 => f64::from(f32::from_le_bytes(b.try_into().unwrap())),
            _ => f64::from_le_bytes(b.try_into().unwrap()),
        });
        let symmetric = affine["symmetric"].as_bool()?;
        let zeros = match symmetric {
            true => vec![1 << (bits - 1); blocks],
            false => unpack(file.get(&format!("{name}.zero_point"))?, bits, blocks),
        };
        let spread = form["leaf"]["mask"].get("zeros").is_some();
        let codes =
            unpack(file.get(&format!("{name}.codes"))?, bits, if spread { rows * cols } else { kept });
        Some(Self { bits, symmetric, scales: scales.collect(), zeros, codes, block })
    }
}

/// The description of the one weight of a file.
pub fn form_of(file: &Read) -> Option<serde_json::Value> {
    let description: serde_json::Value = serde_json::from_str(file.metadata.get("bantam")?).unwrap();
    description["entries"][0].get("form").cloned()
}

fn codes_are_right<T: Float>(case: &Case, q: &AffineQuantizer, sparsity: Option<f64>) {
    let tensor = case.tensor::<T>();
    let mut before = Model::from(tensor);
    if let Some(s) = sparsity {
        before = Pipeline::default().prune(MagnitudePruner::sparsity(s)).run(before).unwrap().model;
    }
    let after = match Pipeline::default().quantize(q.clone()).run(&before) {
        Ok(after) => after,
        Err(e) => return assert!(does_not_fit(&e), "{e}"),
    };
    let weight = after.model.weight("weight").unwrap();
    if !weight.form().quantized {
        assert!(!after.report.weights[0].left.is_empty());
        return;
    }
    let file = Read::new(&after.model.to_bytes().unwrap());
    let form = form_of(&file).unwrap();
    let kept = weight.leaves()[0].kept();
    let coded = Coded::read::<T>(&file, "weight", &form, kept).unwrap();
    let top = (1_i64 << coded.bits) - 1;
    let bottom = i64::from(coded.symmetric);
    assert!(coded.codes.iter().all(|c| (bottom..=top).contains(c)), "codes leave their range");
    assert!(coded.zeros.iter().all(|z| (0..=top).contains(z)), "a zero point is not a code");
    assert!(coded.scales.iter().all(|s| s.is_finite() && *s > 0.0));

    let (before, now) = (before.weight("weight").unwrap().to_dense().unwrap(), weight.to_dense().unwrap());
    assert!(now.iter().all(|x| x.is_finite()));
    if coded.codes.len() == now.len() {
        // The codes alone say what the tensor is.
        for (i, (code, x)) in coded.codes.iter().zip(now.iter()).enumerate() {
            let (s, z) = (coded.scales[i / coded.block], coded.zeros[i / coded.block]);
            assert_eq!(T::narrow((code - z) as f64) * T::narrow(s), *x);
        }
    }
    for (i, (x, y)) in before.iter().zip(now.iter()).enumerate() {
        let (x, y) = (x.widen(), y.widen());
        let (s, z) = (coded.scales[i / coded.block], coded.zeros[i / coded.block]);
        if x == 0.0 {
            assert_eq!(y, 0.0, "a zero became {y}");
            continue;
        }
        let (low, high) = (s * (bottom - z) as f64, s * (top - z) as f64);
        // Where the outermost code would be infinite it is not used, and its neighbour is up to a step away.
        let fits = low.abs().max(high) <= T::max_value().widen();
        if (low - s / 2.0..=high + s / 2.0).contains(&x) {
            let end = low.abs().max(high.abs()).max(x.abs());
            let ulp =
                (end * T::epsilon().widen()).max(T::min_positive_value().widen() * T::epsilon().widen());
            let half = if fits { s / 2.0 } else { s };
            assert!((x - y).abs() <= half + ulp, "{x} became {y} with scale {s} and zero {z}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    #[test]
    fn statement_2_codes_are_in_range_and_errors_within_half_a_step(
        case in any_case(), q in quantizer(), sparsity in prop::option::weighted(0.3, fraction()), double in any::<bool>(),
    ) {
        if double { codes_are_right::<f64>(&case, &q, sparsity) } else { codes_are_right::<f32>(&case, &q, sparsity) }
    }

    #[test]
    fn statement_2_min_max_clips_nothing(case in any_case(), bits in 2_u8..=8, symmetric in any::<bool>()) {
        let q = AffineQuantizer::bits(bits).range(Range::MinMax);
        let q = if symmetric { q } else { q.asymmetric() };
        let before = case.tensor::<f32>();
        let after = q.apply(before.clone()).unwrap();
        if after.form().quantized {
            let file = Read::new(&Model::from(after.clone()).to_bytes().unwrap());
            let coded = Coded::read::<f32>(&file, "weight", &form_of(&file).unwrap(), before.len()).unwrap();
            let scale = coded.scales[0];
            for (x, y) in before.iter().zip(after.to_dense().unwrap().iter()) {
                let ulp = f64::from(x.abs().max(y.abs())) * f64::from(f32::EPSILON) + 1e-45;
                // Asymmetric: rounding the zero point shifts one end by up to another half step.
                let allowed = if symmetric { 0.5 } else { 1.0 } * scale * (1.0 + 1e-6) + ulp;
                prop_assert!((f64::from(*x) - f64::from(*y)).abs() <= allowed, "{} {} {}", x, y, scale);
            }
        }
    }
}

#[test]
fn statement_2_the_largest_numbers_do_not_overflow() {
    let ends = [f32::MAX, -f32::MAX, 0.0, 1.0, f32::MAX / 3.0, -f32::MAX / 7.0];
    for (a, b) in ends.iter().flat_map(|a| ends.map(|b| (*a, b))) {
        let tensor =
            Tensor::new(&[1, 64], (0..64).map(|i| if i % 2 == 0 { a } else { b }).collect()).unwrap();
        for bits in 1..=8 {
            for q in [AffineQuantizer::bits(bits), AffineQuantizer::bits(bits).asymmetric()] {
                let dense = q.apply(tensor.clone()).unwrap().to_dense().unwrap();
                assert!(dense.iter().all(|x| x.is_finite()), "{q:?} {a} {b}: {dense:?}");
            }
        }
    }
}
