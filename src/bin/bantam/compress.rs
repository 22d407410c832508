//! `bantam compress`: a pipeline from options or from a recipe, from file to file.

use crate::args::{Compress, LayoutArg};
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::output::{self, Table};
use bantam::{DType, Float, Form, Model, Outline, Pipeline, Progress, Recipe, Report};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::NamedTempFile;

pub fn compress(args: &Compress) -> Result<(), Failure> {
    let interrupt = Interrupt::listen();
    check_paths(args)?;
    let recipe = args.recipe.as_deref().map(read_recipe).transpose()?;
    let model = Model::open(&args.input)?;
    // Rounding to f32 is for those who ask for it.
    let wide = model.entries().any(|(info, weight)| {
        info.kind.is_compressible() && weight.leaves().iter().any(|leaf| leaf.float_dtype() == DType::F64)
    });
    if wide {
        run(args, recipe, &Model::<f64>::open_as(&args.input)?, &interrupt)
    } else {
        run(args, recipe, &model, &interrupt)
    }
}

fn run<T: Float>(
    args: &Compress,
    recipe: Option<Recipe>,
    model: &Model<T>,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let mut pipeline = recipe.map_or_else(|| from_options(args), Pipeline::from);
    if args.strict {
        pipeline = pipeline.strict();
    }
    if args.dry_run {
        return output::print(&plan(model, &pipeline.plan(model)?));
    }
    let report_file = args.report.as_deref().map(ReportFile::create).transpose()?;
    pipeline = pipeline.cancel_when(Arc::clone(&interrupt.flag));
    let bar = (!args.quiet && std::io::stderr().is_terminal()).then(progress_bar);
    if let Some(bar) = bar.clone() {
        pipeline = pipeline.on_progress(move |progress| show(&bar, progress));
    }
    let report = write(args, &pipeline, model).map_err(|e| interrupt.explain(e));
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let report = report?;
    if let Some(file) = report_file {
        file.write(&report)?;
    }
    if args.quiet { Ok(()) } else { output::print(&format!("{report}\n")) }
}

fn write<T: Float>(args: &Compress, pipeline: &Pipeline<'_, T>, model: &Model<T>) -> bantam::Result<Report> {
    match args.layout {
        LayoutArg::Open => pipeline.run_to(model, &args.output),
        LayoutArg::Archive => {
            let small = pipeline.run(model)?;
            small.model.save_with(&args.output, args.layout.into())?;
            Ok(small.report)
        }
    }
}

/// A report that appears whole or not at all. It is opened before the work, so that a place that cannot be
/// written to costs nothing.
enum ReportFile<'a> {
    Regular(&'a Path, NamedTempFile),
    /// A pipe or a device, which must not be replaced by a file.
    Stream(&'a Path, File),
}

impl<'a> ReportFile<'a> {
    fn create(path: &'a Path) -> Result<Self, Failure> {
        let io = |e| Failure::io(path, e);
        match std::fs::metadata(path) {
            Ok(there) if there.is_dir() => Err(io(ErrorKind::IsADirectory.into())),
            Ok(there) if !there.is_file() => {
                OpenOptions::new().write(true).open(path).map(|file| Self::Stream(path, file)).map_err(io)
            }
            _ => {
                let mut builder = tempfile::Builder::new();
                builder.prefix(".bantam-").suffix(".tmp");
                #[cfg(unix)]
                builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
                builder.tempfile_in(folder(path)).map(|file| Self::Regular(path, file)).map_err(io)
            }
        }
    }

    fn write(self, report: &Report) -> Result<(), Failure> {
        let text = report.to_json() + "\n";
        match self {
            Self::Regular(path, mut file) => {
                let io = |e| Failure::io(path, e);
                file.write_all(text.as_bytes()).map_err(io)?;
                // The file keeps the mode that the one before had; not to be able to is no reason to lose it.
                if let Ok(there) = std::fs::metadata(path) {
                    let _ = file.as_file().set_permissions(there.permissions());
                }
                file.persist(path).map(drop).map_err(|e| io(e.error))
            }
            Self::Stream(path, mut file) => file.write_all(text.as_bytes()).map_err(|e| Failure::io(path, e)),
        }
    }
}

/// Where the file of that path lies.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn from_options<T: Float>(args: &Compress) -> Pipeline<'static, T> {
    let mut pipeline = Pipeline::default();
    if let Some(step) = args.factorizer() {
        pipeline = pipeline.factorize(step);
    }
    if let Some(step) = args.pruner() {
        pipeline = pipeline.prune(step);
    }
    if let Some(step) = args.quantizer() {
        pipeline = pipeline.quantize(step);
    }
    pipeline
}

fn read_recipe(path: &Path) -> Result<Recipe, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| Failure::io(path, e))?;
    let is_json = path.extension().is_some_and(|e| e == "json");
    let recipe = if is_json { Recipe::from_json(&text) } else { Recipe::from_toml(&text) };
    let recipe = recipe.map_err(|e| Failure::about(path, e))?;
    if recipe.steps.is_empty() {
        return Err(Failure::Refused(format!("{}: the recipe has no steps", path.display())));
    }
    Ok(recipe)
}

/// No file that is written may be another that is read or written, but for the model in place.
fn check_paths(args: &Compress) -> Result<(), Failure> {
    let recipe = args.recipe.as_deref().map(|path| (path, "the recipe"));
    let clash = |what: &str, path: &Path, others: &[Option<(&Path, &str)>]| {
        let other = others.iter().flatten().find(|(other, _)| is_same(path, other));
        other.map_or(Ok(()), |(_, name)| {
            Err(Failure::Refused(format!("{}: {what} would replace {name}", path.display())))
        })
    };
    clash("the output", &args.output, &[recipe])?;
    if let Some(report) = &args.report {
        let input = Some((args.input.as_path(), "the input"));
        let output = Some((args.output.as_path(), "the output"));
        clash("the report", report, &[input, output, recipe])?;
    }
    Ok(())
}

/// Whether two paths lead to one file, which need not exist.
fn is_same(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    if let (Ok(a), Ok(b)) = (std::fs::metadata(a), std::fs::metadata(b)) {
        use std::os::unix::fs::MetadataExt;
        return (a.dev(), a.ino()) == (b.dev(), b.ino());
    }
    let place = |path: &Path| -> Option<PathBuf> {
        path.canonicalize().ok().or_else(|| Some(folder(path).canonicalize().ok()?.join(path.file_name()?)))
    };
    a == b || matches!((place(a), place(b)), (Some(a), Some(b)) if a == b)
}

/// What would become of each weight.
fn plan<T: Float>(model: &Model<T>, planned: &Outline) -> String {
    let now = Outline::of(model);
    let mut table =
        Table::new(&["weight", "kind", "shape", "now", "planned", "matrices"], &[0, 1, 2, 3, 4, 5]);
    let mut changed = 0;
    for (now, then) in now.weights().iter().zip(planned.weights()) {
        let same = now == then;
        changed += usize::from(!same);
        let form = |form: Form| form.to_string();
        let matrices: Vec<String> = then
            .matrices
            .iter()
            .map(|m| m.map_or("by values".to_owned(), |[rows, cols]| format!("{rows} x {cols}")))
            .collect();
        let shape = output::shape(&then.info.shape);
        table.row(vec![
            then.info.name.to_string(),
            then.info.kind.to_string(),
            if then.may_shrink { format!("at most {shape}") } else { shape },
            form(now.form),
            if same { "unchanged".to_owned() } else { form(then.form) },
            if same { String::new() } else { matrices.join(", ") },
        ]);
    }
    format!("{table}{changed} of {} weights would be compressed; nothing was written\n", now.weights().len())
}

fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::no_length();
    match ProgressStyle::with_template("{msg:24} {bar:30} {pos}/{len} {elapsed}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn show(bar: &ProgressBar, progress: &Progress<'_>) {
    bar.set_length(progress.of as u64);
    bar.set_position(progress.done as u64);
    bar.set_message(format!("step {} of {}: {}", progress.index + 1, progress.steps, progress.step));
}
