//! The recipe: teach, prune while training, share values, write.

use crate::networks;
use bantam::nn::{Augmented, Examples, Optimizer, Schedule};
use bantam::{
    AffineQuantizer, BoxError, ChannelPruner, CodebookQuantizer, Distiller, FineTuner, GradualPruner,
    MagnitudePruner, Model, Pipeline, Progress, Saliency,
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

/// A pipeline that says how far it is.
fn pipeline<'a>() -> Pipeline<'a> {
    Pipeline::new().on_progress(|p: &Progress<'_>| {
        if std::io::stderr().is_terminal() && (p.done.is_multiple_of(50) || p.done == p.of) {
            eprint!("\r\x1b[2K    {} {}/{}", p.step, p.done, p.of);
            let _ = std::io::stderr().flush();
        }
    })
}

/// Percent of the held-out images that are put into the wrong class.
fn error(model: &Model, data: &Data) -> bantam::Result<f64> {
    Ok(100.0 * (1.0 - model.network()?.accuracy(&data.validation)?))
}

fn say(what: &str, model: &Model, data: &Data) -> bantam::Result<f64> {
    let error = error(model, data)?;
    let kept: Vec<usize> = model.weights().map(|(_, w)| w.leaves().iter().map(|l| l.kept()).sum()).collect();
    let clear = if std::io::stderr().is_terminal() { "\r\x1b[2K" } else { "" };
    eprintln!("{clear}{what}: {error:.2} % of the held-out images are wrong; kept {kept:?}");
    Ok(error)
}

/// How a network is shrunk: pruned while it is trained, to fewer and fewer numbers, as long as it is as good as the
/// network it came from.
struct Ladder {
    /// Where it begins; and where it begins again while that is clearly not good enough.
    starts: &'static [Start],
    /// Rungs from a start.
    rungs: usize,
    /// What each rung leaves of the one before.
    shrink: f64,
    /// Passes over the copies of the images: on the first rung, on each other one, and with shared values.
    passes: [usize; 3],
    batch: usize,
    rate: f64,
    /// Shared values of a matrix: twice as many are tried where these are not good enough.
    values: usize,
}

struct Start {
    /// Fractions of the channels of some layers that are removed before the first rung: what is trained is smaller,
    /// and so is the time that it takes.
    narrower: &'static [(&'static str, f64)],
    /// Numbers that are left on the first rung.
    first: usize,
}

impl Kind {
    fn ladder(self) -> Ladder {
        match self {
            Self::Lenet300 => Ladder {
                starts: &[
                    Start { narrower: &[], first: 6500 },
                    Start { narrower: &[], first: 16_000 },
                    Start { narrower: &[], first: 40_000 },
                    Start { narrower: &[], first: 100_000 },
                ],
                rungs: 3,
                shrink: 0.82,
                passes: [4, 2, 2],
                batch: 64,
                rate: 5e-3,
                values: 8,
            },
            Self::Lenet5 => Ladder {
                starts: &[
                    Start { narrower: &[("conv?.weight", 0.6), ("fc1.weight", 0.87)], first: 2500 },
                    Start { narrower: &[("conv?.weight", 0.3), ("fc1.weight", 0.7)], first: 8000 },
                    Start { narrower: &[("fc1.weight", 0.6)], first: 25_000 },
                ],
                rungs: 2,
                shrink: 0.75,
                passes: [4, 4, 4],
                batch: 64,
                rate: 3e-3,
                values: 12,
            },
        }
    }
}

/// Of every image, the image itself and so many changed copies less one.
const COPIES: f64 = 8.0;
/// Fraction of a training in which entries are pruned, and the rate is held.
const PRUNING: f64 = 0.4;

/// How much the copies differ from the image, from what suits digits down to what suits data that mean something else
/// when they are turned.
const STRENGTHS: [f64; 2] = [1.0, 0.3];

/// Images from all sides; fewer of them on a smaller budget.
fn copies<'a>(train: &'a Examples, strength: f64, effort: &Effort) -> Augmented<&'a Examples> {
    let copies = (COPIES * effort.budget).round().max(1.0) as usize;
    Augmented::new(train, copies)
        .shift(1.5 * strength)
        .rotate(10.0 * strength)
        .scale(0.1 * strength)
        .shear(0.1 * strength)
        .background(background(train))
        .seed(effort.seed)
}

/// What lies around the images: the median of the corners of the first thousand.
fn background(train: &Examples) -> f64 {
    let images = train.inputs();
    let [.., h, w] = images.shape() else { return 0.0 };
    let (plane, width) = ((h * w).max(1), (*w).max(1));
    let corners = |image: &[f32]| [0, width - 1, plane - width, plane - 1].map(|i| image[i]);
    let mut found: Vec<f32> = images.as_slice().chunks_exact(plane).take(1000).flat_map(corners).collect();
    let middle = found.len() / 2;
    if found.is_empty() { 0.0 } else { f64::from(*found.select_nth_unstable_by(middle, f32::total_cmp).1) }
}

/// The network as it is usually trained.
pub fn baseline(kind: Kind, data: &Data, effort: &Effort) -> Result<Model, BoxError> {
    let tuner = FineTuner::new(&data.train)
        .epochs((10.0 * effort.budget).ceil() as usize)
        .batch_size(128)
        .optimizer(Optimizer::adam_w().weight_decay(0.02))
        .seed(effort.seed);
    let model = pipeline().finetune(tuner).run(kind.network(effort.seed)?)?.model;
    say("baseline", &model, data)?;
    Ok(model)
}

/// A network and how much the copies that it has seen differ from the images.
pub struct Teacher {
    pub model: Model,
    pub strength: f64,
}

/// A convolutional network that has seen the images from all sides: from less far, where that is clearly better.
pub fn teacher(data: &Data, effort: &Effort) -> Result<Teacher, BoxError> {
    let mut best: Option<(Teacher, f64)> = None;
    for strength in STRENGTHS {
        let more = copies(&data.train, strength, effort);
        let tuner = FineTuner::new(&more)
            .epochs(1)
            .batch_size(128)
            .rate(3e-3)
            .schedule(Schedule::Cosine { floor: 0.0, warmup: 0.1, hold: 0.0 })
            .seed(effort.seed);
        let model = pipeline().finetune(tuner).run(networks::convolutional(effort.seed + 1000)?)?.model;
        let found = say(&format!("teacher, copies of strength {strength}"), &model, data)?;
        if best.as_ref().is_none_or(|(_, least)| found < least - standard_error(*least, data)) {
            best = Some((Teacher { model, strength }, found));
        }
    }
    Ok(best.ok_or("no teacher")?.0)
}

/// How much is done, and how good the result must be.
pub struct Effort {
    pub seed: u64,
    pub budget: f64,
    /// Percent of the held-out images that may go wrong beyond those of the baseline; a standard error, if not given.
    pub tolerance: Option<f64>,
}

/// Everything between the trained network and its file; and whether it is good enough.
pub fn compress(
    kind: Kind,
    baseline: &Model,
    teacher: &Teacher,
    data: &Data,
    effort: &Effort,
) -> Result<(Model, bool), BoxError> {
    let more = copies(&data.train, teacher.strength, effort);
    let teacher = teacher.model.network()?;
    let ladder = kind.ladder();
    // Asked once for each copy, then kept.
    let teach = Distiller::new(&teacher, &more)
        .alpha(0.1)
        .temperature(2.0)
        .cache_logits()
        .batch_size(ladder.batch)
        .seed(effort.seed);
    let before = error(baseline, data)?;
    let doubt = standard_error(before, data);
    let most = before + effort.tolerance.unwrap_or(doubt);
    // Shared values are trained as well, which may make up for a little.
    let clearly = most + doubt;
    let mut best: Option<(Model, f64)> = None;
    for (i, start) in ladder.starts.iter().enumerate() {
        let mut rungs = descend(baseline, &teach, &ladder, start, data, clearly)?;
        if i + 1 < ladder.starts.len() {
            rungs.retain(|(_, found)| *found <= clearly);
        }
        // From the smallest up, to the first that is good enough with shared values.
        for (model, values) in
            rungs.iter().rev().flat_map(|(model, _)| [(model, ladder.values), (model, 2 * ladder.values)])
        {
            let small = share(model, teach.clone().epochs(ladder.passes[2]), ladder.rate, values)?;
            let found = say(&format!("with {values} shared values"), &small, data)?;
            if found <= most {
                return Ok((small, true));
            }
            if best.as_ref().is_none_or(|(_, least)| found < *least) {
                best = Some((small, found));
            }
        }
    }
    let (model, _) = best.ok_or("a ladder without rungs")?;
    Ok((model, false))
}

/// The networks of the rungs and what each gets wrong: the first, and those after it that are not `clearly` too bad.
fn descend(
    baseline: &Model,
    teach: &Distiller<'_>,
    ladder: &Ladder,
    start: &Start,
    data: &Data,
    clearly: f64,
) -> Result<Vec<(Model, f64)>, BoxError> {
    let narrow = |steps: Pipeline<'static>, (layer, fraction): &(&'static str, f64)| {
        steps.slim(ChannelPruner::ratio(*fraction).only(*layer))
    };
    let mut model = start.narrower.iter().fold(pipeline(), narrow).run(baseline)?.model;
    let (mut rungs, mut left) = (Vec::new(), start.first as f64);
    for rung in 0..ladder.rungs {
        model = prune(&model, teach.clone().epochs(ladder.passes[rung.min(1)]), left, ladder.rate)?;
        let found = say(&format!("{left:.0} numbers"), &model, data)?;
        if rung == 0 || found <= clearly {
            rungs.push((model.clone(), found));
        }
        if found > clearly {
            break;
        }
        left *= ladder.shrink;
    }
    Ok(rungs)
}

/// Prunes until so many numbers are left. What cannot matter any more is removed for good.
fn prune(model: &Model, teach: Distiller<'_>, left: f64, rate: f64) -> Result<Model, BoxError> {
    let all = parameters(model) as f64;
    // So many there may be already: what cannot matter has been removed.
    let kept: usize = model.weights().flat_map(|(_, w)| w.leaves()).map(|leaf| leaf.kept()).sum();
    let left = left.min(kept as f64);
    let pruner =
        GradualPruner::new(MagnitudePruner::sparsity((1.0 - left / all).max(0.0)).global().only("*"))
            .saliency(Saliency::Fisher)
            .compact(1.0)
            .between(0.05..PRUNING)
            .every(25);
    let training =
        teach.rate(rate).schedule(Schedule::Cosine { floor: 0.0, warmup: 0.01, hold: PRUNING }).prune(pruner);
    Ok(pipeline().distill(training).then(ChannelPruner::dead()).run(model)?.model)
}

/// Shares a few values among the entries of each matrix, and trains which and what they are.
fn share(model: &Model, teach: Distiller<'_>, rate: f64, values: usize) -> Result<Model, BoxError> {
    let mut steps = pipeline();
    for (name, weight) in model.weights().filter(|(name, _)| name.ends_with(".weight")) {
        // No more than there are entries to share them.
        let kept: usize = weight.leaves().iter().map(|leaf| leaf.kept()).sum();
        if kept >= 2 {
            steps = steps.then(CodebookQuantizer::values(values.min(kept)).only(name));
        }
    }
    let training = teach.rate(rate * 0.2).move_codes_until(0.6).learn_step_sizes();
    Ok(steps
        .quantize(AffineQuantizer::bits(7).symmetric().only("*.bias"))
        .distill(training)
        .run(model)?
        .model)
}

/// Of a share, in percent, that was counted on the held-out images.
fn standard_error(percent: f64, data: &Data) -> f64 {
    let n = data.validation.labels().map_or(1, <[u32]>::len) as f64;
    (percent * (100.0 - percent) / n).sqrt()
}
