//! Running a pipeline on a model in memory.

use super::promise::{self, Was};
use super::{Compressed, Pipeline, check};
use crate::compressor::{Decision, Reach, Survey, WeightCompressor};
use crate::format::header_bound;
use crate::log::{Log, Record};
use crate::model::{Content, Model, Outline, WeightInfo};
use crate::report::{Left, Report, Size, StepReport, WeightReport};
use crate::{Error, Float, LeftAlone, Result, Weight, parallel};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

pub(super) fn run<T: Float>(pipeline: &Pipeline<'_, T>, mut model: Model<T>) -> Result<Compressed<T>> {
    let steps = pipeline.flat();
    let outline = Outline::of(&model);
    let planned = check(&steps, outline.clone())?;
    let before = sizes(&model);
    let bytes_before = model.stored_bytes();
    let mut rows = Vec::with_capacity(steps.len());
    let mut bytes = bytes_before;
    for (index, (step, planned)) in steps.iter().zip(&planned).enumerate() {
        let log = step.log(index, steps.len());
        let start = Instant::now();
        let record = match step.step.reach() {
            Reach::Weight(each) => {
                passed_over(each, &model, &log)?;
                each_planned(each, &mut model, Some(planned), &log)?;
                let record = log.into_record();
                bytes = bytes - record.bytes.0 + record.bytes.1;
                record
            }
            _ => {
                let was = promise::all(&model);
                step.step.compress(&mut model, &log)?;
                promise::check_model(log.step(), &was, &model, planned)?;
                bytes = model.stored_bytes();
                log.into_record()
            }
        };
        rows.push((step.step.name().to_owned(), record, bytes, start.elapsed().as_secs_f64()));
    }
    model.gather()?;
    model.reserve_header(header_bound(planned.last().unwrap_or(&outline), &model));
    let report = report(&model, &before, bytes_before, rows);
    Ok(Compressed { model, report })
}

/// How large each weight is.
fn sizes<T: Float>(model: &Model<T>) -> HashMap<Arc<str>, Size> {
    model.entries().map(|(info, weight)| (Arc::clone(&info.name), Size::of(weight))).collect()
}

fn report<T: Float>(
    model: &Model<T>,
    before: &HashMap<Arc<str>, Size>,
    bytes_before: usize,
    steps: Vec<(String, Record, usize, f64)>,
) -> Report {
    let rows = model.contents().map(|(info, content)| match content {
        Content::Weight(weight) => WeightReport::new(info, before.get(&info.name), weight),
        Content::Carried(dtype, bytes) => WeightReport::carried(info, *dtype, bytes.len()),
    });
    assemble(rows.collect(), bytes_before, model.stored_bytes(), steps)
}

/// Puts together rows of weights and of steps.
pub(super) fn assemble(
    mut weights: Vec<WeightReport>,
    bytes_before: usize,
    bytes_after: usize,
    steps: Vec<(String, Record, usize, f64)>,
) -> Report {
    let mut last = bytes_before;
    let mut rows = Vec::with_capacity(steps.len());
    for (name, record, bytes, seconds) in steps {
        let mut left: Vec<_> = record.left;
        left.sort_by(|a, b| a.0.cmp(&b.0));
        for (weight, why) in left {
            if let Some(row) = weights.iter_mut().find(|w| w.name == weight) {
                row.left.push(Left { step: name.clone(), why });
            }
        }
        rows.push(StepReport {
            name,
            bytes_before: std::mem::replace(&mut last, bytes),
            bytes_after: bytes,
            seconds,
            training: record.training,
        });
    }
    Report { weights, steps: rows, bytes_before, bytes_after }
}

/// Puts what a step does not touch into its record: weights that it does not select, and those that it would
/// if bantam computed on their type.
pub(super) fn passed_over<T: Float>(
    each: &dyn WeightCompressor<T>,
    model: &Model<T>,
    log: &Log<'_>,
) -> Result<()> {
    for (info, content) in model.contents() {
        match content {
            _ if !each.select().takes(info) => log.not_selected(&info.name),
            Content::Carried(dtype, _) if dtype.is_small_float() => log.left(&info.name, LeftAlone::Type)?,
            _ => {}
        }
    }
    Ok(())
}

/// The work of a step that handles one weight at a time, on a whole model: what
/// [`Compressor::compress`](crate::Compressor::compress) of such a step is.
pub(crate) fn each_weight<T: Float>(
    each: &dyn WeightCompressor<T>,
    model: &mut Model<T>,
    log: &Log<'_>,
) -> Result<()> {
    each_planned(each, model, None, log)?;
    model.gather()
}

pub(crate) fn each_planned<T: Float>(
    each: &dyn WeightCompressor<T>,
    model: &mut Model<T>,
    planned: Option<&Outline>,
    log: &Log<'_>,
) -> Result<()> {
    let decided = match each.survey() {
        None => None,
        Some(survey) => Some(resolve(survey, &mut |survey| {
            let selected: Vec<_> = model.entries().filter(|(info, _)| each.select().takes(info)).collect();
            parallel::try_map(selected.len(), |i| {
                let (info, weight) = selected[i];
                survey.look(info, weight).map_err(|f| Error::weight(&info.name, f))?;
                if log.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
            })
            .map(drop)
        })?),
    };
    let each = decided.as_deref().unwrap_or(each);
    let work: Vec<_> = model
        .contents_mut()
        .filter(|(info, _)| each.select().takes(info))
        .filter_map(|(info, content)| match content {
            Content::Weight(weight) => Some((info, weight)),
            Content::Carried(..) => None,
        })
        .collect();
    let of = work.len();
    parallel::try_map_vec(work, |(info, slot)| {
        if log.is_cancelled() {
            return Err(Error::Cancelled);
        }
        // Moved out, so that what the step replaces is freed before the next weight is worked on.
        let weight = Arc::unwrap_or_clone(std::mem::replace(slot, Arc::new(Weight::nothing())));
        let weight = one(each, info, weight, planned, log)?;
        info.shape = weight.shape().to_vec();
        *slot = Arc::new(weight);
        log.one_more(of)
    })
    .map(drop)
}

/// One selected weight through one step.
pub(super) fn one<T: Float>(
    each: &dyn WeightCompressor<T>,
    info: &WeightInfo,
    weight: Weight<T>,
    planned: Option<&Outline>,
    log: &Log<'_>,
) -> Result<Weight<T>> {
    let before = weight.stored_bytes();
    let was = planned.map(|_| Was::of(&weight));
    let outcome = each.compress_weight(info, weight).map_err(|f| Error::weight(&info.name, f))?;
    let weight = outcome.weight;
    if let (Some(planned), Some(was)) = (planned, was) {
        promise::check_weight(log.step(), &info.name, &was, &weight, planned)?;
    }
    log.bytes(before, weight.stored_bytes());
    if let Some(why) = outcome.left {
        log.left(&info.name, why)?;
    }
    Ok(weight)
}

/// Looks as often as the survey needs.
pub(super) fn resolve<'a, T: Float>(
    survey: Box<dyn Survey<'a, T> + 'a>,
    look: &mut dyn FnMut(&dyn Survey<'a, T>) -> Result<()>,
) -> Result<Box<dyn WeightCompressor<T> + 'a>> {
    look(&*survey)?;
    let mut decision = survey.decide();
    loop {
        match decision {
            Decision::Ready(each) => return Ok(each),
            Decision::LookAgain(survey) => {
                look(&*survey)?;
                decision = survey.decide();
            }
        }
    }
}
