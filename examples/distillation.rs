//! Does a teacher help? Trains the student 784-64-32-10 over five seeds, with the teacher and without, and
//! compares the accuracies on the test set.
//!
//! `cargo run --release --example distillation -- [--data DIR] [--seeds N] [--epochs N] [--check]`
//!
//! With `--check` it fails unless the mean with the teacher is the higher one.

#[path = "support/args.rs"]
mod args;
#[path = "support/mnist.rs"]
mod mnist;
#[path = "support/networks.rs"]
mod networks;

use args::Args;
use bantam::{BoxError, Distiller, FineTuner, Model, Pipeline};
use mnist::Scale;
use std::path::PathBuf;

const TEACHER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/lenet-300-100.safetensors");
const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/mnist");

fn main() -> Result<(), BoxError> {
    let mut args = Args::from_env();
    let data: PathBuf = args.value("--data")?.unwrap_or_else(|| DATA.into());
    let seeds: u64 = args.value("--seeds")?.unwrap_or(5);
    let epochs: usize = args.value("--epochs")?.unwrap_or(20);
    let check = args.flag("--check");
    args.finish()?;

    let (train, test) = (mnist::train(&data, Scale::Normal)?, mnist::test(&data, Scale::Normal)?);
    let teacher = Model::open(TEACHER)?.network()?;
    println!("teacher {:.2} %", teacher.accuracy(&test)? * 100.0);
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for seed in 1..=seeds {
        let student = networks::perceptron(&[784, 64, 32, 10], 0.0, seed)?;
        let distiller = Distiller::new(&teacher, &train).alpha(0.3).cache_logits();
        let distiller = distiller.epochs(epochs).rate(3e-3).seed(seed);
        let tuner = FineTuner::new(&train).epochs(epochs).rate(3e-3).seed(seed);
        for (pipeline, all) in
            [(Pipeline::new().distill(distiller), &mut with), (Pipeline::new().finetune(tuner), &mut without)]
        {
            all.push(pipeline.run(&student)?.model.network()?.accuracy(&test)? * 100.0);
        }
        println!(
            "seed {seed}: distilled {:.2} %, alone {:.2} %",
            with[with.len() - 1],
            without[without.len() - 1]
        );
    }
    let wins = with.iter().zip(&without).filter(|(a, b)| a > b).count();
    println!("distilled {}, alone {}; better {wins} of {seeds} times", spread(&with), spread(&without));
    if check && mean(&with) <= mean(&without) {
        return Err("the teacher does not help".into());
    }
    Ok(())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Mean and sample standard deviation.
fn spread(values: &[f64]) -> String {
    let mean = mean(values);
    let variance =
        values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (values.len() as f64 - 1.0).max(1.0);
    format!("{mean:.2} +- {:.2} %", variance.sqrt())
}
