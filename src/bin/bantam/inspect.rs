//! `bantam inspect`: the tensors of a file, by its header.

use crate::args::Inspect;
use crate::failure::Failure;
use crate::output::{self, Table};
use bantam::{Carried, Kind, Layout, Model, Weight, WeightInfo};
use indicatif::DecimalBytes;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

/// What `--json` prints.
#[derive(Serialize)]
struct Contents<'a> {
    file: String,
    file_bytes: u64,
    layout: Layout,
    /// Whether the model is a network that can run.
    graph: bool,
    metadata: &'a BTreeMap<String, String>,
    tensors: Vec<Row<'a>>,
    totals: Totals,
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    /// Absent for a tensor that is not a weight and is carried along.
    kind: Option<Kind>,
    shape: &'a [usize],
    /// "dense", "pruned", "factored+quantized", "codebook 16", .. or "carried".
    form: String,
    /// Types of the stored numbers: "F32", or "4 bit" for codes.
    dtype: String,
    stored_bytes: usize,
    bits_per_weight: f64,
    /// Fraction of the entries that is pruned, 0 to 1.
    sparsity: f64,
    rank: Option<usize>,
}

#[derive(Serialize)]
struct Totals {
    tensors: usize,
    weights: usize,
    /// Entries of the weights, as if they were dense.
    entries: u64,
    stored_bytes: u64,
    /// Stored bits for each entry of the weights.
    bits_per_weight: f64,
}

pub fn inspect(args: &Inspect) -> Result<(), Failure> {
    let path = &args.file;
    let layout = Layout::of(path)?;
    let model = Model::open(path)?;
    let file_bytes = std::fs::metadata(path).map_err(|e| Failure::io(path, e))?.len();
    let tensors = rows(&model);
    let totals = totals(&model);
    if args.json {
        let file = path.display().to_string();
        let (graph, metadata) = (model.graph().is_some(), model.metadata());
        return output::print_json(&Contents { file, file_bytes, layout, graph, metadata, tensors, totals });
    }
    let mut table = Table::new(
        &["tensor", "kind", "shape", "form", "type", "stored", "bits/w", "pruned", "rank"],
        &[0, 1, 2, 3, 4],
    );
    for row in &tensors {
        table.row(vec![
            row.name.to_owned(),
            row.kind.map_or("-".to_owned(), |k| k.to_string()),
            output::shape(row.shape),
            row.form.clone(),
            row.dtype.clone(),
            DecimalBytes(row.stored_bytes as u64).to_string(),
            format!("{:.2}", row.bits_per_weight),
            format!("{:.1}%", row.sparsity * 100.0),
            row.rank.map_or("-".to_owned(), |r| r.to_string()),
        ]);
    }
    let layout = match layout {
        Layout::Archive => "archive",
        _ => "open",
    };
    let graph = if model.graph().is_some() { "a graph" } else { "no graph" };
    let summary = format!(
        "{} tensors, {} weights with {} entries, {} stored ({:.2} bits a weight)\n{}: {}, {layout} layout, {graph}\n",
        totals.tensors,
        totals.weights,
        totals.entries,
        DecimalBytes(totals.stored_bytes),
        totals.bits_per_weight,
        path.display(),
        DecimalBytes(file_bytes),
    );
    output::print(&format!("{table}{summary}"))
}

/// All tensors in the order of the file.
fn rows(model: &Model) -> Vec<Row<'_>> {
    let mut rows: HashMap<&str, Row<'_>> = model
        .entries()
        .map(|(info, weight)| (&*info.name, of_weight(info, weight)))
        .chain(model.carried().map(|carried| (&*carried.info.name, of_carried(&carried))))
        .collect();
    model.names().filter_map(|name| rows.remove(name)).collect()
}

fn of_weight<'a>(info: &'a WeightInfo, weight: &'a Weight) -> Row<'a> {
    let mut types: Vec<String> = Vec::new();
    for leaf in weight.leaves() {
        let name = leaf.code_bits().map_or_else(|| leaf.float_dtype().to_string(), |b| format!("{b} bit"));
        if !types.contains(&name) {
            types.push(name);
        }
    }
    Row {
        name: &info.name,
        kind: Some(info.kind),
        shape: weight.shape(),
        form: weight.form().to_string(),
        dtype: types.join("+"),
        stored_bytes: weight.stored_bytes(),
        bits_per_weight: weight.bits_per_weight(),
        sparsity: weight.sparsity(),
        rank: weight.rank(),
    }
}

fn of_carried<'a>(carried: &Carried<'a>) -> Row<'a> {
    Row {
        name: &carried.info.name,
        kind: None,
        shape: &carried.info.shape,
        form: "carried".to_owned(),
        dtype: carried.dtype.to_string(),
        stored_bytes: carried.stored_bytes(),
        bits_per_weight: carried.dtype.bits() as f64,
        sparsity: 0.0,
        rank: None,
    }
}

fn totals(model: &Model) -> Totals {
    let entries: u64 = model.weights().map(|(_, w)| w.len() as u64).sum();
    let bytes: u64 = model.weights().map(|(_, w)| w.stored_bytes() as u64).sum();
    Totals {
        tensors: model.len(),
        weights: model.weights().count(),
        entries,
        stored_bytes: model.stored_bytes() as u64,
        bits_per_weight: bytes as f64 * 8.0 / entries.max(1) as f64,
    }
}
