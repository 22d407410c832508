//! Single entries by magnitude: under a threshold, or the smallest of a leaf or of many weights.

use super::bracket::{self, Bracket, Sample};
use super::rank::{Counts, Cut, Selection};
use crate::compressor::{Decision, Outcome, Survey, WeightCompressor};
use crate::kernels::cpu::fast;
use crate::model::{Select, WeightInfo};
use crate::weight::{Block, Leaf};
use crate::{Fault, Float, LeftAlone, Weight, parallel};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Entries out of which one run is sampled where a whole model is ranked.
const SAMPLED: usize = 1 << 14;
/// Runs that are sampled of a single leaf.
const RUNS: usize = 1 << 12;
/// Below this many entries a sample says too little, and any pass is short.
const MIN_SAMPLED: usize = 1 << 16;

/// Prunes every kept entry with an absolute value under `threshold`, rounded to `T`.
pub(super) fn by_threshold<T: Float>(leaf: Leaf<T>, threshold: f64) -> Result<Leaf<T>, Fault> {
    below(leaf, &LeafCut { magnitude: least::<T>(threshold), ties: 0 })
}

/// The least magnitude that a threshold keeps.
pub(super) fn least<T: Float>(threshold: f64) -> T::Bits {
    T::narrow(threshold).magnitude()
}

/// Whether pruning everything below `least` certainly makes a leaf no larger: looks no further than needed to
/// tell.
pub(super) fn shrinks<T: Float>(leaf: &Leaf<T>, least: T::Bits) -> Result<bool, Fault> {
    let mask = leaf.mask()?;
    let mut bits = vec![0; LOOK / 64];
    let mut pruned = 0;
    for start in (0..leaf.len()).step_by(LOOK) {
        let kept = leaf.read_kept(start..leaf.len().min(start + LOOK), mask.as_deref())?;
        bits.resize(kept.len().div_ceil(64), 0);
        T::at_least(&kept, least, &mut bits);
        pruned += kept.len() - bits.iter().map(|w| w.count_ones() as usize).sum::<usize>();
        if leaf.shrinks_by(pruned) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Entries that [`shrinks`] looks at in one go.
const LOOK: usize = 1 << 14;

/// Entries that a sparsity of `fraction` prunes, of `n`.
pub(super) fn target(fraction: f64, n: usize) -> usize {
    (fraction * n as f64).round() as usize
}

/// Entries that a sparsity of `fraction` prunes of a leaf, beside those that are pruned already.
pub(super) fn newly<T: Float>(leaf: &Leaf<T>, fraction: f64) -> usize {
    target(fraction, leaf.len()).saturating_sub(leaf.len() - leaf.kept())
}

/// Prunes the smallest entries until exactly `round(fraction * n)` are pruned.
pub(super) fn by_fraction<T: Float>(leaf: Leaf<T>, fraction: f64) -> Result<Leaf<T>, Fault> {
    let drop = newly(&leaf, fraction);
    if drop == 0 || drop == leaf.kept() {
        // A fault in the values is a fault even where nothing is to be done.
        let magnitude = if drop == 0 { T::Bits::default() } else { T::LARGEST };
        return below(leaf, &LeafCut { magnitude, ties: 0 });
    }
    let cut = match guessed(&leaf, drop as u64)? {
        Some(cut) => cut,
        None => counted(&leaf, drop as u64)?,
    };
    below(leaf, &cut)
}

/// Where a leaf is cut: it keeps magnitudes from `magnitude` on, but of equal ones only those from flat
/// position `ties` on.
struct LeafCut<B> {
    magnitude: B,
    ties: usize,
}

/// The cut by a sample and one pass, if the sample leads to it.
fn guessed<T: Float>(leaf: &Leaf<T>, rank: u64) -> Result<Option<LeafCut<T::Bits>>, Fault> {
    if leaf.kept() < MIN_SAMPLED {
        return Ok(None);
    }
    let mut sample = Sample::default();
    sample.add(leaf, leaf.len() / RUNS)?;
    let bracket = sample.bracket(rank, leaf.kept() as u64, (T::Bits::default(), T::LARGEST));
    let tallies = bracket.tally(leaf)?;
    let below = tallies.iter().map(|t| t.below).sum();
    let Some(inside) = tallies.into_iter().map(|t| t.inside).collect::<Option<Vec<_>>>() else {
        return Ok(None);
    };
    let Some((magnitude, ties)) = bracket::select(inside.concat(), below, rank) else { return Ok(None) };
    let equal = inside.iter().map(|block| block.iter().filter(|m| **m == magnitude).count() as u64);
    Ok(Some(LeafCut { magnitude, ties: end_of_ties(leaf, magnitude, ties, equal)? }))
}

/// The cut by as many passes as a magnitude has digits.
fn counted<T: Float>(leaf: &Leaf<T>, rank: u64) -> Result<LeafCut<T::Bits>, Fault> {
    let mut selection = Selection::new::<T>(rank);
    loop {
        let mut total = Counts::new();
        count(leaf, &selection)?.iter().for_each(|c| Selection::add(&mut total, c));
        if let Some(cut) = selection.advance(&total) {
            return leaf_cut(leaf, cut);
        }
    }
}

fn count<T: Float>(leaf: &Leaf<T>, selection: &Selection) -> Result<Vec<Counts>, Fault> {
    let mask = leaf.mask()?;
    leaf.map_blocks(mask.as_deref(), 1, |block| {
        Leaf::check_finite(&block)?;
        Ok(selection.count(&block.kept))
    })
}

/// How many entries have exactly this magnitude, block by block.
fn equal<T: Float>(leaf: &Leaf<T>, magnitude: T::Bits) -> Result<Vec<u64>, Fault> {
    let mask = leaf.mask()?;
    leaf.map_blocks(mask.as_deref(), 1, |block| {
        let count = fast(
            #[inline(always)]
            || block.kept.iter().filter(|x| x.magnitude() == magnitude).count(),
        );
        Ok(count as u64)
    })
}

fn leaf_cut<T: Float>(leaf: &Leaf<T>, cut: Cut) -> Result<LeafCut<T::Bits>, Fault> {
    let magnitude = T::capped(cut.magnitude);
    let ties = match cut.ties {
        0 => 0,
        ties => end_of_ties(leaf, magnitude, ties, equal(leaf, magnitude)?.into_iter())?,
    };
    Ok(LeafCut { magnitude, ties })
}

/// The flat position behind the first `ties` entries of exactly this magnitude, of which each block has
/// `equal`.
fn end_of_ties<T: Float>(
    leaf: &Leaf<T>,
    magnitude: T::Bits,
    mut ties: u64,
    equal: impl Iterator<Item = u64>,
) -> Result<usize, Fault> {
    if ties == 0 {
        return Ok(0);
    }
    let mask = leaf.mask()?;
    for (range, equal) in leaf.ranges(1).zip(equal) {
        if equal < ties {
            ties -= equal;
            continue;
        }
        let kept = leaf.read_kept(range.clone(), mask.as_deref())?;
        let block = Block { range, kept, mask: mask.as_deref() };
        let places = block.positions().zip(block.kept.iter()).filter(|(_, x)| x.magnitude() == magnitude);
        return Ok(places.take(ties as usize).last().map_or(0, |(i, _)| i + 1));
    }
    Ok(leaf.len())
}

/// Prunes what lies below the cut; of equal magnitudes, those that come first.
fn below<T: Float>(leaf: Leaf<T>, cut: &LeafCut<T::Bits>) -> Result<Leaf<T>, Fault> {
    let above = T::capped(cut.magnitude.into() + 1);
    leaf.restrict_bits(1, |block: &Block<'_, T>, bits: &mut [u64]| {
        let Range { start, end } = block.range;
        if cut.ties <= start {
            return Ok(T::at_least(&block.kept, cut.magnitude, bits));
        }
        let finite = T::at_least(&block.kept, above, bits);
        if cut.ties < end {
            for (i, (at, x)) in block.positions().zip(block.kept.iter()).enumerate() {
                let stays = at >= cut.ties && x.magnitude() == cut.magnitude;
                bits[i / 64] |= u64::from(stays) << (i % 64);
            }
        }
        Ok(finite)
    })
}

/// One ranking over all selected weights. The first look samples, the second counts what lies below the
/// sample's bracket and collects what lies inside. Where the cut is not there, one look more for each digit of
/// a magnitude finds it, and a last one counts the equal magnitudes. These are pruned by name of the weight,
/// then by place.
pub(super) struct GlobalSurvey<'a, T: Float> {
    select: &'a Select,
    fraction: f64,
    stage: Stage<T::Bits>,
    /// Entries that are to be pruned.
    rank: u64,
    seen: Mutex<Seen<T::Bits>>,
}

enum Stage<B> {
    Sample,
    Bracket(Bracket<B>),
    Count(Selection),
    Ties(Cut),
}

/// What a look has found.
struct Seen<B> {
    entries: usize,
    pruned: usize,
    sample: Sample<B>,
    below: u64,
    /// By name of the weight; `None` where there are too many.
    inside: BTreeMap<String, Option<Vec<B>>>,
    counts: Counts,
    equal: BTreeMap<String, u64>,
}

impl<B> Default for Seen<B> {
    fn default() -> Self {
        Self {
            entries: 0,
            pruned: 0,
            sample: Sample::default(),
            below: 0,
            inside: BTreeMap::new(),
            counts: Counts::new(),
            equal: BTreeMap::new(),
        }
    }
}

impl<'a, T: Float> GlobalSurvey<'a, T> {
    pub fn new(select: &'a Select, fraction: f64) -> Self {
        Self { select, fraction, stage: Stage::Sample, rank: 0, seen: Mutex::default() }
    }

    /// The equal magnitudes that are pruned go to the weights in order of their names.
    fn ready(&self, cut: Cut, equal: impl Iterator<Item = (String, u64)>) -> Decision<'a, T> {
        let mut left = cut.ties;
        let ties = equal.map(|(name, equal)| {
            let own = equal.min(left);
            left -= own;
            (name, if own == equal { Ties::All } else { Ties::First(own) })
        });
        Decision::Ready(Box::new(GlobalCut {
            select: self.select,
            magnitude: cut.magnitude,
            ties: ties.collect(),
        }))
    }
}

impl<'a, T: Float> Survey<'a, T> for GlobalSurvey<'a, T> {
    fn look(&self, info: &WeightInfo, weight: &Weight<T>) -> Result<(), Fault> {
        let mut own = Seen::default();
        let mut inside = Some(Vec::new());
        let mut equals = 0;
        for leaf in weight.leaves() {
            match &self.stage {
                Stage::Sample => {
                    own.entries += leaf.len();
                    own.pruned += leaf.len() - leaf.kept();
                    own.sample.add(leaf, SAMPLED)?;
                }
                Stage::Bracket(bracket) => {
                    for tally in bracket.tally(leaf)? {
                        own.below += tally.below;
                        match (&mut inside, tally.inside) {
                            (Some(all), Some(part)) => all.extend(part),
                            _ => inside = None,
                        }
                    }
                }
                Stage::Count(selection) => {
                    count(leaf, selection)?.iter().for_each(|c| Selection::add(&mut own.counts, c));
                }
                Stage::Ties(cut) => equals += equal(leaf, T::capped(cut.magnitude))?.iter().sum::<u64>(),
            }
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.entries += own.entries;
        seen.pruned += own.pruned;
        seen.sample.append(own.sample);
        seen.below += own.below;
        seen.inside.insert(info.name.to_string(), inside);
        if !own.counts.is_empty() {
            Selection::add(&mut seen.counts, &own.counts);
        }
        seen.equal.insert(info.name.to_string(), equals);
        Ok(())
    }

    fn decide(mut self: Box<Self>) -> Decision<'a, T> {
        let seen = std::mem::take(self.seen.get_mut().unwrap_or_else(PoisonError::into_inner));
        let (stage, rank) = (std::mem::replace(&mut self.stage, Stage::Sample), self.rank);
        self.stage = match stage {
            Stage::Sample => {
                let drop = target(self.fraction, seen.entries).saturating_sub(seen.pruned) as u64;
                let kept = (seen.entries - seen.pruned) as u64;
                if drop == 0 || drop >= kept {
                    // Nothing or everything: no magnitude separates them.
                    let magnitude = if drop == 0 { 0 } else { u64::MAX };
                    return self.ready(Cut { magnitude, ties: 0 }, std::iter::empty());
                }
                self.rank = drop;
                Stage::Bracket(seen.sample.bracket(drop, kept, (T::Bits::default(), T::LARGEST)))
            }
            Stage::Bracket(_) => {
                let lists: Option<Vec<_>> = seen.inside.values().map(Option::as_deref).collect();
                match lists.and_then(|lists| bracket::select(lists.concat(), seen.below, rank)) {
                    Some((found, ties)) => {
                        let equal = seen.inside.into_iter().map(|(name, list)| {
                            let equal = list.iter().flatten().filter(|m| **m == found).count();
                            (name, equal as u64)
                        });
                        return self.ready(Cut { magnitude: found.into(), ties }, equal);
                    }
                    None => Stage::Count(Selection::new::<T>(rank)),
                }
            }
            Stage::Count(mut selection) => match selection.advance(&seen.counts) {
                Some(cut) => Stage::Ties(cut),
                None => Stage::Count(selection),
            },
            Stage::Ties(cut) => return self.ready(cut, seen.equal.into_iter()),
        };
        Decision::LookAgain(self)
    }
}

/// What the survey decided.
struct GlobalCut<'a> {
    select: &'a Select,
    magnitude: u64,
    /// Equal magnitudes that are pruned, by name of the weight.
    ties: BTreeMap<String, Ties>,
}

/// Which of the equal magnitudes of a weight are pruned.
#[derive(Clone, Copy)]
enum Ties {
    All,
    First(u64),
}

impl<T: Float> WeightCompressor<T> for GlobalCut<'_> {
    fn select(&self) -> &Select {
        self.select
    }

    fn compress_weight(&self, info: &WeightInfo, weight: Weight<T>) -> Result<Outcome<T>, Fault> {
        if weight.is_empty() {
            return Ok(Outcome::left(weight, LeftAlone::Empty));
        }
        // Only where some stay must they be looked for.
        let (least, mut left) = match self.ties.get(&*info.name) {
            Some(Ties::All) => (T::capped(self.magnitude.saturating_add(1)), 0),
            Some(Ties::First(ties)) => (T::capped(self.magnitude), *ties),
            None => (T::capped(self.magnitude), 0),
        };
        let mut cut = |leaf: Leaf<T>| {
            if left == 0 {
                return below(leaf, &LeafCut { magnitude: least, ties: 0 });
            }
            let equal = equal(&leaf, least)?;
            let ties = equal.iter().sum::<u64>().min(left);
            left -= ties;
            let ties = end_of_ties(&leaf, least, ties, equal.into_iter())?;
            below(leaf, &LeafCut { magnitude: least, ties })
        };
        parallel::alone_if(weight.len() < parallel::FEW_VALUES, || {
            let before = kept_unless(&weight, |leaf| shrinks(leaf, least))?;
            Ok(outcome(before, weight.map_leaves(&mut cut)?))
        })
    }
}

/// The weight itself for [`outcome`], unless each of its leaves is certain not to grow: then it can change in
/// its own memory.
pub(super) fn kept_unless<T: Float>(
    weight: &Weight<T>,
    shrinks: impl Fn(&Leaf<T>) -> Result<bool, Fault>,
) -> Result<Option<Weight<T>>, Fault> {
    for leaf in weight.leaves() {
        if !shrinks(leaf)? {
            return Ok(Some(weight.clone()));
        }
    }
    Ok(None)
}

/// The pruned weight, unless it takes more bytes than it did `before`.
pub(super) fn outcome<T: Float>(before: Option<Weight<T>>, after: Weight<T>) -> Outcome<T> {
    match before {
        Some(before) => Outcome::smaller(before, after),
        None => after.into(),
    }
}
