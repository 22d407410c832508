//! The figure of the comparison with peers: how many times the limit each work takes, ours and theirs, from the
//! results that `compare.py` keeps.
//!
//! ```console
//! $ cargo run --release --example figure --features plot -- RESULTS.json FIGURE.svg
//! ```

use bantam::BoxError;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

const WIDTH: u32 = 1200;
/// Pixels of a row, and around all of them.
const ROW: u32 = 20;
const TOP: u32 = 70;
const BOTTOM: u32 = 50;
const RIGHT: u32 = 24;
/// Of the names of the rows.
const NAMES: u32 = 400;
/// In the units of plotters, of which one is 0.8 pixels.
const TEXT: i32 = 17;
/// Ends of the axis have so much room beside the first and the last mark.
const ROOM: f64 = 1.3;
const GUIDE: RGBColor = RGBColor(228, 228, 228);

#[derive(Deserialize)]
struct Results {
    date: String,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    row: String,
    /// What was measured, by whom; nothing where a process ended.
    #[serde(default)]
    found: BTreeMap<String, Vec<Round>>,
}

#[derive(Deserialize)]
struct Round {
    /// None where a peer failed.
    ms: Option<f64>,
}

/// Whose time a mark is: ours, or that of a library.
#[derive(Clone, Copy, PartialEq)]
enum Who {
    Gguf,
    Crate,
    Numpy,
    Scipy,
    Torch,
    Ort,
    Kernel,
    Step,
}

/// In the order in which they are drawn: ours above the others.
const ALL: [(Who, &str); 8] = [
    (Who::Gguf, "gguf"),
    (Who::Crate, "Rust crates"),
    (Who::Numpy, "NumPy"),
    (Who::Scipy, "SciPy, scikit-learn"),
    (Who::Torch, "PyTorch"),
    (Who::Ort, "ONNX Runtime"),
    (Who::Kernel, "bantam, kernel"),
    (Who::Step, "bantam"),
];

impl Who {
    /// From the name of a peer, which begins with its library.
    fn of(name: &str) -> Option<Self> {
        Some(match name.split(' ').next()? {
            "gguf" => Self::Gguf,
            "candle" | "faer" | "gemm" | "rten-gemm" | "tract-linalg" => Self::Crate,
            "numpy" => Self::Numpy,
            "scipy" | "sklearn" => Self::Scipy,
            "torch" => Self::Torch,
            "ort" => Self::Ort,
            "kernel" => Self::Kernel,
            "ours" => Self::Step,
            _ => return None,
        })
    }

    /// Colours that differ for colour-blind eyes too (Okabe and Ito), and a shape of its own for each.
    fn mark<'a, B: DrawingBackend + 'a>(self, at: (i32, i32)) -> DynElement<'a, B, (i32, i32)> {
        let (x, y) = at;
        let around =
            |points: &[(i32, i32)]| points.iter().map(|(dx, dy)| (x + dx, y + dy)).collect::<Vec<_>>();
        match self {
            Self::Gguf => {
                let corners = around(&[(0, -6), (6, 0), (0, 6), (-6, 0)]);
                Polygon::new(corners, RGBColor(213, 94, 0).filled()).into_dyn()
            }
            Self::Crate => {
                let corners = around(&[(-5, 4), (5, 4), (0, -5)]);
                Polygon::new(corners, RGBColor(86, 180, 233).filled()).into_dyn()
            }
            Self::Numpy => Cross::new(at, 4, RGBColor(0, 158, 115).stroke_width(2)).into_dyn(),
            Self::Scipy => {
                let corners = around(&[(-5, -4), (5, -4), (0, 5)]);
                Polygon::new(corners, RGBColor(204, 121, 167).filled()).into_dyn()
            }
            Self::Torch => TriangleMarker::new(at, 6, RGBColor(230, 159, 0).filled()).into_dyn(),
            Self::Ort => {
                Rectangle::new([(x - 4, y - 4), (x + 4, y + 4)], RGBColor(0, 114, 178).filled()).into_dyn()
            }
            Self::Kernel => Circle::new(at, 6, BLACK.stroke_width(2)).into_dyn(),
            Self::Step => Circle::new(at, 4, BLACK.filled()).into_dyn(),
        }
    }
}

type Root<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A row's name, and its marks in multiples of the limit.
type Marks = (String, Vec<(Who, f64)>);

fn median(rounds: &[Round]) -> Option<f64> {
    let mut times: Vec<f64> = rounds.iter().filter_map(|round| round.ms).collect();
    times.sort_unstable_by(f64::total_cmp);
    times.get(times.len() / 2).copied()
}

fn marks(row: Row) -> Option<Marks> {
    let limit = median(row.found.get("limit")?)?;
    let mark = |(name, rounds): (&String, &Vec<Round>)| Some((Who::of(name)?, median(rounds)? / limit));
    let mut marks: Vec<_> = row.found.iter().filter_map(mark).collect();
    marks.sort_by_key(|(who, _)| ALL.iter().position(|(one, _)| one == who));
    Some((row.row, marks))
}

fn style(h: HPos, v: VPos) -> TextStyle<'static> {
    ("sans-serif", TEXT).into_font().color(&BLACK).pos(Pos::new(h, v))
}

fn legend(root: &Root<'_>, rows: &[Marks]) -> Result<(), BoxError> {
    let (mut x, y) = (NAMES as i32 / 2, TOP as i32 - 26);
    let seen = |who| rows.iter().any(|(_, marks)| marks.iter().any(|(one, _)| *one == who));
    for (who, name) in ALL.into_iter().rev().filter(|(who, _)| seen(*who)) {
        root.draw(&who.mark((x, y)))?;
        root.draw(&Text::new(name, (x + 12, y), style(HPos::Left, VPos::Center)))?;
        // Text has no width here: the reader's fonts decide.
        x += 32 + 8 * name.len() as i32;
    }
    Ok(())
}

/// The first and the last value of the axis. The limit is always on it.
fn ends(rows: &[Marks]) -> (f64, f64) {
    let times = rows.iter().flat_map(|(_, marks)| marks.iter().map(|(_, time)| *time));
    let (low, high) = times.fold((1.0, 1.0), |(low, high), x| (f64::min(low, x), f64::max(high, x)));
    (low / ROOM, high * ROOM)
}

/// Powers of ten, and where few of them fit, their double and their fivefold.
fn ticks(low: f64, high: f64) -> impl Iterator<Item = f64> {
    let steps: &[f64] = if high / low < 1e4 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let all = (first..=last).flat_map(move |power| {
        // Negative powers of ten as quotients, which print in full.
        let ten = 10_f64.powi(power.abs());
        steps.iter().map(move |step| if power < 0 { step / ten } else { step * ten })
    });
    all.filter(move |x| (low..high).contains(x))
}

fn draw(date: &str, rows: &[Marks], path: &Path) -> Result<(), BoxError> {
    let height = TOP + ROW * rows.len() as u32 + BOTTOM;
    let root = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let title = format!("Time in multiples of the machine's limit, {date}: less is better");
    let large = ("sans-serif", TEXT + 4).into_font().color(&BLACK).pos(Pos::new(HPos::Left, VPos::Center));
    root.draw(&Text::new(title, (NAMES as i32 - 6, 24), large))?;
    legend(&root, rows)?;

    let (low, high) = ends(rows);
    let bottom = rows.len() as f64;
    let chart = ChartBuilder::on(&root)
        .margin_top(TOP)
        .margin_right(RIGHT)
        .margin_bottom(BOTTOM)
        .margin_left(NAMES)
        .build_cartesian_2d((low..high).log_scale(), bottom..0.0)?;
    let at = |x, y| chart.plotting_area().map_coordinate(&(x, y));
    for x in ticks(low, high) {
        let (top, bottom) = (at(x, 0.0), at(x, bottom));
        root.draw(&PathElement::new([top, bottom], GUIDE))?;
        let below = (bottom.0, bottom.1 + 14);
        root.draw(&Text::new(x.to_string(), below, style(HPos::Center, VPos::Center)))?;
    }
    for i in 0..rows.len() {
        let y = i as f64 + 0.5;
        root.draw(&PathElement::new([at(low, y), at(high, y)], GUIDE))?;
    }
    let (top, end) = (at(1.0, 0.0), at(1.0, bottom));
    root.draw(&PathElement::new([top, end], RED.stroke_width(2)))?;
    let below = (end.0, end.1 + 34);
    root.draw(&Text::new("limit", below, style(HPos::Center, VPos::Center).color(&RED)))?;
    for (i, (name, marks)) in rows.iter().enumerate() {
        let y = i as f64 + 0.5;
        let left = at(low, y);
        root.draw(&Text::new(name.as_str(), (left.0 - 10, left.1), style(HPos::Right, VPos::Center)))?;
        for (who, time) in marks {
            root.draw(&who.mark(at(*time, y)))?;
        }
    }
    root.present()?;
    Ok(())
}

fn main() -> Result<(), BoxError> {
    let mut paths = std::env::args_os().skip(1);
    let (Some(from), Some(to), None) = (paths.next(), paths.next(), paths.next()) else {
        return Err("usage: figure RESULTS.json FIGURE.svg".into());
    };
    let results: Results = serde_json::from_str(&std::fs::read_to_string(from)?)?;
    let rows: Vec<Marks> = results.rows.into_iter().filter_map(marks).collect();
    draw(&results.date, &rows, Path::new(&to))
}
