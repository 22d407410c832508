//! Our side of the comparison with peers: one row of `rows.json`, in rounds, as JSON lines.
//!
//! ```console
//! $ cargo bench --bench peers --features bench -- --row "2:4, 4096x4096" --rounds 5
//! {"who":"ours","ms":21.7,"calls":14}
//! {"who":"kernel","ms":18.2,"calls":17}
//! {"who":"limit","ms":4.1,"read":37.5,...}
//! ```
//!
//! With `--serve` a round is run of what each line on standard input names, so that `compare.py` can run ours
//! and theirs alternately; with `--data FOLDER` the values are kept in a file that both read; with `--side N`
//! the matrices are N x N. Without a row, the names of all rows are printed.

#[path = "../../examples/support/args.rs"]
mod args;
mod data;
mod kernel;
mod limits;
mod network;
#[path = "../kernels/prune.rs"]
mod pruning;
#[path = "../kernels/quantize.rs"]
mod quantizing;
mod row;
mod training;
mod work;

use args::Args;
use bantam::BoxError;
use row::Row;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A round repeats its work for about this long, and its result is the median.
const ROUND: Duration = Duration::from_millis(300);

/// Runs one round of the work: the median and the number of calls. One more comes first: another part of the row may
/// have taken the memory that this one had, and what a virtual machine must get from its host takes a hundred times
/// as long.
fn round(who: &str, work: &mut work::Work) -> Result<Value, BoxError> {
    work()?;
    let mut times = Vec::new();
    let begin = Instant::now();
    while times.is_empty() || begin.elapsed() < ROUND {
        times.push(work()?);
    }
    times.sort_unstable();
    let middle = times[times.len() / 2].as_secs_f64();
    Ok(json!({ "who": who, "ms": middle * 1e3, "calls": times.len() }))
}

fn main() -> Result<(), BoxError> {
    let mut args = Args::from_env();
    // Cargo's own.
    args.flag("--bench");
    let name: Option<String> = args.value("--row")?;
    let side: Option<usize> = args.value("--side")?;
    let rounds: Option<usize> = args.value("--rounds")?;
    let folder: Option<PathBuf> = args.value("--data")?;
    let serve = args.flag("--serve");
    args.finish()?;
    let Some(name) = name else {
        let Err(rows) = Row::find("") else { return Ok(()) };
        println!("{rows}");
        return Ok(());
    };
    let (mut row, batch) = Row::find(&name)?;
    if let Some(side) = side {
        row.shape = [side, side];
    }
    let (mut ours, mut kernel) = work::prepare(&row, batch, folder.as_deref())?;
    let mut limits = None;
    let parts = if kernel.is_some() { vec!["ours", "kernel", "limit"] } else { vec!["ours", "limit"] };
    let mut run = |who: &str| -> Result<(), BoxError> {
        let line = match (who, &mut kernel) {
            ("ours", _) => round(who, &mut ours)?,
            ("kernel", Some(kernel)) => round(who, kernel)?,
            ("limit", _) => limits.get_or_insert_with(|| limits::Limits::new(&row, batch)).measure(),
            _ => return Err(format!("nothing called {who:?} in this row").into()),
        };
        println!("{line}");
        Ok(())
    };
    if serve {
        println!("{}", json!({ "parts": parts }));
        for who in std::io::stdin().lines() {
            run(who?.trim())?;
        }
        return Ok(());
    }
    for _ in 0..rounds.unwrap_or(5) {
        parts.iter().try_for_each(|who| run(who))?;
    }
    Ok(())
}
