//! Compresses LeNet-300-100 or LeNet-5 with all techniques together, and sets the result beside the published
//! tables.
//!
//! `cargo run --release --example deep_compression -- --network lenet-300-100|lenet-5 [--data DIR] [--out DIR]
//! [--seed N] [--budget F] [--tolerance PERCENT] [--reuse]`
//!
//! `--data` is any folder of the four IDX files of MNIST's shape. Everything is chosen on 5,000 images held out of
//! the training set; the test images are scored once, with the network opened again from its file. `--budget 0.1`
//! trains for a tenth of the time. `--tolerance 0.2` lets 0.2 % more of the held-out images go wrong than the network
//! that is compressed does; by default a standard error of what that gets wrong. `--reuse` opens the baseline and the
//! teacher that a run on the same data with the same network, seed, budget and `--out` has left there, instead of
//! training them again.

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
use recipe::{Data, Effort, Kind, Teacher};
use serde::Serialize;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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
    let kept = Kept { out: &out, run: format!("{kind}-{seed}"), from: fingerprint(&all, budget), reuse };
    let baseline =
        kept.open_or("baseline", || Ok((recipe::baseline(kind, &data, &effort)?, String::new())))?.0;
    let (model, strength) = kept.open_or("teacher", || {
        let teacher = recipe::teacher(&data, &effort)?;
        Ok((teacher.model, teacher.strength.to_string()))
    })?;
    let teacher = Teacher { model, strength: strength.parse()? };
    let (small, good) = recipe::compress(kind, &baseline, &teacher, &data, &effort)?;

    let file = out.join(format!("{kind}-{seed}.safetensors"));
    small.save_with(&file, Layout::Archive)?;
    let test = mnist::test(&folder, Scale::Unit)?;
    let error =
        |model: &Model| -> Result<f64, BoxError> { Ok(100.0 * (1.0 - model.network()?.accuracy(&test)?)) };
    let parameters = recipe::parameters(&baseline);
    let clock = Instant::now();
    let reopened = Model::open(&file)?;
    let opened = clock.elapsed();
    let file_bytes = std::fs::metadata(&file)?.len();
    let outcome = Outcome {
        network: kind.to_string(),
        data: folder.display().to_string(),
        seed,
        parameters,
        file_bytes,
        times_smaller: (4 * parameters) as f64 / file_bytes as f64,
        baseline_error: error(&baseline)?,
        test_error: error(&reopened)?,
        file: file.display().to_string(),
        seconds: start.elapsed().as_secs_f64(),
    };
    print(kind, &outcome, opened);
    if !good {
        println!(
            "No network of the ladder was good enough on the held-out images: this one was the best of them."
        );
    }
    println!("RESULT {}", serde_json::to_string(&outcome)?);
    Ok(())
}

/// Models that one run leaves for the next.
struct Kept<'a> {
    out: &'a Path,
    run: String,
    /// What they were trained on, and for how long.
    from: String,
    reuse: bool,
}

impl Kept<'_> {
    /// The model of this name with what is to be remembered of it, where it may be reused and was made from the same;
    /// else the one that is made, which is then kept.
    fn open_or(
        &self,
        name: &str,
        make: impl FnOnce() -> Result<(Model, String), BoxError>,
    ) -> Result<(Model, String), BoxError> {
        let file = self.out.join(format!("{}-{name}.safetensors", self.run));
        if self.reuse && file.exists() {
            let model = Model::open(&file)?;
            let meta = model.metadata();
            if let (Some(from), Some(note)) = (meta.get("from"), meta.get("note"))
                && *from == self.from
            {
                let note = note.clone();
                return Ok((model, note));
            }
        }
        let (mut model, note) = make()?;
        model.metadata_mut().insert("from".into(), self.from.clone());
        model.metadata_mut().insert("note".into(), note.clone());
        model.save(&file)?;
        Ok((model, note))
    }
}

/// Tells one training set and budget from another.
fn fingerprint(all: &Examples, budget: f64) -> String {
    let mut hasher = DefaultHasher::new();
    all.inputs().shape().hash(&mut hasher);
    all.inputs().as_slice().iter().for_each(|x| x.to_bits().hash(&mut hasher));
    all.labels().hash(&mut hasher);
    format!("{:016x}, budget {budget}", hasher.finish())
}

/// Training images and those that are held out: the last of each file, which comes in no order.
fn split(all: &Examples) -> Result<(Examples, Examples), BoxError> {
    let n = all.labels().map_or(0, <[u32]>::len);
    if n <= HELD_OUT {
        return Err(format!("{n} training images are too few: {HELD_OUT} are held out").into());
    }
    Ok((all.subset(0..n - HELD_OUT)?, all.subset(n - HELD_OUT..n)?))
}

fn print(kind: Kind, outcome: &Outcome, opened: Duration) {
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
    println!("opened again and decoded in {:.1} ms", 1e3 * opened.as_secs_f64());
}
