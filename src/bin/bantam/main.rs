//! The `bantam` command: look at model files, compress them, compare them.

mod args;
mod compress;
mod diff;
mod failure;
mod inspect;
mod interrupt;
mod output;

use args::{Args, Command};
use clap::Parser;
use failure::Failure;
use std::process::ExitCode;

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Inspect(args) => inspect::inspect(&args).map(|()| ExitCode::SUCCESS),
        Command::Compress(args) => compress::compress(&args).map(|()| ExitCode::SUCCESS),
        Command::Diff(args) => diff::diff(&args),
    };
    match done {
        Ok(code) => code,
        // Whoever read the output has seen enough.
        Err(Failure::Closed) => ExitCode::SUCCESS,
        Err(failure) => {
            output::complain(&failure.to_string());
            ExitCode::from(failure.code())
        }
    }
}
