//! `bantam diff`: how far the values of one model are from those of another.

use crate::args::Diff;
use crate::failure::Failure;
use crate::output::{self, Table, line};
use bantam::report::WeightError;
use bantam::{Carried, DType, Error, Float, Model};
use serde::Serialize;
use std::collections::HashMap;
use std::path::Path;
use std::process::ExitCode;

/// What `--json` prints.
#[derive(Default, Serialize)]
struct Differences {
    /// Weights of the same shape in both.
    weights: Vec<Compared>,
    /// Tensors of one name that cannot be compared.
    unlike: Vec<Unlike>,
    /// Tensors that are not weights and are in both with the same type and shape, but hold other numbers.
    carried: Vec<String>,
    only_in_a: Vec<String>,
    only_in_b: Vec<String>,
    /// The largest relative error; null where it is infinite.
    worst: f64,
    /// The limit of `--fail-above`.
    fail_above: Option<f64>,
    /// Whether all is within the limit; absent without one.
    within: Option<bool>,
}

#[derive(Serialize)]
struct Compared {
    name: String,
    equal: bool,
    #[serde(flatten)]
    error: WeightError,
}

#[derive(Serialize)]
struct Unlike {
    name: String,
    a: String,
    b: String,
}

pub fn diff(args: &Diff) -> Result<ExitCode, Failure> {
    let (a, b) = (Model::open(&args.a)?, Model::open(&args.b)?);
    let mut found = if is_wide(&a) || is_wide(&b) {
        compare(&args.a, &Model::<f64>::open_as(&args.a)?, &args.b, &Model::open_as(&args.b)?)?
    } else {
        compare(&args.a, &a, &args.b, &b)?
    };
    if let Some(limit) = args.fail_above {
        found.fail_above = Some(limit);
        found.within = Some(found.is_within(limit));
    }
    let printed = if args.json { output::print_json(&found) } else { output::print(&found.to_string()) };
    match printed {
        // The verdict stands, however much of it was read.
        Ok(()) | Err(Failure::Closed) => {}
        Err(failure) => return Err(failure),
    }
    Ok(ExitCode::from(u8::from(found.within == Some(false))))
}

/// Whether it has values that f32 cannot hold.
fn is_wide(model: &Model) -> bool {
    model.weights().any(|(_, w)| w.leaves().iter().any(|leaf| leaf.float_dtype() == DType::F64))
}

fn compare<T: Float>(
    path_a: &Path,
    a: &Model<T>,
    path_b: &Path,
    b: &Model<T>,
) -> Result<Differences, Failure> {
    let carried_a: HashMap<&str, Carried<'_>> = a.carried().map(|c| (&*c.info.name, c)).collect();
    let carried_b: HashMap<&str, Carried<'_>> = b.carried().map(|c| (&*c.info.name, c)).collect();
    let mut found = Differences::default();
    for name in a.names() {
        let owned = || name.to_owned();
        let unlike = |a: String, b: String| Unlike { name: owned(), a, b };
        match (a.weight(name), carried_a.get(name), b.weight(name), carried_b.get(name)) {
            (Some(x), _, Some(y), _) if x.shape() == y.shape() => {
                // Both errors name the weight; only one of the files is to blame.
                let error = x.error_to(y).map_err(|e| blame(e, name, (path_a, x.load().is_err()), path_b))?;
                found.worst = found.worst.max(error.relative);
                found.weights.push(Compared { name: owned(), equal: error.largest == 0.0, error });
            }
            (Some(x), _, Some(y), _) => {
                found.unlike.push(unlike(output::shape(x.shape()), output::shape(y.shape())));
            }
            (Some(x), _, _, Some(y)) => {
                found.unlike.push(unlike(format!("weight {:?}", x.shape()), describe(y)));
            }
            (_, Some(x), Some(y), _) => {
                found.unlike.push(unlike(describe(x), format!("weight {:?}", y.shape())));
            }
            (_, Some(x), _, Some(y)) if x.dtype == y.dtype && x.info.shape == y.info.shape => {
                let (x, y) = (
                    x.to_vec().map_err(|e| Failure::about(path_a, e))?,
                    y.to_vec().map_err(|e| Failure::about(path_b, e))?,
                );
                if x != y {
                    found.carried.push(owned());
                }
            }
            (_, Some(x), _, Some(y)) => found.unlike.push(unlike(describe(x), describe(y))),
            _ => found.only_in_a.push(owned()),
        }
    }
    let in_a = |name: &&str| a.weight(name).is_some() || carried_a.contains_key(*name);
    found.only_in_b = b.names().filter(|name| !in_a(name)).map(str::to_owned).collect();
    Ok(found)
}

/// An error of reading a weight, with its name and file.
fn blame(error: Error, name: &str, (path_a, is_a): (&Path, bool), path_b: &Path) -> Failure {
    let error = match error {
        Error::Weight { fault, .. } => Error::Weight { weight: name.to_owned(), fault },
        other => other,
    };
    Failure::about(if is_a { path_a } else { path_b }, error)
}

fn describe(carried: &Carried<'_>) -> String {
    format!("{} {:?}", carried.dtype, carried.info.shape)
}

impl Differences {
    fn is_within(&self, limit: f64) -> bool {
        let equal = limit > 0.0 || self.weights.iter().all(|w| w.equal);
        let same = self.unlike.is_empty() && self.carried.is_empty();
        equal && same && self.worst <= limit && self.only_in_a.is_empty() && self.only_in_b.is_empty()
    }
}

impl std::fmt::Display for Differences {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut table = Table::new(&["weight", "rel. error", "SQNR dB", "largest"], &[0]);
        for w in &self.weights {
            let error = w.error;
            table.row(vec![
                w.name.clone(),
                format!("{:.2e}", error.relative),
                format!("{:.1}", error.sqnr),
                format!("{:.2e}", error.largest),
            ]);
        }
        if !table.is_empty() {
            write!(f, "{table}")?;
        }
        for u in &self.unlike {
            writeln!(f, "{}: {} in A, {} in B", line(&u.name), u.a, u.b)?;
        }
        self.carried.iter().try_for_each(|name| writeln!(f, "{}: other numbers in B", line(name)))?;
        self.only_in_a.iter().try_for_each(|name| writeln!(f, "{}: only in A", line(name)))?;
        self.only_in_b.iter().try_for_each(|name| writeln!(f, "{}: only in B", line(name)))?;
        let equal = self.weights.iter().filter(|w| w.equal).count();
        write!(
            f,
            "{equal} of {} weights equal, worst relative error {:.2e}",
            self.weights.len(),
            self.worst
        )?;
        match (self.within, self.fail_above) {
            (Some(true), Some(limit)) => writeln!(f, ": within {limit}"),
            (Some(false), Some(limit)) => writeln!(f, ": not within {limit}"),
            _ => writeln!(f),
        }
    }
}
