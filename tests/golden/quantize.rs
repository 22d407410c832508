//! Against onnxruntime's quantizer and PyTorch.
//!
//! Agrees exactly: scales (computed in double precision, rounded once), decoded values, and codes, but where
//! `x / scale` lies within rounding of a half. There bantam divides in double precision, onnxruntime in
//! single, and PyTorch multiplies by the reciprocal in single: a code may differ by one, and both neighbours
//! are equally near. Zero points are computed from the rounded scale here (as ONNX's own operator
//! `DynamicQuantizeLinear` has it) and from the unrounded one by onnxruntime's tool: where `-min / scale` is
//! next to a half, as for a range that is the same on both sides, they may differ by one. The other differences, each with its test: 4-bit symmetric ranges, and numbers so small
//! that onnxruntime gives up.

use crate::support::{Arrays, Coded, quantized};
use bantam::AffineQuantizer;

const TENSORS: [&str; 11] = [
    "normal",
    "skewed",
    "positive",
    "negative",
    "kernel",
    "huge",
    "zeros",
    "ties_asym",
    "ties_sym",
    "near_halves_asym",
    "near_halves_sym",
];

/// Whether values were made to lie next to halves of this scheme's steps. Those that lie on halves of a
/// scale that is a power of two are exact in any arithmetic.
fn is_near_halves(name: &str, scheme: &str) -> bool {
    match name {
        "ties_asym" => scheme != "u8.tensor",
        "ties_sym" => scheme != "s8.tensor",
        _ => name.starts_with("near_halves"),
    }
}

/// Distance, in steps, of a value from a half at which single precision may round it the other way: the
/// quotient, up to 255, is off by half an ulp, and PyTorch's reciprocal by as much again.
const HALF_BAND: f64 = 255.0 * 1.2e-7;

/// (name, bits, quantizer, what to add to their signed codes)
fn schemes() -> Vec<(&'static str, u8, AffineQuantizer, i32)> {
    let (eight, four) = (AffineQuantizer::bits(8), AffineQuantizer::bits(4));
    vec![
        ("u8.tensor", 8, eight.clone().asymmetric(), 0),
        ("u8.channel", 8, eight.clone().asymmetric().per_channel(), 0),
        ("s8.tensor", 8, eight.clone(), 128),
        ("s8.channel", 8, eight.per_channel(), 128),
        ("u4.tensor", 4, four.clone().asymmetric(), 0),
        ("u4.group", 4, four.asymmetric().group(8), 0),
    ]
}

fn ints(data: &Arrays, name: &str, shift: i32) -> Vec<i32> {
    data.numbers(name).iter().map(|x| *x as i32 + shift).collect()
}

/// Entries whose codes differ. Each lies next to a half, and its codes are neighbours.
fn near_half_differences(what: &str, x: &[f64], ours: &Coded, theirs: &[i32]) -> usize {
    assert_eq!(ours.codes.len(), theirs.len(), "{what}");
    let block = x.len() / ours.scale.len();
    let mut differing = 0;
    for (i, (a, b)) in ours.codes.iter().zip(theirs).enumerate() {
        if a != b {
            let steps = x[i] / ours.scale[i / block];
            let off = ((steps - steps.floor()) - 0.5).abs();
            assert!((a - b).abs() == 1 && off <= HALF_BAND, "{what} [{i}]: {a} and {b}, {steps} steps");
            differing += 1;
        }
    }
    differing
}

/// Zero points differ by at most one, and only where `-min / scale` lies next to a half.
fn assert_zero_points_near_halves(what: &str, x: &[f64], ours: &Coded, theirs: &[i32]) {
    let block = x.len() / ours.scale.len();
    for (i, (a, b)) in ours.zero.iter().zip(theirs).enumerate() {
        let low = x[i * block..(i + 1) * block].iter().fold(0.0_f64, |a, x| a.min(*x));
        let steps = -low / ours.scale[i];
        let off = ((steps - steps.floor()) - 0.5).abs();
        assert!(a == b || ((a - b).abs() == 1 && off <= HALF_BAND), "{what}: {a} and {b}, {steps} steps");
    }
}

#[test]
fn onnxruntime_chooses_the_same_scales_zero_points_and_codes() {
    let data = Arrays::golden("quantize");
    let (mut cases, mut moved) = (0, 0);
    for name in TENSORS {
        let x = data.numbers(name);
        for (scheme, bits, quantizer, shift) in schemes() {
            let key = format!("{name}.ort.{scheme}");
            if !data.has(&format!("{key}.codes")) {
                continue;
            }
            cases += 1;
            let ours = quantized::<f32>(data.tensor(name), bits, quantizer);
            assert_eq!(ours.scale, data.numbers(&format!("{key}.scale")), "{key}");
            let zero = ints(&data, &format!("{key}.zero"), shift);
            if ours.zero != zero {
                moved += 1;
                assert_zero_points_near_halves(&key, &x, &ours, &zero);
                continue;
            }
            let differing =
                near_half_differences(&key, &x, &ours, &ints(&data, &format!("{key}.codes"), shift));
            if is_near_halves(name, scheme) {
                continue;
            }
            assert_eq!(differing, 0, "{key}");
            assert_eq!(ours.decoded, data.numbers(&format!("{key}.decoded")), "{key}");
        }
    }
    // `ties_sym` has the range -a to a: its zero point is at 127.5.
    assert_eq!((cases, moved), (11 * 4 + 3 * 2, 1));
}

#[test]
fn pytorch_makes_the_same_codes_and_values() {
    let data = Arrays::golden("quantize");
    let mut near = 0;
    for name in TENSORS {
        let x = data.numbers(name);
        for (scheme, bits, quantizer, shift) in schemes() {
            let key = format!("{name}.torch.{scheme}");
            if !data.has(&format!("{key}.codes")) {
                continue;
            }
            let ours = quantized::<f32>(data.tensor(name), bits, quantizer);
            let differing =
                near_half_differences(&key, &x, &ours, &ints(&data, &format!("{key}.codes"), shift));
            if is_near_halves(name, scheme) {
                near += differing;
                continue;
            }
            assert_eq!(differing, 0, "{key}");
            assert_eq!(ours.decoded, data.numbers(&format!("{key}.decoded")), "{key}");
        }
    }
    assert!(near > 0, "the data holds values on which the two differ");
}

#[test]
fn pytorch_fakes_every_width_alike() {
    let data = Arrays::golden("quantize");
    for name in ["normal", "skewed", "positive"] {
        for bits in 2..=8 {
            let quantizer = AffineQuantizer::bits(bits);
            for (kind, quantizer) in [("sym", quantizer.clone()), ("asym", quantizer.asymmetric())] {
                let ours = quantized::<f32>(data.tensor(name), bits, quantizer);
                let key = format!("{name}.fake.{kind}{bits}.decoded");
                assert_eq!(ours.decoded, data.numbers(&key), "{key}");
            }
        }
    }
}

/// onnxruntime spreads 4 symmetric bits over -8..=7 with `absmax / 7.5`; we use -7..=7 with `absmax / 7`, so
/// that both ends are exact. Both are within half a step of the value, so they are within half of both steps
/// of each other.
#[test]
fn four_symmetric_bits_differ_by_at_most_half_of_both_steps() {
    let data = Arrays::golden("quantize");
    for name in ["normal", "skewed", "positive"] {
        for (scheme, quantizer) in
            [("s4.tensor", AffineQuantizer::bits(4)), ("s4.group", AffineQuantizer::bits(4).group(8))]
        {
            let key = format!("{name}.ort.{scheme}");
            let ours = quantized::<f32>(data.tensor(name), 4, quantizer);
            let (scale, x) = (data.numbers(&format!("{key}.scale")), data.numbers(name));
            let theirs = data.numbers(&format!("{key}.decoded"));
            for (a, b) in ours.scale.iter().zip(&scale) {
                assert!((a * 7.0 / (b * 7.5) - 1.0).abs() < 3e-7, "{key}: {a} {b}");
            }
            let block = x.len() / scale.len();
            for (i, (a, b)) in ours.decoded.iter().zip(&theirs).enumerate() {
                let bound = (ours.scale[i / block] + scale[i / block]) / 2.0 * (1.0 + 1e-6);
                assert!((a - b).abs() <= bound, "{key} [{i}]: {a} and {b} for {}", x[i]);
                assert!((a - x[i]).abs() <= ours.scale[i / block] / 2.0 * (1.0 + 1e-6), "{key} [{i}]");
            }
        }
    }
}

/// Where a scale would be denormal, onnxruntime takes 1, and everything decodes to 0. Ours goes on.
#[test]
fn denormal_values_are_kept() {
    let data = Arrays::golden("quantize");
    let x = data.numbers("denormal");
    assert_eq!(data.numbers("denormal.ort.s8.tensor.scale"), [1.0]);
    assert!(data.numbers("denormal.ort.s8.tensor.decoded").iter().all(|x| *x == 0.0));
    let tiniest = f64::from(f32::from_bits(1));
    for (scheme, bits, quantizer, _) in schemes() {
        let ours = quantized::<f32>(data.tensor("denormal"), bits, quantizer);
        let block = x.len() / ours.scale.len();
        for (i, (a, b)) in ours.decoded.iter().zip(&x).enumerate() {
            let scale = ours.scale[i / block];
            assert!(scale > 0.0 && scale < 1e-38, "{scheme}");
            // The scale itself is rounded to a multiple of the tiniest number: up to 255 halves of that.
            assert!((a - b).abs() <= scale / 2.0 + 128.0 * tiniest, "{scheme} [{i}]: {a} {b}");
        }
    }
}
