//! The same work by the kernels alone, on slices: memory is mapped and used again, nothing is checked.

use crate::pruning::{keep, least_kept};
use crate::quantizing::{centred, decode, one_sided, runs, tensor};
use crate::row::{Measure, Row};
use crate::work::Work;
use bantam::kernels::memory::reserve;
use bantam::kernels::prune::Magnitude;
use std::collections::TryReserveError;
use std::hint::black_box;
use std::mem::take;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Values that are looked at to guess a threshold.
const SAMPLE: usize = 1 << 16;

/// What the first step of the row does, if kernels make up all of it. Memory is asked for in the first call.
pub fn prepare(row: &Row, values: &Rc<Vec<f32>>) -> Option<Work> {
    let values = Rc::clone(values);
    let (prune, quantize) = (&row.steps[0]["prune"], &row.steps[0]["quantize"]);
    if row.measure == Measure::Dequantize {
        let (mut codes, mut out) = (Vec::new(), Vec::new());
        return Some(Box::new(move || {
            if codes.is_empty() {
                codes = tensor(&values, reserve(values.len())?);
            }
            let memory = again(&mut out, values.len())?;
            Ok(timed(|| out = decode(&codes, memory)))
        }));
    }
    if row.measure != Measure::Compress {
        return None;
    }
    if let Some(threshold) = prune["threshold"].as_f64() {
        let least = (threshold as f32).magnitude();
        return Some(in_place(values, move |values, words| {
            keep(values, words, |values, words| f32::at_least(values, least, words))
        }));
    }
    if let Some(fraction) = prune["sparsity"].as_f64() {
        let drop = |n: usize| (fraction * n as f64).round() as usize;
        let mut sample: Vec<f32> = values.iter().take(SAMPLE).map(|x| x.abs()).collect();
        let at = drop(sample.len());
        let guess = *sample.select_nth_unstable_by(at, f32::total_cmp).1;
        let drop = drop(values.len());
        return Some(in_place(values, move |values, words| {
            let least = least_kept(values, drop, guess);
            keep(values, words, |values, words| f32::at_least(values, least, words))
        }));
    }
    if let Some((n, m)) = prune["pattern"].as_str().and_then(|pattern| pattern.split_once(':')) {
        let (n, m) = (n.parse().ok()?, m.parse().ok()?);
        return Some(in_place(values, move |values, words| {
            keep(values, words, |values, words| f32::largest_of_groups(values, n, m, 1, words))
        }));
    }
    let bits = u8::try_from(quantize["bits"].as_u64()?).ok()?;
    let fit = if quantize["asymmetric"] == true { one_sided } else { centred };
    let run = match quantize["group"].as_u64() {
        Some(size) => Some(size as usize),
        None => (quantize["per_channel"] == true).then_some(row.shape[1]),
    };
    let mut out = Vec::new();
    Some(Box::new(move || {
        let memory = again(&mut out, values.len() * usize::from(bits) / 8)?;
        Ok(timed(|| {
            out = match run {
                Some(run) => runs(&values, run, bits, memory, fit),
                None => tensor(&values, memory),
            };
        }))
    }))
}

/// The memory of the last result for the next.
fn again<T>(last: &mut Vec<T>, n: usize) -> Result<Vec<T>, TryReserveError> {
    if last.capacity() == 0 { reserve(n) } else { Ok(take(last)) }
}

/// A kernel that changes values, fresh ones in each call, and writes a bit for each.
fn in_place(values: Rc<Vec<f32>>, mut f: impl FnMut(&mut [f32], &mut [u64]) -> usize + 'static) -> Work {
    let (mut work, mut words) = (Vec::new(), vec![0; values.len().div_ceil(64)]);
    Box::new(move || {
        work.clear();
        work.extend_from_slice(&values);
        Ok(timed(|| f(&mut work, &mut words)))
    })
}

fn timed<R>(f: impl FnOnce() -> R) -> Duration {
    let begin = Instant::now();
    black_box(f());
    begin.elapsed()
}
