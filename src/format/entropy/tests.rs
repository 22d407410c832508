use super::logistic::{Estimate, squash, stretch};
use super::*;
use crate::DType;
use proptest::prelude::*;

/// Codes with `run` both ways: it is given the truth to encode and a blank to decode, and gives what it
/// coded.
fn both<R: PartialEq + std::fmt::Debug>(
    encode: impl FnOnce(&mut Encoder) -> R,
    decode: impl FnOnce(&mut Decoder<'_>) -> R,
) -> usize {
    let mut encoder = Encoder::new();
    let truth = encode(&mut encoder);
    let bytes = encoder.finish();
    let mut decoder = Decoder::new(&bytes);
    assert_eq!(decode(&mut decoder), truth);
    assert!(!decoder.is_exhausted());
    bytes.len()
}

fn bits(coder: &mut impl Coder, flags: &[bool]) -> Vec<bool> {
    let mut estimate = Estimate::even();
    let one = |flag: &bool| {
        let bit = coder.bit(squash(stretch(estimate.p())), *flag);
        estimate.learn(bit, 1023);
        bit
    };
    flags.iter().map(one).collect()
}

fn mask(coder: &mut impl Coder, geometry: &Geometry, on: &[bool], kept: usize, plain: bool) -> Vec<u8> {
    let mut out = vec![0; on.len().div_ceil(8)];
    if plain {
        PlainBits::new().code(coder, (on.len(), geometry.cols), &mut out, |i| on[i]);
    } else {
        MaskModel::new(geometry, on.len(), kept).code(coder, &mut out, |i| on[i]);
    }
    out
}

fn codes(
    coder: &mut impl Coder,
    geometry: &Geometry,
    signs: Signs,
    bits: u8,
    codes: &[(usize, u8)],
) -> Vec<u8> {
    let mut model = CodeModel::new(geometry, bits, signs);
    codes.iter().map(|(i, code)| model.code(coder, *i, *code)).collect()
}

fn numbers(coder: &mut impl Coder, dtype: DType, bytes: &[u8], mixing: bool) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    NumberModel::new(dtype, bytes.len(), mixing).code(coder, &mut bytes);
    bytes
}

fn text(coder: &mut impl Coder, primer: &[u8], text: &[u8]) -> Vec<u8> {
    let mut model = TextModel::new(primer);
    text.iter().map(|byte| model.code(coder, *byte)).collect()
}

/// Shapes of weights of all kinds, with what the matrix before keeps of its rows.
fn shapes() -> impl Strategy<Value = (Vec<usize>, Vec<u32>)> {
    let shape = prop_oneof![
        prop::collection::vec(1_usize..40, 1..=2),
        (1_usize..12, 2_usize..12).prop_map(|(rows, edge)| vec![rows, edge * edge]),
        (1_usize..6, 1_usize..5, 1_usize..5, 1_usize..5).prop_map(|(o, i, h, w)| vec![o, i, h, w]),
        (1_usize..6, 1_usize..5, 1_usize..5).prop_map(|(o, i, w)| vec![o, i, w]),
    ];
    (shape, prop::collection::vec(0_u32..9, 0..30))
}

fn cols_of(shape: &[usize]) -> usize {
    if let [n] = shape { *n } else { shape[1..].iter().product() }
}

proptest! {
    #[test]
    fn masks_survive((shape, before) in shapes(), density in 0_u8..=100, seed in any::<u64>(), plain in any::<bool>()) {
        let geometry = Geometry::new(&shape, cols_of(&shape), &before);
        let mut random = seed;
        let mut next = || {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) % 100
        };
        let on: Vec<bool> = (0..shape.iter().product()).map(|_| next() < u64::from(density)).collect();
        let kept = on.iter().filter(|x| **x).count();
        both(
            |e| mask(e, &geometry, &on, kept, plain),
            |d| mask(d, &geometry, &vec![false; on.len()], kept, plain),
        );
    }

    #[test]
    fn codes_survive(
        (shape, before) in shapes(),
        bits in 1_u8..=8,
        negative in 0_u32..=256,
        raw in prop::collection::vec((any::<bool>(), any::<u8>()), 400),
    ) {
        let cols = cols_of(&shape);
        let geometry = Geometry::new(&shape, cols, &before);
        let signs = Signs { codes: 1 << bits, negative: negative.min(1 << bits) };
        let entries = shape.iter().product::<usize>();
        let truth: Vec<(usize, u8)> = (0..entries)
            .map(|i| (i, raw[i % raw.len()]))
            .filter(|(_, (kept, _))| *kept)
            .map(|(i, (_, code))| (i, code & (u8::MAX >> (8 - bits))))
            .collect();
        let blank: Vec<(usize, u8)> = truth.iter().map(|(i, _)| (*i, 0)).collect();
        both(|e| codes(e, &geometry, signs, bits, &truth), |d| codes(d, &geometry, signs, bits, &blank));
    }

    #[test]
    fn numbers_survive(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        dtype in prop::sample::select(vec![DType::F32, DType::F16, DType::F64, DType::U8, DType::I64]),
        mixing in any::<bool>(),
    ) {
        both(|e| numbers(e, dtype, &bytes, mixing), |d| numbers(d, dtype, &vec![0; bytes.len()], mixing));
    }

    #[test]
    fn text_survives(primer in "[a-c]{0,40}", words in prop::collection::vec("[a-e]{1,9}", 0..60)) {
        let all = words.concat();
        both(
            |e| text(e, primer.as_bytes(), all.as_bytes()),
            |d| text(d, primer.as_bytes(), &vec![0; all.len()]),
        );
    }

    #[test]
    fn bits_and_whole_numbers_survive(
        flags in prop::collection::vec(prop::bool::weighted(0.02), 0..3000),
        whole in prop::collection::vec(any::<u64>(), 0..20),
    ) {
        let all = |coder: &mut Encoder| {
            let mut model = Whole::new();
            (bits(coder, &flags), whole.iter().map(|n| model.code(coder, *n)).collect::<Vec<_>>())
        };
        let blank = |coder: &mut Decoder<'_>| {
            let mut model = Whole::new();
            (bits(coder, &vec![false; flags.len()]), whole.iter().map(|_| model.code(coder, 0)).collect())
        };
        both(all, blank);
    }

    /// Whatever a stream holds, each model decodes something: no panic, no more than was asked for.
    #[test]
    fn any_bytes_decode_to_something(
        stream in prop::collection::vec(any::<u8>(), 0..60),
        (shape, before) in shapes(),
        width in 1_u8..=8,
        negative in 0_u32..=256,
        kept in 0_usize..2000,
    ) {
        let mut decoder = Decoder::new(&stream);
        let cols = cols_of(&shape);
        let entries = shape.iter().product::<usize>();
        let geometry = Geometry::new(&shape, cols, &before);
        for plain in [true, false] {
            mask(&mut decoder, &geometry, &vec![false; entries], kept.min(entries), plain);
        }
        let signs = Signs { codes: 1 << width, negative: negative.min(1 << width) };
        let blank: Vec<(usize, u8)> = (0..entries).map(|i| (i, 0)).collect();
        codes(&mut decoder, &geometry, signs, width, &blank);
        numbers(&mut decoder, DType::F32, &[0; 40], true);
        text(&mut decoder, b"abc", &[0; 40]);
    }
}

#[test]
fn a_stream_may_start_with_a_byte_of_ones() {
    both(|e| e.bit(3, false), |d| d.bit(3, true));
    both(|e| bits(e, &[false; 40]), |d| bits(d, &[true; 40]));
}

#[test]
fn carries_reach_back_through_pending_bytes() {
    // Almost certain bits, then the other: drives `low` close to the carry.
    let flags: Vec<bool> = (0..20_000).map(|i| i % 97 == 0 || i > 19_900).collect();
    both(|e| bits(e, &flags), |d| bits(d, &vec![false; flags.len()]));
    let flags: Vec<bool> = flags.iter().map(|x| !x).collect();
    both(|e| bits(e, &flags), |d| bits(d, &vec![false; flags.len()]));
}

#[test]
fn a_mask_of_one_kind_takes_no_room() {
    let geometry = Geometry::new(&[300, 784], 784, &[]);
    for (on, kept) in [(vec![false; 300 * 784], 0), (vec![true; 300 * 784], 300 * 784)] {
        let n = both(
            |e| mask(e, &geometry, &on, kept, false),
            |d| mask(d, &geometry, &vec![false; on.len()], kept, false),
        );
        assert_eq!(n, 0);
    }
}

#[test]
fn a_sorted_table_costs_less_than_its_numbers() {
    let mut values: Vec<f32> = (0..64_u32).map(|i| ((i * 37 % 64) as f32 - 31.5) * 0.0173).collect();
    values.sort_by(f32::total_cmp);
    let bytes: Vec<u8> = values.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect();
    let n = both(
        |e| numbers(e, DType::F16, &bytes, true),
        |d| numbers(d, DType::F16, &vec![0; bytes.len()], true),
    );
    assert!(n < 105, "{n} bytes for 128");
}

#[test]
fn a_stream_is_as_long_as_its_claims_need() {
    let long = FREE_BITS + 500 * BITS_PER_BYTE;
    let mut encoder = Encoder::new();
    encoder.claim(Some(long)).unwrap();
    let bytes = encoder.finish();
    assert_eq!(bytes.len(), 500);
    assert!(Decoder::new(&bytes).claim(Some(long)).is_ok());
    assert!(Decoder::new(&bytes).claim(Some(long + 1)).is_err());
    assert!(Decoder::new(&bytes).claim(None).is_err());
    assert!(Decoder::new(&bytes[..499]).claim(Some(long)).is_err());
    let mut decoder = Decoder::new(&bytes);
    assert!(decoder.claim(Some(usize::MAX)).is_err());
    assert!(Decoder::new(&[]).claim(Some(FREE_BITS)).is_ok());
}

#[test]
fn images_and_feature_maps_have_a_geometry() {
    let beside = |geometry: &Geometry, c| geometry.beside(c, -1, 1);
    // Pixels of an image, places of a kernel, feature maps made flat, and none of these.
    assert_eq!(beside(&Geometry::new(&[300, 784], 784, &[]), 100), Some(73));
    assert_eq!(beside(&Geometry::new(&[50, 20, 5, 5], 500, &[1; 20]), 31), Some(27));
    assert_eq!(beside(&Geometry::new(&[500, 800], 800, &[1; 50]), 20), Some(17));
    assert_eq!(beside(&Geometry::new(&[10, 300], 300, &[1; 300]), 100), None);
    assert_eq!(beside(&Geometry::new(&[64, 64], 64, &[1; 64]), 9), None);
}

#[test]
fn logarithms_are_near() {
    for x in 1..=1 << 16 {
        let wanted = f64::from(x).log2();
        assert!((f64::from(log2(x)) / 65536.0 - wanted).abs() < 0.006, "{x}");
    }
}
