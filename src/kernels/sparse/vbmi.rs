//! The inputs of kept entries, found by their offsets: 64 bytes of a block of 256 at a time (VBMI).
//!
//! An instruction picks 64 bytes from 128, so that two of them know a block. Numbers of four bytes are picked as four
//! times a byte and put together again: four bytes of 64 numbers take eight such instructions, where numbers themselves
//! are picked from 32 at a time.
#![allow(unsafe_code)]

use super::lanes::fetch;
use super::offsets::{BLOCK, RowsOf, TOGETHER};
use super::vbmi2::{load, lowest, sum_of, total};
use super::{Bits, WORD};
use crate::kernels::cpu::{Vbmi2, Vnni, fast};
use crate::kernels::memory::Aligned;
use std::arch::x86_64::{
    __m512, __m512i, _mm_loadu_si128, _mm512_add_epi8, _mm512_add_ps, _mm512_castsi512_ps,
    _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_dpbusd_epi32, _mm512_loadu_ps, _mm512_mask_blend_epi8,
    _mm512_mask_storeu_epi8, _mm512_mask3_fmadd_ps, _mm512_maskz_compress_epi8, _mm512_maskz_mov_epi8,
    _mm512_movepi8_mask, _mm512_permutex2var_epi8, _mm512_permutexvar_epi32, _mm512_reduce_add_ps,
    _mm512_set1_epi8, _mm512_set1_epi32, _mm512_setr_epi32, _mm512_setzero_ps, _mm512_setzero_si512,
    _mm512_sub_epi32, _mm512_unpackhi_epi8, _mm512_unpackhi_epi16, _mm512_unpacklo_epi8,
    _mm512_unpacklo_epi16,
};

/// Numbers of a vector.
const LANES: usize = 16;
/// Vectors of bytes of a block.
const VECTORS: usize = BLOCK / WORD;
/// Rows that share what is loaded of the input.
const BYTE_ROWS: usize = TOGETHER;
const FLOAT_ROWS: usize = 2;
/// Entries of a pair of blocks on average, so that a vector holds those of most pairs.
const USUAL: usize = 54;
/// Planes of a number.
const PLANES: usize = size_of::<f32>();

/// See [`plain_find`](super::offsets::plain_find).
pub(super) fn find(_: Vbmi2, bits: Bits<'_>, out: &mut [u8], counts: &mut [u8]) -> Option<()> {
    // SAFETY: a `Vbmi2` exists, so the CPU has the instructions.
    unsafe { offsets(bits, out, counts) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,popcnt,bmi1,bmi2")]
fn offsets(bits: Bits<'_>, out: &mut [u8], counts: &mut [u8]) -> Option<()> {
    let first = load(&std::array::from_fn(|i| i as u8));
    let (mut at, whole) = (0, bits.whole());
    for (block, count) in counts.iter_mut().enumerate() {
        let (mut found, mut all) = (0, first);
        for i in block * VECTORS..bits.len().min((block + 1) * VECTORS) {
            let word = whole.get(i).map_or_else(|| bits.word(i), |word| *word);
            let (offsets, kept) = (_mm512_maskz_compress_epi8(word, all), word.count_ones() as usize);
            let to = out.get_mut(at..).filter(|to| to.len() >= kept)?;
            let room = lowest(to.len().min(WORD));
            // SAFETY: nothing is written but the bytes that there are, up to 64 of them.
            unsafe { _mm512_mask_storeu_epi8(to.as_mut_ptr().cast(), room, offsets) };
            at += kept;
            found += kept;
            all = _mm512_add_epi8(all, _mm512_set1_epi8(WORD as i8));
        }
        *count = u8::try_from(found).ok()?;
    }
    (at == out.len()).then_some(())
}

/// Has `out` filled by `$sums`, which finds the sums of `$together` rows from `$first` on at a time, or of one.
macro_rules! some_rows {
    ($out:ident, $together:ident, |$first:ident| $sums:expr) => {{
        let (many, rest) = $out.as_chunks_mut::<$together>();
        let first_of_rest = many.len() * $together;
        for (i, out) in many.iter_mut().enumerate() {
            let $first = i * $together;
            *out = $sums;
        }
        for (i, out) in rest.iter_mut().enumerate() {
            let $first = first_of_rest + i;
            [*out] = $sums;
        }
    }};
}

/// See [`Offsets::sums_of_bytes`](super::Offsets::sums_of_bytes).
pub(super) fn sums_of_bytes(
    _: (Vbmi2, Vnni),
    rows: RowsOf<'_>,
    (codes, zeros): (&[u8], &[u8]),
    (x, offset): (&[i8], i32),
    out: &mut [i32],
) {
    let x = x.as_chunks::<BLOCK>().0;
    assert!(x.len() == rows.blocks && codes.len() >= rows.offsets.len());
    let (weight, input) = ((codes, zeros), (x, offset));
    // SAFETY: a `Vbmi2` and a `Vnni` exist, so the CPU has the instructions; there are as many codes as offsets.
    unsafe {
        if 2 * rows.kept() <= rows.counts.len() * USUAL {
            some_rows!(out, BYTE_ROWS, |first| bytes::<_, true>(rows, first, weight, input));
        } else {
            some_rows!(out, BYTE_ROWS, |first| bytes::<_, false>(rows, first, weight, input));
        }
    }
}

/// # Safety
/// There must be as many codes as `rows` has offsets.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,bmi2")]
unsafe fn bytes<const R: usize, const PAIRS: bool>(
    rows: RowsOf<'_>,
    first: usize,
    (codes, zeros): (&[u8], &[u8]),
    (x, offset): (&[[i8; BLOCK]], i32),
) -> [i32; R] {
    let (starts, counts) = rows.some::<R>(first);
    let (mut at, mut sums) = (starts, [[_mm512_setzero_si512(); 2]; R]);
    for (pair, blocks) in x.as_chunks::<2>().0.iter().enumerate() {
        let [x, y]: &[[[u8; WORD]; VECTORS]; 2] = bytemuck::cast_ref(blocks);
        let (x, y) = (vectors(x), vectors(y));
        for r in 0..R {
            let (one, other) = (usize::from(counts[r][2 * pair]), usize::from(counts[r][2 * pair + 1]));
            // SAFETY: no more entries than the rows keep come before, as their counts add up to their starts, and there are
            // 64 bytes more than that: the caller says so of codes.
            unsafe {
                if PAIRS && one + other <= WORD {
                    let next = Next::new(rows, codes, at[r]);
                    let x = _mm512_mask_blend_epi8(lowest(one), next.pick(y), next.pick(x));
                    sums[r] = next.added(one + other, x, sums[r]);
                } else if !PAIRS && one.max(other) <= WORD {
                    let next = Next::new(rows, codes, at[r]);
                    sums[r] = next.added(one, next.pick(x), sums[r]);
                    let next = Next::new(rows, codes, at[r] + one);
                    sums[r] = next.added(other, next.pick(y), sums[r]);
                } else {
                    sums[r] = many(rows, codes, at[r], blocks, [one, other], sums[r]);
                }
            }
            at[r] += one + other;
        }
    }
    let mut out = [0; R];
    for (r, out) in out.iter_mut().enumerate() {
        let ([products, inputs], own) = (sums[r], &codes[starts[r]..at[r]]);
        *out = total([products, inputs, sum_of(own)], own.len(), (zeros[first + r], offset));
    }
    out
}

/// The sums with a pair of blocks that keep more than is usual.
///
/// # Safety
/// There must be as many offsets and codes from `at` on, and 64 more.
#[cold]
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni,bmi2")]
unsafe fn many(
    rows: RowsOf<'_>,
    codes: &[u8],
    mut at: usize,
    x: &[[i8; BLOCK]; 2],
    counts: [usize; 2],
    mut sums: [__m512i; 2],
) -> [__m512i; 2] {
    for (x, count) in x.iter().zip(counts) {
        let x = vectors(bytemuck::cast_ref(x));
        for done in (0..count).step_by(WORD) {
            // SAFETY: as the caller says.
            let next = unsafe { Next::new(rows, codes, at + done) };
            sums = next.added(count - done, next.pick(x), sums);
        }
        at += count;
    }
    sums
}

/// The next kept entries of a row: up to 64.
struct Next {
    offsets: __m512i,
    codes: __m512i,
}

impl Next {
    /// # Safety
    /// There must be 64 offsets and codes from `at` on.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn new(rows: RowsOf<'_>, codes: &[u8], at: usize) -> Self {
        // SAFETY: as the caller says.
        let (offsets, codes): (&[u8; WORD], &[u8; WORD]) =
            unsafe { (&*rows.offsets.as_ptr().add(at).cast(), &*codes.as_ptr().add(at).cast()) };
        fetch(offsets);
        fetch(codes);
        Self { offsets: load(offsets), codes: load(codes) }
    }

    /// Their inputs in a block.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    fn pick(&self, block: [__m512i; VECTORS]) -> __m512i {
        pick(block, self.offsets, _mm512_movepi8_mask(self.offsets))
    }

    /// Sums with the products of the first `count` with their inputs `x`, and with these.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni,bmi2")]
    fn added(&self, count: usize, x: __m512i, [products, inputs]: [__m512i; 2]) -> [__m512i; 2] {
        let x = _mm512_maskz_mov_epi8(lowest(count), x);
        [_mm512_dpbusd_epi32(products, self.codes, x), _mm512_dpbusd_epi32(inputs, _mm512_set1_epi8(1), x)]
    }
}

/// The input in planes: for each block the first bytes of its numbers, then the second ones, and so on.
pub(super) fn planes(_: Vbmi2, x: &[f32]) -> Aligned<u8> {
    let mut out = Aligned::new(x.len().next_multiple_of(2 * BLOCK) * PLANES);
    fast(
        #[inline(always)]
        || {
            for (x, out) in x.chunks(BLOCK).zip(out.get_mut().chunks_exact_mut(BLOCK * PLANES)) {
                for (j, plane) in out.chunks_exact_mut(BLOCK).enumerate() {
                    plane.iter_mut().zip(x).for_each(|(to, x)| *to = (x.to_bits() >> (8 * j)) as u8);
                }
            }
        },
    );
    out
}

/// See [`Dots::sums`](super::Dots::sums).
pub(super) fn sums(_: Vbmi2, rows: RowsOf<'_>, kept: &[f32], planes: &[u8], out: &mut [f32]) {
    assert!(kept.len() >= rows.offsets.len());
    let x = blocks(rows, planes);
    // SAFETY: a `Vbmi2` exists, so the CPU has the instructions; there are as many of them as offsets.
    unsafe { some_rows!(out, FLOAT_ROWS, |first| of_floats(rows, first, kept, x)) }
}

/// See [`Dots::sums_of_codes`](super::Dots::sums_of_codes).
pub(super) fn sums_of_codes(
    _: Vbmi2,
    rows: RowsOf<'_>,
    (codes, zeros): (&[u8], &[u8]),
    planes: &[u8],
    out: &mut [f32],
) {
    assert!(codes.len() >= rows.offsets.len());
    let x = blocks(rows, planes);
    // SAFETY: a `Vbmi2` exists, so the CPU has the instructions; there are as many of them as offsets.
    unsafe { some_rows!(out, FLOAT_ROWS, |first| of_codes(rows, first, (codes, zeros), x)) }
}

/// Vectors of a block, a plane after the other.
type Block = [[[u8; WORD]; VECTORS]; PLANES];

fn blocks<'a>(rows: RowsOf<'_>, planes: &'a [u8]) -> &'a [Block] {
    let blocks: &[Block] = bytemuck::cast_slice(planes);
    assert_eq!(blocks.len(), rows.blocks);
    blocks
}

/// # Safety
/// As [`sum`].
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi2")]
unsafe fn of_floats<const R: usize>(rows: RowsOf<'_>, first: usize, kept: &[f32], x: &[Block]) -> [f32; R] {
    let numbers = |kept: &[f32; LANES], _| {
        // SAFETY: the array holds the 64 bytes that are read; the load takes any alignment.
        unsafe { _mm512_loadu_ps(kept.as_ptr()) }
    };
    // SAFETY: as the caller says.
    unsafe { sum(rows, first, kept, x, numbers) }
}

/// # Safety
/// As [`sum`].
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi2")]
unsafe fn of_codes<const R: usize>(
    rows: RowsOf<'_>,
    first: usize,
    (codes, zeros): (&[u8], &[u8]),
    x: &[Block],
) -> [f32; R] {
    let mut vectors = [_mm512_setzero_si512(); R];
    for (vector, zero) in vectors.iter_mut().zip(&zeros[first..]) {
        *vector = _mm512_set1_epi32(i32::from(*zero));
    }
    let numbers = |codes: &[u8; LANES], r: usize| {
        // SAFETY: the array holds the 16 bytes that are read; the load takes any alignment.
        let codes = unsafe { _mm_loadu_si128(codes.as_ptr().cast()) };
        _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_cvtepu8_epi32(codes), vectors[r]))
    };
    // SAFETY: as the caller says.
    unsafe { sum(rows, first, codes, x, numbers) }
}

/// The sums of what stands for kept entries, a row's `numbers` of 16 at a time, with the input at their places.
///
/// # Safety
/// There must be as many of these as `rows` has offsets.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi2")]
unsafe fn sum<T, const R: usize>(
    rows: RowsOf<'_>,
    first: usize,
    kept: &[T],
    x: &[Block],
    numbers: impl Fn(&[T; LANES], usize) -> __m512,
) -> [f32; R] {
    let (mut at, counts) = rows.some::<R>(first);
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    // Four neighbours go to where the interleaving of planes will find them.
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for (block, x) in x.iter().enumerate() {
        let [p, q, s, t] = x;
        let tables = [vectors(p), vectors(q), vectors(s), vectors(t)];
        for r in 0..R {
            let mut left = usize::from(counts[r][block]);
            loop {
                // SAFETY: no more entries than the rows keep come before, as their counts add up to their starts, and
                // there are 64 more than that: the caller says so of values.
                let (offsets, values): (&[u8; WORD], &[[T; LANES]; WORD / LANES]) =
                    unsafe { (&*rows.offsets.as_ptr().add(at[r]).cast(), &*kept.as_ptr().add(at[r]).cast()) };
                fetch(offsets);
                fetch(&values[0]);
                fetch(&values[1]);
                let (own, offsets) = (lowest(left), load(offsets));
                let offsets = _mm512_permutexvar_epi32(order, offsets);
                let upper = _mm512_movepi8_mask(offsets);
                let [p, q, s, t] = tables;
                let (p, q) = (pick(p, offsets, upper), pick(q, offsets, upper));
                let (s, t) = (pick(s, offsets, upper), pick(t, offsets, upper));
                let (low, high) = (_mm512_unpacklo_epi8(p, q), _mm512_unpacklo_epi8(s, t));
                let x = _mm512_castsi512_ps(_mm512_unpacklo_epi16(low, high));
                sums[r][0] = _mm512_mask3_fmadd_ps(numbers(&values[0], r), x, sums[r][0], own as u16);
                let x = _mm512_castsi512_ps(_mm512_unpackhi_epi16(low, high));
                sums[r][1] = _mm512_mask3_fmadd_ps(numbers(&values[1], r), x, sums[r][1], (own >> 16) as u16);
                if left > 2 * LANES {
                    let (low, high) = (_mm512_unpackhi_epi8(p, q), _mm512_unpackhi_epi8(s, t));
                    let x = _mm512_castsi512_ps(_mm512_unpacklo_epi16(low, high));
                    sums[r][0] =
                        _mm512_mask3_fmadd_ps(numbers(&values[2], r), x, sums[r][0], (own >> 32) as u16);
                    let x = _mm512_castsi512_ps(_mm512_unpackhi_epi16(low, high));
                    sums[r][1] =
                        _mm512_mask3_fmadd_ps(numbers(&values[3], r), x, sums[r][1], (own >> 48) as u16);
                }
                at[r] += left.min(WORD);
                if left <= WORD {
                    break;
                }
                left -= WORD;
            }
        }
    }
    let mut out = [0.0; R];
    for (out, [a, b]) in out.iter_mut().zip(sums) {
        *out = _mm512_reduce_add_ps(_mm512_add_ps(a, b));
    }
    out
}

/// The bytes of a block at some offsets, those at `upper` ones in its second half.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn pick([a, b, c, d]: [__m512i; VECTORS], offsets: __m512i, upper: u64) -> __m512i {
    let low = _mm512_permutex2var_epi8(a, offsets, b);
    let high = _mm512_permutex2var_epi8(c, offsets, d);
    _mm512_mask_blend_epi8(upper, low, high)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn vectors([a, b, c, d]: &[[u8; WORD]; VECTORS]) -> [__m512i; VECTORS] {
    [load(a), load(b), load(c), load(d)]
}
