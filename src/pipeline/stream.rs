//! Running a pipeline from file to file, one weight at a time.

use super::run::{assemble, one, passed_over, resolve};
use super::{Flat, Pipeline, check};
use crate::compressor::{Reach, WeightCompressor};
use crate::format::{AtomicFile, Stream, check_metadata, header_bound, name_file};
use crate::log::Log;
use crate::model::{Content, Model, Outline, WeightInfo};
use crate::report::{Report, Size, WeightReport};
use crate::{AffineQuantizer, Error, Float, Refusal, Result, Weight, parallel};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// A step that is ready to compress: itself, what its survey decided, or its form for a stream.
enum Ready<'a, T: Float> {
    Itself(&'a dyn WeightCompressor<T>),
    Other(Box<dyn WeightCompressor<T> + 'a>),
}

impl<T: Float> Ready<'_, T> {
    fn get(&self) -> &dyn WeightCompressor<T> {
        match self {
            Self::Itself(each) => *each,
            Self::Other(each) => &**each,
        }
    }
}

pub(super) fn run_to<T: Float>(pipeline: &Pipeline<'_, T>, model: &Model<T>, path: &Path) -> Result<Report> {
    let start = Instant::now();
    let steps = pipeline.flat();
    let outline = Outline::of(model);
    let planned = check(&steps, outline.clone())?;
    let mut streamed = Vec::with_capacity(steps.len());
    for (index, Flat { step, .. }) in steps.iter().enumerate() {
        match step.reach() {
            Reach::Weight(each) => streamed.push(each),
            _ => {
                let (step, weight) = (step.name().to_owned(), "*".to_owned());
                return Err(Error::Plan { index, step, weight, why: Refusal::NotStreamable });
            }
        }
    }
    check_metadata(model.metadata())?;
    // A place that cannot be written to is found out before the work.
    let mut file = AtomicFile::create(path)?;
    let logs: Vec<Log<'_>> = steps.iter().enumerate().map(|(i, step)| step.log(i, steps.len())).collect();

    // A survey of a later step sees the weights as the earlier steps leave them. It must not be heard in
    // the report, or every weight would be counted again.
    let mut ready: Vec<Ready<'_, T>> = Vec::with_capacity(steps.len());
    for (i, each) in streamed.into_iter().enumerate() {
        let each = match (each.survey(), each.quantizer()) {
            (None, None) => Ready::Itself(each),
            (None, Some(quantizer)) => Ready::Other(Box::new(quantizer.streamed())),
            (Some(survey), _) => {
                let unheard: Vec<Log<'_>> = steps[..i].iter().map(|s| Log::quiet(s.step.name())).collect();
                let mut failed = None;
                let decided = resolve(survey, &mut |survey| {
                    let selected: Vec<_> =
                        model.entries().filter(|(info, _)| each.select().takes(info)).collect();
                    for (done, (info, weight)) in selected.iter().enumerate() {
                        logs[i].progress(done, selected.len())?;
                        let weight = through(&ready, info, Weight::clone(weight), &planned, &unheard)
                            .map_err(|failure| {
                                failed = Some(failure.step);
                                failure.error
                            })?;
                        survey.look(info, &weight).map_err(|f| Error::weight(&info.name, f))?;
                    }
                    Ok(())
                });
                // Weights that it does not look at may have failed in the steps before, too.
                let first = failed.map_or(i, |step| step + 1);
                Ready::Other(decided.map_err(|error| {
                    earliest(error, &ready[..first], model.entries(), &planned, &unheard, &logs[i])
                })?)
            }
        };
        ready.push(each);
    }

    ready.iter().zip(&logs).try_for_each(|(step, log)| passed_over(step.get(), model, log))?;

    let space = header_bound(planned.last().unwrap_or(&outline), model);
    let mut stream = Stream::new(&mut file, space, model.metadata().clone(), model.graph().cloned());
    let (mut rows, mut bytes_after) = (Vec::new(), 0);
    let of = model.len();
    // The previous weight is written while the next one is compressed.
    let mut before: Option<(WeightInfo, Content<T>)> = None;
    let mut next = model.contents();
    for done in 0.. {
        let now = next.next();
        let (written, compressed) = parallel::join(
            || match &before {
                Some((info, content)) => stream.add(info, content).map_err(|e| name_file(e, path)),
                None => Ok(()),
            },
            || now.map(|(info, content)| compress(&ready, info, content, &planned, &logs)).transpose(),
        );
        written?;
        if let Some(last) = logs.last()
            && before.is_some()
        {
            last.progress(done, of)?;
        }
        let compressed = compressed.map_err(|Failure { step, error }| {
            let unheard: Vec<Log<'_>> = steps.iter().map(|s| Log::quiet(s.step.name())).collect();
            let left = next.by_ref().filter_map(|(info, content)| match content {
                Content::Weight(weight) => Some((info, &**weight)),
                Content::Carried(..) => None,
            });
            earliest(error, &ready[..step], left, &planned, &unheard, &logs[step])
        })?;
        let Some((row, info, content)) = compressed else { break };
        rows.push(row);
        bytes_after += match &content {
            Content::Weight(weight) => weight.stored_bytes(),
            Content::Carried(_, bytes) => bytes.len(),
        };
        before = Some((info, content));
    }
    if let Some(graph) = model.graph() {
        // A step may have changed a shape: such a file could not be opened again.
        graph.check(&|name| {
            model.weight(name).and_then(|_| rows.iter().find(|r| r.name == name)).map(|r| r.shape.clone())
        })?;
    }
    stream.finish().map_err(|e| name_file(e, path))?;
    file.commit()?;

    let bytes_before = model.stored_bytes();
    let mut bytes = bytes_before;
    let last = logs.len().saturating_sub(1);
    let seconds = start.elapsed().as_secs_f64();
    let steps = logs.into_iter().zip(&steps).enumerate().map(|(i, (log, step))| {
        let record = log.into_record();
        bytes = bytes - record.bytes.0 + record.bytes.1;
        (step.step.name().to_owned(), record, bytes, if i == last { seconds } else { 0.0 })
    });
    Ok(assemble(rows, bytes_before, bytes_after, steps.collect()))
}

/// An entry of the model as it will be written, and its row of the report.
fn compress<T: Float>(
    ready: &[Ready<'_, T>],
    info: &WeightInfo,
    content: &Content<T>,
    planned: &[Outline],
    logs: &[Log<'_>],
) -> std::result::Result<(WeightReport, WeightInfo, Content<T>), Failure> {
    match content {
        Content::Carried(dtype, bytes) => {
            Ok((WeightReport::carried(info, *dtype, bytes.len()), info.clone(), content.clone()))
        }
        Content::Weight(weight) => {
            let before = Size::of(weight);
            let weight = through(ready, info, (**weight).clone(), planned, logs)?;
            let row = WeightReport::new(info, Some(&before), &weight);
            let info = WeightInfo::new(Arc::clone(&info.name), info.kind, weight.shape());
            Ok((row, info, Content::Weight(Arc::new(weight))))
        }
    }
}

/// A step that cannot compress a weight.
struct Failure {
    step: usize,
    error: Error,
}

/// The error of a run in memory, in which every weight goes through a step before the next one begins: that of the first
/// weight that fails in the earliest of `ready`, or the given one if none does.
fn earliest<'m, T: Float>(
    mut error: Error,
    mut ready: &[Ready<'_, T>],
    weights: impl Iterator<Item = (&'m WeightInfo, &'m Weight<T>)>,
    planned: &[Outline],
    unheard: &[Log<'_>],
    log: &Log<'_>,
) -> Error {
    for (info, weight) in weights {
        if ready.is_empty() || matches!(error, Error::Cancelled) || log.is_cancelled() {
            break;
        }
        if let Err(earlier) = through(ready, info, weight.clone(), planned, unheard) {
            (ready, error) = (&ready[..earlier.step], earlier.error);
        }
    }
    error
}

/// One weight through all steps that take it.
fn through<T: Float>(
    ready: &[Ready<'_, T>],
    info: &WeightInfo,
    mut weight: Weight<T>,
    planned: &[Outline],
    logs: &[Log<'_>],
) -> std::result::Result<Weight<T>, Failure> {
    let mut info = info.clone();
    for (i, ((step, planned), log)) in ready.iter().zip(planned).zip(logs).enumerate() {
        if step.get().select().takes(&info) {
            // What the next step makes of values is made in the pass in which this one chooses them.
            if let Some(next) = ready.get(i + 1).map(Ready::get)
                && next.select().takes(&info)
                && let Some(coder) = next.quantizer().and_then(AffineQuantizer::ahead)
            {
                weight = weight.coded_ahead(&coder);
            }
            weight = one(step.get(), &info, weight, Some(planned), log)
                .map_err(|error| Failure { step: i, error })?;
            info.shape = weight.shape().to_vec();
        }
    }
    Ok(weight)
}
