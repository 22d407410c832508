//! What is timed, through the interface that users have.

use crate::row::{Measure, Row};
use crate::{data, kernel, network, training};
use bantam::{
    BoxError, Kind, Model, Pipeline, Recipe, RecipeStep, Tensor, Weight, WeightCompressor, WeightInfo,
};
use std::hint::black_box;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// One timed call. What it needs is made before the clock starts, and dropped after it stops.
pub type Work = Box<dyn FnMut() -> Result<Duration, BoxError>>;

/// What a row times: the work as users call it, and where there is such a thing the kernels alone.
pub fn prepare(row: &Row, batch: usize, folder: Option<&Path>) -> Result<(Work, Option<Work>), BoxError> {
    if row.measure == Measure::Network {
        return Ok((network::prepare(row, batch, folder)?, None));
    }
    if row.measure == Measure::Training {
        return Ok((training::prepare(row, batch, folder)?, None));
    }
    let n = row.shape[0] * row.shape[1];
    let values = Rc::new(data::values(n * row.copies, folder)?);
    let kernel = kernel::prepare(row, &values);
    Ok((step(row, batch, values, folder)?, kernel))
}

fn step(row: &Row, batch: usize, values: Rc<Vec<f32>>, folder: Option<&Path>) -> Result<Work, BoxError> {
    let recipe = row.recipe()?;
    match row.measure {
        Measure::Compress if row.copies == 1 => compress(row.shape, values, recipe),
        Measure::Compress => {
            let pipeline: Pipeline = recipe.into();
            let shape = row.shape;
            Ok(Box::new(move || {
                let model = model(&shape, &values)?;
                let begin = Instant::now();
                let small = pipeline.run(model)?;
                let time = begin.elapsed();
                drop(black_box(small));
                Ok(time)
            }))
        }
        Measure::Dequantize => {
            let weight = small(&row.shape, values.to_vec(), &recipe)?;
            Ok(timed(move || Ok(weight.to_dense()?)))
        }
        Measure::Svd => {
            let [rows, cols] = row.shape;
            Ok(timed(move || Ok(bantam::thin_svd(&values, rows, cols)?)))
        }
        Measure::Matmul => {
            let x = Tensor::new(&[batch, row.shape[1]], data::values(batch * row.shape[1], folder)?)?;
            let weights = values
                .chunks(row.shape[0] * row.shape[1])
                .map(|values| small(&row.shape, values.to_vec(), &recipe))
                .collect::<Result<Vec<Weight>, _>>()?;
            drop(values);
            let activations = row.activations;
            Ok(Box::new(move || {
                let begin = Instant::now();
                for weight in &weights {
                    black_box(weight.matmul_with(&x, activations)?);
                }
                Ok(begin.elapsed() / weights.len() as u32)
            }))
        }
        Measure::Network | Measure::Training => Err("a network has no matrix".into()),
    }
}

/// One weight by one step, without a model or a report.
fn compress([rows, cols]: [usize; 2], values: Rc<Vec<f32>>, recipe: Recipe) -> Result<Work, BoxError> {
    let step: Box<dyn WeightCompressor> = match recipe.steps.into_iter().next() {
        Some(RecipeStep::Prune(step)) => Box::new(step),
        Some(RecipeStep::Quantize(step)) => Box::new(step),
        Some(RecipeStep::Codebook(step)) => Box::new(step),
        Some(RecipeStep::Factorize(step)) => Box::new(step),
        _ => return Err("a row that compresses has a step".into()),
    };
    let info = WeightInfo::new("weight", Kind::Linear, &[rows, cols]);
    Ok(Box::new(move || {
        // Nobody else holds it: the step may work in place.
        let weight = Weight::from(Tensor::new(&[rows, cols], values.to_vec())?);
        let begin = Instant::now();
        let outcome = step.compress_weight(&info, weight)?;
        let time = begin.elapsed();
        match outcome.left {
            Some(why) => Err(format!("left alone: {why}").into()),
            None => {
                drop(black_box(outcome));
                Ok(time)
            }
        }
    }))
}

fn small(shape: &[usize], values: Vec<f32>, recipe: &Recipe) -> Result<Weight, BoxError> {
    let weight = Weight::from(Tensor::new(shape, values)?);
    if recipe.steps.is_empty() {
        return Ok(weight);
    }
    let small = Pipeline::<f32>::from(recipe).run(Model::from(weight))?;
    small.model.weight("weight").cloned().ok_or_else(|| "the weight is gone".into())
}

fn model(shape: &[usize], values: &[f32]) -> Result<Model, BoxError> {
    let n = shape.iter().product();
    let tensor =
        |(i, values): (usize, &[f32])| Ok((format!("fc{i}.weight"), Tensor::new(shape, values.to_vec())?));
    let tensors = values.chunks(n).enumerate().map(tensor).collect::<bantam::Result<Vec<_>>>()?;
    Ok(Model::from_tensors(tensors)?)
}

/// Calls that need nothing to be made before them.
pub fn timed<R>(f: impl Fn() -> Result<R, BoxError> + 'static) -> Work {
    Box::new(move || {
        let begin = Instant::now();
        let result = f()?;
        let time = begin.elapsed();
        drop(black_box(result));
        Ok(time)
    })
}
