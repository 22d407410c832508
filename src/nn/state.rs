//! The whole state of a [`Trainable`], as bytes: for checkpoints, and for going back to the best weights.
//!
//! Written are the numbers that training changes: trained and latent numbers, supports, codes, scales, running
//! statistics, what the optimizer remembers, random numbers. What follows from them (the dense form, the structures of
//! sparse products) is made again, beginning with the weights that the network was made of.

use super::coded_inputs::CodedInputs;
use super::leaf_param::{LeafParam, Trained};
use super::moving_codes::Moving;
use super::optimizer::Optimizer;
use super::param::Param;
use super::trainable::Trainable;
use crate::format::{Container, Hash, Store, bad};
use crate::random::Random;
use crate::{Error, Float, Result};
use std::collections::BTreeMap;

/// What the bytes begin with.
const KIND: &str = "student 1";
/// Key of the optimizer's settings.
const OPTIMIZER: &str = "optimizer";

impl<T: Float> LeafParam<T> {
    /// Writes or reads what training changes. A leaf that reads is as it was made.
    fn visit(&mut self, store: &mut Store) -> Result<()> {
        store.flags("flags", [&mut self.frozen, &mut self.touched, &mut self.may_be_sparse])?;
        let touched = self.touched;
        let mut support = self.positions.as_ref().map(|places| bits(places, self.dense.len()));
        store.optional("support", &mut support)?;
        if store.is_reading() {
            self.restore_support(store, support)?;
        }
        self.visit_codes(store)?;
        self.visit_steps(store)?;
        let len = match &self.codes {
            Some(Trained::Table(_)) => self.latent.len(),
            _ => self.kept(),
        };
        let direct = self.is_direct();
        store.numbers("values", if direct { &mut self.dense } else { &mut self.latent }, &[len])?;
        store.within("optimizer", |store| self.state.visit(store, len))?;
        store.optional("remembered", &mut self.remembered)?;
        if self.remembered.as_ref().is_some_and(|values| values.len() != self.dense.len()) {
            return Err(store.fault("remembered", "there are too few or too many"));
        }
        if store.is_reading() {
            self.spread();
            self.hold_support();
            self.touched = touched;
        }
        Ok(())
    }

    /// Trains the entries of `support`, some of those that there are.
    fn restore_support(&mut self, store: &Store, support: Option<Vec<u8>>) -> Result<()> {
        let fault = |why| Err(store.fault("support", why));
        let Some(support) = support else {
            return if self.positions.is_none() { Ok(()) } else { fault("the entries are not pruned there") };
        };
        if support.len() != self.dense.len().div_ceil(8) {
            return fault("it is that of another shape");
        }
        let keep: Vec<bool> = self.places().map(|i| support[i / 8] >> (i % 8) & 1 == 1).collect();
        let kept = keep.iter().filter(|keep| **keep).count();
        if kept != support.iter().map(|byte| byte.count_ones() as usize).sum::<usize>() {
            return fault("entries are trained there that were pruned when the training began");
        }
        self.retain(&keep).map_err(|fault| Error::weight("", fault))?;
        let places = self.places().collect();
        self.place(places);
        Ok(())
    }

    fn visit_codes(&mut self, store: &mut Store) -> Result<()> {
        let kinds = |codes: &Option<Trained<T>>| match codes {
            None => 0,
            Some(Trained::Grids(_)) => 1,
            Some(Trained::Table(_)) => 2,
            Some(Trained::Moving(_)) => 3,
        };
        let mut kind = kinds(&self.codes);
        store.counts("coding", [&mut kind])?;
        if let (3, Some(Trained::Table(codes))) = (kind, &mut self.codes) {
            let (table, codes) = (std::mem::take(&mut self.latent), std::mem::take(codes));
            self.codes = Some(Trained::Moving(Moving::new(table, codes)));
        }
        if kinds(&self.codes) != kind {
            return Err(store.fault("coding", "the entries are coded in another way there"));
        }
        let kept = self.kept();
        let (values, codes) = match &mut self.codes {
            Some(Trained::Table(codes)) => (self.latent.len(), codes),
            Some(Trained::Moving(moving)) => {
                moving.visit(store)?;
                (moving.table.len(), &mut moving.codes)
            }
            _ => return Ok(()),
        };
        store.numbers("codes", codes, &[kept])?;
        match codes.iter().any(|code| usize::from(*code) >= values) {
            true => Err(store.fault("codes", "one is not in the table")),
            false => Ok(()),
        }
    }
}

/// A bit for each of `len` entries, set for those at `places`.
fn bits(places: &[usize], len: usize) -> Vec<u8> {
    let mut bits = vec![0; len.div_ceil(8)];
    places.iter().for_each(|i| bits[i / 8] |= 1 << (i % 8));
    bits
}

impl<T: Float> Param<T> {
    fn visit(&mut self, store: &mut Store) -> Result<()> {
        if store.is_reading() {
            self.reset()?;
        }
        let name = format!("{}/inputs", self.name);
        store.within(&name, |store| self.visit_inputs(store))?;
        for (path, leaf) in self.leaves_mut() {
            let named = |error| match error {
                Error::Weight { fault, .. } => Error::weight(&path, fault),
                other => other,
            };
            store.within(&path, |store| leaf.visit(store)).map_err(named)?;
        }
        Ok(())
    }

    fn visit_inputs(&mut self, store: &mut Store) -> Result<()> {
        let mut coded = self.inputs.is_some();
        store.flags("held", [&mut self.held, &mut coded])?;
        if store.is_reading() {
            self.inputs = None;
            if coded && !self.may_code_inputs() {
                return Err(store.fault("held", "its inputs are not coded here"));
            }
            self.inputs = coded.then(|| CodedInputs::new(self.activations()));
        }
        self.inputs.as_mut().map_or(Ok(()), |inputs| inputs.visit(store))
    }
}

impl<T: Float> Trainable<T> {
    /// All that training has changed, as bytes: weights, latent numbers, supports, codes and scales; running
    /// statistics; what the optimizer remembers, and its settings; where the random numbers of dropout are; what is
    /// frozen. Gradients since the last step are not part of it.
    ///
    /// # Errors
    /// None but those of memory; callers should not rely on it.
    pub fn state(&mut self) -> Result<Vec<u8>> {
        let mut store = Store::writer();
        visit(&mut self.params, &mut self.random, &mut store)?;
        let mut container = store.into_container();
        container.texts.extend(self.descriptions());
        container.texts.insert(OPTIMIZER.to_owned(), json(&self.optimizer)?);
        container.into_bytes(KIND)
    }

    /// Becomes what it was when [`state`](Self::state) gave these bytes: whatever is done next gives the same bits as
    /// it would have then. The network must be made of the same weights; names, shapes and forms are checked.
    ///
    /// # Errors
    /// [`Error::Format`] when the bytes are damaged, or those of another network; it names the weight that differs. The
    /// network is then as it was.
    pub fn set_state(&mut self, state: &[u8]) -> Result<()> {
        let container = Container::from_bytes(KIND, state)?;
        for (key, here) in self.descriptions() {
            let there = container.texts.get(&key).map_or("nothing", String::as_str);
            if there != here {
                return Err(bad(format!("of another network: `{key}` is {there} there and {here} here")));
            }
        }
        let optimizer: Optimizer = serde_json::from_str(container.text(OPTIMIZER)?).map_err(text_fault)?;
        optimizer.validate().map_err(|invalid| bad(invalid.to_string()))?;
        let mut store = Store::reader(container);
        let (mut params, mut random) = (self.params.clone(), self.random.clone());
        visit(&mut params, &mut random, &mut store)?;
        if let Some(name) = store.into_container().arrays.keys().next() {
            return Err(bad(format!("`{name}` is nothing that this network has")));
        }
        (self.params, self.random) = (params, random);
        self.set_optimizer(optimizer);
        self.forget_pass();
        Ok(())
    }

    fn descriptions(&self) -> impl Iterator<Item = (String, String)> {
        self.params.iter().map(|param| (format!("weight {}", param.name), param.description()))
    }

    /// What the network is made of, by name: its layers, and each weight with a hash of its numbers.
    pub(crate) fn identity(&self) -> Result<BTreeMap<String, String>> {
        let mut hash = Hash::new();
        for layer in &self.plan.layers {
            hash.add(format!("{:?} of {:?}", layer.op, layer.from).as_bytes());
        }
        let mut out = BTreeMap::from([("layers".to_owned(), hash.text())]);
        for param in &self.params {
            out.insert(format!("weight {}", param.name), param.identity()?);
        }
        Ok(out)
    }
}

fn visit<T: Float>(params: &mut [Param<T>], random: &mut Random, store: &mut Store) -> Result<()> {
    store.counts("random", random.state())?;
    if store.is_reading() {
        random.restore()?;
    }
    params.iter_mut().try_for_each(|param| param.visit(store))
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(text_fault)
}

fn text_fault(error: serde_json::Error) -> Error {
    bad(error.to_string())
}
