//! Codes of values: how many of the bounds between centres lie below a value.

use super::Share;
use crate::kernels::cpu::fast;

/// Values that are looked at side by side.
pub(super) const LANES: usize = 32;
/// Up to so many bounds are compared one by one; more are searched by halves.
const FEW: usize = 32;
/// The most bounds, and one.
pub(super) const MOST: usize = 256;

/// The numbers halfway between neighbouring values of a table, rounded down to the number type: a number of the
/// type is above one exactly if it is above the halfway point, which double precision tells for `f32`.
#[derive(Clone, Debug)]
pub struct Bounds<T> {
    /// Ascending; no number is above those that fill it up.
    bounds: [T; MOST],
    /// How many there are, or one less than the next power of two, for a search by halves.
    used: usize,
}

impl<T: Share> Bounds<T> {
    /// Between the values of an ascending table of at most 256.
    pub fn new(table: &[T]) -> Self {
        let mut bounds = [T::below(f64::INFINITY); MOST];
        for (bound, pair) in bounds.iter_mut().zip(table.windows(2)) {
            *bound = T::below(pair[0].wide() / 2.0 + pair[1].wide() / 2.0);
        }
        let used = table.len().saturating_sub(1);
        Self { bounds, used: if used > FEW { (used + 1).next_power_of_two() - 1 } else { used } }
    }

    /// The places of the nearest values of the table; of two that are equally near, the lower.
    pub fn codes(&self, values: &[T], out: &mut [u8]) {
        fast(
            #[inline(always)]
            || T::codes(values, &self.bounds, self.used, out),
        );
    }
}

/// The largest of codes.
pub fn largest(codes: &[u8]) -> Option<u8> {
    fast(
        #[inline(always)]
        || codes.iter().copied().max(),
    )
}

macro_rules! codes {
    ($name:ident, $t:ty, $int:ty, $fast:expr) => {
        #[inline(always)]
        pub(super) fn $name(values: &[$t], bounds: &[$t; MOST], used: usize, out: &mut [u8]) {
            #[inline(always)]
            fn block(values: &[$t; LANES], bounds: &[$t; MOST], used: usize, out: &mut [u8; LANES]) {
                // As wide as the values, so that comparisons can be added as they are.
                let mut codes = [0 as $int; LANES];
                if used <= FEW {
                    for bound in &bounds[..used] {
                        for i in 0..LANES {
                            codes[i] += <$int>::from(values[i] > *bound);
                        }
                    }
                } else {
                    let mut step = used.div_ceil(2);
                    while step > 0 {
                        for i in 0..LANES {
                            // Never more than there are, which the compiler does not see.
                            let bound = bounds[(codes[i] as usize + step - 1) % MOST];
                            codes[i] += if values[i] > bound { step as $int } else { 0 };
                        }
                        step /= 2;
                    }
                }
                for i in 0..LANES {
                    out[i] = codes[i] as u8;
                }
            }
            let (blocks, rest) = values.as_chunks::<LANES>();
            let (outs, out_rest) = out.as_chunks_mut::<LANES>();
            if used > FEW || !$fast(blocks, bounds, used, &mut *outs) {
                for (values, out) in blocks.iter().zip(&mut *outs) {
                    block(values, bounds, used, out);
                }
            }
            if !rest.is_empty() {
                let (mut last, mut codes) = ([0.0; LANES], [0; LANES]);
                last[..rest.len()].copy_from_slice(rest);
                block(&last, bounds, used, &mut codes);
                out_rest.copy_from_slice(&codes[..rest.len()]);
            }
        }
    };
}

codes!(codes_f32, f32, u32, few_f32);
codes!(codes_f64, f64, u64, no_faster);

fn no_faster<T>(_: &[[T; LANES]], _: &[T; MOST], _: usize, _: &mut [[u8; LANES]]) -> bool {
    false
}

/// The codes of whole blocks by few bounds, where the CPU has a faster way than the portable one. Says whether.
#[inline(always)]
fn few_f32(values: &[[f32; LANES]], bounds: &[f32; MOST], used: usize, out: &mut [[u8; LANES]]) -> bool {
    #[cfg(target_arch = "x86_64")]
    if (16..32).contains(&used) && crate::kernels::cpu::Avx512::new().is_some() {
        // SAFETY: the CPU has the instructions, as was just asked.
        #[allow(unsafe_code)]
        unsafe {
            super::avx512::codes(values, bounds, out);
        }
        return true;
    }
    #[cfg(target_arch = "x86_64")]
    if crate::kernels::cpu::has_avx2() {
        // SAFETY: the CPU has the instructions, as was just asked.
        #[allow(unsafe_code)]
        unsafe {
            super::avx2::codes(values, bounds, used, out);
        }
        return true;
    }
    let _ = (values, bounds, used, out);
    false
}

/// What a search of `2^levels - 1` bounds by halves compares with at step `i`: the bound for each way that leads
/// there, of which `N` is at least the number.
#[cfg(target_arch = "x86_64")]
pub(super) fn level<const N: usize>(bounds: &[f32; MOST], levels: usize, i: usize) -> [f32; N] {
    let half = 1 << (levels - 1 - i);
    std::array::from_fn(|way| bounds[((2 * way + 1) * half - 1) % MOST])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// By the middles, which are exact here in double precision; distances to far values are not.
    fn nearest(x: f32, table: &[f32]) -> u8 {
        let middle = |pair: &[f32]| (f64::from(pair[0]) + f64::from(pair[1])) / 2.0;
        table.windows(2).filter(|pair| middle(pair) < f64::from(x)).count() as u8
    }

    proptest! {
        #[test]
        fn codes_are_the_nearest(raw in prop_oneof![prop::collection::vec(-3000_i16..3000, 1..256), prop::collection::vec(-3000_i16..3000, 1..40)], near in prop::collection::vec((0_usize..256, -2_i32..=2), 0..90), random in prop::collection::vec(-4e3_f32..4e3, 0..90)) {
            let mut table: Vec<f32> = raw.iter().map(|x| f32::from(*x) * 0.7).collect();
            table.sort_unstable_by(f32::total_cmp);
            table.dedup();
            // Many next to halfway.
            let values: Vec<f32> = near.iter().filter_map(|(i, off)| {
                let pair = table.get(i % table.len()..)?.get(..2)?;
                let middle = (pair[0] + pair[1]) / 2.0;
                Some(f32::from_bits(middle.to_bits().saturating_add_signed(*off)))
            }).chain(random).collect();
            let mut codes = vec![0; values.len()];
            Bounds::new(&table).codes(&values, &mut codes);
            for (x, code) in values.iter().zip(&codes) {
                prop_assert_eq!(*code, nearest(*x, &table), "{}", x);
            }
            #[cfg(target_arch = "x86_64")]
            if crate::kernels::cpu::has_avx2() {
                let (bounds, blocks) = (Bounds::new(&table), values.as_chunks::<LANES>().0);
                let mut own = vec![[0; LANES]; blocks.len()];
                if bounds.used <= FEW {
                    // SAFETY: the CPU has the instructions, as was just asked.
                    #[allow(unsafe_code)]
                    unsafe {
                        super::super::avx2::codes(blocks, &bounds.bounds, bounds.used, &mut own);
                    }
                    prop_assert!(own.as_flattened().iter().eq(&codes[..own.len() * LANES]));
                }
            }
            let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
            let mut again = vec![0; values.len()];
            Bounds::new(&wide(&table)).codes(&wide(&values), &mut again);
            prop_assert_eq!(codes, again);
        }
    }

    #[test]
    fn the_whole_table_is_used() {
        for n in [1, 2, 3, 33, 34, 64, 100, 255, 256] {
            let table: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let mut codes = vec![0; n];
            Bounds::new(&table).codes(&table, &mut codes);
            assert!(codes.iter().enumerate().all(|(i, code)| usize::from(*code) == i), "{n}");
            assert_eq!(largest(&codes), Some((n - 1) as u8));
            let mut ends = [9; 2];
            Bounds::new(&table).codes(&[f32::MIN, f32::MAX], &mut ends);
            assert_eq!(ends, [0, (n - 1) as u8]);
        }
        assert_eq!(largest(&[]), None);
    }
}
