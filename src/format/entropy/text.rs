//! Text: the description of a model. Its names repeat, and most of its words are those that every
//! description has, so the model has read one before it starts.

use super::logistic::{Estimate, Mixer, UNIT, squash, stretch};
use super::{Coder, Learner};

/// Bytes that are looked back at: the contexts, beside the longest match.
const ORDERS: [usize; 6] = [1, 2, 3, 4, 6, 8];
const CONTEXTS: usize = ORDERS.len();
const INPUTS: usize = CONTEXTS + 2;
/// Bits of a place in the table of all contexts.
const TABLE: u32 = 18;
const LIMIT: u32 = 60;
const SPEED: i32 = 20;
/// A match is looked for where so many bytes are the same.
const MATCH: usize = 5;
const RECENT: u32 = 14;
/// Lengths of a match that are told apart.
const LENGTHS: usize = 32;

pub(in crate::format) struct TextModel {
    seen: Vec<u8>,
    table: Vec<Estimate>,
    /// Where the bytes that follow the last few have been, by a hash of those.
    recent: Vec<u32>,
    /// The place and the length of the longest match, where there is one.
    place: usize,
    length: usize,
    matches: Vec<Estimate>,
    mixers: [Mixer<INPUTS>; 2],
}

impl TextModel {
    /// A model that has read `primer`. Part of the format: changing the text needs a new version.
    pub fn new(primer: &[u8]) -> Self {
        let weights = [UNIT / 3; INPUTS];
        let mut model = Self {
            seen: Vec::new(),
            table: vec![Estimate::even(); 1 << TABLE],
            recent: vec![0; 1 << RECENT],
            place: 0,
            length: 0,
            matches: vec![Estimate::even(); LENGTHS],
            mixers: [Mixer::new(LENGTHS, weights, SPEED), Mixer::new(256, weights, SPEED)],
        };
        for byte in primer {
            model.code(&mut Learner, *byte);
        }
        model
    }

    pub fn code(&mut self, coder: &mut impl Coder, byte: u8) -> u8 {
        let hashes = ORDERS.map(|n| self.last(n).map_or(n as u64, |bytes| hash(bytes, n as u64)));
        let expected = (self.length > 0).then(|| self.seen[self.place]);
        let mut node = 1_usize;
        for i in (0..8).rev() {
            let places = hashes.map(|h| (mix(h, node as u64) >> (64 - TABLE)) as usize);
            let mut inputs = [0; INPUTS];
            let mut known = 0;
            for (x, place) in inputs.iter_mut().zip(places) {
                let estimate = self.table[place];
                known += usize::from(estimate.count() > 0);
                *x = stretch(estimate.p());
            }
            // The byte that followed last time, as far as it agrees with the bits so far.
            let guess =
                expected.filter(|e| (usize::from(*e) | 256) >> (i + 1) == node).map(|e| e >> i & 1 == 1);
            let length = if guess.is_some() { self.length.min(LENGTHS - 1) } else { 0 };
            if let Some(guess) = guess {
                let sure = stretch(self.matches[length].p());
                inputs[CONTEXTS] = if guess { sure } else { -sure };
            }
            inputs[CONTEXTS + 1] = 64;
            let situations = [length.min(15) * 2 + usize::from(known > 4), node];
            let mixed: i32 = self.mixers.iter_mut().zip(situations).map(|(m, s)| m.mix(&inputs, s)).sum();
            let bit = coder.bit(squash(mixed / 2), byte >> i & 1 == 1);
            self.mixers.iter_mut().for_each(|m| m.learn(bit));
            places.iter().for_each(|place| self.table[*place].learn(bit, LIMIT));
            if let Some(guess) = guess {
                self.matches[length].learn(guess == bit, 500);
            }
            node = node << 1 | usize::from(bit);
        }
        let byte = node as u8;
        self.follow(byte, expected);
        byte
    }

    fn last(&self, n: usize) -> Option<&[u8]> {
        self.seen.get(self.seen.len().checked_sub(n)?..)
    }

    fn follow(&mut self, byte: u8, expected: Option<u8>) {
        self.seen.push(byte);
        if expected == Some(byte) {
            self.length += 1;
            self.place += 1;
        } else {
            self.length = 0;
        }
        let Some(bytes) = self.last(MATCH) else { return };
        let slot = (hash(bytes, 0) >> (64 - RECENT)) as usize;
        let here = self.seen.len();
        if self.length == 0 {
            self.place = self.recent[slot] as usize;
            let same = |n: &usize| self.seen[self.place - 1 - n] == self.seen[here - 1 - n];
            self.length = (0..self.place.min(LENGTHS)).take_while(same).count();
        }
        self.recent[slot] = here as u32;
    }
}

fn hash(bytes: &[u8], seed: u64) -> u64 {
    bytes.iter().fold(seed, |h, byte| mix(h, u64::from(*byte)))
}

fn mix(h: u64, x: u64) -> u64 {
    (h ^ x.wrapping_mul(0xD6E8_FEB8_6659_FD93)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23)
}
