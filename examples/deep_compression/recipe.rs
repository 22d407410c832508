//! The recipe: teach, prune while training, share values, write.

use crate::networks;
use bantam::distill::Teacher;
use bantam::nn::{Augmented, Dataset, Examples, Optimizer, Schedule};
use bantam::{
    AffineQuantizer, BoxError, CodebookQuantizer, Distiller, FineTuner, GradualPruner, MagnitudePruner,
    Model, Pipeline, Progress, Saliency,
};
use std::fmt;
use std::io::{IsTerminal, Write};
use std::str::FromStr;

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Lenet300,
    Lenet5,
}

impl FromStr for Kind {
    type Err = &'static str;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "lenet-300-100" => Ok(Self::Lenet300),
            "lenet-5" => Ok(Self::Lenet5),
            _ => Err("neither lenet-300-100 nor lenet-5"),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lenet300 => "lenet-300-100",
            Self::Lenet5 => "lenet-5",
        })
    }
}

impl Kind {
    /// What others report: times smaller, test error in percent before and after.
    pub fn published(self) -> [(&'static str, u32, Option<f64>, f64); 2] {
        match self {
            Self::Lenet300 => [
                ("Deep Compression (arXiv 1510.00149)", 40, Some(1.64), 1.58),
                ("sparse variational dropout (in arXiv 1705.08665)", 113, None, 1.8),
            ],
            Self::Lenet5 => [
                ("Deep Compression (arXiv 1510.00149)", 39, Some(0.80), 0.74),
                ("group horseshoe (arXiv 1705.08665)", 771, None, 1.0),
            ],
        }
    }

    fn network(self, seed: u64) -> bantam::Result<Model> {
        match self {
            Self::Lenet300 => networks::perceptron(&[784, 300, 100, 10], 0.0, seed),
            Self::Lenet5 => networks::lenet_5(seed),
        }
    }
}

pub struct Data {
    pub train: Examples,
    pub validation: Examples,
}

/// Numbers in a model.
pub fn parameters(model: &Model) -> usize {
    model.weights().map(|(_, weight)| weight.len()).sum()
}

fn epochs(n: f64, budget: f64) -> usize {
    ((n * budget).round() as usize).max(1)
}

/// A pipeline that says how far it is.
fn pipeline<'a>() -> Pipeline<'a> {
    Pipeline::new().on_progress(|p: &Progress<'_>| {
        if std::io::stderr().is_terminal() && (p.done.is_multiple_of(50) || p.done == p.of) {
            eprint!("\r\x1b[2K    {} {}/{}", p.step, p.done, p.of);
            let _ = std::io::stderr().flush();
        }
    })
}

fn say(what: &str, model: &Model, data: &Data) -> bantam::Result<f64> {
    let error = 100.0 * (1.0 - model.network()?.accuracy(&data.validation)?);
    let kept: Vec<usize> = model.weights().map(|(_, w)| w.leaves().iter().map(|l| l.kept()).sum()).collect();
    eprintln!("{what}: {error:.2} % of the held-out images are wrong; kept {kept:?}");
    Ok(error)
}

/// The network as it is usually trained.
pub fn baseline(kind: Kind, data: &Data, seed: u64, budget: f64) -> Result<Model, BoxError> {
    let tuner = FineTuner::new(&data.train)
        .epochs(epochs(12.0, budget))
        .batch_size(128)
        .optimizer(Optimizer::adam_w().weight_decay(0.02))
        .seed(seed);
    let model = pipeline().finetune(tuner).run(kind.network(seed)?)?.model;
    say("baseline", &model, data)?;
    Ok(model)
}

/// A convolutional network that has seen the images from all sides.
fn teacher(data: &Data, more: &dyn Dataset, seed: u64, budget: f64) -> Result<Model, BoxError> {
    let tuner = FineTuner::new(more).epochs(1).batch_size(128).rate(1e-3).seed(seed);
    let _ = budget;
    let model = pipeline().finetune(tuner).run(networks::lenet_5(seed + 1000)?)?.model;
    say("teacher", &model, data)?;
    Ok(model)
}

/// Everything between the trained network and its file.
pub fn compress(
    kind: Kind,
    baseline: &Model,
    data: &Data,
    seed: u64,
    budget: f64,
) -> Result<Model, BoxError> {
    let env = |name: &str, or: f64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(or);
    let more = Augmented::new(&data.train, env("COPIES", 8.0) as usize)
        .shift(1.5)
        .rotate(10.0)
        .scale(0.1)
        .shear(0.1)
        .seed(seed);
    let teacher = teacher(data, &more, seed, budget)?.network()?;
    let teach = |e: f64| {
        Distiller::new(&teacher as &dyn Teacher, &more)
            .alpha(0.1)
            .temperature(2.0)
            .cache_logits()
            .epochs(epochs(e, budget))
            .batch_size(env("BATCH", 128.0) as usize)
            .seed(seed)
    };
    let keep = env("KEEP", 5000.0) / parameters(baseline) as f64;
    let to = MagnitudePruner::sparsity(1.0 - keep).global().only("*");
    let pruner = GradualPruner::new(to)
        .saliency(Saliency::Fisher)
        .compact(1.0)
        .between(0.05..env("END", 0.4))
        .every(25);
    let training = teach(env("EPOCHS", 3.0))
        .rate(env("RATE", 4e-3))
        .schedule(Schedule::Cosine { floor: 0.0, warmup: 0.01, hold: env("END", 0.4) })
        .prune(pruner);
    let start = if env("SCRATCH", 0.0) > 0.0 { kind.network(seed)? } else { baseline.clone() };
    let sparse = pipeline().distill(training).run(&start)?.model;
    say("pruned", &sparse, data)?;
    let values = env("VALUES", 8.0) as usize;
    let shared = pipeline()
        .then(CodebookQuantizer::values(values).only("*.weight"))
        .quantize(AffineQuantizer::bits(5).symmetric().only("*.bias"))
        .run(&sparse)?
        .model;
    say("shared", &shared, data)?;
    let tuned = pipeline()
        .distill(teach(env("EPOCHS2", 0.6)).rate(env("RATE2", 1e-3)).move_codes_until(env("MOVE", 0.6)))
        .run(&shared)?
        .model;
    say("tuned", &tuned, data)?;
    Ok(tuned)
}
