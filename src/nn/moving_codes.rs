//! Codebooks whose codes move: while a leaf with a table of shared values is trained, an entry may come to share
//! another value.
//!
//! Each kept entry has a latent number, which starts at the value it shares. The products see the nearest value of the
//! table, and the gradient goes to the latent number as if there were no rounding (straight-through, arXiv
//! 1308.3432). Every few steps the values become the means of the latent numbers that share them, one iteration of
//! k-means. Once the codes are held, the values themselves are trained, as arXiv 1510.00149 does throughout.

use super::leaf_param::{LeafParam, Trained};
use super::optimizer::State;
use super::trainable::Trainable;
use crate::format::Store;
use crate::{Float, Result};
use wildmatch::WildMatch;

/// Steps between one iteration of k-means and the next.
const EVERY: usize = 10;

/// A table, and who shares which of its values.
#[derive(Clone, Debug)]
pub(super) struct Moving<T> {
    /// Ascending.
    pub table: Vec<T>,
    pub codes: Vec<u8>,
    steps: usize,
}

impl<T: Float> Moving<T> {
    /// Codes that are about to move.
    pub fn new(table: Vec<T>, codes: Vec<u8>) -> Self {
        Self { table, codes, steps: 0 }
    }

    /// Writes or reads the table and how far it is; whoever calls looks after the codes.
    pub fn visit(&mut self, store: &mut Store) -> Result<()> {
        let (values, mut steps) = (self.table.len(), self.steps as u64);
        store.numbers("table", &mut self.table, &[values])?;
        store.counts("moved", [&mut steps])?;
        self.steps = steps as usize;
        Ok(())
    }

    /// Brings codes, and at times the table, up to date with the latent numbers.
    pub fn follow(&mut self, latent: &[T]) {
        self.assign(latent);
        self.steps += 1;
        if self.steps.is_multiple_of(EVERY) {
            let (mut sums, mut counts) = ([0.0; 256], [0_usize; 256]);
            for (code, x) in self.codes.iter().zip(latent) {
                sums[usize::from(*code)] += x.widen();
                counts[usize::from(*code)] += 1;
            }
            for ((value, sum), count) in self.table.iter_mut().zip(sums).zip(counts) {
                // One that nobody shares waits where it is.
                if count > 0 {
                    *value = T::narrow(sum / count as f64);
                }
            }
            self.table.sort_unstable_by(|a, b| a.widen().total_cmp(&b.widen()));
            self.assign(latent);
        }
    }

    fn assign(&mut self, latent: &[T]) {
        let mut bounds = [0.0; 255];
        let bounds = &mut bounds[..self.table.len().saturating_sub(1)];
        for (bound, pair) in bounds.iter_mut().zip(self.table.windows(2)) {
            *bound = pair[0].widen() * 0.5 + pair[1].widen() * 0.5;
        }
        for (code, x) in self.codes.iter_mut().zip(latent) {
            *code = bounds.iter().filter(|bound| x.widen() > **bound).count() as u8;
        }
    }
}

impl<T: Float> LeafParam<T> {
    /// Whether there is a table with codes, which move already or may do so.
    pub fn has_table(&self) -> bool {
        let is_table = matches!(self.codes, Some(Trained::Table(_) | Trained::Moving(_)));
        is_table && !self.frozen && !self.latent.is_empty()
    }

    /// Lets the codes move. Gives whether there is a table with codes; where they move already, they go on.
    fn move_codes(&mut self) -> bool {
        if !self.has_table() {
            return false;
        }
        let Some(Trained::Table(codes)) = &mut self.codes else { return true };
        let mut table = std::mem::take(&mut self.latent);
        let codes = std::mem::take(codes);
        self.latent = codes.iter().map(|code| table[usize::from(*code)]).collect();
        table.sort_by(|a, b| a.widen().total_cmp(&b.widen()));
        let mut moving = Moving::new(table, codes);
        moving.assign(&self.latent);
        self.codes = Some(Trained::Moving(moving));
        self.state = State::default();
        true
    }

    /// Trains the values of the table again, with the codes as they are. Gives whether they moved.
    fn hold_codes(&mut self) -> bool {
        let Some(Trained::Moving(moving)) = &mut self.codes else { return false };
        self.latent = std::mem::take(&mut moving.table);
        self.codes = Some(Trained::Table(std::mem::take(&mut moving.codes)));
        self.state = State::default();
        true
    }
}

impl<T: Float> Trainable<T> {
    /// Lets entries of all leaves with a codebook whose path matches `pattern` come to share other values, until
    /// [`hold_codes`](Self::hold_codes). Frozen leaves stay. Gives how many there are, those that move already among
    /// them.
    pub fn move_codes(&mut self, pattern: &str) -> usize {
        self.count_leaves(pattern, LeafParam::move_codes)
    }

    /// Holds the codes that move, and trains the shared values themselves from here on. Gives how many leaves there
    /// are.
    pub fn hold_codes(&mut self, pattern: &str) -> usize {
        self.count_leaves(pattern, LeafParam::hold_codes)
    }

    /// Whether `f` says yes to one of the leaves.
    pub(crate) fn any_leaf(&self, f: impl Fn(&LeafParam<T>) -> bool) -> bool {
        self.params.iter().any(|param| param.any_leaf(&f))
    }

    /// Calls `f` for each leaf whose path matches, and gives how often it said yes.
    pub(super) fn count_leaves(&mut self, pattern: &str, f: impl Fn(&mut LeafParam<T>) -> bool) -> usize {
        let pattern = WildMatch::new(pattern);
        let mut count = 0;
        for param in &mut self.params {
            param.for_each_leaf(&mut |path, leaf| count += usize::from(pattern.matches(path) && f(leaf)));
        }
        count
    }
}

#[cfg(all(test, feature = "train"))]
mod tests {
    use crate::nn::testing::{close, fixture, input, lookup};
    use crate::nn::{Graph, Network, Optimizer, Outputs};
    use crate::{CodebookQuantizer, MagnitudePruner, Tensor, WeightCompressor};
    use std::sync::Arc;

    #[test]
    fn codes_that_move_fit_better_and_are_what_is_saved() {
        let run = |moves: bool| {
            let graph = Graph::new().linear("a");
            let mut weights = fixture(&graph, &[("a.weight", &[6, 8])]);
            let sparse = MagnitudePruner::sparsity(0.4).apply((*weights["a.weight"]).clone()).unwrap();
            let shared = CodebookQuantizer::values(5).apply(sparse).unwrap();
            weights.insert("a.weight".to_owned(), Arc::new(shared.clone()));
            let network = Network::bind(&graph, &lookup(&weights)).unwrap();
            let mut student = network.trainable(Optimizer::adam().into()).unwrap();
            assert_eq!(student.hold_codes("*"), 0);
            assert_eq!(if moves { student.move_codes("*") } else { 1 }, 1);
            let wanted: Vec<f64> = (0..30).map(|i| (f64::from(i) * 0.9).sin()).collect();
            let mut loss = 0.0;
            for i in 0..400 {
                if moves && i == 250 {
                    assert_eq!(student.values("a.weight").unwrap().len(), 29);
                    assert_eq!(student.hold_codes("a.*"), 1);
                    assert_eq!(student.values("a.weight").unwrap().len(), 5);
                }
                let y = student.forward(&input(&[5, 8]), &[]).unwrap().logits;
                let d: Vec<f64> = y.iter().zip(&wanted).map(|(y, w)| y - w).collect();
                loss = d.iter().map(|d| d * d).sum();
                student
                    .backward(&Outputs { logits: Tensor::new(&[5, 6], d).unwrap(), taps: vec![] })
                    .unwrap();
                student.step(0.03 * (1.0 - f64::from(i) / 400.0)).unwrap();
                if i % 60 == 0 || i == 399 {
                    let after = student.weights().unwrap();
                    let after = &after.iter().find(|(name, _)| name == "a.weight").unwrap().1;
                    assert_eq!((after.form(), after.sparsity()), (shared.form(), shared.sparsity()));
                    let y = student.predict(&input(&[5, 8])).unwrap();
                    let again = student.network().unwrap().forward(&input(&[5, 8])).unwrap();
                    close(y.as_slice(), again.as_slice(), 1e-9);
                }
            }
            loss
        };
        let (held, moved) = (run(false), run(true));
        assert!(moved < 0.9 * held, "{moved} {held}");
    }

    #[test]
    fn entries_may_be_pruned_while_codes_move() {
        let graph = Graph::new().linear("a");
        let mut weights = fixture(&graph, &[("a.weight", &[6, 8])]);
        let shared = CodebookQuantizer::values(4).apply((*weights["a.weight"]).clone()).unwrap();
        weights.insert("a.weight".to_owned(), Arc::new(shared));
        let network = Network::bind(&graph, &lookup(&weights)).unwrap();
        let mut student = network.trainable(Optimizer::adam().into()).unwrap();
        student.move_codes("*");
        student.retain("a.weight", |place, _| place % 4 != 0).unwrap();
        student.edit("a.weight", |latent| latent.iter_mut().for_each(|x| *x *= 1.1));
        let weights = student.weights().unwrap();
        assert_eq!(weights[0].1.form().to_string(), "pruned+codebook 4");
        assert_eq!(weights[0].1.sparsity(), 0.25);
        assert_eq!(student.hold_codes("*"), 1);
        assert_eq!(student.weights().unwrap()[0].1, weights[0].1);
    }
}
