//! Compresses LeNet-300-100 or LeNet-5 with all techniques together, and sets the result beside the published
//! tables.
//!
//! `cargo run --release --example deep_compression -- --network lenet-300-100|lenet-5 [--data DIR] [--out DIR]
//! [--seed N] [--budget F] [--tolerance PERCENT] [--reuse]`
//!
//! `--data` is any folder of the four IDX files of MNIST's shape. Everything is chosen on 5,000 images held out of
//! the training set; the test images are scored once, with the network opened again from its file. `--budget 0.1`
//! trains for a tenth of the time. `--tolerance 0.2` lets 0.2 % more of the held-out images go wrong than the network
//! that is compressed; by default LeNet-300-100 must be better than that by one standard error of the held-out images,
//! and LeNet-5 worse by no more than that. `--reuse` opens the baseline and the teacher that a run with the same
//! network, seed and `--out` has left there, instead of training them again.

#[path = "../support/args.rs"]
mod args;
#[path = "../support/mnist.rs"]
mod mnist;
#[path = "../support/networks.rs"]
mod networks;
mod recipe;

use args::Args;
use bantam::nn::Examples;
use bantam::{BoxError, Layout, Model};
use mnist::Scale;
use recipe::{Data, Effort, Kind};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Images of the training set that are held out.
const HELD_OUT: usize = 5000;

/// The last line that is printed.
#[derive(Serialize)]
struct Outcome {
    network: String,
    data: String,
    seed: u64,
    parameters: usize,
    file: String,
    file_bytes: u64,
    times_smaller: f64,
    baseline_error: f64,
    test_error: f64,
    seconds: f64,
}

fn main() -> Result<(), BoxError> {
    let mut args = Args::from_env();
    let kind: Kind = args.value("--network")?.ok_or("--network lenet-300-100 or lenet-5")?;
    let folder: PathBuf = args.value("--data")?.unwrap_or_else(|| "data/mnist".into());
    let out: PathBuf = args.value("--out")?.unwrap_or_else(|| "target/deep_compression".into());
    let seed: u64 = args.value("--seed")?.unwrap_or(1);
    let budget: f64 = args.value("--budget")?.unwrap_or(1.0);
    let tolerance: Option<f64> = args.value("--tolerance")?;
    let reuse = args.flag("--reuse");
    args.finish()?;
    if !(budget > 0.0 && budget <= 10.0) {
        return Err("--budget must be above 0, and at most 10".into());
    }
    std::fs::create_dir_all(&out).map_err(|e| format!("{}: {e}", out.display()))?;

    let start = Instant::now();
    let all = mnist::train(&folder, Scale::Unit)?;
    let (train, validation) = split(&all)?;
    let data = Data { train, validation };
    let effort = Effort { seed, budget, tolerance };
    let kept = |name: &str| out.join(format!("{kind}-{seed}-{name}.safetensors"));
    let baseline = open_or(reuse, &kept("baseline"), || recipe::baseline(kind, &data, &effort))?;
    let teacher = open_or(reuse, &kept("teacher"), || recipe::teacher(&data, &effort))?;
    let small = recipe::compress(kind, &baseline, &teacher, &data, &effort)?;

    let file = out.join(format!("{kind}-{seed}.safetensors"));
    small.save_with(&file, Layout::Archive)?;
    let test = mnist::test(&folder, Scale::Unit)?;
    let error =
        |model: &Model| -> Result<f64, BoxError> { Ok(100.0 * (1.0 - model.network()?.accuracy(&test)?)) };
    let parameters = recipe::parameters(&baseline);
    let file_bytes = std::fs::metadata(&file)?.len();
    let outcome = Outcome {
        network: kind.to_string(),
        data: folder.display().to_string(),
        seed,
        parameters,
        file_bytes,
        times_smaller: (4 * parameters) as f64 / file_bytes as f64,
        baseline_error: error(&baseline)?,
        test_error: error(&Model::open(&file)?)?,
        file: file.display().to_string(),
        seconds: start.elapsed().as_secs_f64(),
    };
    print(kind, &outcome);
    println!("RESULT {}", serde_json::to_string(&outcome)?);
    Ok(())
}

/// The model in a file, where it may be reused and is there; else the one that is made, which is then kept there.
fn open_or(
    reuse: bool,
    file: &Path,
    make: impl FnOnce() -> Result<Model, BoxError>,
) -> Result<Model, BoxError> {
    if reuse && file.exists() {
        return Ok(Model::open(file)?);
    }
    let model = make()?;
    model.save(file)?;
    Ok(model)
}

/// Training images and those that are held out: the last of each file, which comes in no order.
fn split(all: &Examples) -> Result<(Examples, Examples), BoxError> {
    let n = all.labels().map_or(0, <[u32]>::len);
    if n <= HELD_OUT {
        return Err(format!("{n} training images are too few: {HELD_OUT} are held out").into());
    }
    Ok((all.subset(0..n - HELD_OUT)?, all.subset(n - HELD_OUT..n)?))
}

fn print(kind: Kind, outcome: &Outcome) {
    println!(
        "\n{kind}, {} parameters; files with all they need, errors on the test images",
        outcome.parameters
    );
    println!("{:<52} {:>8} {:>9} {:>9}", "", "smaller", "before", "after");
    for (name, smaller, before, after) in kind.published() {
        let before = before.map_or_else(String::new, |e| format!("{e:.2} %"));
        println!("{name:<52} {smaller:>7}x {before:>9} {after:>7.2} %");
    }
    println!(
        "{:<52} {:>7.0}x {:>7.2} % {:>7.2} %",
        format!("bantam, {} bytes, {:.0} s", outcome.file_bytes, outcome.seconds),
        outcome.times_smaller,
        outcome.baseline_error,
        outcome.test_error
    );
}
