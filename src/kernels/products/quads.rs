//! Products of integers: signed bytes of weights with unsigned codes of inputs, in sums of 32 bits that are exact.
//!
//! Many inputs lie side by side, four neighbouring columns of each together (a quad): a quad of a weight meets a
//! vector of them. Where the quads of the inputs lie is free: columns of a matrix one after the other, or shifted
//! views of an image, so that a convolution needs no copy of its windows. Few inputs are summed along their rows.

#[cfg(target_arch = "x86_64")]
use super::{avx2, nibbles512, vnni};
use crate::kernels::cpu::fast;
#[cfg(target_arch = "x86_64")]
use crate::kernels::cpu::{Avx2, Vnni};

/// Rows of weights that meet a strip of inputs at a time.
pub const ROWS: usize = 8;
/// Inputs of a vector.
pub const LANES: usize = 16;
/// Inputs that a strip has at most.
pub const WIDTH: usize = 2 * LANES;
/// Rows of weights that meet one input along their columns at a time.
pub const FEW_ROWS: usize = 4;

/// Neighbouring columns of a row of weights.
pub type Weights = [i8; 4];
/// Neighbouring columns of an input.
pub type Inputs = [u8; 4];
/// Bytes are as their types say.
pub const SIGNED_WEIGHTS: bool = false;
/// The bytes of weights are unsigned, and those of inputs signed.
pub const SIGNED_INPUTS: bool = true;
/// For each row of weights and each input of a strip.
pub type Sums = [[i32; WIDTH]; ROWS];

/// Where the inputs lie that the quads of a row of weights meet: so many quads after the first input.
pub struct Taps {
    offsets: Vec<u32>,
    /// The furthest up to each.
    reach: Vec<u32>,
}

impl Taps {
    pub fn new(offsets: Vec<u32>) -> Self {
        let mut furthest = 0;
        let reach = offsets.iter().map(|offset| {
            furthest = furthest.max(*offset);
            furthest
        });
        Self { reach: reach.collect(), offsets }
    }

    /// `n` of them, `stride` apart.
    pub fn every(n: usize, stride: usize) -> Self {
        Self::new((0..n).map(|i| (i * stride) as u32).collect())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.offsets.len()
    }

    /// The first `n`, if an input is long enough for strips of `lanes`.
    fn first(&self, n: usize, x: &[Inputs], lanes: usize) -> &[u32] {
        if let Some(last) = n.checked_sub(1) {
            assert!(self.reach[last] as usize + lanes <= x.len(), "a strip reaches past its inputs");
        }
        &self.offsets[..n]
    }
}

/// How a row's sums become numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Part {
    pub scale: f64,
    /// The sum of the row's weights.
    pub sum: i32,
    /// What stands for 0 among them.
    pub zero: i32,
}

/// What is known of the inputs of a strip.
#[derive(Clone, Copy, Default)]
pub struct Known {
    /// Their zero points.
    pub zeros: [i32; WIDTH],
    /// The sum of each without its zero point.
    pub sums: [i32; WIDTH],
}

/// Vector `v` of a row's sums: what zero points add to them is taken away, the rest scaled.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "several arrays of one length, in step")]
fn scaled(sums: &[i32; WIDTH], part: Part, inputs: &Known, v: usize) -> [f64; LANES] {
    let vector = |all: &[i32; WIDTH]| all.as_chunks::<LANES>().0[v];
    let (sums, zeros, of_inputs) = (vector(sums), vector(&inputs.zeros), vector(&inputs.sums));
    let mut all = [0.0; LANES];
    // A loop: closures of arrays would be calls.
    for i in 0..LANES {
        // The result is exact, whatever is in between.
        let known = zeros[i].wrapping_mul(part.sum).wrapping_add(of_inputs[i].wrapping_mul(part.zero));
        all[i] = part.scale * f64::from(sums[i].wrapping_sub(known));
    }
    all
}

/// The instructions that a product runs on: all give the same sums.
#[derive(Clone, Copy)]
pub enum Form {
    #[cfg(target_arch = "x86_64")]
    Vnni(Vnni),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    Plain,
}

impl Form {
    /// The fastest that the CPU has.
    pub fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(cpu) = Vnni::new() {
            return Self::Vnni(cpu);
        } else if let Some(cpu) = Avx2::new() {
            return Self::Avx2(cpu);
        }
        Self::Plain
    }

    /// All that the CPU has.
    #[cfg(test)]
    pub fn all() -> Vec<Self> {
        let mut forms = vec![Self::Plain];
        #[cfg(target_arch = "x86_64")]
        {
            forms.extend(Avx2::new().map(Self::Avx2));
            forms.extend(Vnni::new().map(Self::Vnni));
        }
        forms
    }

    /// Runs `f`, which calls nothing but inlined code, compiled for these instructions.
    #[inline(always)]
    pub fn run<R>(self, f: impl FnOnce() -> R) -> R {
        #[cfg(target_arch = "x86_64")]
        if let Self::Vnni(cpu) = self {
            return vnni::run(cpu, f);
        }
        fast(f)
    }

    /// The sums of rows of weights, all as long, with `lanes` inputs that lie side by side: 16, or 32. Those of no
    /// more than 16 leave the others as they are. What is `ahead` is brought near meanwhile.
    /// Bytes are as their types say, or, for [`SIGNED_INPUTS`], the other way round.
    pub fn strip<const S: bool>(
        self,
        w: [&[Weights]; ROWS],
        x: &[Inputs],
        taps: &Taps,
        lanes: usize,
        ahead: &[u8],
        sums: &mut Sums,
    ) {
        self.strip_of::<S, false>(w, x, (taps, lanes), ahead, sums);
    }

    /// The same for [`SIGNED_INPUTS`], and the sums of the rows.
    pub fn strip_and_rows(
        self,
        w: [&[Weights]; ROWS],
        x: &[Inputs],
        taps: &Taps,
        lanes: usize,
        ahead: &[u8],
        sums: &mut Sums,
    ) -> [i32; ROWS] {
        self.strip_of::<SIGNED_INPUTS, true>(w, x, (taps, lanes), ahead, sums)
    }

    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    #[allow(unsafe_code)]
    fn strip_of<const S: bool, const OF_ROWS: bool>(
        self,
        w: [&[Weights]; ROWS],
        x: &[Inputs],
        (taps, lanes): (&Taps, usize),
        ahead: &[u8],
        sums: &mut Sums,
    ) -> [i32; ROWS] {
        assert!(matches!(lanes, 16 | 32), "{lanes} lanes");
        let offsets = taps.first(w[0].len(), x, lanes);
        let w = w.map(|w| &w[..offsets.len()]);
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Vnni(cpu) => {
                // SAFETY: 16 or 32 lanes, all offsets are such that as many inputs lie there (`first` has looked), and
                // the rows are cut to as many quads.
                return unsafe { vnni::strip::<S, OF_ROWS>(cpu, w, x, offsets, lanes, ahead, sums) };
            }
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the same.
            Self::Avx2(cpu) => unsafe { avx2::quads::<S>(cpu, w, x, offsets, lanes, ahead, sums) },
            Self::Plain => plain_strip::<S>(w, x, offsets, lanes, sums),
        }
        let sum = |w: &[Weights]| w.as_flattened().iter().map(|w| weight::<S>(*w)).sum();
        if OF_ROWS { w.map(sum) } else { [0; ROWS] }
    }

    /// [`strip`](Self::strip) and [`add_scaled`](Self::add_scaled) of [`LANES`] inputs, in blocks of `each` quads (the
    /// last may be shorter) that have a part for each row: all with zero 0, so that the sums of the inputs do not
    /// count. `total [ROWS, LANES]`.
    pub fn blocks(
        self,
        w: [&[Weights]; ROWS],
        x: &[Inputs],
        (taps, each): (&Taps, usize),
        (parts, inputs): (&[[Part; ROWS]], &Known),
        ahead: &[u8],
        total: &mut [f64],
    ) {
        let quads = w[0].len();
        #[cfg(target_arch = "x86_64")]
        if let Self::Vnni(cpu) = self {
            let (x, zeros) = (&x.as_chunks().0[..quads], &inputs.zeros.as_chunks().0[0]);
            let total = &mut total.as_chunks_mut().0[..ROWS];
            return vnni::blocks(cpu, w.map(|w| &w[..quads]), x, (each, zeros), parts, ahead, total);
        }
        for (first, parts) in (0..quads).step_by(each).zip(parts) {
            let w = w.map(|w| &w[first..quads.min(first + each)]);
            // All of it in the first block: there are few.
            let ahead = if first == 0 { ahead } else { &[] };
            let mut sums = [[0; WIDTH]; ROWS];
            self.strip::<SIGNED_WEIGHTS>(w, &x[first * LANES..], taps, LANES, ahead, &mut sums);
            self.add_scaled(&sums, parts, inputs, LANES, (&mut *total, LANES));
        }
    }

    /// Packed 4-bit codes as signed integers `code - zeros(step)`, and the sums of those of each `step` of columns.
    /// Where there is a kernel for such steps: else false.
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    pub fn signed_nibbles(
        self,
        codes: &[u8],
        step: usize,
        zeros: impl Fn(usize) -> u8,
        to: &mut [i8],
        sums: &mut [i32],
    ) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Vnni(cpu) if step.is_multiple_of(nibbles512::COLUMNS) && to.len().is_multiple_of(step) => {
                let (codes, to) = (codes.as_chunks().0, to.as_chunks_mut().0);
                nibbles512::signed(cpu, codes, step / nibbles512::COLUMNS, zeros, to, sums);
                true
            }
            _ => false,
        }
    }

    /// For each row of weights its sum with an input, and that of the weights alone. A weight is the signed byte
    /// that `flip` makes of it.
    pub fn dots(self, w: [&[u8]; FEW_ROWS], flip: u8, x: &[u8]) -> [[i32; 2]; FEW_ROWS] {
        let w = w.map(|w| &w[..x.len()]);
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Vnni(cpu) => vnni::dots(cpu, w, flip, x),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(cpu) => avx2::dots(cpu, w, flip, x),
            Self::Plain => w.map(|w| plain_dot(w, flip, x)),
        }
    }

    /// `total += scale * (sum - zero_of_input * sum_of_weights - zero * of_input)` for each row of `parts`, whose
    /// totals are `stride` apart, and each of `lanes` inputs.
    pub fn add_scaled(
        self,
        sums: &Sums,
        parts: &[Part],
        inputs: &Known,
        lanes: usize,
        (total, stride): (&mut [f64], usize),
    ) {
        self.run(
            #[inline(always)]
            || {
                for (r, (part, sums)) in parts.iter().zip(sums).enumerate() {
                    let total = total[r * stride..][..lanes].as_chunks_mut::<LANES>().0;
                    for (v, total) in total.iter_mut().enumerate() {
                        let mut new = scaled(sums, *part, inputs, v);
                        new.iter_mut().zip(&*total).for_each(|(new, total)| *new += total);
                        *total = new;
                    }
                }
            },
        );
    }

    /// `put(row, numbers)` for each row of `parts`: what `number(row, lane, sum)` makes of its sums, which are scaled as
    /// in [`add_scaled`](Self::add_scaled).
    /// It calls nothing but inlined code.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "several arrays of one length, in step")]
    pub fn finish<T: Copy + Default>(
        self,
        sums: &Sums,
        parts: &[Part],
        inputs: &Known,
        number: impl Fn(usize, usize, f64) -> T,
        mut put: impl FnMut(usize, &[T; WIDTH]),
    ) {
        let mut all = [[T::default(); WIDTH]; ROWS];
        self.run(
            #[inline(always)]
            || {
                for (r, (part, (sums, all))) in parts.iter().zip(sums.iter().zip(&mut all)).enumerate() {
                    for (v, to) in all.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                        let sums = scaled(sums, *part, inputs, v);
                        for i in 0..LANES {
                            to[i] = number(r, v * LANES + i, sums[i]);
                        }
                    }
                }
            },
        );
        all.iter().take(parts.len()).enumerate().for_each(|(r, row)| put(r, row));
    }

    /// The sums of each `len` signed bytes.
    pub fn sums(self, w: &[i8], len: usize, sums: &mut [i32]) {
        #[cfg(target_arch = "x86_64")]
        if let Self::Vnni(cpu) = self {
            return vnni::sums(cpu, w, len, sums);
        }
        fast(
            #[inline(always)]
            || {
                let parts = w.chunks(len.max(1));
                sums.iter_mut().zip(parts).for_each(|(sum, w)| *sum = w.iter().map(|w| i32::from(*w)).sum());
            },
        );
    }
}

/// A byte of a weight.
#[inline(always)]
fn weight<const S: bool>(byte: i8) -> i32 {
    if S { i32::from(byte.cast_unsigned()) } else { i32::from(byte) }
}

/// A byte of an input.
#[inline(always)]
fn input<const S: bool>(byte: u8) -> i32 {
    if S { i32::from(byte.cast_signed()) } else { i32::from(byte) }
}

fn plain_strip<const S: bool>(
    w: [&[Weights]; ROWS],
    x: &[Inputs],
    offsets: &[u32],
    lanes: usize,
    sums: &mut Sums,
) {
    for (w, sums) in w.iter().zip(sums) {
        let sums = &mut sums[..lanes];
        sums.fill(0);
        for (w, offset) in w.iter().zip(offsets) {
            let w = w.map(weight::<S>);
            for (sum, x) in sums.iter_mut().zip(&x[*offset as usize..]) {
                *sum += (0..4).map(|i| w[i] * input::<S>(x[i])).sum::<i32>();
            }
        }
    }
}

pub(super) fn plain_dot(w: &[u8], flip: u8, x: &[u8]) -> [i32; 2] {
    let signed = |w: &u8| i32::from((w ^ flip) as i8);
    let sum = w.iter().zip(x).map(|(w, x)| signed(w) * i32::from(*x)).sum();
    [sum, w.iter().map(signed).sum()]
}

#[cfg(test)]
mod tests {
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
        fn strips_give_the_sums(quads in 0_usize..70, wide in any::<bool>(), far in 1_usize..9, seed in any::<u64>()) {
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
                form.strip::<SIGNED_WEIGHTS>(rows, x, &taps, lanes, &[0; 700], &mut sums[0]);
                form.strip::<SIGNED_INPUTS>(rows, x, &taps, lanes, &[0; 700], &mut sums[1]);
                let mut again = [[9; WIDTH]; ROWS];
                let of_rows = form.strip_and_rows(rows, x, &taps, lanes, &[0; 700], &mut again);
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
        fn blocks_are_strips_that_are_scaled(quads in 0_usize..70, each in 1_usize..40, seed in any::<u64>()) {
            let w: Vec<i8> = bytes(seed, ROWS * quads * 4).into_iter().map(|b| b as i8).collect();
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
                Form::Plain.strip::<SIGNED_WEIGHTS>(rows, &x[b * each * LANES..], &taps, LANES, &[], &mut sums);
                Form::Plain.add_scaled(&sums, parts, &known, LANES, (wanted.as_flattened_mut(), LANES));
            }
            for form in Form::all() {
                let mut total = [[0.5; LANES]; ROWS];
                form.blocks(rows, x, (&taps, each), (&parts, &known), &[0; 300], total.as_flattened_mut());
                prop_assert_eq!(total, wanted);
            }
        }

        #[test]
        fn nibbles_become_signed(steps in 0_usize..40, each in 1_usize..4, centred in any::<bool>(), seed in any::<u64>()) {
            let step = each * 128;
            let packed = bytes(seed, steps * step / 2);
            let zeros = |i: usize| if centred { 8 } else { (i * 5 % 16) as u8 };
            let code = |i: usize| packed[i / 2] >> (i % 2 * 4) & 15;
            let signed: Vec<i8> = (0..steps * step).map(|i| code(i) as i8 - zeros(i / step) as i8).collect();
            let sums: Vec<i32> = signed.chunks(step).map(|w| w.iter().map(|w| i32::from(*w)).sum()).collect();
            for form in Form::all() {
                let (mut to, mut found) = (vec![99; steps * step], vec![99; steps]);
                if form.signed_nibbles(&packed, step, zeros, &mut to, &mut found) {
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
                form.strip::<SIGNED_WEIGHTS>([&rows; ROWS], &x, &taps, LANES, &[], &mut sums);
                assert!(sums.iter().all(|s| s[..LANES] == [EXACT as i32 * i32::from(w) * 255; LANES]));
                let (rows, x) = (vec![[-1; 4]; EXACT / 4], vec![[code ^ 128; 4]; x.len()]);
                form.strip::<SIGNED_INPUTS>([&rows; ROWS], &x, &taps, LANES, &[], &mut sums);
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
        Form::best().strip::<SIGNED_WEIGHTS>(
            [&row; ROWS],
            &[[1; 4]; 17],
            &Taps::every(2, 2),
            LANES,
            &[],
            &mut [[0; WIDTH]; ROWS],
        );
    }
}
