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

type Recipe<'a> = (&'static str, Layout, Box<dyn Fn(&Bench<'_>) -> Result<Model> + 'a>);

fn main() -> Result<(), BoxError> {
    let mut args = Args::from_env();
    let data: PathBuf = args.value("--data")?.unwrap_or_else(|| DATA.into());
    let out: PathBuf = args.value("--out")?.unwrap_or_else(|| "target/quickstart".into());
    let json = args.flag("--json");
    args.finish()?;
    std::fs::create_dir_all(&out).map_err(|e| format!("{}: {e}", out.display()))?;

    let start = Instant::now();
    let (train, test) = (mnist::train(&data)?, mnist::test(&data)?);
    let original = Model::open(ORIGINAL)?;
    let teacher = original.network()?;
    let (original, teacher, train, test) = (&original, &teacher, &train, &test);
    let mut bench = Bench { original, teacher, train, test, out: &out, rows: Vec::new() };
    let recipes = recipes();
    for (i, (name, layout, recipe)) in recipes.iter().enumerate() {
        bench.run(i, recipes.len(), name, *layout, recipe)?;
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&bench.rows)?);
    } else {
        bench.print(start.elapsed().as_secs_f64());
    }
    Ok(())
}

fn recipes<'a>() -> Vec<Recipe<'a>> {
    fn recipe<'a>(
        name: &'static str,
        make: impl Fn(&Bench<'_>, Pipeline<'_>) -> Result<Model> + 'a,
    ) -> Recipe<'a> {
        (name, Layout::Open, Box::new(move |b| make(b, pipeline())))
    }
    let mut all = vec![
        recipe("original", |b, _| Ok(b.original.clone())),
        recipe("prune(0.1)", |b, p| Ok(p.prune(0.1).run(b.original)?.model)),
        recipe("prune to 90 %, fine-tune", |b, _| {
            let pruner = MagnitudePruner::sparsity(0.9).global();
            Ok(pipeline().prune(pruner).finetune(FineTuner::new(b.train).epochs(4)).run(b.original)?.model)
        }),
        recipe("quantize(8)", |b, p| Ok(p.quantize(8).run(b.original)?.model)),
        recipe("8-bit weights and activations, in integers", |b, p| {
            let int8 = AffineQuantizer::bits(8).per_channel().activations(Activations::Int8);
            Ok(p.quantize(int8).run(b.original)?.model)
        }),
        recipe("4 bits per channel", |b, p| {
            let int4 = AffineQuantizer::bits(4).per_channel().asymmetric().range(Range::LeastSquares);
            Ok(p.quantize(int4).run(b.original)?.model)
        }),
        recipe("low rank by energy, fine-tune U and V", |b, _| {
            let factorizer = LowRankFactorizer::energy(0.8).except("fc3.*");
            Ok(pipeline().factorize(factorizer).finetune(FineTuner::new(b.train).epochs(3)).run(b.original)?.model)
        }),
        recipe("student 784-32-32-10, distilled", |b, _| {
            let distiller = Distiller::new(b.teacher, b.train).student(student(&[784, 32, 32, 10])?);
            Ok(pipeline().distill(distiller.cache_logits().epochs(10)).run(b.original)?.model)
        }),
        recipe("the same student without a teacher", |b, _| {
            Ok(pipeline().finetune(FineTuner::new(b.train).epochs(10)).run(student(&[784, 32, 32, 10])?)?.model)
        }),
    ];
    all.push(("all four: distil, factorize, prune, quantize", Layout::Archive, Box::new(all_four)));
    all
}

fn student(widths: &[usize]) -> Result<Model> {
    networks::perceptron(widths, 0.0, 1)
}

fn all_four(b: &Bench<'_>) -> Result<Model> {
    let teach = || Distiller::new(b.teacher, b.train).cache_logits();
    let pipeline = pipeline()
        .distill(teach().student(student(&[784, 128, 64, 10])?).epochs(6))
        .factorize(LowRankFactorizer::rank(32).only("fc1.*"))
        .prune(MagnitudePruner::sparsity(0.6).global())
        .distill(teach().epochs(6))
        .quantize(AffineQuantizer::bits(4).per_channel())
        .distill(teach().epochs(1).rate(2e-4));
    Ok(pipeline.run(b.original)?.model)
}

/// A pipeline that says how far it is.
fn pipeline<'a>() -> Pipeline<'a> {
    Pipeline::new().on_progress(|p: &Progress<'_>| {
        if std::io::stderr().is_terminal() && (p.done % 20 == 0 || p.done == p.of) {
            eprint!("\r\x1b[2K    {} {}/{}", p.step, p.done, p.of);
            let _ = std::io::stderr().flush();
        }
    })
}

impl Bench<'_> {
    fn run(
        &mut self,
        index: usize,
        of: usize,
        name: &'static str,
        layout: Layout,
        recipe: &dyn Fn(&Bench<'_>) -> Result<Model>,
    ) -> Result<(), BoxError> {
        eprintln!("[{}/{of}] {name}", index + 1);
        let start = Instant::now();
        let model = recipe(self)?;
        let seconds = start.elapsed().as_secs_f64();
        let path = self.out.join(format!("{index:02}.safetensors"));
        model.save_with(&path, layout)?;
        drop(model);

        let accuracy = Model::open(&path)?.network()?.accuracy(self.test)?;
        let bytes = std::fs::metadata(&path)?.len();
        let first = self.rows.first().map_or(bytes, |r| r.bytes);
        let times_smaller = first as f64 / bytes as f64;
        self.rows.push(Row { recipe: name, accuracy, bytes, times_smaller, seconds });
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
