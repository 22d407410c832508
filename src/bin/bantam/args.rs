//! What the command line says.

use bantam::{AffineQuantizer, Layout, LowRankFactorizer, MagnitudePruner, Range};
use clap::{ArgGroup, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

const EXIT_CODES: &str = "\
Exit codes:
    0  success
    1  the models differ by more than the limit (`diff --fail-above`)
    2  the command line is wrong
    3  a file is not what it should be: not a model, damaged, a recipe with a mistake
    4  a setting is out of range, or the plan does not fit the model
    5  a file cannot be read or written
    6  the values do not allow it: NaN, infinity, no convergence
  130  interrupted (143: terminated); a second signal ends at once

A file is written whole or not at all: whatever goes wrong, one that is there stays as it was.";

/// Compress trained neural networks in safetensors files.
#[derive(Debug, Parser)]
#[command(name = "bantam", version, after_help = EXIT_CODES)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Inspect(Inspect),
    Compress(Box<Compress>),
    Diff(Diff),
}

/// List the tensors of a model file.
///
/// Values are not read, so this is quick for files of any size (an archive is decoded as a whole). "pruned" is
/// the share of entries that have been pruned; a value that happens to be zero does not count.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct Inspect {
    /// A safetensors file, compressed or not.
    pub file: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Compress a model file.
///
/// Steps given as options run in this order: factorize, prune, quantize; a recipe has an order of its own.
/// Matrices, convolution kernels and embeddings are compressed, unless --only says otherwise; biases and norms
/// stay as they are. A weight that a step would make larger is left as it was, and the report says so.
///
/// OUT may be IN: it is replaced when all is done, or stays as it was. A report is written after that.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
#[command(group = ArgGroup::new("steps").required(true).multiple(true))]
pub struct Compress {
    /// The model: a safetensors file, compressed or not.
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// Where the compressed model goes. An existing file is replaced.
    #[arg(short, long, value_name = "OUT")]
    pub output: PathBuf,

    /// Prune every entry with an absolute value under T.
    #[arg(long, value_name = "T", group = "steps", allow_negative_numbers = true)]
    #[arg(conflicts_with_all = ["sparsity", "pattern"])]
    pub prune: Option<f64>,
    /// Prune the smallest entries of each weight, until this fraction is zero: 0 to 1.
    #[arg(long, value_name = "S", group = "steps", allow_negative_numbers = true)]
    #[arg(conflicts_with = "pattern")]
    pub sparsity: Option<f64>,
    /// With --sparsity: rank the entries of all weights together.
    #[arg(long, requires = "sparsity", conflicts_with_all = ["prune", "pattern"])]
    pub global: bool,
    /// Keep the N largest of every M neighbouring inputs, as in 2:4.
    #[arg(long, value_name = "N:M", group = "steps", value_parser = pattern)]
    pub pattern: Option<[usize; 2]>,

    /// Replace each matrix by a product of this rank.
    #[arg(long, value_name = "R", group = "steps", conflicts_with = "energy")]
    pub rank: Option<usize>,
    /// Replace each matrix by the product that keeps this fraction of its energy: 0 to 1.
    #[arg(long, value_name = "E", group = "steps", allow_negative_numbers = true)]
    pub energy: Option<f64>,

    /// Quantize to codes of this many bits: 1 to 8.
    #[arg(long, value_name = "BITS", group = "steps")]
    pub quantize: Option<u8>,
    /// With --quantize: a scale for each output instead of one for the weight.
    #[arg(long, requires = "quantize", conflicts_with = "group")]
    pub per_channel: bool,
    /// With --quantize: a scale for each G neighbouring inputs.
    #[arg(long, value_name = "G", requires = "quantize")]
    pub group: Option<usize>,
    /// With --quantize: the range of the values, with a zero point, instead of one symmetric around 0.
    #[arg(long, requires = "quantize")]
    pub asymmetric: bool,
    /// With --quantize: how the range is chosen: min-max, least-squares, or percentile:P (P of 100).
    #[arg(long, value_name = "RANGE", requires = "quantize", value_parser = range)]
    pub range: Option<Range>,

    /// Compress only weights whose name matches, with * and ?; may be given several times.
    #[arg(long, value_name = "GLOB")]
    pub only: Vec<String>,
    /// Leave weights whose name matches, with * and ?; may be given several times.
    #[arg(long, value_name = "GLOB")]
    pub except: Vec<String>,

    /// Take the steps, and what each of them selects, from a file: .toml or .json.
    #[arg(long, value_name = "FILE", group = "steps", value_parser = recipe_path)]
    #[arg(conflicts_with_all = ["prune", "sparsity", "pattern", "rank", "energy", "quantize"])]
    #[arg(conflicts_with_all = ["global", "per_channel", "group", "asymmetric", "range", "only", "except"])]
    pub recipe: Option<PathBuf>,

    /// How the file is laid out: open can be read by any safetensors reader, archive is the smallest.
    #[arg(long, value_enum, default_value = "open")]
    pub layout: LayoutArg,
    /// Make it an error when a step leaves a weight as it was that it should compress.
    #[arg(long)]
    pub strict: bool,
    /// Print what would be done, by shapes and forms alone, and write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Write the report to a file, in JSON.
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    pub report: Option<PathBuf>,
    /// Print neither progress nor report.
    #[arg(short, long, conflicts_with = "dry_run")]
    pub quiet: bool,
}

/// Compare the values of two models, A being the original.
///
/// Prints for each weight the norm of the difference over that of A, the signal to noise ratio in decibels
/// (infinite when equal) and the largest difference of one entry; then what is only in one of them. Forms do
/// not matter: a compressed model is compared by the values it stands for.
///
/// Exit code 0, whatever differs, unless --fail-above is given. In JSON, an infinite number is null.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct Diff {
    /// The original.
    pub a: PathBuf,
    /// The other model.
    pub b: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Exit with 1 when the relative error of some weight is above REL, when a tensor is only in one of the
    /// models, when shapes or types differ, or when tensors that are not weights do. 0: all values are equal.
    #[arg(long, value_name = "REL", value_parser = limit, allow_negative_numbers = true)]
    pub fail_above: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum LayoutArg {
    Open,
    Archive,
}

impl From<LayoutArg> for Layout {
    fn from(layout: LayoutArg) -> Self {
        match layout {
            LayoutArg::Open => Self::Open,
            LayoutArg::Archive => Self::Archive,
        }
    }
}

impl Compress {
    /// The factorization that the options ask for.
    pub fn factorizer(&self) -> Option<LowRankFactorizer> {
        let step = match (self.rank, self.energy) {
            (Some(rank), _) => LowRankFactorizer::rank(rank),
            (None, Some(fraction)) => LowRankFactorizer::energy(fraction),
            (None, None) => return None,
        };
        let step = self.only.iter().fold(step, LowRankFactorizer::only);
        Some(self.except.iter().fold(step, LowRankFactorizer::except))
    }

    /// The pruning that the options ask for.
    pub fn pruner(&self) -> Option<MagnitudePruner> {
        let step = match (self.prune, self.sparsity, self.pattern) {
            (Some(threshold), ..) => MagnitudePruner::threshold(threshold),
            (None, Some(fraction), _) if self.global => MagnitudePruner::sparsity(fraction).global(),
            (None, Some(fraction), _) => MagnitudePruner::sparsity(fraction),
            (None, None, Some([n, m])) => MagnitudePruner::n_of_m(n, m),
            (None, None, None) => return None,
        };
        let step = self.only.iter().fold(step, MagnitudePruner::only);
        Some(self.except.iter().fold(step, MagnitudePruner::except))
    }

    /// The quantization that the options ask for.
    pub fn quantizer(&self) -> Option<AffineQuantizer> {
        let mut step = AffineQuantizer::bits(self.quantize?);
        if self.per_channel {
            step = step.per_channel();
        }
        if let Some(size) = self.group {
            step = step.group(size);
        }
        if self.asymmetric {
            step = step.asymmetric();
        }
        if let Some(range) = self.range {
            step = step.range(range);
        }
        let step = self.only.iter().fold(step, AffineQuantizer::only);
        Some(self.except.iter().fold(step, AffineQuantizer::except))
    }
}

fn pattern(text: &str) -> Result<[usize; 2], String> {
    let parsed = text.split_once(':').and_then(|(n, m)| Some([n.parse().ok()?, m.parse().ok()?]));
    parsed.ok_or_else(|| "must be like 2:4".to_owned())
}

fn range(text: &str) -> Result<Range, String> {
    match text {
        "min-max" => Ok(Range::MinMax),
        "least-squares" => Ok(Range::LeastSquares),
        _ => {
            text.strip_prefix("percentile:").and_then(|p| p.parse().ok()).map(Range::Percentile).ok_or_else(
                || "must be min-max, least-squares or percentile:P, as percentile:99.9".to_owned(),
            )
        }
    }
}

fn limit(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(limit) if (0.0..=f64::INFINITY).contains(&limit) => Ok(limit),
        _ => Err("must be a number, at least 0".to_owned()),
    }
}

fn recipe_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.extension().and_then(|e| e.to_str()) {
        Some("toml" | "json") => Ok(path),
        _ => Err("the name must end in .toml or .json".to_owned()),
    }
}
