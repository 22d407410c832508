use super::dot::{Spaced, dot, dot_dense};
use super::*;
#[cfg(target_arch = "x86_64")]
use crate::kernels::cpu::{Avx2, Vbmi2};
use proptest::prelude::*;

/// A row in a mask that is all ones around it, and its columns.
fn row(on: &[bool], start: usize) -> (Vec<u64>, Vec<usize>) {
    let cols = on.len();
    let mut words = vec![0_u64; (start + cols).div_ceil(64) + 1];
    for i in (0..words.len() * 64).filter(|i| *i < start || *i >= start + cols || on[*i - start]) {
        words[i / 64] |= 1 << (i % 64);
    }
    (words, (0..cols).filter(|i| on[*i]).collect())
}

type Expand = fn(Bits<'_>, &[u8], u8, &mut [u8]);

/// Of bytes, for each set of instructions that the CPU has.
fn forms() -> Vec<Expand> {
    let mut forms: Vec<Expand> = vec![expand_bytes, expand::plain];
    #[cfg(target_arch = "x86_64")]
    if Avx2::new().is_some() {
        forms.push(|bits, kept, fill, out| {
            Avx2::new().into_iter().for_each(|cpu| avx2::expand_bytes(cpu, bits, kept, fill, out));
        });
    }
    forms
}

proptest! {
    #[test]
    fn sparse_rows_give_the_sums(
        on in prop::collection::vec(any::<bool>(), 0..600), thin in any::<u8>(), start in 0_usize..200, bad in any::<bool>(),
        more in 0_usize..400, usual in 0_usize..12, zero in any::<u8>(),
    ) {
        let on: Vec<bool> = on.iter().enumerate().map(|(i, on)| *on && (thin & 3 == 0 || i * 7 % 10 == 0)).collect();
        // A row that begins where a word does as often as not.
        let start = if thin & 4 == 0 { start } else { start / WORD * WORD };
        let cols = on.len();
        let (words, columns) = row(&on, start);
        let bits = Bits { words: &words, start, cols };
        let own = columns.len();
        let mut kept: Vec<f64> = (0..own + more).map(|i| (i % 7) as f64 - 3.0).collect();
        if bad && own > 2 {
            kept[2] = f64::INFINITY;
        }
        let x: Vec<f64> = (0..cols).map(|i| (i % 11) as f64 + 1.0).collect();
        let exact = |b: usize| columns.iter().zip(&kept).map(|(c, v)| v * (x[*c] + b as f64)).sum::<f64>();
        prop_assert_eq!(dot(bits, &kept, &Spaced::new(&x), usual), exact(0));
        prop_assert_eq!(f64::dot_dense(bits, &kept, &x), exact(0));
        // Small whole numbers: exact in single precision, too.
        let single: Vec<f32> = kept.iter().map(|x| *x as f32).collect();
        let x32: Vec<f32> = x.iter().map(|x| *x as f32).collect();
        for few in [0, cols] {
            let sum = Dots::new(&x32, cols - few, cols).sum(bits, &single);
            prop_assert_eq!(f64::from(sum), exact(0));
        }
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(cpu) = Avx2::new() {
                prop_assert_eq!(f64::from(avx2::dot_row(cpu, bits, &single, &x32)), exact(0));
            }
            if let Some(cpu) = Vbmi2::new() {
                prop_assert_eq!(f64::from(avx512::dot_floats(cpu, bits, &single, &x32)), exact(0));
            }
        }
        let codes: Vec<u8> = (0..own + more).map(|i| (i * 37) as u8).collect();
        let numbers: Vec<f32> = codes.iter().map(|code| f32::from(*code) - f32::from(zero)).collect();
        if let Some(sum) = Dots::new(&x32, cols, cols).sum_of_codes(bits, &codes, (0.5, zero)) {
            prop_assert_eq!(sum, 0.5 * dot_dense(bits, &numbers, &x32));
        }
        let mut whole: Vec<i8> = (0..cols).map(|i| (i * 91) as i8).collect();
        whole.resize(cols.next_multiple_of(WORD), 0);
        if let Some(dots) = ByteDots::new(if thin & 8 == 0 { cols } else { 0 }, cols) {
            let offset = i32::from(thin) - 127;
            let numbers = columns.iter().zip(&codes).map(|(c, code)| {
                (i32::from(*code) - i32::from(zero)) * (i32::from(whole[*c]) + offset)
            });
            prop_assert_eq!(dots.sum(bits, &codes, (zero, offset), &whole), numbers.sum::<i32>());
        }
        let mut found = vec![0; places_room(cols)];
        for find in [places, lanes::plain_places] {
            let count = find(bits, &mut found);
            prop_assert_eq!(found[..count].iter().map(|p| usize::from(*p)).collect::<Vec<_>>(), columns.clone());
        }
        let found = &found[..own];
        let rows: Vec<f64> = (0..3).flat_map(|b| x.iter().map(move |x| x + b as f64)).collect();
        let mut sums = [1.0; 3];
        f64::add_products::<4>(found, &kept[..own], (&Beside::new(&rows, cols), 0), &mut sums);
        let wanted = [1.0 + exact(0), 1.0 + exact(1), 1.0 + exact(2)];
        prop_assert_eq!(sums, wanted);
        let rows: Vec<f32> = rows.iter().map(|x| *x as f32).collect();
        let single = &single[..own];
        macro_rules! beside {
            ($lanes:literal) => {{
                let x = Beside::<f32, $lanes>::new(&rows, cols);
                let mut sums = [1.0_f32; 3];
                f32::add_products(found, single, (&x, 0), &mut sums);
                prop_assert_eq!(sums.map(f64::from), wanted);
                #[cfg(target_arch = "x86_64")]
                if let Some(cpu) = Avx2::new() {
                    let mut sums = [1.0_f32; 3];
                    avx2::add_products::<{ $lanes / 8 }, 3>(cpu, found, single, x.rows().as_flattened(), &mut sums);
                    prop_assert_eq!(sums.map(f64::from), wanted);
                }
            }};
        }
        beside!(8);
        beside!(16);
        beside!(32);
    }

    #[test]
    fn kept_values_go_to_their_places(
        on in prop::collection::vec(any::<bool>(), 0..600), start in 0_usize..200, more in 0_usize..100, aligned in any::<bool>(),
    ) {
        let start = if aligned { start / WORD * WORD } else { start };
        let (words, columns) = row(&on, start);
        let bits = Bits { words: &words, start, cols: on.len() };
        let kept: Vec<i16> = (0..columns.len() + more).map(|i| i as i16 - 300).collect();
        let mut wanted = vec![0; on.len()];
        columns.iter().zip(&kept).for_each(|(c, x)| wanted[*c] = *x);
        let bytes: Vec<u8> = kept.iter().map(|x| *x as u8).collect();
        for expand in forms() {
            let mut out = vec![7; on.len()];
            expand(bits, &bytes, 9, &mut out);
            let all: Vec<u8> = on.iter().zip(&wanted).map(|(on, x)| if *on { *x as u8 } else { 9 }).collect();
            prop_assert_eq!(out, all);
        }
        let single: Vec<f32> = kept.iter().map(|x| f32::from(*x)).collect();
        let mut floats = vec![7.0; on.len()];
        f32::expand(bits, &single, &mut floats);
        prop_assert!(floats.iter().zip(&wanted).all(|(a, b)| *a == f32::from(*b)));
        #[cfg(target_arch = "x86_64")]
        if let Some(cpu) = Avx2::new() {
            floats.fill(7.0);
            avx2::expand_floats(cpu, bits, &single, &mut floats);
            prop_assert!(floats.iter().zip(&wanted).all(|(a, b)| *a == f32::from(*b)));
        }
        let double: Vec<f64> = kept.iter().map(|x| f64::from(*x)).collect();
        let mut doubles = vec![7.0; on.len()];
        f64::expand(bits, &double, &mut doubles);
        prop_assert!(doubles.iter().zip(&wanted).all(|(a, b)| *a == f64::from(*b)));
    }
}

#[test]
fn an_input_that_is_not_finite_does_not_meet_pruned_entries() {
    let words = [0b101_u64; 3];
    let bits = Bits { words: &words, start: 0, cols: 192 };
    let mut x = vec![1.0_f32; 192];
    x[1] = f32::NAN;
    assert_eq!(f32::dot_dense(bits, &[2.0; 100], &x), 12.0);
    assert_eq!(dot(bits, &[2.0; 100], &Spaced::new(&x), 2), 12.0);
    assert_eq!(f32::dot_codes(bits, &[5; 100], (2.0, 4), &x).unwrap_or(12.0), 12.0);
    // Too large before it is scaled.
    x.fill(f32::MAX);
    assert_eq!(f32::dot_codes(bits, &[255; 100], (1e-9, 0), &x), None);
}

#[test]
fn the_largest_sums_of_bytes_are_exact() {
    let cols = 1 << 14;
    let words = vec![u64::MAX; cols / WORD];
    let bits = Bits { words: &words, start: 0, cols };
    for kept in [0, cols] {
        let Some(dots) = ByteDots::new(kept, cols) else { return };
        for (code, zero, x, offset) in [(255, 0, 127, 128), (255, 0, -128, -127), (0, 255, 127, 128)] {
            let sum = dots.sum(bits, &vec![code; cols + 7], (zero, offset), &vec![x; cols]);
            let one = (i32::from(code) - i32::from(zero)) * (i32::from(x) + offset);
            assert_eq!(sum, one * cols as i32);
        }
    }
}
