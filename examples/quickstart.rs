//! Compresses a trained LeNet-300-100 with every technique and scores each result on the MNIST test set.
//!
//! `cargo run --release --example quickstart -- [--data DIR] [--out DIR] [--json]`
//!
//! Each row's model is saved, opened again from the file, and scored from the compressed form.

#[path = "support/args.rs"]
mod args;
#[path = "support/mnist.rs"]
mod mnist;
#[path = "support/networks.rs"]
mod networks;

use args::Args;
use bantam::nn::{Examples, Network};
use bantam::{
    Activations, AffineQuantizer, BoxError, Distiller, FineTuner, Layout, LowRankFactorizer, MagnitudePruner,
    Model, Pipeline, Progress, Range, Result,
};
use mnist::Scale;
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The network that is compressed, as `train_lenet` made it.
const ORIGINAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/lenet-300-100.safetensors");
const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/mnist");

#[derive(Serialize)]
struct Row {
    recipe: &'static str,
    accuracy: f64,
    bytes: u64,
    times_smaller: f64,
    seconds: f64,
}

struct Bench<'a> {
    original: &'a Model,
    teacher: &'a Network,
    train: &'a Examples,
    test: &'a Examples,
    out: &'a Path,
    rows: Vec<Row>,
}

/// How a row's model is made and saved.
struct Recipe {
    name: &'static str,
    layout: Layout,
    make: fn(&Bench<'_>) -> Result<Model>,
}

impl Recipe {
    fn new(name: &'static str, make: fn(&Bench<'_>) -> Result<Model>) -> Self {
        Self { name, layout: Layout::Open, make }
    }

    fn archived(self) -> Self {
        Self { layout: Layout::Archive, ..self }
    }
}

fn main() -> Result<(), BoxError> {
    let mut args = Args::from_env();
    let data: PathBuf = args.value("--data")?.unwrap_or_else(|| DATA.into());
    let out: PathBuf = args.value("--out")?.unwrap_or_else(|| "target/quickstart".into());
    let json = args.flag("--json");
    args.finish()?;
    std::fs::create_dir_all(&out).map_err(|e| format!("{}: {e}", out.display()))?;

    let start = Instant::now();
    let (train, test) = (mnist::train(&data, Scale::Normal)?, mnist::test(&data, Scale::Normal)?);
    let original = Model::open(ORIGINAL)?;
    let teacher = original.network()?;
    let (original, teacher, train, test) = (&original, &teacher, &train, &test);
    let mut bench = Bench { original, teacher, train, test, out: &out, rows: Vec::new() };
    let recipes = recipes();
    for (i, recipe) in recipes.iter().enumerate() {
        bench.run(i, recipes.len(), recipe)?;
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&bench.rows)?);
    } else {
        bench.print(start.elapsed().as_secs_f64());
    }
    Ok(())
}

fn recipes() -> Vec<Recipe> {
    vec![
        Recipe::new("original", |b| Ok(b.original.clone())),
        Recipe::new("prune(0.1)", |b| b.compress(pipeline().prune(0.1))),
        Recipe::new("prune to 90 %, fine-tune", |b| {
            let pruner = MagnitudePruner::sparsity(0.9).global();
            b.compress(pipeline().prune(pruner).finetune(FineTuner::new(b.train).epochs(5).rate(2e-3)))
        }),
        Recipe::new("quantize(8)", |b| b.compress(pipeline().quantize(8))),
        Recipe::new("8-bit weights and activations, in integers", |b| {
            let int8 = AffineQuantizer::bits(8).per_channel().activations(Activations::Int8);
            b.compress(pipeline().quantize(int8))
        }),
        Recipe::new("4 bits per channel", |b| {
            let int4 = AffineQuantizer::bits(4).per_channel().range(Range::LeastSquares);
            b.compress(pipeline().quantize(int4))
        }),
        Recipe::new("low rank by energy, fine-tune U and V", |b| {
            let factorizer = LowRankFactorizer::energy(0.8).except("fc3.*");
            b.compress(pipeline().factorize(factorizer).finetune(FineTuner::new(b.train).epochs(3)))
        }),
        Recipe::new("student 784-64-32-10, distilled", |b| {
            let distiller = Distiller::new(b.teacher, b.train).alpha(0.3).cache_logits().student(student()?);
            b.compress(pipeline().distill(distiller.epochs(STUDENT_EPOCHS).rate(STUDENT_RATE).seed(SEED)))
        }),
        Recipe::new("the same student without a teacher", |b| {
            let tuner = FineTuner::new(b.train).epochs(STUDENT_EPOCHS).rate(STUDENT_RATE).seed(SEED);
            Ok(pipeline().finetune(tuner).run(student()?)?.model)
        }),
        Recipe::new("all four: factorize, prune, distil, quantize", |b| {
            let teach = || Distiller::new(b.teacher, b.train).alpha(0.5).temperature(2.0).cache_logits();
            b.compress(
                pipeline()
                    .factorize(LowRankFactorizer::rank(48).only("fc1.*"))
                    .prune(MagnitudePruner::sparsity(0.7).global())
                    .distill(teach().epochs(8).rate(2e-3))
                    .quantize(AffineQuantizer::bits(6).per_channel().range(Range::LeastSquares))
                    .distill(teach().epochs(1).rate(2e-4)),
            )
        })
        .archived(),
    ]
}

const STUDENT_EPOCHS: usize = 20;
const STUDENT_RATE: f64 = 3e-3;
/// The first of the five seeds that the example `distillation` compares.
const SEED: u64 = 1;

fn student() -> Result<Model> {
    networks::perceptron(&[784, 64, 32, 10], 0.0, SEED)
}

/// A pipeline that says how far it is.
fn pipeline<'a>() -> Pipeline<'a> {
    Pipeline::new().on_progress(|p: &Progress<'_>| {
        if std::io::stderr().is_terminal() && (p.done.is_multiple_of(20) || p.done == p.of) {
            eprint!("\r\x1b[2K    {} {}/{}", p.step, p.done, p.of);
            let _ = std::io::stderr().flush();
        }
    })
}

impl Bench<'_> {
    fn compress(&self, pipeline: Pipeline<'_>) -> Result<Model> {
        Ok(pipeline.run(self.original)?.model)
    }

    fn run(&mut self, index: usize, of: usize, recipe: &Recipe) -> Result<(), BoxError> {
        eprintln!("[{}/{of}] {}", index + 1, recipe.name);
        let start = Instant::now();
        let model = (recipe.make)(self)?;
        let seconds = start.elapsed().as_secs_f64();
        let path = self.out.join(format!("{index:02}.safetensors"));
        model.save_with(&path, recipe.layout)?;
        drop(model);

        let accuracy = Model::open(&path)?.network()?.accuracy(self.test)?;
        let bytes = std::fs::metadata(&path)?.len();
        let first = self.rows.first().map_or(bytes, |r| r.bytes);
        let times_smaller = first as f64 / bytes as f64;
        self.rows.push(Row { recipe: recipe.name, accuracy, bytes, times_smaller, seconds });
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[2K");
        }
        Ok(())
    }

    fn print(&self, seconds: f64) {
        println!("\n{:<46} {:>8} {:>10} {:>8} {:>8}", "recipe", "accuracy", "bytes", "smaller", "seconds");
        for r in &self.rows {
            println!(
                "{:<46} {:>7.2}% {:>10} {:>7.1}x {:>8.1}",
                r.recipe,
                r.accuracy * 100.0,
                r.bytes,
                r.times_smaller,
                r.seconds
            );
        }
        println!(
            "\n{} test images; every row scored from its file in {}; {seconds:.0} s in all",
            self.test.inputs().shape()[0],
            self.out.display()
        );
    }
}
