use super::dot::{dot_dense, spread_dot};
use super::offsets::plain_find;
use super::*;
#[cfg(target_arch = "x86_64")]
use crate::kernels::cpu::{Avx2, Vbmi2, Vnni};
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
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
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
        more in 0_usize..400, zero in any::<u8>(),
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
        prop_assert_eq!(f64::dot_dense(bits, &kept, &x), exact(0));
        // Small whole numbers: exact in single precision, too.
        let single: Vec<f32> = kept.iter().map(|x| *x as f32).collect();
        let x32: Vec<f32> = x.iter().map(|x| *x as f32).collect();
        prop_assert_eq!(f64::from(f32::dot_dense(bits, &single, &x32)), exact(0));
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
        if let Some(sum) = f32::dot_codes(bits, &codes, (0.5, zero), &x32) {
            prop_assert_eq!(sum, 0.5 * dot_dense(bits, &numbers, &x32));
        }
        let whole: Vec<i8> = (0..cols).map(|i| (i * 91) as i8).collect();
        let offset = i32::from(thin) - 127;
        let numbers = columns.iter().zip(&codes).map(|(c, code)| {
            (i32::from(*code) - i32::from(zero)) * (i32::from(whole[*c]) + offset)
        });
        let wanted: i32 = numbers.sum();
        prop_assert_eq!(spread_dot(bits, &codes, (zero, offset), &whole), wanted);
        prop_assert_eq!(ByteDots::new(Bytes::new(whole.into_iter())).sum(bits, &codes, (zero, offset)), wanted);
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
    let offsets = Offsets::new(192, vec![0, 6], |_| bits).unwrap();
    let mut sums = [0.0; 1];
    Dots::new(&offsets, &x).sums(0, &[2.0; 100], &mut sums);
    assert_eq!(sums, [12.0]);
    sums = [0.0];
    assert!(!Dots::new(&offsets, &x).sums_of_codes(0, &[5; 100], &[3], &mut sums) || sums == [12.0]);
    assert_eq!(f32::dot_codes(bits, &[5; 100], (2.0, 4), &x).unwrap_or(12.0), 12.0);
    // Too large before it is scaled.
    x.fill(f32::MAX);
    assert_eq!(f32::dot_codes(bits, &[255; 100], (1e-9, 0), &x), None);
}

/// Rows of a mask, some of them with as many entries as a block may keep, and all else that meets them.
#[derive(Debug)]
struct Matrix {
    cols: usize,
    words: Vec<u64>,
    /// Columns of each row.
    columns: Vec<Vec<usize>>,
    starts: Vec<usize>,
}

impl Matrix {
    fn bits(&self, row: usize) -> Bits<'_> {
        Bits { words: &self.words, start: row * self.cols, cols: self.cols }
    }

    fn offsets(&self) -> Option<Offsets> {
        Offsets::new(self.cols, self.starts.clone(), |row| self.bits(row))
    }
}

/// Values, and [`WORD`] more.
fn followed<V: Copy + Default>(values: &[V]) -> Vec<V> {
    [values, &[V::default(); WORD]].concat()
}

/// Up to 9 rows, each of its own share of 20 that is kept, up to 19 of them.
fn matrices() -> impl Strategy<Value = Matrix> {
    let shares = prop::collection::vec(prop_oneof![0_usize..4, 0_usize..20], 0..10);
    (shares, 1_usize..1200, any::<u64>()).prop_map(|(shares, cols, seed)| {
        let kept = |row: usize, column: usize| {
            let mixed = (seed ^ (row * cols + column) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            ((mixed >> 32) % 20) < shares[row] as u64 && column % BLOCK != 100
        };
        let columns: Vec<Vec<usize>> =
            (0..shares.len()).map(|row| (0..cols).filter(|column| kept(row, *column)).collect()).collect();
        let mut words = vec![0_u64; (shares.len() * cols).div_ceil(WORD)];
        for i in columns.iter().enumerate().flat_map(|(row, c)| c.iter().map(move |c| row * cols + c)) {
            words[i / WORD] |= 1 << (i % WORD);
        }
        let mut starts = vec![0];
        columns.iter().for_each(|columns| starts.push(starts[starts.len() - 1] + columns.len()));
        Matrix { cols, words, columns, starts }
    })
}

proptest! {
    #[test]
    fn offsets_find_what_bits_find(matrix in matrices(), first in 0_usize..9, offset in -127_i32..=128, bad in any::<bool>()) {
        let (rows, cols) = (matrix.columns.len(), matrix.cols);
        let offsets = matrix.offsets().unwrap();
        let first = first.min(rows);
        // Places, of whole rows and from the second block on.
        let mut room = vec![0; places_room(cols)];
        for (row, columns) in matrix.columns.iter().enumerate() {
            for from in [0, BLOCK.min(cols / BLOCK * BLOCK)] {
                let wanted: Vec<usize> = columns.iter().filter(|c| **c >= from).map(|c| c - from).collect();
                let rank = matrix.starts[row + 1] - wanted.len();
                let count = offsets.places(row, from..cols, rank, &mut room);
                prop_assert_eq!(room[..count].iter().map(|p| usize::from(*p)).collect::<Vec<_>>(), wanted);
            }
            let mut found = vec![0; columns.len()];
            let mut counts = vec![0; cols.div_ceil(BLOCK)];
            prop_assert_eq!(plain_find(matrix.bits(row), &mut found, &mut counts), Some(()));
            prop_assert!(found.iter().zip(columns).all(|(offset, c)| usize::from(*offset) == c % BLOCK));
            for (block, count) in counts.iter().enumerate() {
                prop_assert_eq!(columns.iter().filter(|c| **c / BLOCK == block).count(), usize::from(*count));
            }
        }
        // Sums of bytes: those before the first row are not looked at.
        let all = matrix.starts[rows];
        let codes: Vec<u8> = (0..all).map(|i| (i * 37) as u8).collect();
        let zeros: Vec<u8> = (0..rows).map(|row| (row * 91) as u8).collect();
        let x: Vec<i8> = (0..cols).map(|i| (i * 57) as i8).collect();
        let row_sum = |row: usize| -> i32 {
            matrix.columns[row].iter().zip(matrix.starts[row]..).map(|(column, i)| {
                (i32::from(codes[i]) - i32::from(zeros[row])) * (i32::from(x[*column]) + offset)
            }).sum()
        };
        let wanted: Vec<i32> = (first..rows).map(row_sum).collect();
        let mut sums = vec![7; rows - first];
        let bytes = Bytes::new(x.into_iter());
        offsets.for_each_part(first..rows, &codes, |part, codes| {
            let own = part.start - first..part.end - first;
            assert_eq!(codes.len(), matrix.starts[part.end] - matrix.starts[part.start] + WORD);
            offsets.sums_of_bytes(part.start, (codes, &zeros[part]), (&bytes, offset), &mut sums[own]);
        });
        prop_assert_eq!(&sums, &wanted);
        let some = followed(&codes[matrix.starts[first]..all]);
        let some = (&some[..], &zeros[first..]);
        offsets.rows(first, rows - first).sums_of_bytes(some, (bytes.get(), offset), &mut sums);
        prop_assert_eq!(&sums, &wanted);
        // Sums of small whole numbers: exact. An input that is not finite meets no pruned entry.
        let mut x: Vec<f32> = (0..cols).map(|i| (i % 11) as f32 - 5.0).collect();
        if bad {
            x[cols / 2] = f32::INFINITY;
        }
        let kept: Vec<f32> = (0..all).map(|i| (i % 7 + 1) as f32).collect();
        let exact = |row: usize, number: &dyn Fn(usize) -> f32| -> f32 {
            matrix.columns[row].iter().zip(matrix.starts[row]..).map(|(column, i)| number(i) * x[*column]).sum()
        };
        let wanted: Vec<f32> = (first..rows).map(|row| exact(row, &|i| kept[i])).collect();
        let mut sums = vec![7.0; rows - first];
        let some = &followed(&kept[matrix.starts[first]..all])[..];
        let dots = Dots::new(&offsets, &x);
        dots.sums(first, some, &mut sums);
        prop_assert_eq!(&sums, &wanted);
        dots.plain_sums(offsets.rows(first, rows - first), some, &mut sums);
        prop_assert_eq!(&sums, &wanted);
        // 64 bits, too.
        let double: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        let kept: Vec<f64> = some.iter().map(|x| f64::from(*x)).collect();
        let mut doubles = vec![7.0; rows - first];
        Dots::new(&offsets, &double).sums(first, &kept, &mut doubles);
        prop_assert!(doubles.iter().zip(&wanted).all(|(a, b)| *a == f64::from(*b)));
        // And of codes.
        let wanted: Vec<f32> = (first..rows)
            .map(|row| exact(row, &|i| f32::from(codes[i]) - f32::from(zeros[row])))
            .collect();
        let some = followed(&codes[matrix.starts[first]..all]);
        if dots.sums_of_codes(first, &some, &zeros[first..], &mut sums) {
            // A code that is its zero point makes NaN of infinity in both.
            let same = |(a, b): (&f32, &f32)| a == b || a.is_nan() && b.is_nan();
            prop_assert!(sums.iter().zip(&wanted).all(same), "{:?} {:?}", sums, wanted);
        }
    }
}

/// The places of two of four.
const TWO: [[usize; 2]; 6] = [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]];

proptest! {
    #[test]
    fn rows_of_two_of_four_give_the_sums(
        groups in prop::collection::vec(0_usize..6, 0..300), whole in any::<bool>(), start in 0_usize..4,
        bad in prop::option::of(any::<prop::sample::Index>()), empty in any::<bool>(),
        zero in any::<u8>(), offset in -127_i32..=128,
    ) {
        let groups = if whole { &groups[..groups.len() / 32 * 32] } else { &groups[..] };
        let cols = 4 * groups.len();
        let mut on = vec![false; cols];
        groups.iter().enumerate().for_each(|(i, two)| TWO[*two].iter().for_each(|at| on[4 * i + at] = true));
        // One group that keeps another number of entries.
        let bad = bad.filter(|_| cols > 0).map(|at| at.index(cols));
        bad.iter().for_each(|at| match empty {
            true => on[at / 4 * 4..][..4].fill(false),
            false => on[*at] = !on[*at],
        });
        let (words, columns) = row(&on, start * WORD);
        let bits = Bits { words: &words, start: start * WORD, cols };
        let codes: Vec<u8> = (0..columns.len() + start).map(|i| (i * 37) as u8).collect();
        let x: Vec<i8> = (0..cols).map(|i| (i * 91) as i8).collect();
        let wanted: i32 = columns.iter().zip(&codes).map(|(c, code)| {
            (i32::from(*code) - i32::from(zero)) * (i32::from(x[*c]) + offset)
        }).sum();
        let grid = (zero, offset);
        prop_assert_eq!(spread_dot(bits, &codes, grid, &x), wanted);
        let x = Bytes::new(x.into_iter());
        #[cfg(target_arch = "x86_64")]
        {
            let own = (bad.is_none() && cols % 128 == 0).then_some(wanted);
            if let (Some(vbmi2), Some(vnni)) = (Vbmi2::new(), Vnni::new()) {
                prop_assert_eq!(two_of_four::dot((vbmi2, vnni), bits, &codes, grid, x.get()), own);
            }
            if let Some(cpu) = Avx2::new() {
                let sorted = two_of_four_avx2::sorted(x.get());
                prop_assert_eq!(two_of_four_avx2::dot(cpu, bits, &codes, grid, sorted.get()), own);
            }
        }
        prop_assert_eq!(ByteDots::new(x).sum(bits, &codes, grid), wanted);
        // Spread again.
        let mut wanted = vec![zero; cols];
        columns.iter().zip(&codes).for_each(|(c, code)| wanted[*c] = *code);
        for expand in forms() {
            let mut out = vec![7; cols];
            expand(bits, &codes, zero, &mut out);
            prop_assert_eq!(&out, &wanted);
        }
    }
}

#[test]
fn a_block_that_keeps_everything_has_no_offsets() {
    let words = [u64::MAX; 8];
    let bits = |_| Bits { words: &words, start: 0, cols: 512 };
    assert!(Offsets::new(512, vec![0, 512], bits).is_none());
    assert!(plain_find(bits(0), &mut [0; 512], &mut [0; 2]).is_none());
    // Nor rows that keep something else than was said.
    for end in [254, 256] {
        let bits = |_| Bits { words: &words, start: 0, cols: 255 };
        assert!(Offsets::new(255, vec![0, end], bits).is_none());
        assert!(plain_find(bits(0), &mut vec![0; end], &mut [0; 1]).is_none());
    }
    assert!(Offsets::new(255, vec![1, 256], |_| Bits { words: &words, start: 0, cols: 255 }).is_none());
    assert!(Offsets::new(255, vec![0, 255], |_| Bits { words: &words, start: 0, cols: 255 }).is_some());
}

#[test]
fn the_largest_sums_of_bytes_are_exact() {
    let cols = 1 << 14;
    let grids = [(255, 0, 127, 128), (255, 0, -128, -127), (0, 255, 127, 128)];
    let words = vec![u64::MAX >> 1; cols / WORD];
    let bits = Bits { words: &words, start: 0, cols };
    let offsets = Offsets::new(cols, vec![0, cols / WORD * 63], |_| bits).unwrap();
    for (code, zero, x, offset) in grids {
        let mut sums = [0];
        let weight: (&[u8], &[u8]) = (&vec![code; cols + WORD], &[zero]);
        offsets.sums_of_bytes(0, weight, (&Bytes::new(vec![x; cols].into_iter()), offset), &mut sums);
        let one = (i32::from(code) - i32::from(zero)) * (i32::from(x) + offset);
        assert_eq!(sums, [one * (cols / WORD * 63) as i32]);
    }
    // Rows that keep all, and two of each four.
    for (word, share) in [(u64::MAX, 1), (u64::MAX / 0b1111 * 0b1010, 2)] {
        let words = vec![word; cols / WORD];
        let bits = Bits { words: &words, start: 0, cols };
        for (code, zero, x, offset) in grids {
            let wanted =
                (i32::from(code) - i32::from(zero)) * (i32::from(x) + offset) * (cols / share) as i32;
            let (codes, x) = (vec![code; cols + 7], Bytes::new(vec![x; cols].into_iter()));
            assert_eq!(spread_dot(bits, &codes, (zero, offset), x.get()), wanted);
            #[cfg(target_arch = "x86_64")]
            if let Some(cpu) = Avx2::new() {
                let sorted = two_of_four_avx2::sorted(x.get());
                let sum = two_of_four_avx2::dot(cpu, bits, &codes, (zero, offset), sorted.get());
                assert_eq!(sum, (share == 2).then_some(wanted));
            }
            assert_eq!(ByteDots::new(x).sum(bits, &codes, (zero, offset)), wanted);
        }
    }
}
