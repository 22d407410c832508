//! The k-th smallest magnitude in one pass over the values: a sample says between which magnitudes it lies
//! almost surely; the pass counts what lies below these and collects the few within, among which it is then
//! found exactly. Where the sample was wrong, the pass shows it, and [`rank`](super::rank) does the work.

use crate::weight::{Block, Leaf};
use crate::{Fault, Float};

/// Neighbours that are sampled together: those that one transfer from memory brings.
const RUN: usize = 16;
/// The same for values in a file.
const FILE_RUN: usize = 256;
/// Standard deviations between the guess and each end of the bracket.
const DEVIATIONS: f64 = 5.0;
/// Values that are looked at before asking whether there are too many inside the bracket.
const STRIP: usize = 1 << 12;
/// Of a block, at most one in this many may lie inside.
const MOST_INSIDE: usize = 8;

/// Magnitudes of runs of neighbours.
#[derive(Clone, Debug)]
pub(super) struct Sample<B> {
    magnitudes: Vec<B>,
    ends: Vec<usize>,
}

impl<B> Default for Sample<B> {
    fn default() -> Self {
        Self { magnitudes: Vec::new(), ends: Vec::new() }
    }
}

impl<B: Copy + Ord> Sample<B> {
    /// Adds a run out of every `every` entries of a leaf.
    pub fn add<T: Float<Bits = B>>(&mut self, leaf: &Leaf<T>, every: usize) -> Result<(), Fault> {
        let mask = leaf.mask()?;
        let (run, every) = match leaf.is_unread() {
            true => (FILE_RUN, every * (FILE_RUN / RUN)),
            false => (RUN, every.max(RUN)),
        };
        let mut state = 1_u64;
        for first in (0..leaf.len()).step_by(every) {
            // Anywhere in its stretch, so that nothing periodic is met in step.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let start = first + (state >> 33) as usize % (every - run + 1);
            if start + run <= leaf.len() {
                let kept = leaf.read_kept(start..start + run, mask.as_deref())?;
                self.magnitudes.extend(kept.iter().map(|x| x.magnitude()));
                self.ends.push(self.magnitudes.len());
            }
        }
        Ok(())
    }

    pub fn append(&mut self, other: Self) {
        let before = self.magnitudes.len();
        self.magnitudes.extend(other.magnitudes);
        self.ends.extend(other.ends.iter().map(|end| end + before));
    }

    /// The magnitudes between which the one of `rank` among `n` values most probably lies.
    pub fn bracket(self, rank: u64, n: u64, (least, largest): (B, B)) -> Bracket<B> {
        let len = self.magnitudes.len();
        let center = ((rank as f64 / n.max(1) as f64 * len as f64) as usize).min(len.saturating_sub(1));
        let mut sorted = self.magnitudes.clone();
        if len == 0 {
            return Bracket { low: least, high: largest };
        }
        let guess = *sorted.select_nth_unstable(center).1;
        // How much the number below the guess varies from run to run.
        let mut first = 0;
        let counts = self.ends.iter().map(|end| {
            let run = &self.magnitudes[first..*end];
            first = *end;
            run.iter().filter(|m| **m < guess).count() as f64 - run.len() as f64 * center as f64 / len as f64
        });
        let deviation = counts.map(|c| c * c).sum::<f64>().sqrt();
        let reach = (DEVIATIONS * deviation) as usize + RUN;
        let low = center.checked_sub(reach).map(|at| *sorted[..center].select_nth_unstable(at).1);
        let high = (center + reach < len).then(|| *sorted[center + 1..].select_nth_unstable(reach - 1).1);
        Bracket { low: low.unwrap_or(least), high: high.unwrap_or(largest) }
    }
}

/// Both ends are inside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bracket<B> {
    pub low: B,
    pub high: B,
}

/// What a bracket finds in a block.
#[derive(Debug)]
pub(super) struct Tally<B> {
    pub below: u64,
    /// Those inside, in order; `None` where there are too many to keep.
    pub inside: Option<Vec<B>>,
}

impl<B: Copy + Ord + Send + Sync> Bracket<B> {
    /// What lies below and inside, block by block.
    ///
    /// # Errors
    /// [`Fault::NotFinite`]
    pub fn tally<T: Float<Bits = B>>(self, leaf: &Leaf<T>) -> Result<Vec<Tally<B>>, Fault> {
        let mask = leaf.mask()?;
        leaf.map_blocks(mask.as_deref(), 1, |block: Block<'_, T>| {
            let mut tally = Tally { below: 0, inside: Some(Vec::new()) };
            let mut spill = Vec::new();
            for strip in block.kept.chunks(STRIP) {
                let inside = match &mut tally.inside {
                    Some(inside) if inside.len() <= block.kept.len() / MOST_INSIDE => inside,
                    _ => {
                        tally.inside = None;
                        spill.clear();
                        &mut spill
                    }
                };
                match T::tally(strip, self.low, self.high, inside) {
                    Some(below) => tally.below += below,
                    None => Leaf::check_finite(&block)?,
                }
            }
            Ok(tally)
        })
    }
}

/// The magnitude of `rank`, and how many of the values with exactly this magnitude come before it in rank;
/// `None` where it lies outside of the bracket. `below` counts the values under the bracket.
pub(super) fn select<B: Copy + Ord>(mut inside: Vec<B>, below: u64, rank: u64) -> Option<(B, u64)> {
    let at = usize::try_from(rank.checked_sub(below)?).ok().filter(|at| *at < inside.len())?;
    let (smaller, found, _) = inside.select_nth_unstable(at);
    let found = *found;
    Some((found, smaller.iter().filter(|m| **m == found).count() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_sorting(
            values in prop::collection::vec(prop_oneof![-3_i32..3, any::<i32>()], 1..3000), at in any::<prop::sample::Index>(),
            every in 16_usize..200, span in 0_u32..1 << 30,
        ) {
            let floats: Vec<f32> = values.iter().map(|x| *x as f32 * 0.5).collect();
            let rank = at.index(floats.len());
            let leaf = Leaf::dense(1, floats.len(), crate::weight::Values::new(floats.clone()));
            let mut sample = Sample::default();
            sample.add(&leaf, every).unwrap();
            let mut sorted: Vec<u32> = floats.iter().map(|x| x.abs().to_bits()).collect();
            sorted.sort_unstable();
            let guess = sample.bracket(rank as u64, floats.len() as u64, (0, u32::MAX >> 1));
            let exact = Bracket { low: sorted[rank].saturating_sub(span), high: (sorted[rank] + span).min(u32::MAX >> 1) };
            for bracket in [guess, exact] {
                let tallies = bracket.tally(&leaf).unwrap();
                let below: u64 = tallies.iter().map(|t| t.below).sum();
                prop_assert_eq!(below as usize, sorted.iter().filter(|m| **m < bracket.low).count());
                let Some(inside) = tallies.into_iter().map(|t| t.inside).collect::<Option<Vec<_>>>() else { continue };
                let found = select(inside.concat(), below, rank as u64);
                let within = (bracket.low..=bracket.high).contains(&sorted[rank]);
                let ties = rank - sorted.iter().filter(|m| **m < sorted[rank]).count();
                prop_assert_eq!(found, within.then_some((sorted[rank], ties as u64)));
            }
        }
    }
}
