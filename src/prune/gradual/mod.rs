//! Pruning while a training goes on.

#[cfg(all(test, feature = "train"))]
mod tests;

use super::{Amount, MagnitudePruner, unstructured};
use crate::compressor::Step;
use crate::model::Outline;
use crate::nn::{LeafParam, Optimizer, Trainable};
use crate::{Error, Fault, Float, Invalid, Refusal, Result};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Prunes a network while it is trained, a few entries at a time, so that those that are left can take over the
/// work of those that go (Zhu and Gupta, *To prune, or not to prune*, arXiv 1710.01878).
///
/// Between the fractions `begin` and `end` of the training, every so many steps, the smallest entries are pruned
/// until the sparsity is what the schedule says; after `end` the pruned network is trained on as it is.
///
/// | setting | default | meaning |
/// | --- | --- | --- |
/// | `to` | | [`MagnitudePruner::sparsity`], for each weight or [`global`](MagnitudePruner::global), with its choice of weights |
/// | [`schedule`](Self::schedule) | cubic | how the sparsity rises, see [`SparsitySchedule`] |
/// | [`between`](Self::between), [`between_epochs`](Self::between_epochs) | `0.0..0.6` | fractions of the training, or epochs |
/// | [`every`](Self::every) | 32 steps | at least 1 |
/// | [`saliency`](Self::saliency) | magnitude | what is small, see [`Saliency`] |
/// | [`compact`](Self::compact) | 0 | exponent of the price of a place, at least 0 |
/// | [`regrow`](Self::regrow) | 0 | fraction of the kept entries that change places, 0..1 |
/// | [`rewind_to`](Self::rewind_to) | off | fraction of the training, at most `begin` |
///
/// ```no_run
/// use bantam::distill::FineTuner;
/// use bantam::nn::Examples;
/// use bantam::{GradualPruner, MagnitudePruner, Pipeline};
///
/// # fn example(model: bantam::Model, train: Examples) -> bantam::Result<()> {
/// let to = MagnitudePruner::sparsity(0.95).global();
/// let small = Pipeline::new()
///     .finetune(FineTuner::new(&train).epochs(20).prune(GradualPruner::new(to)))
///     .run(model)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// A pruner by threshold, pattern or channels is refused: they have no sparsity to rise to. So is a student that
/// is not a [`Trainable`], one of which nothing is selected ([`Refusal::SelectsNothing`]), and one that is pruned
/// further already ([`Refusal::GoesDown`]): a schedule does not go down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GradualPruner {
    to: MagnitudePruner,
    #[serde(default)]
    schedule: SparsitySchedule,
    #[serde(default = "window")]
    between: Range<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    between_epochs: Option<Range<usize>>,
    #[serde(default = "every")]
    every: usize,
    #[serde(default)]
    saliency: Saliency,
    #[serde(default)]
    compact: f64,
    #[serde(default)]
    regrow: f64,
    #[serde(default)]
    rewind_to: Option<f64>,
}

fn window() -> Range<f64> {
    0.0..0.6
}

fn every() -> usize {
    32
}

/// How the sparsity rises from what it is to what is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SparsitySchedule {
    /// `s (1 - (1 - progress)^3)`: fast while there is much to prune, slow in the end (arXiv 1710.01878).
    #[default]
    Cubic,
    /// In a line.
    Linear,
    /// At once, at the beginning of the window.
    OneShot,
}

impl SparsitySchedule {
    fn share(self, progress: f64) -> f64 {
        match self {
            Self::Cubic => 1.0 - (1.0 - progress).powi(3),
            Self::Linear => progress,
            Self::OneShot => 1.0,
        }
    }
}

/// What says that an entry matters little.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Saliency {
    /// `|w|`.
    #[default]
    Magnitude,
    /// `w^2` over the sum of the squares of all entries of its matrix that are at least as large (Lee et al.,
    /// *Layer-adaptive sparsity*, arXiv 2010.07611): for global rankings, in which a matrix of small numbers would
    /// lose everything.
    Lamp,
    /// `w^2 E[g^2]`: by how much the loss would grow without the entry, from the squares of its gradients that Adam
    /// keeps (Theis et al., *Faster gaze prediction with dense networks and Fisher pruning*, arXiv 1801.05787).
    /// Magnitudes until the first step; refused without Adam, and for weights with a codebook, whose entries share
    /// their gradients.
    Fisher,
}

impl GradualPruner {
    /// Prunes up to the sparsity of `to`.
    pub fn new(to: MagnitudePruner) -> Self {
        Self {
            to,
            schedule: SparsitySchedule::default(),
            between: window(),
            between_epochs: None,
            every: every(),
            saliency: Saliency::default(),
            compact: 0.0,
            regrow: 0.0,
            rewind_to: None,
        }
    }

    /// How the sparsity rises.
    pub fn schedule(mut self, schedule: SparsitySchedule) -> Self {
        self.schedule = schedule;
        self
    }

    /// From when to when, in fractions of the training.
    pub fn between(mut self, window: Range<f64>) -> Self {
        self.between = window;
        self
    }

    /// The same in epochs: from the beginning of one to the beginning of another, of those that the training has. Takes
    /// the place of [`between`](Self::between).
    pub fn between_epochs(mut self, window: Range<usize>) -> Self {
        self.between_epochs = Some(window);
        self
    }

    /// The same with the window in fractions of so many epochs, if it lies within them.
    pub(crate) fn over(&self, epochs: usize) -> Result<Self, Invalid> {
        let Some(Range { start, end }) = self.between_epochs else { return Ok(self.clone()) };
        if end > epochs {
            return Err(Invalid::new("between_epochs", format!("{start}..{end}"), "within the training"));
        }
        let [start, end] = [start, end].map(|epoch| epoch as f64 / epochs.max(1) as f64);
        Ok(Self { between: start..end, between_epochs: None, ..self.clone() })
    }

    /// Steps between one pruning and the next.
    pub fn every(mut self, steps: usize) -> Self {
        self.every = steps;
        self
    }

    /// What is small.
    pub fn saliency(mut self, saliency: Saliency) -> Self {
        self.saliency = saliency;
        self
    }

    /// Prefers entries whose places cost little to store: what an entry is worth is divided by the bits of its place
    /// to this power. A place costs `3 - log2(p)` bits, with the probability `p` that the densities of its row and its
    /// column suggest. Whole inputs and units are then given up first. 1 is a good start.
    pub fn compact(mut self, exponent: f64) -> Self {
        self.compact = exponent;
        self
    }

    /// Each time, this fraction of the kept entries, the smallest, gives its places to those pruned in this
    /// training whose gradient is largest; less and less until the end of the window, along half a cosine (Evci et
    /// al., *Rigging the lottery*, arXiv 1911.11134). They start at zero, but for those that would only now give their
    /// places away, which stay as they are. Refused for quantized weights, whose pruned entries have no codes.
    pub fn regrow(mut self, fraction: f64) -> Self {
        self.regrow = fraction;
        self
    }

    /// At the end of the window, the network goes back to the numbers it had after this fraction of the training, but
    /// for the entries that were pruned (Frankle et al., *Linear mode connectivity and the lottery ticket hypothesis*,
    /// arXiv 1912.05671): all that is trained does, biases and norms and weights that are not pruned among them, and so
    /// do running statistics; the optimizer forgets what it knows. The window must end before the training does.
    ///
    /// The rate does not go back: there are as many steps as there are. Choose a schedule that
    /// [holds](crate::nn::Schedule::Cosine) until the end of the window, and a window that leaves as many steps after it
    /// as the ticket needs. Refused where a trained weight is quantized: codes do not go back.
    pub fn rewind_to(mut self, fraction: f64) -> Self {
        self.rewind_to = Some(fraction);
        self
    }

    /// The fraction of entries that is zero in the end.
    fn sparsity(&self) -> f64 {
        match self.to.amount {
            Amount::Sparsity(fraction) => fraction,
            _ => 0.0,
        }
    }

    /// Whether every setting is in its range.
    ///
    /// # Errors
    /// The first setting that is not.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.to.validate()?;
        if !matches!(self.to.amount, Amount::Sparsity(_)) {
            return Err(Invalid::new("to", "a pruner by something else", "a pruner by sparsity"));
        }
        Invalid::unless_in(0.0..=1.0, "begin", self.between.start, "in 0..=1")?;
        Invalid::unless_in(self.between.start..=1.0, "end", self.between.end, "in begin..=1")?;
        Invalid::unless_in(1.0.., "every", self.every as f64, "at least 1")?;
        Invalid::unless_in(0.0..f64::INFINITY, "compact", self.compact, "at least 0")?;
        Invalid::unless_in(0.0..1.0, "regrow", self.regrow, "in 0..1")?;
        self.rewind_to.map_or(Ok(()), |at| {
            Invalid::unless_in(
                ..1.0,
                "end",
                self.between.end,
                "below 1 where the network is rewound and trained on",
            )?;
            Invalid::unless_in(0.0..=self.between.start, "rewind_to", at, "in 0..=begin")
        })
    }

    /// Whether this student can be pruned so.
    pub(crate) fn check<T: Float>(&self, student: &mut Trainable<T>) -> Result<()> {
        if let (Saliency::Fisher, Optimizer::Sgd(_)) = (self.saliency, student.optimizer()) {
            return Err(Error::Data("pruning by squared gradients needs an optimizer that keeps them: Adam"));
        }
        if self.rewind_to.is_some()
            && let Some(name) = student.first_coded()
        {
            return Err(Error::weight(
                &name,
                Fault::Form("codes do not go back: rewind before the weight is quantized"),
            ));
        }
        let leaves = self.leaves(student);
        if leaves.is_empty() {
            let patterns =
                if self.to.select.only.is_empty() { "*".into() } else { self.to.select.only.join(", ") };
            return Err(Error::weight(&patterns, Fault::Refused(Refusal::SelectsNothing)));
        }
        for (name, leaf) in &leaves {
            if self.regrow > 0.0 && !leaf.can_regrow() {
                return Err(Error::weight(
                    name,
                    Fault::Form("pruned entries of a quantized weight do not come back: leave `regrow` out"),
                ));
            }
            if self.saliency == Saliency::Fisher && leaf.has_table() {
                return Err(Error::weight(
                    name,
                    Fault::Form("its entries share their gradients: prune it by another saliency"),
                ));
            }
        }
        let to = self.sparsity();
        let rises = |name: &str, entries: usize, kept: usize| {
            if kept >= entries - unstructured::target(to, entries) {
                return Ok(());
            }
            let from = (entries - kept) as f64 / entries as f64;
            Err(Error::weight(name, Fault::Refused(Refusal::GoesDown { from, to })))
        };
        let (mut entries, mut kept) = (0, 0);
        for (name, leaf) in leaves {
            entries += leaf.dense.len();
            kept += leaf.kept();
            if !self.to.global {
                rises(&name, leaf.dense.len(), leaf.kept())?;
            }
        }
        if self.to.global { rises("*", entries, kept) } else { Ok(()) }
    }

    /// What a training with it does to the forms of the weights.
    pub(crate) fn plan(&self, outline: &mut Outline) -> Result<(), (String, Refusal)> {
        outline.for_each_selected(&self.to.select, |weight| {
            weight.form.pruned = true;
            Ok(())
        })
    }

    /// The last step, of so many, at which anything is pruned.
    pub(crate) fn last_step(&self, steps: usize) -> usize {
        step_at(self.between.end, steps).min(steps.saturating_sub(1))
    }

    /// Progress within the window, where something is to be done at `step` (from 0) of `steps`.
    fn due(&self, step: usize, steps: usize) -> Option<f64> {
        // The last step that changes anything is one of the training.
        let begin = step_at(self.between.start, steps).min(steps.saturating_sub(1));
        let end = self.last_step(steps);
        let due = step == end || (step >= begin && step < end && (step - begin).is_multiple_of(self.every));
        due.then(|| if end > begin { (step - begin) as f64 / (end - begin) as f64 } else { 1.0 })
    }

    /// What is to be done before the optimizer's step, when the gradients are there.
    pub(crate) fn before_step<T: Float>(
        &self,
        step: usize,
        steps: usize,
        student: &mut Trainable<T>,
    ) -> Result<()> {
        if self.rewind_to.is_some_and(|at| step_at(at, steps) == step) {
            student.remember();
        }
        if step == 0 && self.regrow > 0.0 {
            self.leaves(student).iter_mut().for_each(|(_, leaf)| leaf.keep_all_gradients());
        }
        let Some(progress) = self.due(step, steps) else { return Ok(()) };
        let mut leaves = self.leaves(student);
        let sparsity = self.sparsity() * self.schedule.share(progress);
        let swapped = if progress < 1.0 {
            self.regrow * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
        } else {
            0.0
        };
        if self.to.global {
            self.prune(sparsity, swapped, &mut leaves)?;
        } else {
            leaves.iter_mut().try_for_each(|one| self.prune(sparsity, swapped, std::slice::from_mut(one)))?;
        }
        if progress >= 1.0 && self.rewind_to.is_some() {
            student.rewind();
        }
        Ok(())
    }

    fn leaves<'a, T: Float>(&self, student: &'a mut Trainable<T>) -> Vec<(String, &'a mut LeafParam<T>)> {
        student.selected(&self.to.select)
    }

    /// Prunes these leaves, ranked together, until this fraction of their entries is zero, and lets `swapped` of
    /// the kept entries change places.
    fn prune<T: Float>(
        &self,
        sparsity: f64,
        swapped: f64,
        leaves: &mut [(String, &mut LeafParam<T>)],
    ) -> Result<()> {
        let entries: usize = leaves.iter().map(|(_, leaf)| leaf.dense.len()).sum();
        let kept: usize = leaves.iter().map(|(_, leaf)| leaf.kept()).sum();
        let left = kept.min(entries - unstructured::target(sparsity, entries));
        let back = (swapped * left as f64) as usize;
        let scores: Vec<Vec<f64>> = leaves.iter().map(|(_, leaf)| self.scores(leaf)).collect();
        let mut keep = largest(&scores, left - back);
        let back = if back > 0 { returning(leaves, &mut keep, back) } else { Vec::new() };
        for (i, ((name, leaf), keep)) in leaves.iter_mut().zip(&keep).enumerate() {
            leaf.retain(keep)
                .and_then(|()| back.get(i).map_or(Ok(()), |places| leaf.regrow(places)))
                .map_err(|fault| Error::weight(&*name, fault))?;
        }
        Ok(())
    }

    /// How much each trained entry matters.
    fn scores<T: Float>(&self, leaf: &LeafParam<T>) -> Vec<f64> {
        let magnitudes = leaf.places().map(|place| leaf.dense[place].widen().abs());
        let mut scores: Vec<f64> = match (self.saliency, leaf.squared_gradients()) {
            (Saliency::Lamp, _) => lamp(&magnitudes.collect::<Vec<_>>()),
            (Saliency::Fisher, Some(squares)) => {
                magnitudes.zip(squares).map(|(w, g)| w * w * g.widen()).collect()
            }
            (Saliency::Magnitude | Saliency::Fisher, _) => magnitudes.map(|w| w * w).collect(),
        };
        if self.compact > 0.0 {
            let prices = prices(leaf.places(), leaf.kept(), leaf.shape());
            scores.iter_mut().zip(prices).for_each(|(score, price)| *score /= price.powf(self.compact));
        }
        scores
    }
}

/// How many whole steps of so many a fraction is. What is a whole number but for rounding is that number.
fn step_at(fraction: f64, steps: usize) -> usize {
    (fraction * steps as f64 + 1e-9) as usize
}

/// Of the entries that are not kept, the places of the `count` with the largest gradients, for each leaf. Those that
/// would only now go are kept instead, with their values and what the optimizer knows of them.
fn returning<T: Float>(
    leaves: &[(String, &mut LeafParam<T>)],
    keep: &mut [Vec<bool>],
    count: usize,
) -> Vec<Vec<usize>> {
    // The place of each, and which of the trained entries it is yet.
    let out: Vec<Vec<(usize, Option<usize>)>> = leaves
        .iter()
        .zip(&*keep)
        .map(|((_, leaf), keep)| {
            let going =
                leaf.places().enumerate().filter(|(i, _)| !keep[*i]).map(|(i, place)| (place, Some(i)));
            let mut out: Vec<_> =
                leaf.pruned_here().into_iter().map(|place| (place, None)).chain(going).collect();
            out.sort_unstable();
            out
        })
        .collect();
    let gradient = |leaf: &LeafParam<T>, place: usize| leaf.gradient_at(place).widen().abs();
    let gradients: Vec<Vec<f64>> = leaves
        .iter()
        .zip(&out)
        .map(|((_, leaf), out)| out.iter().map(|(place, _)| gradient(leaf, *place)).collect())
        .collect();
    let chosen = largest(&gradients, count);
    let mut back = Vec::with_capacity(leaves.len());
    for ((out, chosen), keep) in out.iter().zip(&chosen).zip(keep) {
        let chosen = out.iter().zip(chosen).filter_map(|(one, chosen)| chosen.then_some(*one));
        let (yet, gone): (Vec<_>, Vec<_>) = chosen.partition(|(_, trained)| trained.is_some());
        yet.iter().filter_map(|(_, trained)| *trained).for_each(|i| keep[i] = true);
        back.push(gone.into_iter().map(|(place, _)| place).collect());
    }
    back
}

/// Bits that it takes to say where each entry lies and what it is.
fn prices(places: impl Iterator<Item = usize> + Clone, kept: usize, [rows, cols]: [usize; 2]) -> Vec<f64> {
    let (mut in_row, mut in_col) = (vec![0_usize; rows], vec![0_usize; cols]);
    for place in places.clone() {
        in_row[place / cols] += 1;
        in_col[place % cols] += 1;
    }
    // No place is rarer than one in four columns.
    let (least, kept) = (1.0 / (4 * rows) as f64, kept as f64);
    let probability = |place: usize| in_row[place / cols] as f64 * in_col[place % cols] as f64 / kept;
    places.map(|place| 3.0 - probability(place).clamp(least, 0.9).log2()).collect()
}

/// Scores of arXiv 2010.07611, equation 2.
fn lamp(magnitudes: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..magnitudes.len()).collect();
    order.sort_by(|a, b| magnitudes[*b].total_cmp(&magnitudes[*a]));
    let (mut scores, mut sum) = (vec![0.0; magnitudes.len()], 0.0);
    for i in order {
        let square = magnitudes[i] * magnitudes[i];
        sum += square;
        scores[i] = if sum > 0.0 { square / sum } else { 0.0 };
    }
    scores
}

/// Marks the `count` largest of all scores; of equals the last ones, as everywhere in pruning. NaN counts as
/// largest: whoever trained it is to be told, not the pruner.
fn largest(scores: &[Vec<f64>], count: usize) -> Vec<Vec<bool>> {
    let mut all: Vec<f64> = scores.iter().flatten().copied().collect();
    let drop = all.len().saturating_sub(count);
    if drop == 0 {
        return scores.iter().map(|s| vec![true; s.len()]).collect();
    }
    let (smaller, last, _) = all.select_nth_unstable_by(drop - 1, f64::total_cmp);
    let last = *last;
    // Of those equal to the last that goes, how many go.
    let mut equal = 1 + smaller.iter().filter(|x| x.total_cmp(&last).is_eq()).count();
    let mut stays = |x: &f64| match x.total_cmp(&last) {
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Greater => true,
        std::cmp::Ordering::Equal => {
            let goes = equal > 0;
            equal = equal.saturating_sub(1);
            !goes
        }
    };
    scores.iter().map(|scores| scores.iter().map(&mut stays).collect()).collect()
}
