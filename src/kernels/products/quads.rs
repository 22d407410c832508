//! Products of integers: signed bytes of weights with unsigned codes of inputs, in sums of 32 bits that are exact.
//!
//! Many inputs lie side by side, four neighbouring columns of each together (a quad): a quad of a weight meets a
//! vector of them. Where the quads of the inputs lie is free: columns of a matrix one after the other, or shifted
//! views of an image, so that a convolution needs no copy of its windows. Few inputs are summed along their rows.

#[cfg(target_arch = "x86_64")]
use super::{avx2, nibbles256, nibbles512, vnni};
use crate::kernels::cpu::fast;
#[cfg(target_arch = "x86_64")]
use crate::kernels::cpu::{Avx2, Vnni};

#[cfg(target_arch = "x86_64")]
mod small;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod widened;

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
/// The sums of the rows of weights are wanted, too.
pub const WITH_ROWS: bool = true;
/// They are not.
pub const ALONE: bool = false;
/// The most that small weights are, either way: those of 4 bits.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
const SMALL: usize = 15;
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

/// Rows of weights and the inputs that they meet, which [`Form::strip`] alone makes: for each offset `x` holds as many
/// inputs as there are lanes, and each row holds as many quads as there are offsets.
#[derive(Clone, Copy)]
pub(super) struct Meeting<'a> {
    pub(super) w: [&'a [Weights]; ROWS],
    pub(super) x: &'a [Inputs],
    pub(super) offsets: &'a [u32],
    /// 16, or 32.
    pub(super) lanes: usize,
    /// What is brought near meanwhile.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub(super) ahead: &'a [u8],
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
    /// For signed weights of up to 4 bits, which are no more than 15 either way.
    #[cfg(target_arch = "x86_64")]
    SmallAvx2(Avx2),
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

    /// The same for weights of `bits`, without their zero points.
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    pub fn for_bits(bits: u8) -> Self {
        match Self::best() {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(cpu) if 1 << bits <= SMALL + 1 => Self::SmallAvx2(cpu),
            best => best,
        }
    }

    /// That it has AVX2, if so.
    #[cfg(target_arch = "x86_64")]
    pub fn avx2(self) -> Option<Avx2> {
        match self {
            Self::Vnni(cpu) => Some(cpu.avx2()),
            Self::Avx2(cpu) | Self::SmallAvx2(cpu) => Some(cpu),
            Self::Plain => None,
        }
    }

    /// All that the CPU has, for any weights.
    #[cfg(test)]
    pub fn all() -> Vec<Self> {
        #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
        let mut forms = vec![Self::Plain];
        #[cfg(target_arch = "x86_64")]
        {
            forms.extend(Avx2::new().map(Self::Avx2));
            forms.extend(Vnni::new().map(Self::Vnni));
        }
        forms
    }

    /// The one for small weights, if there is one, on any CPU that has it.
    #[cfg(test)]
    pub fn small() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(cpu) = Avx2::new() {
            return Self::SmallAvx2(cpu);
        }
        Self::Plain
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
    ///
    /// Bytes are as their types say, or, for `S` = [`SIGNED_INPUTS`], the other way round. Gives the sums of the rows
    /// [`WITH_ROWS`], else zeros.
    pub fn strip<const S: bool, const ROWS_TOO: bool>(
        self,
        w: [&[Weights]; ROWS],
        x: &[Inputs],
        taps: &Taps,
        lanes: usize,
        ahead: &[u8],
        sums: &mut Sums,
    ) -> [i32; ROWS] {
        assert!(matches!(lanes, 16 | 32), "{lanes} lanes");
        let offsets = taps.first(w[0].len(), x, lanes);
        let w = w.map(|w| &w[..offsets.len()]);
        let meeting = Meeting { w, x, offsets, lanes, ahead };
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Vnni(cpu) => return vnni::strip::<S, ROWS_TOO>(cpu, meeting, sums),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(cpu) => return widened::strip::<S, ROWS_TOO>(cpu, meeting, sums),
            #[cfg(target_arch = "x86_64")]
            Self::SmallAvx2(cpu) => {
                assert!(!S, "small weights are signed");
                debug_assert!(w.iter().all(|w| are_small(w)), "some weights are not small");
                small::strip(cpu, meeting, sums);
            }
            Self::Plain => plain_strip::<S>(meeting, sums),
        }
        let sum = |w: &[Weights]| w.as_flattened().iter().map(|w| weight::<S>(*w)).sum();
        if ROWS_TOO { w.map(sum) } else { [0; ROWS] }
    }

    /// [`strip`](Self::strip) and [`add_scaled`](Self::add_scaled) of [`LANES`] inputs, in blocks of `each` quads (the
    /// last may be shorter) that have a part for each row: all with zero 0, so that the sums of the inputs do not
    /// count. `total` has [`ROWS`] rows, `stride` apart.
    #[allow(unsafe_code)]
    pub fn blocks(
        self,
        w: [&[Weights]; ROWS],
        x: &[Inputs],
        (taps, each): (&Taps, usize),
        (parts, inputs): (&[[Part; ROWS]], &Known),
        ahead: &[u8],
        (total, stride): (&mut [f64], usize),
    ) {
        let quads = w[0].len();
        assert!(stride >= LANES && total.len() >= (ROWS - 1) * stride + LANES, "no room for all rows");
        #[cfg(target_arch = "x86_64")]
        {
            let (w, zeros) = (w.map(|w| &w[..quads]), &inputs.zeros.as_chunks().0[0]);
            let parts = &parts[..quads.div_ceil(each)];
            match self {
                Self::Vnni(cpu) => {
                    let x = &x.as_chunks().0[..quads];
                    return vnni::blocks(cpu, w, x, (each, zeros), parts, ahead, (total, stride));
                }
                Self::SmallAvx2(cpu) => {
                    let (x, offsets) = (&x[..quads * LANES], &taps.offsets[..each.min(quads)]);
                    debug_assert!(w.iter().all(|w| are_small(w)), "some weights are not small");
                    assert!(offsets.iter().enumerate().all(|(i, offset)| *offset as usize == i * LANES));
                    // SAFETY: all rows are cut to as many quads, the offsets have just been seen to count vectors of inputs,
                    // of which there are as many, and there is room for all rows.
                    unsafe { small::blocks(cpu, w, x, offsets, (parts, zeros), ahead, (total, stride)) };
                    return;
                }
                Self::Avx2(_) | Self::Plain => {}
            }
        }
        for (first, parts) in (0..quads).step_by(each).zip(parts) {
            let w = w.map(|w| &w[first..quads.min(first + each)]);
            // All of it in the first block: there are few.
            let ahead = if first == 0 { ahead } else { &[] };
            let mut sums = [[0; WIDTH]; ROWS];
            self.strip::<SIGNED_WEIGHTS, ALONE>(w, &x[first * LANES..], taps, LANES, ahead, &mut sums);
            self.add_scaled(&sums, parts, inputs, LANES, (&mut *total, stride));
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
        // Others may follow.
        let codes = &codes[..to.len() / 2];
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Vnni(cpu) if step.is_multiple_of(nibbles512::COLUMNS) && to.len().is_multiple_of(step) => {
                let (codes, to) = (codes.as_chunks().0, to.as_chunks_mut().0);
                nibbles512::signed(cpu, codes, step / nibbles512::COLUMNS, zeros, to, sums);
                true
            }
            #[cfg(target_arch = "x86_64")]
            _ if step.is_multiple_of(nibbles256::COLUMNS) && to.len().is_multiple_of(step) => {
                let Some(cpu) = self.avx2() else { return false };
                let (codes, to) = (codes.as_chunks().0, to.as_chunks_mut().0);
                nibbles256::signed(cpu, codes, step / nibbles256::COLUMNS, zeros, to, sums);
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
            Self::Avx2(cpu) | Self::SmallAvx2(cpu) => avx2::dots(cpu, w, flip, x),
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
        match self {
            Self::Vnni(cpu) => return vnni::sums(cpu, w, len, sums),
            Self::Avx2(cpu) | Self::SmallAvx2(cpu) => return widened::sums(cpu, w, len, sums),
            Self::Plain => {}
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

#[cfg(target_arch = "x86_64")]
fn are_small(w: &[Weights]) -> bool {
    w.as_flattened().iter().all(|w| usize::from(w.unsigned_abs()) <= SMALL)
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

fn plain_strip<const S: bool>(Meeting { w, x, offsets, lanes, .. }: Meeting<'_>, sums: &mut Sums) {
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
