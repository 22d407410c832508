//! Our side of the comparison with peers: one row of `rows.json`, in rounds, as JSON lines.
//!
//! ```console
//! $ cargo bench --bench peers --features bench -- --row "2:4, 4096x4096" --rounds 5
//! {"who":"ours","ms":21.7,"calls":14}
//! {"who":"limit","ms":4.1,"read":37.5,...}
//! ```
//!
//! With `--serve` a round is run for each line on standard input, so that `compare.py` can run ours and
//! theirs alternately; with `--data FOLDER` the values are kept in a file that both read. Without a row, the
//! names of all rows are printed.

#[path = "../../examples/support/args.rs"]
mod args;
mod data;
mod limits;
mod work;

use args::Args;
use bantam::{BoxError, Recipe};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A round repeats its work for about this long, and its result is the median.
const ROUND: Duration = Duration::from_millis(300);

/// One line of the comparison, read from `rows.json`, as both sides see it.
#[derive(Debug, Deserialize)]
struct Row {
    name: String,
    shape: [usize; 2],
    /// Matrices: compressed together, or run in turn.
    #[serde(default = "one")]
    copies: usize,
    /// Rows of the input of a product.
    #[serde(default)]
    batches: Vec<usize>,
    #[serde(default)]
    measure: Measure,
    #[serde(default)]
    steps: serde_json::Value,
    #[serde(default)]
    activations: bantam::Activations,
    /// What the memory and the arithmetic must do at least: bytes, and multiplications and additions for a
    /// row of input, each for one entry of one matrix.
    limit: BTreeMap<String, f64>,
}

fn one() -> usize {
    1
}

/// What is timed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Measure {
    /// The steps.
    #[default]
    Compress,
    /// Decoding what the steps made.
    Dequantize,
    /// The thin singular value decomposition.
    Svd,
    /// A product with what the steps made.
    Matmul,
}

impl Row {
    fn recipe(&self) -> Result<Recipe, BoxError> {
        if self.steps.is_null() {
            return Ok(Recipe::default());
        }
        Ok(Recipe::from_json(&json!({ "steps": self.steps }).to_string())?)
    }
}

/// The row called `name`, and its batch where it has several: the name then ends in ", batch 16".
fn find(name: &str) -> Result<(Row, usize), BoxError> {
    let rows: Vec<Row> = serde_json::from_str(include_str!("rows.json"))?;
    let mut names = Vec::new();
    for row in rows {
        if row.batches.is_empty() {
            if row.name == name {
                return Ok((row, 1));
            }
            names.push(row.name);
            continue;
        }
        for batch in &row.batches {
            let full = format!("{}, batch {batch}", row.name);
            if full == name {
                let batch = *batch;
                return Ok((row, batch));
            }
            names.push(full);
        }
    }
    Err(format!("no row {name:?}; there are:\n{}", names.join("\n")).into())
}

/// Runs one round of the work: the median and the number of calls.
fn round(work: &mut work::Work) -> Result<(Duration, usize), BoxError> {
    let mut times = Vec::new();
    let begin = Instant::now();
    while times.is_empty() || begin.elapsed() < ROUND {
        times.push(work()?);
    }
    times.sort_unstable();
    Ok((times[times.len() / 2], times.len()))
}

fn main() -> Result<(), BoxError> {
    let mut args = Args::from_env();
    // Cargo's own.
    args.flag("--bench");
    let name: Option<String> = args.value("--row")?;
    let rounds: Option<usize> = args.value("--rounds")?;
    let folder: Option<PathBuf> = args.value("--data")?;
    let serve = args.flag("--serve");
    args.finish()?;
    let Some(name) = name else {
        let Err(rows) = find("") else { return Ok(()) };
        println!("{rows}");
        return Ok(());
    };
    let (row, batch) = find(&name)?;
    let mut work = work::prepare(&row, batch, folder.as_deref())?;
    let mut limits = limits::Limits::new(&row, batch);
    let mut run = || -> Result<(), BoxError> {
        let (time, calls) = round(&mut work)?;
        println!("{}", json!({ "who": "ours", "ms": time.as_secs_f64() * 1e3, "calls": calls }));
        println!("{}", limits.measure());
        Ok(())
    };
    if serve {
        println!("{}", json!({ "ready": row.name }));
        for _ in std::io::stdin().lines() {
            run()?;
            println!("{}", json!({ "end": true }));
        }
        return Ok(());
    }
    for _ in 0..rounds.unwrap_or(5) {
        run()?;
    }
    Ok(())
}
