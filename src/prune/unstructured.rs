//! Single entries by magnitude: under a threshold, or the smallest of a leaf or of many weights.

use super::rank::{Counts, Cut, Selection};
use crate::compressor::{Decision, Outcome, Survey, WeightCompressor};
use crate::model::{Select, WeightInfo};
use crate::weight::Leaf;
use crate::{Fault, Float, LeftAlone, Weight};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Prunes every kept entry with an absolute value under `threshold`, rounded to `T`.
pub(super) fn by_threshold<T: Float>(leaf: Leaf<T>, threshold: f64) -> Result<Leaf<T>, Fault> {
    let threshold = T::narrow(threshold);
    leaf.restrict(1, |block| Ok(block.kept.iter().map(|x| x.abs() >= threshold).collect()))
}

/// Entries that a sparsity of `fraction` prunes, of `n`.
pub(super) fn target(fraction: f64, n: usize) -> usize {
    (fraction * n as f64).round() as usize
}

/// Prunes the smallest entries until exactly `round(fraction * n)` are pruned.
pub(super) fn by_fraction<T: Float>(leaf: Leaf<T>, fraction: f64) -> Result<Leaf<T>, Fault> {
    let pruned = leaf.len() - leaf.kept();
    let drop = target(fraction, leaf.len()).saturating_sub(pruned);
    if drop == 0 {
        // A fault in the values is a fault even where nothing is to be done.
        return leaf.restrict(1, |block| Ok(vec![true; block.kept.len()]));
    }
    let mut selection = Selection::new::<T>(drop as u64);
    let cut = loop {
        let mut total = Counts::new();
        count(&leaf, &selection)?.iter().for_each(|c| Selection::add(&mut total, c));
        if drop == leaf.kept() {
            return leaf.restrict(1, |block| Ok(vec![false; block.kept.len()]));
        }
        if let Some(cut) = selection.advance(&total) {
            break cut;
        }
    };
    below(leaf, cut)
}

fn count<T: Float>(leaf: &Leaf<T>, selection: &Selection) -> Result<Vec<Counts>, Fault> {
    let mask = leaf.mask()?;
    leaf.map_blocks(mask.as_deref(), 1, |block| {
        Leaf::check_finite(&block)?;
        Ok(selection.count(&block.kept))
    })
}

/// Prunes what lies below the cut; of equal magnitudes, those that come first.
fn below<T: Float>(leaf: Leaf<T>, cut: Cut) -> Result<Leaf<T>, Fault> {
    // How many equal ones each block starts after.
    let mask = leaf.mask()?;
    let mut before = 0;
    let starts: Vec<(usize, u64)> = leaf
        .map_blocks(mask.as_deref(), 1, |block| {
            let equal = block.kept.iter().filter(|x| x.magnitude().into() == cut.magnitude).count();
            Ok((block.range.start, equal as u64))
        })?
        .into_iter()
        .map(|(start, equal)| {
            before += equal;
            (start, before - equal)
        })
        .collect();
    leaf.restrict(1, |block| {
        let place = starts.binary_search_by_key(&block.range.start, |s| s.0).unwrap_or(0);
        let mut seen = starts.get(place).map_or(0, |s| s.1);
        Ok(block
            .kept
            .iter()
            .map(|x| {
                let magnitude: u64 = x.magnitude().into();
                if magnitude == cut.magnitude {
                    seen += 1;
                    seen > cut.ties
                } else {
                    magnitude > cut.magnitude
                }
            })
            .collect())
    })
}

/// One ranking over all selected weights: looks at each as often as the selection has digits, and once
/// more to count equal magnitudes at the cut. These are pruned by name of the weight, then by place.
pub(super) struct GlobalSurvey<'a> {
    select: &'a Select,
    fraction: f64,
    /// None until the first look has said how many entries there are.
    selection: Option<Selection>,
    seen: Mutex<Seen>,
    cut: Option<Cut>,
}

#[derive(Default)]
struct Seen {
    entries: usize,
    pruned: usize,
    counts: Counts,
    equal: BTreeMap<String, u64>,
}

impl<'a> GlobalSurvey<'a> {
    pub fn new(select: &'a Select, fraction: f64) -> Self {
        Self { select, fraction, selection: None, seen: Mutex::default(), cut: None }
    }
}

impl<'a, T: Float> Survey<'a, T> for GlobalSurvey<'a> {
    fn look(&self, info: &WeightInfo, weight: &Weight<T>) -> Result<(), Fault> {
        let mut own = Seen::default();
        for leaf in weight.leaves() {
            own.entries += leaf.len();
            own.pruned += leaf.len() - leaf.kept();
            match self.cut {
                Some(cut) => {
                    let mask = leaf.mask()?;
                    let equal = leaf.map_blocks(mask.as_deref(), 1, |block| {
                        Ok(block.kept.iter().filter(|x| x.magnitude().into() == cut.magnitude).count() as u64)
                    })?;
                    *own.equal.entry(info.name.to_string()).or_default() += equal.iter().sum::<u64>();
                }
                None => {
                    // The first digit does not depend on the rank, which is not known yet.
                    let selection = self.selection.clone().unwrap_or_else(|| Selection::new::<T>(0));
                    count(leaf, &selection)?.iter().for_each(|c| Selection::add(&mut own.counts, c));
                }
            }
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.entries += own.entries;
        seen.pruned += own.pruned;
        if !own.counts.is_empty() {
            Selection::add(&mut seen.counts, &own.counts);
        }
        seen.equal.append(&mut own.equal);
        Ok(())
    }

    fn decide(mut self: Box<Self>) -> Decision<'a, T> {
        let seen = std::mem::take(self.seen.get_mut().unwrap_or_else(PoisonError::into_inner));
        let select = self.select;
        if let Some(cut) = self.cut {
            let mut left = cut.ties;
            let ties = seen.equal.into_iter().map(|(name, equal)| {
                let own = equal.min(left);
                left -= own;
                (name, own)
            });
            return Decision::Ready(Box::new(GlobalCut {
                select,
                magnitude: cut.magnitude,
                ties: ties.collect(),
            }));
        }
        let drop = target(self.fraction, seen.entries).saturating_sub(seen.pruned) as u64;
        let kept = (seen.entries - seen.pruned) as u64;
        if drop == 0 || drop >= kept {
            // Nothing or everything: no magnitude separates them.
            let magnitude = if drop == 0 { 0 } else { u64::MAX };
            return Decision::Ready(Box::new(GlobalCut { select, magnitude, ties: BTreeMap::new() }));
        }
        let mut selection = self.selection.take().unwrap_or_else(|| Selection::new::<T>(drop));
        self.cut = selection.advance(&seen.counts);
        self.selection = Some(selection);
        Decision::LookAgain(self)
    }
}

/// What the survey decided.
struct GlobalCut<'a> {
    select: &'a Select,
    magnitude: u64,
    ties: BTreeMap<String, u64>,
}

impl<T: Float> WeightCompressor<T> for GlobalCut<'_> {
    fn select(&self) -> &Select {
        self.select
    }

    fn compress_weight(&self, info: &WeightInfo, weight: Weight<T>) -> Result<Outcome<T>, Fault> {
        if weight.is_empty() {
            return Ok(Outcome::left(weight, LeftAlone::Empty));
        }
        let mut left = self.ties.get(&*info.name).copied().unwrap_or(0);
        let before = weight.clone();
        let after = weight.map_leaves(&mut |leaf| {
            let mask = leaf.mask()?;
            let equal = leaf.map_blocks(mask.as_deref(), 1, |block| {
                Ok(block.kept.iter().filter(|x| x.magnitude().into() == self.magnitude).count() as u64)
            })?;
            let ties = equal.iter().sum::<u64>().min(left);
            left -= ties;
            below(leaf, Cut { magnitude: self.magnitude, ties })
        })?;
        Ok(Outcome::smaller(before, after))
    }
}
