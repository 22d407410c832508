use super::*;
use crate::kernels::products::EXACT;
use proptest::prelude::*;

/// Full range, with the ends more often than by chance.
fn bytes(seed: u64, n: usize) -> Vec<u8> {
    let byte = |i: u64| {
        let x = (i + 1).wrapping_mul(seed | 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let x = (x ^ (x >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 32;
        if x & 3 == 0 { [0, 127, 128, 255][(x >> 2 & 3) as usize] } else { (x >> 8) as u8 }
    };
    (0..n as u64).map(byte).collect()
}

proptest! {
    #[test]
    fn strips_give_the_sums(quads in 0_usize..200, wide in any::<bool>(), far in 1_usize..9, seed in any::<u64>()) {
        let lanes = if wide { WIDTH } else { LANES };
        let w: Vec<i8> = bytes(seed, ROWS * quads * 4).into_iter().map(|b| b as i8).collect();
        let w = w.as_chunks::<4>().0;
        let offsets: Vec<u32> = (0..quads).map(|i| ((i * 7 + 3) % quads * far) as u32).collect();
        let furthest = offsets.iter().max().copied().unwrap_or(0) as usize;
        let x = bytes(seed ^ 77, 4 * (furthest + lanes));
        let x = x.as_chunks::<4>().0;
        let taps = Taps::new(offsets.clone());
        let rows: [_; ROWS] = std::array::from_fn(|r| &w[r * quads..(r + 1) * quads]);
        for form in Form::all() {
            let mut sums = [[[9; WIDTH]; ROWS]; 2];
            form.strip::<SIGNED_WEIGHTS, ALONE>(rows, x, &taps, lanes, &[0; 700], &mut sums[0]);
            form.strip::<SIGNED_INPUTS, ALONE>(rows, x, &taps, lanes, &[0; 700], &mut sums[1]);
            let mut again = [[9; WIDTH]; ROWS];
            let of_rows = form.strip::<SIGNED_INPUTS, WITH_ROWS>(rows, x, &taps, lanes, &[0; 700], &mut again);
            prop_assert_eq!(again, sums[1]);
            let unsigned = |w: &[Weights]| w.as_flattened().iter().map(|w| i32::from(*w as u8)).sum::<i32>();
            prop_assert_eq!(of_rows, rows.map(unsigned));
            for (r, row) in rows.iter().enumerate() {
                for lane in 0..lanes {
                    let mut wanted = [0; 2];
                    for (w, offset) in row.iter().zip(&offsets) {
                        for (w, x) in w.iter().zip(x[*offset as usize + lane]) {
                            wanted[0] += i32::from(*w) * i32::from(x);
                            wanted[1] += i32::from(*w as u8) * i32::from(x as i8);
                        }
                    }
                    prop_assert_eq!([sums[0][r][lane], sums[1][r][lane]], wanted);
                }
            }
        }
    }

    #[test]
    fn small_weights_give_the_sums(quads in 0_usize..70, wide in any::<bool>(), most in 0_i8..2, seed in any::<u64>()) {
        let lanes = if wide { WIDTH } else { LANES };
        // Of one sign, too, and then as large as they may be.
        let weight = |b: u8| if most > 0 { 15 * [1, -1][usize::from(seed % 2 == 0)] } else { (b % 31) as i8 - 15 };
        let w: Vec<i8> = bytes(seed, ROWS * quads * 4).into_iter().map(weight).collect();
        let w = w.as_chunks::<4>().0;
        // Where they lie is free.
        let taps = Taps::new((0..quads).map(|i| ((i * 7 + 3) % quads * 5) as u32).collect());
        let n = 4 * (5 * quads + lanes);
        let x = if most > 0 { vec![255; n] } else { bytes(seed ^ 77, n) };
        let x = x.as_chunks::<4>().0;
        let rows: [_; ROWS] = std::array::from_fn(|r| &w[r * quads..(r + 1) * quads]);
        let mut sums = [[[9; WIDTH]; ROWS]; 2];
        for (form, sums) in [Form::Plain, Form::small()].into_iter().zip(&mut sums) {
            form.strip::<SIGNED_WEIGHTS, ALONE>(rows, x, &taps, lanes, &[0; 700], sums);
        }
        prop_assert_eq!(sums[0], sums[1]);
    }

    #[test]
    fn blocks_are_strips_that_are_scaled(quads in 0_usize..70, each in 1_usize..40, small in any::<bool>(), seed in any::<u64>()) {
        let weight = |b: u8| if small { (b % 31) as i8 - 15 } else { b as i8 };
        let w: Vec<i8> = bytes(seed, ROWS * quads * 4).into_iter().map(weight).collect();
        let w = w.as_chunks::<4>().0;
        let x = bytes(seed ^ 77, 4 * quads * LANES);
        let x = x.as_chunks::<4>().0;
        let rows: [_; ROWS] = std::array::from_fn(|r| &w[r * quads..(r + 1) * quads]);
        let part = |i: usize| Part { scale: (i % 7) as f64 * 0.3, sum: (i as i32 - 9) * 977, zero: 0 };
        let parts: Vec<[_; ROWS]> =
            (0..quads.div_ceil(each)).map(|b| std::array::from_fn(|r| part(b * 5 + r))).collect();
        let mut known = Known::default();
        known.zeros.iter_mut().zip(bytes(seed ^ 3, WIDTH)).for_each(|(zero, byte)| *zero = i32::from(byte));
        let taps = Taps::every(each, LANES);
        let mut wanted = [[0.5; LANES]; ROWS];
        for (b, parts) in parts.iter().enumerate() {
            let rows = rows.map(|w| &w[b * each..quads.min((b + 1) * each)]);
            let mut sums = [[0; WIDTH]; ROWS];
            Form::Plain.strip::<SIGNED_WEIGHTS, ALONE>(rows, &x[b * each * LANES..], &taps, LANES, &[], &mut sums);
            Form::Plain.add_scaled(&sums, parts, &known, LANES, (wanted.as_flattened_mut(), LANES));
        }
        for form in Form::all().into_iter().chain(small.then(Form::small)) {
            for stride in [LANES, 3 * LANES] {
                let mut total = vec![0.5; (ROWS - 1) * stride + LANES];
                form.blocks(rows, x, (&taps, each), (&parts, &known), &[0; 300], (&mut total, stride));
                prop_assert!(total.chunks(stride).zip(&wanted).all(|(total, wanted)| total[..LANES] == *wanted));
                prop_assert!(total.chunks(stride).all(|total| total[LANES..].iter().all(|total| *total == 0.5)));
            }
        }
    }

    #[test]
    fn nibbles_become_signed(steps in 0_usize..40, each in 1_usize..7, centred in any::<bool>(), seed in any::<u64>()) {
        let step = each * 64;
        // Those of later rows follow.
        let packed = bytes(seed, steps * step / 2 + 3000);
        let zeros = |i: usize| if centred { 8 } else { (i * 5 % 16) as u8 };
        let code = |i: usize| packed[i / 2] >> (i % 2 * 4) & 15;
        let signed: Vec<i8> = (0..steps * step).map(|i| code(i) as i8 - zeros(i / step) as i8).collect();
        let sums: Vec<i32> = signed.chunks(step).map(|w| w.iter().map(|w| i32::from(*w)).sum()).collect();
        for form in Form::all().into_iter().chain([Form::small()]) {
            let (mut to, mut found) = (vec![99; steps * step], vec![99; steps]);
            let done = form.signed_nibbles(&packed, step, zeros, &mut to, &mut found);
            prop_assert_eq!(done, !matches!(form, Form::Plain));
            if done {
                prop_assert_eq!((&to, &found), (&signed, &sums));
            }
        }
    }

    #[test]
    fn dots_give_the_sums(k in 0_usize..600, flip in prop_oneof![Just(0_u8), Just(128)], skip in 0_usize..5, seed in any::<u64>()) {
        let (w, x) = (bytes(seed, FEW_ROWS * (k + skip)), bytes(seed ^ 5, k));
        let rows: [_; FEW_ROWS] = std::array::from_fn(|r| &w[r * (k + skip) + skip..][..k]);
        let wanted = rows.map(|w| plain_dot(w, flip, &x));
        let signed: Vec<i8> = rows[0].iter().map(|w| (w ^ flip) as i8).collect();
        for form in Form::all() {
            prop_assert_eq!(form.dots(rows, flip, &x), wanted);
            for len in [1, 7, 64, 128, k.max(1)] {
                let mut sums = vec![9; k.div_ceil(len)];
                form.sums(&signed, len, &mut sums);
                let wanted: Vec<i32> = signed.chunks(len).map(|w| w.iter().map(|w| i32::from(*w)).sum()).collect();
                prop_assert_eq!(sums, wanted);
            }
        }
    }

    #[test]
    fn sums_are_scaled_without_their_zero_points(seed in any::<u64>(), rows in 0..=ROWS, wide in any::<bool>()) {
        let lanes = if wide { WIDTH } else { LANES };
        let number = |i: usize| i32::from(bytes(seed ^ i as u64, 1)[0]);
        let sums: Sums = std::array::from_fn(|r| std::array::from_fn(|i| number(r * 40 + i) << 20));
        let parts: Vec<_> = (0..rows).map(|r| Part { scale: 0.5 * r as f64, sum: number(r), zero: number(r + 1) - 128 }).collect();
        let known = Known {
            zeros: std::array::from_fn(number),
            sums: std::array::from_fn(|i| number(i + 9) << 8),
        };
        let exact = |r: usize, b: usize| {
            f64::from(sums[r][b] - known.zeros[b] * parts[r].sum - known.sums[b] * parts[r].zero) * parts[r].scale
        };
        for form in Form::all() {
            let mut total = vec![1.0; ROWS * WIDTH];
            form.add_scaled(&sums, &parts, &known, lanes, (&mut total, WIDTH));
            for (i, total) in total.iter().enumerate() {
                let (r, b) = (i / WIDTH, i % WIDTH);
                prop_assert_eq!(*total, if r < rows && b < lanes { 1.0 + exact(r, b) } else { 1.0 });
            }
                let mut seen = 0;
            let number = |r: usize, lane: usize, sum: f64| (sum * 0.1) as f32 + (r * WIDTH + lane) as f32;
            form.finish(&sums, &parts, &known, number, |r, row| {
                seen += 1;
                assert!((0..WIDTH).all(|b| row[b] == (exact(r, b) * 0.1) as f32 + (r * WIDTH + b) as f32));
            });
            prop_assert_eq!(seen, rows);
        }
    }
}

#[test]
fn the_longest_sums_of_the_largest_values_are_exact() {
    let x = vec![[255; 4]; EXACT / 4 + LANES];
    for (code, w) in [(0, -128), (255, 127)] {
        for form in Form::all() {
            let mut sums = [[0; WIDTH]; ROWS];
            let rows = vec![[w; 4]; EXACT / 4];
            let taps = Taps::every(EXACT / 4, 1);
            form.strip::<SIGNED_WEIGHTS, ALONE>([&rows; ROWS], &x, &taps, LANES, &[], &mut sums);
            assert!(sums.iter().all(|s| s[..LANES] == [EXACT as i32 * i32::from(w) * 255; LANES]));
            let (rows, x) = (vec![[-1; 4]; EXACT / 4], vec![[code ^ 128; 4]; x.len()]);
            form.strip::<SIGNED_INPUTS, ALONE>([&rows; ROWS], &x, &taps, LANES, &[], &mut sums);
            assert!(sums.iter().all(|s| s[..LANES] == [EXACT as i32 * i32::from(w) * 255; LANES]));
            let sum = form.dots([&[code; EXACT]; FEW_ROWS], 128, &[255; EXACT]);
            assert_eq!(sum, [[EXACT as i32 * i32::from(w) * 255, EXACT as i32 * i32::from(w)]; FEW_ROWS]);
        }
    }
}

#[test]
#[should_panic(expected = "reaches past")]
fn a_strip_past_its_inputs_is_refused() {
    let row = [[1; 4]; 2];
    Form::best().strip::<SIGNED_WEIGHTS, ALONE>(
        [&row; ROWS],
        &[[1; 4]; 17],
        &Taps::every(2, 2),
        LANES,
        &[],
        &mut [[0; WIDTH]; ROWS],
    );
}
