//! Which entries of a leaf are trained: fewer of them as training goes on, and some of them back again.

use super::layers::sparse::Kept;
use super::leaf_param::{LeafParam, Trained, runs};
use super::optimizer::State;
use super::param::Param;
use super::trainable::Trainable;
use crate::model::Select;
use crate::weight::{Coding, Mask, Support, Values};
use crate::{Error, Fault, Float, Leaf, Result};
use std::sync::Arc;

impl<T: Float> LeafParam<T> {
    /// Entries that are trained: all that are not pruned.
    pub fn kept(&self) -> usize {
        self.positions.as_ref().map_or(self.dense.len(), Vec::len)
    }

    /// Their places, row-major.
    pub fn places(&self) -> impl Iterator<Item = usize> + Clone + '_ {
        let all = if self.positions.is_none() { 0..self.dense.len() } else { 0..0 };
        all.chain(self.positions.iter().flatten().copied())
    }

    /// Prunes entries: of those that are trained, in order, keeps the ones that `keep` says.
    pub fn retain(&mut self, keep: &[bool]) -> Result<(), Fault> {
        debug_assert_eq!(keep.len(), self.kept());
        if keep.iter().all(|k| *k) {
            return Ok(());
        }
        let all: Vec<usize> = self.places().collect();
        for place in all.iter().zip(keep).filter_map(|(place, keep)| (!keep).then_some(*place)) {
            self.dense[place] = T::zero();
        }
        if self.is_direct() {
            self.latent = self.dense.clone();
        }
        let positions = only(&all, keep);
        match &mut self.codes {
            Some(Trained::Table(codes)) => *codes = only(codes, keep),
            other => {
                if let Some(Trained::Moving(moving)) = other {
                    moving.codes = only(&moving.codes, keep);
                }
                self.latent = only(&self.latent, keep);
                self.state.retain(keep);
            }
        }
        let mask = Arc::new(Mask::from_positions(positions.iter().copied(), self.dense.len()));
        self.form = match &self.form.coding {
            Coding::Float(_) => self.of_latent(mask),
            _ => self.form.clone().retain(|place, _| mask.has(place))?,
        };
        if let (Some(Trained::Grids(grids)), Coding::Affine(affine)) = (&mut self.codes, &self.form.coding) {
            let fewer = runs(affine, &self.form, Some(&positions))?;
            grids.iter_mut().zip(fewer).for_each(|(run, fewer)| run.range = fewer.range);
        }
        if self.sparse.is_some() {
            self.gradient = only(&self.gradient, keep);
        }
        self.place(positions);
        Ok(())
    }

    /// Trains the entries at these places from now on; a gradient that there is stays.
    pub(super) fn place(&mut self, positions: Vec<usize>) {
        let sparse = match (&self.codes, self.may_be_sparse) {
            (None, true) => Kept::new(self.form.rows(), self.form.cols(), &positions),
            _ => None,
        };
        match (&self.sparse, &sparse) {
            (None, Some(_)) => self.gradient = positions.iter().map(|place| self.gradient[*place]).collect(),
            (Some(_), None) => {
                let mut all = vec![T::zero(); self.dense.len()];
                positions.iter().zip(&self.gradient).for_each(|(place, g)| all[*place] = *g);
                self.gradient = all;
            }
            _ => {}
        }
        self.sparse = sparse;
        self.positions = Some(positions);
        self.touched = true;
    }

    /// Keeps the gradients of pruned entries, too, from the next pass on.
    pub fn keep_all_gradients(&mut self) {
        self.may_be_sparse = false;
        if let Some(positions) = self.positions.take() {
            self.place(positions);
        }
    }

    /// The gradient of an entry that is pruned; 0 where nobody [keeps](Self::keep_all_gradients) it.
    pub fn gradient_at(&self, place: usize) -> T {
        if self.fresh || self.sparse.is_some() { T::zero() } else { self.gradient[place] }
    }

    /// Brings back entries that [`retain`](Self::retain) pruned, at zero. `places` ascend.
    pub fn regrow(&mut self, places: &[usize]) -> Result<(), Fault> {
        let Some(positions) = &self.positions else { return Ok(()) };
        if self.codes.is_some() {
            return Err(Fault::Form("pruned entries of a quantized weight do not come back"));
        }
        let may =
            |place: &usize| *place < self.dense.len() && self.allowed.as_ref().is_none_or(|m| m.has(*place));
        let mut back = places.iter().copied().filter(may).peekable();
        let mut merged = Vec::with_capacity(positions.len() + places.len());
        let (mut latent, mut old) =
            (Vec::with_capacity(merged.capacity()), Vec::with_capacity(merged.capacity()));
        for (i, place) in positions.iter().enumerate() {
            while let Some(new) = back.next_if(|new| new <= place) {
                if new < *place {
                    merged.push(new);
                    latent.push(T::zero());
                    old.push(None);
                }
            }
            merged.push(*place);
            latent.push(self.latent[i]);
            old.push(Some(i));
        }
        for new in back {
            merged.push(new);
            latent.push(T::zero());
            old.push(None);
        }
        self.state.rearrange(&old);
        self.latent = latent;
        if self.sparse.is_some() {
            self.gradient = old.iter().map(|i| i.map_or(T::zero(), |i| self.gradient[i])).collect();
        }
        self.place(merged);
        self.hold_support();
        Ok(())
    }

    /// Makes the leaf that numbers are put into one with the support of now; that of a coded leaf has it already.
    pub(super) fn hold_support(&mut self) {
        if let (Some(positions), None) = (&self.positions, &self.codes) {
            let mask = Mask::from_positions(positions.iter().copied(), self.dense.len());
            self.form = self.of_latent(Arc::new(mask));
        }
    }

    /// Rows and columns of its matrix.
    pub fn shape(&self) -> [usize; 2] {
        [self.form.rows(), self.form.cols()]
    }

    /// The mean square of the gradient of each trained entry, where the optimizer keeps one.
    pub fn squared_gradients(&self) -> Option<&[T]> {
        let squares = self.state.second();
        (squares.len() == self.kept()).then_some(squares)
    }

    /// Whether pruned entries may come back: what is coded has no code for them.
    pub fn can_regrow(&self) -> bool {
        self.codes.is_none()
    }

    /// Places of the entries that were pruned in this training.
    pub fn pruned_here(&self) -> Vec<usize> {
        let Some(positions) = &self.positions else { return Vec::new() };
        let mut kept = positions.iter().copied().peekable();
        let may = |place: &usize| self.allowed.as_ref().is_none_or(|m| m.has(*place));
        (0..self.dense.len()).filter(|i| kept.next_if_eq(i).is_none()).filter(may).collect()
    }

    /// Keeps the numbers as they are now, for [`rewind`](Self::rewind).
    fn remember(&mut self) {
        self.remembered = Some(self.dense.clone());
    }

    /// Goes back to the remembered numbers, with the support of now. The optimizer starts again.
    fn rewind(&mut self) {
        let Some(values) = self.remembered.take() else { return };
        self.state = State::default();
        // A gradient that there is belongs to other numbers.
        self.fresh = true;
        if self.is_direct() {
            self.dense = values;
        } else {
            self.latent = self.places().map(|place| values[place]).collect();
        }
        self.refresh();
    }

    /// The leaf with this support and the numbers that it has now.
    fn of_latent(&self, mask: Arc<Mask>) -> Leaf<T> {
        let values = Values::rounded(self.latent.clone(), self.form.float_dtype());
        Leaf { support: Support::Kept(mask), coding: Coding::Float(values), ..self.form.clone() }
    }
}

impl<T: Float> Trainable<T> {
    /// The trained entries of the leaf at `path`: the place of each in its matrix, row-major, and its value as the
    /// products see it. `None` where there is no such leaf.
    pub fn entries(&self, path: &str) -> Option<impl Iterator<Item = (usize, T)> + '_> {
        let mut leaves = self.params.iter().flat_map(Param::leaves);
        let (_, leaf) = leaves.find(|(p, _)| p == path)?;
        Some(leaf.places().map(|place| (place, leaf.dense[place])))
    }

    /// Prunes entries of the leaf at `path`: of those that are trained, it keeps the ones that `keep(place, value)`
    /// says. Works on any form; the weight comes out pruned. Gives whether there is such a leaf.
    ///
    /// # Errors
    /// [`Error::Weight`] when codes of the weight cannot be read.
    pub fn retain(&mut self, path: &str, keep: impl Fn(usize, T) -> bool) -> Result<bool> {
        self.with_leaf(path, |leaf| {
            let keep: Vec<bool> = leaf.places().map(|place| keep(place, leaf.dense[place])).collect();
            leaf.retain(&keep)
        })
    }

    /// Brings entries of the leaf at `path` back, at zero: those at these places, ascending, that were pruned in
    /// this training. What was pruned before stays. Gives whether there is such a leaf.
    ///
    /// # Errors
    /// [`Error::Weight`] where the leaf is quantized.
    pub fn regrow(&mut self, path: &str, places: &[usize]) -> Result<bool> {
        self.with_leaf(path, |leaf| leaf.regrow(places))
    }

    /// The path of a leaf that is trained in codes.
    pub(crate) fn first_coded(&self) -> Option<String> {
        let mut leaves = self.params.iter().flat_map(Param::leaves);
        leaves.find(|(_, leaf)| leaf.codes.is_some() && !leaf.frozen).map(|(path, _)| path)
    }

    /// Keeps all numbers that training changes as they are now, for [`rewind`](Self::rewind).
    pub(crate) fn remember(&mut self) {
        self.each_changing(LeafParam::remember);
    }

    /// Goes back to the numbers that are remembered; what has been pruned since stays pruned.
    pub(crate) fn rewind(&mut self) {
        self.each_changing(LeafParam::rewind);
    }

    /// Calls `f` for each leaf that steps or passes change.
    fn each_changing(&mut self, f: impl Fn(&mut LeafParam<T>)) {
        for param in &mut self.params {
            let measures = param.is_measured() && param.measures();
            param.each_leaf(&mut |leaf| {
                if measures || !leaf.frozen {
                    f(leaf);
                }
            });
        }
    }

    fn with_leaf(
        &mut self,
        path: &str,
        f: impl FnOnce(&mut LeafParam<T>) -> Result<(), Fault>,
    ) -> Result<bool> {
        let (mut f, mut result) = (Some(f), Ok(()));
        for param in &mut self.params {
            param.for_each_leaf(&mut |p, leaf| {
                if p == path
                    && let Some(f) = f.take()
                {
                    result = f(leaf);
                }
            });
        }
        result.map_err(|fault| Error::weight(path, fault))?;
        Ok(f.is_none())
    }

    /// The leaves of the weights that `select` takes, without those that no step changes.
    pub(crate) fn selected(&mut self, select: &Select) -> Vec<(String, &mut LeafParam<T>)> {
        let takes = |p: &&mut Param<T>| select.takes(&p.info());
        let leaves = self.params.iter_mut().filter(takes).flat_map(Param::leaves_mut);
        leaves.filter(|(_, leaf)| !leaf.frozen).collect()
    }
}

/// Of `values`, those that `keep` says.
pub(super) fn only<X: Copy>(values: &[X], keep: &[bool]) -> Vec<X> {
    values.iter().zip(keep).filter_map(|(x, keep)| keep.then_some(*x)).collect()
}
