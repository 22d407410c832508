//! Trains LeNet-300-100 on MNIST from a seed and saves it: how `assets/lenet-300-100.safetensors` was made.
//!
//! `cargo run --release --example train_lenet -- [--data DIR] [--out FILE] [--epochs N] [--seed N]`

#[path = "support/args.rs"]
mod args;
#[path = "support/mnist.rs"]
mod mnist;
#[path = "support/networks.rs"]
mod networks;

use args::Args;
use bantam::nn::Optimizer;
use bantam::{BoxError, FineTuner, Pipeline};
use mnist::Scale;
use std::path::PathBuf;

fn main() -> Result<(), BoxError> {
    let mut args = Args::from_env();
    let data: PathBuf = args.value("--data")?.unwrap_or_else(|| "data/mnist".into());
    let out: PathBuf = args.value("--out")?.unwrap_or_else(|| "lenet-300-100.safetensors".into());
    let epochs: usize = args.value("--epochs")?.unwrap_or(20);
    let seed: u64 = args.value("--seed")?.unwrap_or(1);
    args.finish()?;

    let train = mnist::train(&data, Scale::Normal)?;
    let test = mnist::test(&data, Scale::Normal)?;
    let model = networks::perceptron(&[784, 300, 100, 10], 0.2, seed)?;
    let tuner = FineTuner::new(&train)
        .epochs(epochs)
        .batch_size(128)
        .rate(1e-3)
        .optimizer(Optimizer::adam_w().weight_decay(0.02))
        .seed(seed);
    let trained = Pipeline::new()
        .finetune(tuner)
        .on_progress(|p| eprint!("\rstep {} of {}  ", p.done, p.of))
        .run(model)?;
    eprintln!();
    println!("{}", trained.report);
    println!("test accuracy {:.2} %", trained.model.network()?.accuracy(&test)? * 100.0);
    trained.model.save(&out)?;
    println!("saved {}", out.display());
    Ok(())
}
