//! Probabilities on the logistic scale, in whole numbers: the same on every machine.
//!
//! `stretch(p) = ln(p / (1 - p))` in units of 1/256, and `squash`, its inverse. Probabilities have 22 bits
//! where they are learned and 16 bits where they are coded.

/// Bits of a learned probability.
pub(super) const BITS: u32 = 22;
/// A learned probability of 1.
pub(super) const CERTAIN: u32 = 1 << BITS;
/// Largest value of the logistic scale that is told apart: beyond it, a probability is that of a coded bit
/// that is as good as certain.
const LIMIT: i32 = 2900;
/// Fraction bits of the powers of e.
const FRACTION: u32 = 48;
/// `e^(1/256)` with that many bits, rounded down.
const STEP: u128 = 1_157_433_911_791_679_357 >> 12;
/// Probabilities are looked up by their leading bits: so many after the first.
const MANTISSA: u32 = 6;
/// Entries of the table: a power of two each `1 << MANTISSA`, up to a probability of a half.
const STRETCHED: usize = 16 << MANTISSA;

/// `squash` of 0 and more, with 22 bits.
const SQUASH: [u32; LIMIT as usize + 1] = {
    let mut table = [0; LIMIT as usize + 1];
    let mut power: u128 = 1 << FRACTION;
    let mut x = 0;
    while x < table.len() {
        table[x] = ((power << BITS) / (power + (1 << FRACTION))) as u32;
        power = (power * STEP) >> FRACTION;
        x += 1;
    }
    table
};

/// `stretch` of the probabilities up to a half, by their leading bits.
const STRETCH: [i16; STRETCHED] = {
    let mut table = [0; STRETCHED];
    let (mut i, mut x) = (0, -LIMIT);
    while i < STRETCHED {
        let leading = (1 << MANTISSA) + (i as u32 & ((1 << MANTISSA) - 1));
        let p = leading << (i >> MANTISSA);
        while x < 0 && CERTAIN - SQUASH[-x as usize] < p {
            x += 1;
        }
        table[i] = x as i16;
        i += 1;
    }
    table
};

/// The probability that lies at `x`, with 16 bits: never 0 and never 1.
pub(super) fn squash(x: i32) -> u32 {
    let up = SQUASH[x.unsigned_abs().min(LIMIT as u32) as usize];
    let p = if x < 0 { CERTAIN - up } else { up };
    (p >> (BITS - 16)).clamp(1, (1 << 16) - 1)
}

/// Where a probability of 22 bits lies.
pub(super) fn stretch(p: u32) -> i32 {
    let below = p < CERTAIN / 2;
    let small = if below { p } else { CERTAIN - p }.max(1 << MANTISSA);
    let power = u32::BITS - 1 - MANTISSA - small.leading_zeros();
    let i = ((power << MANTISSA) + (small >> power) - (1 << MANTISSA)) as usize;
    let x = i32::from(STRETCH[i.min(STRETCHED - 1)]);
    if below { x } else { -x }
}

/// A probability of a bit being 1 that is learned from the bits that came, and how many they were. It is
/// their share at first, and moves by a fixed part of the way once they are many.
#[derive(Clone, Copy, Debug)]
pub(super) struct Estimate(u32);

/// Bits of the count.
const COUNT: u32 = 10;
/// The largest count.
const MOST: u32 = (1 << COUNT) - 1;

/// `2^17 / (2 n + 3)`: how far an estimate moves with a bit after `n` others.
const RATE: [u32; MOST as usize + 1] = {
    let mut table = [0; MOST as usize + 1];
    let mut n = 0;
    while n < table.len() {
        table[n] = (1 << 17) / (2 * n as u32 + 3);
        n += 1;
    }
    table
};

/// `(2 n + 1) / (2 n + 6)` in parts of 2^16: how far an estimate from `n` bits is trusted.
const TRUST: [i32; MOST as usize + 1] = {
    let mut table = [0; MOST as usize + 1];
    let mut n = 0;
    while n < table.len() {
        table[n] = UNIT / (2 * n as i32 + 6) * (2 * n as i32 + 1);
        n += 1;
    }
    table
};

impl Estimate {
    /// A probability of 22 bits, held as if it came from `count` bits.
    pub fn new(p: u32, count: u32) -> Self {
        Self(p.min(CERTAIN - 1) << COUNT | count.min(MOST))
    }

    pub fn even() -> Self {
        Self::new(CERTAIN / 2, 0)
    }

    /// With 22 bits.
    pub fn p(self) -> u32 {
        self.0 >> COUNT
    }

    pub fn count(self) -> u32 {
        self.0 & MOST
    }

    /// What an input of a mixer is worth that comes from this estimate.
    pub fn trusted(self, input: i32) -> i32 {
        (input * TRUST[self.count() as usize]) >> 16
    }

    /// `limit`: bits after which older ones fade, at most 1023.
    pub fn learn(&mut self, bit: bool, limit: u32) {
        let (p, n) = (self.p(), self.count());
        let rate = u64::from(RATE[n as usize]);
        let part = |way: u32| ((u64::from(way) * rate) >> 16) as u32;
        let p = if bit { p + part(CERTAIN - 1 - p) } else { p - part(p) };
        *self = Self::new(p, (n + 1).min(limit));
    }
}

/// Weighs several estimates on the logistic scale, with weights that are learned for each of a small number
/// of situations (logistic mixing: Mattoni, Mahoney, "Adaptive weighing of context models for lossless data
/// compression", 2005).
#[derive(Clone, Debug)]
pub(super) struct Mixer<const N: usize> {
    weights: Vec<[i32; N]>,
    rate: i64,
    /// What the latest mix was made of.
    inputs: [i32; N],
    situation: usize,
    mixed: i32,
}

/// A weight of 1.
pub(super) const UNIT: i32 = 1 << 16;
/// No weight becomes larger, so that no sum overflows.
const HEAVIEST: i64 = 64 * UNIT as i64;

impl<const N: usize> Mixer<N> {
    pub fn new(situations: usize, weights: [i32; N], rate: i32) -> Self {
        let rate = i64::from(rate);
        Self { weights: vec![weights; situations], rate, inputs: [0; N], situation: 0, mixed: 0 }
    }

    /// The mix of `inputs` on the logistic scale.
    pub fn mix(&mut self, inputs: &[i32; N], situation: usize) -> i32 {
        let pairs = self.weights[situation].iter().zip(inputs);
        let sum: i64 = pairs.map(|(w, x)| i64::from(*w) * i64::from(*x)).sum();
        (self.inputs, self.situation) = (*inputs, situation);
        self.mixed = (sum >> 16).clamp(-i64::from(LIMIT), i64::from(LIMIT)) as i32;
        self.mixed
    }

    /// Moves the weights of the latest mix towards those that would have expected `bit`.
    pub fn learn(&mut self, bit: bool) {
        let error = (i64::from(bit) << 16) - i64::from(squash(self.mixed));
        for (w, x) in self.weights[self.situation].iter_mut().zip(&self.inputs) {
            let moved = i64::from(*w) + ((i64::from(*x) * error * self.rate) >> 22);
            *w = moved.clamp(-HEAVIEST, HEAVIEST) as i32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_agree_with_the_functions_they_stand_for() {
        for x in -LIMIT..=LIMIT {
            let exact = 65536.0 / (1.0 + (-f64::from(x) / 256.0).exp());
            assert!((f64::from(squash(x)) - exact).abs() <= 1.5, "{x}");
        }
        for p in (64..CERTAIN - 64).step_by(61) {
            let q = f64::from(p) / f64::from(CERTAIN);
            let exact = 256.0 * (q / (1.0 - q)).ln();
            assert!((f64::from(stretch(p)) - exact).abs() <= 6.0, "{p}: {} {exact}", stretch(p));
        }
        assert!(stretch(0) <= stretch(64) && stretch(CERTAIN) > 2800);
    }

    #[test]
    fn an_estimate_is_the_share_of_what_came() {
        let mut e = Estimate::new(CERTAIN / 2, 0);
        (0..300).for_each(|i| e.learn(i % 3 == 0, MOST));
        let p = f64::from(e.p()) / f64::from(CERTAIN);
        assert!((p - 1.0 / 3.0).abs() < 0.01, "{p}");
        assert_eq!(e.count(), 300);
        (0..10_000).for_each(|_| e.learn(true, MOST));
        (0..10_000).for_each(|_| e.learn(false, 20));
        assert!(e.p() < 64, "{}", e.p());
    }

    #[test]
    fn a_mixer_learns_whom_to_trust() {
        let mut mixer = Mixer::new(1, [UNIT / 2; 2], 30);
        let mut right = 0;
        for i in 0..2000 {
            let bit = i % 7 < 3;
            let good = if bit { 500 } else { -500 };
            let p = squash(mixer.mix(&[good, if i % 2 == 0 { 800 } else { -800 }], 0));
            right += usize::from((p > 1 << 15) == bit && i > 200);
            mixer.learn(bit);
        }
        assert_eq!(right, 1799);
    }
}
