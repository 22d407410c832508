//! The `bantam` command as scripts and people use it.
#![cfg(feature = "cli")]

use bantam::{Model, Pipeline, Tensor};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A folder with a model, and the command run in it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        model(0.0).save(place.path("m.safetensors")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bantam"));
        command.current_dir(self.0.path()).args(line.split_whitespace());
        command
    }

    /// Runs `bantam` with these words.
    fn run(&self, line: &str) -> Run {
        Run::of(self.command(line).output().unwrap())
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    fn has(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    fn open(&self, name: &str) -> Model {
        Model::open(self.path(name)).unwrap()
    }

    /// Runs, and expects success with nothing on standard error.
    fn ok(&self, line: &str) -> String {
        let run = self.run(line);
        assert_eq!((run.code, run.err.as_str()), (0, ""), "{line}");
        run.out
    }

    /// Runs, and expects this code with one line on standard error that has these words; nothing is left
    /// behind and the files that are there stay as they were.
    fn fails(&self, line: &str, code: i32, words: &[&str]) {
        let before = self.files();
        let run = self.run(line);
        assert_eq!(run.code, code, "{line}: {}", run.err);
        if code == 2 {
            assert!(run.err.starts_with("error:"), "{line}: {}", run.err);
        } else {
            assert!(run.err.starts_with("bantam: ") && run.err.lines().count() == 1, "{line}: {}", run.err);
        }
        for word in words {
            assert!(run.err.contains(word), "{line}: {word} in {}", run.err);
        }
        assert!(self.files() == before, "{line}");
    }

    fn files(&self) -> Vec<(PathBuf, Option<Vec<u8>>)> {
        let entries = std::fs::read_dir(self.0.path()).unwrap().map(|e| e.unwrap().path());
        let mut files: Vec<_> = entries.map(|path| (path.clone(), std::fs::read(&path).ok())).collect();
        files.sort();
        files
    }
}

struct Run {
    code: i32,
    out: String,
    err: String,
}

impl Run {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        // No code means a signal: a panic would be 101.
        Self { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }
}

fn tensor(shape: &[usize], shift: f32) -> Tensor<f32> {
    let n = shape.iter().product::<usize>();
    Tensor::new(shape, (0..n).map(|i| (i as f32 * 0.7 + shift).sin()).collect()).unwrap()
}

fn model(shift: f32) -> Model {
    let tensors = [
        ("fc1.weight", tensor(&[48, 64], shift)),
        ("fc1.bias", tensor(&[48], shift)),
        ("fc2.weight", tensor(&[32, 48], shift)),
    ];
    Model::from_tensors(tensors).unwrap()
}

/// A file whose header is `header`, followed by `data`.
fn container(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

#[test]
fn inspect_lists_tensors_and_totals() {
    let place = Place::new();
    place.ok("compress m.safetensors -o small.safetensors --rank 4 --quantize 8 --only fc1.weight");
    let out = place.ok("inspect small.safetensors");
    let row = |name: &str| out.lines().find(|l| l.starts_with(name)).unwrap().to_owned();
    assert!(row("fc1.weight").contains("factored+quantized") && row("fc1.weight").contains("8 bit"), "{out}");
    assert!(row("fc2.weight").contains("[32, 48]") && row("fc2.weight").contains("F32"), "{out}");
    assert!(row("fc1.bias").contains("bias"), "{out}");
    assert!(out.contains("3 tensors") && out.contains("open layout") && out.contains("no graph"), "{out}");
}

#[test]
fn inspect_prints_json() {
    let place = Place::new();
    let header = r#"{"__metadata__":{"by":"me"},"ids":{"dtype":"I64","shape":[2],"data_offsets":[0,16]},
        "w":{"dtype":"F16","shape":[2,2],"data_offsets":[16,24]}}"#;
    place.write("odd.safetensors", container(header, &[0; 24]));
    let json: Value = serde_json::from_str(&place.ok("inspect odd.safetensors --json")).unwrap();
    assert_eq!(json["layout"], "open");
    assert_eq!(json["graph"], false);
    assert_eq!(json["metadata"]["by"], "me");
    assert_eq!(json["file_bytes"], place.read("odd.safetensors").len());
    assert_eq!(json["tensors"][0]["name"], "ids");
    assert_eq!(json["tensors"][0]["kind"], Value::Null);
    assert_eq!(json["tensors"][0]["dtype"], "I64");
    assert_eq!(json["tensors"][1]["form"], "dense");
    assert_eq!(json["tensors"][1]["dtype"], "F16");
    assert_eq!(json["tensors"][1]["stored_bytes"], 8);
    assert_eq!(json["totals"]["weights"], 1);
    place.ok("compress m.safetensors -o a.safetensors --quantize 4 --layout archive");
    let json: Value = serde_json::from_str(&place.ok("inspect a.safetensors --json")).unwrap();
    assert_eq!(json["layout"], "archive");
}

#[test]
fn inspect_reads_no_values() {
    let place = Place::new();
    // 64 GB, of which the disk has nothing.
    let header = r#"{"w":{"dtype":"F32","shape":[131072,131072],"data_offsets":[0,68719476736]}}"#;
    place.write("large.safetensors", container(header, &[]));
    let file = std::fs::OpenOptions::new().write(true).open(place.path("large.safetensors")).unwrap();
    if file.set_len(8 + header.len() as u64 + 68_719_476_736).is_ok() {
        assert!(place.ok("inspect large.safetensors").contains("68.72 GB"));
    }
}

#[test]
fn names_cannot_speak_to_the_terminal() {
    let place = Place::new();
    let header = r#"{"a\n\u001b[31mb":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    place.write("evil.safetensors", container(header, &[0; 4]));
    let out = place.ok("inspect evil.safetensors");
    assert!(!out.contains('\x1b') && out.lines().count() == 4, "{out}");
}

#[test]
fn every_option_does_what_the_library_does() {
    use bantam::{AffineQuantizer as Q, LowRankFactorizer as L, MagnitudePruner as P, Range};
    let place = Place::new();
    let cases: Vec<(&str, Pipeline<'_>)> = vec![
        ("--prune 0.1", Pipeline::new().prune(0.1)),
        ("--sparsity 0.75", Pipeline::new().prune(P::sparsity(0.75))),
        ("--sparsity 0.75 --global", Pipeline::new().prune(P::sparsity(0.75).global())),
        ("--pattern 2:4", Pipeline::new().prune(P::n_of_m(2, 4))),
        ("--rank 3", Pipeline::new().factorize(3)),
        ("--energy 0.9", Pipeline::new().factorize(L::energy(0.9))),
        ("--quantize 8", Pipeline::new().quantize(8)),
        ("--quantize 8 --per-channel", Pipeline::new().quantize(Q::bits(8).per_channel())),
        ("--quantize 4 --group 16", Pipeline::new().quantize(Q::bits(4).group(16))),
        ("--quantize 4 --asymmetric", Pipeline::new().quantize(Q::bits(4).asymmetric())),
        ("--quantize 4 --range min-max", Pipeline::new().quantize(4)),
        (
            "--quantize 4 --range least-squares",
            Pipeline::new().quantize(Q::bits(4).range(Range::LeastSquares)),
        ),
        (
            "--quantize 4 --range percentile:99.5",
            Pipeline::new().quantize(Q::bits(4).range(Range::Percentile(99.5))),
        ),
        (
            "--quantize 8 --only fc1.w* --only *.bias",
            Pipeline::new().quantize(Q::bits(8).only("fc1.w*").only("*.bias")),
        ),
        ("--prune 0.1 --except fc1*", Pipeline::new().prune(P::threshold(0.1).except("fc1*"))),
        ("--quantize 8 --prune 0.1 --rank 3", Pipeline::new().factorize(3).prune(0.1).quantize(8)),
    ];
    for (options, pipeline) in cases {
        for layout in [bantam::Layout::Open, bantam::Layout::Archive] {
            let name = if layout == bantam::Layout::Open { "open" } else { "archive" };
            place.ok(&format!("compress m.safetensors -o out.safetensors {options} --layout {name} --quiet"));
            let wanted =
                pipeline.run(place.open("m.safetensors")).unwrap().model.to_bytes_with(layout).unwrap();
            assert!(place.read("out.safetensors") == wanted, "{options} {name}");
        }
    }
}

#[test]
fn recipes_in_both_languages() {
    let place = Place::new();
    place.write(
        "r.toml",
        "[[steps]]\nprune = { sparsity = 0.5 }\n[[steps]]\nquantize = { bits = 4, per_channel = true }\n",
    );
    place.write(
        "r.json",
        r#"{"steps":[{"prune":{"sparsity":0.5}},{"quantize":{"bits":4,"per_channel":true}}]}"#,
    );
    place.ok("compress m.safetensors -o a --recipe r.toml");
    place.ok("compress m.safetensors -o b --recipe r.json");
    place.ok("compress m.safetensors -o c --sparsity 0.5 --quantize 4 --per-channel");
    assert!(place.read("a") == place.read("b") && place.read("a") == place.read("c"));
}

#[test]
fn mistakes_in_recipes_are_named() {
    let place = Place::new();
    let fails = |name: &str, text: &str, code: i32, words: &[&str]| {
        place.write(name, text);
        place.fails(&format!("compress m.safetensors -o out --recipe {name}"), code, words);
    };
    fails("a.toml", "[[steps]]\nquantize = { bits = 4, gruop = 32 }\n", 3, &["a.toml", "gruop", "line 2"]);
    fails("b.json", r#"{"steps":[{"qantize":{"bits":4}}]}"#, 3, &["b.json", "qantize", "line 1"]);
    fails("c.toml", "", 3, &["c.toml", "steps"]);
    fails("d.toml", "steps = []", 4, &["d.toml", "no steps"]);
    fails("e.toml", "[[steps]]\nquantize = { bits = 9 }\n", 4, &["bits = 9", "1..=8"]);
    fails("f.json", r#"{"steps":[{"prune":{"sparsity":1,"threshold":1}}]}"#, 3, &["exactly one"]);
    fails("g.json", "{", 3, &["g.json"]);
    place.write("h.toml", [0xff, 0xfe]);
    place.fails("compress m.safetensors -o out --recipe h.toml", 5, &["h.toml"]);
    place.fails("compress m.safetensors -o out --recipe no.toml", 5, &["no.toml"]);
    place.fails("compress m.safetensors -o out --recipe r.yaml", 2, &[".toml or .json"]);
    place.fails("compress m.safetensors -o out --recipe a.toml --prune 1", 2, &["--recipe", "--prune"]);
    place.fails("compress m.safetensors -o out --recipe a.toml --only x", 2, &["--only"]);
}

#[test]
fn wrong_command_lines() {
    let place = Place::new();
    for (line, words) in [
        ("compress m.safetensors -o out", &["--prune", "--recipe"][..]),
        ("compress m.safetensors --prune 1", &["--output"]),
        ("compress -o out --prune 1", &["<IN>"]),
        ("compress m.safetensors -o out --prune x", &["--prune"]),
        ("compress m.safetensors -o out --prune 1 --sparsity 0.5", &["--sparsity"]),
        ("compress m.safetensors -o out --prune 1 --pattern 2:4", &["--pattern"]),
        ("compress m.safetensors -o out --sparsity 1 --pattern 2:4", &["--pattern"]),
        ("compress m.safetensors -o out --prune 1 --global", &["--global"]),
        ("compress m.safetensors -o out --pattern 2-4", &["2:4"]),
        ("compress m.safetensors -o out --rank 1 --energy 0.5", &["--energy"]),
        ("compress m.safetensors -o out --rank -1", &["-1"]),
        ("compress m.safetensors -o out --quantize 300", &["300"]),
        ("compress m.safetensors -o out --prune 1 --per-channel", &["--quantize"]),
        ("compress m.safetensors -o out --prune 1 --group 8", &["--quantize"]),
        ("compress m.safetensors -o out --prune 1 --asymmetric", &["--quantize"]),
        ("compress m.safetensors -o out --prune 1 --range min-max", &["--quantize"]),
        ("compress m.safetensors -o out --quantize 8 --per-channel --group 8", &["--group"]),
        ("compress m.safetensors -o out --quantize 8 --range wide", &["least-squares"]),
        ("compress m.safetensors -o out --prune 1 --layout zip", &["archive"]),
        ("compress m.safetensors -o out --prune 1 --dry-run --report r.json", &["--report"]),
        ("diff m.safetensors", &["<B>"]),
        ("diff m.safetensors m.safetensors --fail-above nan", &["at least 0"]),
        ("diff m.safetensors m.safetensors --fail-above -1", &["at least 0"]),
        ("inspect", &["<FILE>"]),
        ("frobnicate", &["frobnicate"]),
    ] {
        place.fails(line, 2, words);
    }
    for line in ["--help", "inspect --help", "compress --help", "diff --help"] {
        assert!(place.ok(line).contains("Exit codes"), "{line}");
    }
    assert!(place.ok("--version").starts_with("bantam "));
}

#[test]
fn settings_and_plans_are_refused_by_name() {
    let place = Place::new();
    place.ok("compress m.safetensors -o pruned --prune 0.1");
    for (line, words) in [
        ("compress m.safetensors -o out --quantize 9", &["quantize", "bits = 9"][..]),
        ("compress m.safetensors -o out --quantize 0", &["bits = 0"]),
        ("compress m.safetensors -o out --prune -1", &["threshold = -1"]),
        ("compress m.safetensors -o out --prune nan", &["threshold = NaN"]),
        ("compress m.safetensors -o out --sparsity 1.5", &["sparsity = 1.5"]),
        ("compress m.safetensors -o out --energy 0", &["energy = 0"]),
        ("compress m.safetensors -o out --rank 0", &["rank = 0"]),
        ("compress m.safetensors -o out --pattern 4:2", &["4:2"]),
        ("compress m.safetensors -o out --quantize 4 --group 0", &["group = 0"]),
        ("compress m.safetensors -o out --quantize 4 --group 7", &["fc1.weight", "group of 7", "64"]),
        ("compress m.safetensors -o out --quantize 4 --range percentile:101", &["percentile = 101"]),
        ("compress m.safetensors -o out --quantize 4 --only layer*", &["layer*", "selects no weight"]),
        ("compress m.safetensors -o out --rank 40 --strict", &["fc1.weight", "rank 40"]),
        (
            "compress m.safetensors -o out --quantize 8 --only fc1.bias --only fc?.weight --rank 1 --strict",
            &["fc1.bias"],
        ),
        ("compress pruned -o out --rank 2", &["already pruned"]),
        ("compress m.safetensors -o out --dry-run --quantize 9", &["bits = 9"]),
        ("compress m.safetensors -o m.safetensors --quantize 9", &["bits = 9"]),
        // The rank of a factor follows from the values, and does not fit the group.
        ("compress m.safetensors -o out --energy 0.5 --quantize 4 --group 32", &["a group of 32"]),
    ] {
        place.fails(line, 4, words);
    }
}

#[test]
fn a_dry_run_writes_nothing() {
    let place = Place::new();
    let before = place.files();
    let out = place.ok("compress m.safetensors -o out --rank 4 --quantize 8 --only fc1.weight --dry-run");
    assert!(out.contains("factored+quantized") && out.contains("48 x 4, 4 x 64"), "{out}");
    assert!(out.contains("unchanged") && out.contains("1 of 3 weights"), "{out}");
    assert!(place.files() == before);
}

#[test]
fn the_report_goes_to_the_terminal_and_to_a_file() {
    let place = Place::new();
    let out = place.ok("compress m.safetensors -o out --sparsity 0.5 --quantize 8 --report r.json");
    assert!(out.contains("fc2.weight") && out.contains("times smaller"), "{out}");
    let report: Value = serde_json::from_slice(&place.read("r.json")).unwrap();
    assert_eq!(report["weights"][0]["name"], "fc1.weight");
    assert_eq!(report["weights"][0]["sparsity"], 0.5);
    assert_eq!(report["steps"].as_array().unwrap().len(), 2);
    assert_eq!(place.ok("compress m.safetensors -o out --prune 1 --quiet --report r.json"), "");
    assert_eq!(serde_json::from_slice::<Value>(&place.read("r.json")).unwrap()["steps"][0]["name"], "prune");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = || std::fs::metadata(place.path("r.json")).unwrap().permissions();
        std::fs::set_permissions(place.path("r.json"), PermissionsExt::from_mode(0o600)).unwrap();
        place.ok("compress m.safetensors -o out --quantize 8 --report r.json");
        assert_eq!(mode().mode() & 0o777, 0o600);
        let pipe = place.run("compress m.safetensors -o out --prune 1 --quiet --report /dev/stdout");
        assert_eq!(serde_json::from_str::<Value>(&pipe.out).unwrap()["steps"][0]["name"], "prune");
    }
}

#[test]
fn a_report_replaces_no_model() {
    let place = Place::new();
    place.write("r.toml", "[[steps]]\nprune = { threshold = 0.1 }\n");
    place.write("out", "old");
    place.fails("compress m.safetensors -o out --prune 1 --report m.safetensors", 4, &["the input"]);
    place.fails("compress m.safetensors -o out --prune 1 --report ./out", 4, &["the output"]);
    place.fails("compress m.safetensors -o new --prune 1 --report ./new", 4, &["the output"]);
    place.fails("compress m.safetensors -o out --recipe r.toml --report r.toml", 4, &["the recipe"]);
    place.fails("compress m.safetensors -o r.toml --recipe r.toml", 4, &["the recipe"]);
    place.fails("compress m.safetensors -o out --prune 1 --report no/r.json", 5, &["no"]);
    place.fails("compress m.safetensors -o out --prune 1 --report .", 5, &["is a directory"]);
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("m.safetensors", place.path("link")).unwrap();
        place.fails("compress m.safetensors -o out --prune 1 --report link", 4, &["the input"]);
        std::fs::hard_link(place.path("m.safetensors"), place.path("hard")).unwrap();
        place.fails("compress m.safetensors -o out --prune 1 --report hard", 4, &["the input"]);
    }
}

/// The command waits for its recipe in a pipe until the signal has come, so that it comes before the end.
#[test]
#[cfg(unix)]
fn a_signal_ends_the_work_and_leaves_nothing() {
    use std::io::Write;
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        for layout in ["open", "archive"] {
            let place = Place::new();
            place.write("out", "old");
            assert!(Command::new("mkfifo").arg(place.path("r.toml")).status().unwrap().success());
            let line =
                format!("compress m.safetensors -o out --recipe r.toml --report r.json --layout {layout}");
            let child = place.command(&line).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let mut pipe = std::fs::OpenOptions::new().write(true).open(place.path("r.toml")).unwrap();
            let kill = Command::new("kill").args([signal, &child.id().to_string()]).status();
            assert!(kill.unwrap().success());
            pipe.write_all(b"[[steps]]\nprune = { threshold = 0.1 }\n").unwrap();
            drop(pipe);
            let run = Run::of(child.wait_with_output().unwrap());
            assert_eq!((run.code, run.out.as_str()), (code, ""), "{}", run.err);
            assert!(run.err.contains("interrupted"), "{}", run.err);
            assert_eq!(place.read("out"), b"old");
            assert_eq!(std::fs::read_dir(place.path(".")).unwrap().count(), 3);
        }
    }
}

#[test]
fn a_model_is_compressed_in_place() {
    for layout in ["open", "archive"] {
        let place = Place::new();
        place.ok(&format!("compress m.safetensors -o other --quantize 8 --layout {layout}"));
        place.ok(&format!("compress m.safetensors -o m.safetensors --quantize 8 --layout {layout}"));
        assert!(place.read("other") == place.read("m.safetensors"));
        // Twice is refused, and the file survives.
        place.fails("compress m.safetensors -o m.safetensors --quantize 8", 4, &["already quantized"]);
    }
}

#[test]
fn bad_files_are_named() {
    let place = Place::new();
    let good = place.read("m.safetensors");
    let bad: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("short", vec![1, 2, 3]),
        ("text", b"this is not a model, is it?".to_vec()),
        ("noise", (0..5000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()),
        ("cut", good[..good.len() - 1].to_vec()),
        ("head", good[..40].to_vec()),
        ("long", [&good[..], &[0]].concat()),
        ("header", [&u64::MAX.to_le_bytes()[..], b"{}"].concat()),
        ("json", container("[1, 2", &[])),
        (
            "shape",
            container(
                &format!(r#"{{"w":{{"dtype":"F32","shape":[{0},{0}],"data_offsets":[0,4]}}}}"#, u64::MAX),
                &[0; 4],
            ),
        ),
        (
            "claim",
            container(r#"{"w":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4]}}"#, &[0; 4]),
        ),
        ("type", container(r#"{"w":{"dtype":"Q7","shape":[1],"data_offsets":[0,4]}}"#, &[0; 4])),
        ("newer", container(r#"{"__metadata__":{"bantam":"{\"version\":99}"}}"#, &[])),
        (
            "lie",
            container(
                r#"{"__metadata__":{"bantam":"{\"version\":1,\"entries\":[{\"name\":\"gone\"}]}"}}"#,
                &[],
            ),
        ),
        (
            "archive",
            container(
                r#"{"__metadata__":{"bantam":"archive"},"archive":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}}"#,
                &[255; 9],
            ),
        ),
    ];
    for (name, bytes) in bad {
        place.write(name, bytes);
        place.fails(&format!("inspect {name}"), 3, &[name]);
        place.fails(&format!("compress {name} -o out --prune 1"), 3, &[name]);
        place.fails(&format!("compress {name} -o {name} --prune 1"), 3, &[name]);
        place.fails(&format!("diff m.safetensors {name}"), 3, &[name]);
        place.fails(&format!("diff {name} m.safetensors"), 3, &[name]);
    }
    for (name, why) in [("missing", "No such file"), (".", "is a directory")] {
        place.fails(&format!("inspect {name}"), 5, &[name, why]);
        place.fails(&format!("compress {name} -o out --prune 1"), 5, &[name, why]);
        place.fails(&format!("diff {name} m.safetensors"), 5, &[name, why]);
    }
}

#[test]
fn damage_that_shows_late_is_an_error() {
    let place = Place::new();
    place.ok("compress m.safetensors -o small --sparsity 0.5 --only fc1.weight");
    // The mask keeps another number of entries than the header says.
    let mut bytes = place.read("small");
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let at = json["fc1.weight.mask"]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[8 + header + at] ^= 1;
    place.write("small", bytes);
    place.ok("inspect small");
    place.fails("diff m.safetensors small", 3, &["small", "fc1.weight", "mask"]);
    place.fails("compress small -o out --quantize 8", 3, &["fc1.weight", "mask"]);
}

#[test]
fn values_that_are_not_numbers() {
    let place = Place::new();
    let mut values = vec![0.5_f32; 16];
    values[3] = f32::NAN;
    Model::from_tensors([("w", Tensor::new(&[4, 4], values).unwrap())])
        .unwrap()
        .save(place.path("nan"))
        .unwrap();
    for steps in [
        "--prune 1",
        "--sparsity 0.5",
        "--sparsity 0.5 --global",
        "--pattern 2:4",
        "--rank 1",
        "--quantize 8",
    ] {
        place.fails(&format!("compress nan -o out {steps}"), 6, &["`w`", "entry 3", "NaN"]);
        place.fails(&format!("compress nan -o nan {steps} --layout archive"), 6, &["`w`", "entry 3"]);
    }
    place.ok("inspect nan");
    place.ok("diff nan nan --fail-above 0");
}

#[test]
fn places_that_cannot_be_written() {
    let place = Place::new();
    std::fs::create_dir(place.path("folder")).unwrap();
    for layout in ["open", "archive"] {
        let steps = format!("--prune 1 --layout {layout}");
        place.fails(&format!("compress m.safetensors -o folder {steps}"), 5, &["folder", "is a directory"]);
        place.fails(&format!("compress m.safetensors -o no/out {steps}"), 5, &["no/out"]);
        place.fails(
            &format!("compress m.safetensors -o m.safetensors/out {steps}"),
            5,
            &["m.safetensors/out"],
        );
    }
    if Path::new("/dev/full").exists() {
        place.fails("compress m.safetensors -o /dev/full --prune 1", 5, &["/dev/full", "not a regular file"]);
        // The model has been written by then.
        let run = place.run("compress m.safetensors -o out --prune 1 --report /dev/full");
        assert_eq!(run.code, 5);
        assert!(run.err.contains("/dev/full") && place.has("out"), "{}", run.err);
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = place.command("inspect m.safetensors").stdout(full).output().unwrap();
        let run = Run::of(output);
        assert_eq!(run.code, 5);
        assert!(run.err.contains("standard output"), "{}", run.err);
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let folder = place.path("folder");
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o555)).unwrap();
        // The administrator may write anywhere.
        if std::fs::write(folder.join("probe"), "").is_err() {
            place.fails("compress m.safetensors -o folder/out --prune 1", 5, &["folder/out"]);
        }
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let place = Place::new();
    // More output than a pipe holds, for certain.
    let tensors = (0..3000).map(|i| (format!("layer{i}.weight"), tensor(&[2, 2], i as f32)));
    Model::from_tensors(tensors).unwrap().save(place.path("many")).unwrap();
    for line in ["inspect many", "inspect many --json", "diff many many", "compress many -o out --prune 1"] {
        let mut child = place.command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let run = Run::of(child.wait_with_output().unwrap());
        assert_eq!((run.code, run.err.as_str()), (0, ""), "{line}");
    }
}

#[test]
fn nothing_but_errors_on_standard_error_without_a_terminal() {
    let place = Place::new();
    assert_eq!(place.run("compress m.safetensors -o out --quantize 8").err, "");
}

#[test]
fn diff_measures_and_judges() {
    let place = Place::new();
    place.ok("compress m.safetensors -o small --quantize 8");
    let out = place.ok("diff m.safetensors small");
    assert!(out.contains("fc1.weight") && out.contains("1 of 3 weights equal"), "{out}");
    assert_eq!(place.run("diff m.safetensors small --fail-above 0.1").code, 0);
    let run = place.run("diff m.safetensors small --fail-above 1e-6");
    assert_eq!((run.code, run.err.as_str()), (1, ""));
    assert!(run.out.contains("not within"), "{}", run.out);
    assert_eq!(place.run("diff m.safetensors m.safetensors --fail-above 0").code, 0);

    let json: Value = serde_json::from_str(&place.ok("diff m.safetensors small --json")).unwrap();
    assert_eq!(json["within"], Value::Null);
    let fc1 = &json["weights"][0];
    assert!(fc1["relative"].as_f64().unwrap() < 0.01 && fc1["sqnr"].as_f64().unwrap() > 40.0);
    assert_eq!(json["weights"][1]["equal"], true);
    assert_eq!(json["weights"][1]["sqnr"], Value::Null);
    // As the library measures it.
    let (a, b) = (place.open("m.safetensors"), place.open("small"));
    let error = a.weight("fc1.weight").unwrap().error_to(b.weight("fc1.weight").unwrap()).unwrap();
    assert_eq!(fc1["relative"], error.relative);
}

#[test]
fn diff_says_what_cannot_be_compared() {
    let place = Place::new();
    let other = [("fc1.weight", tensor(&[64, 48], 0.0)), ("new", tensor(&[1], 0.0))];
    Model::from_tensors(other).unwrap().save(place.path("other")).unwrap();
    let out = place.ok("diff m.safetensors other");
    for words in ["fc1.weight: [48, 64] in A, [64, 48] in B", "fc2.weight: only in A", "new: only in B"] {
        assert!(out.contains(words), "{words}: {out}");
    }
    assert_eq!(place.run("diff m.safetensors other --fail-above inf").code, 1);

    let ids = |dtype: &str, first: u8| {
        let header = format!(r#"{{"ids":{{"dtype":"{dtype}","shape":[2],"data_offsets":[0,8]}}}}"#);
        container(&header, &[first, 0, 0, 0, 0, 0, 0, 0])
    };
    place.write("i", ids("I32", 1));
    place.write("j", ids("I32", 2));
    place.write("u", ids("U32", 1));
    place.write("f", ids("F32", 1));
    assert_eq!(place.run("diff i i --fail-above 0").code, 0);
    for (other, words) in
        [("j", "other numbers"), ("u", "I32 [2] in A, U32 [2] in B"), ("f", "weight [2] in B")]
    {
        let run = place.run(&format!("diff i {other} --fail-above inf"));
        assert_eq!(run.code, 1);
        assert!(run.out.contains(words), "{}", run.out);
    }
}

#[test]
fn double_precision_is_not_rounded() {
    let place = Place::new();
    let save = |name: &str, shift: f64| {
        let values = (0..64).map(|i| f64::from(i).sin() + shift).collect();
        let weight = Tensor::<f64>::new(&[8, 8], values).unwrap();
        Model::from_tensors([("w", weight)]).unwrap().save(place.path(name)).unwrap();
    };
    save("a", 0.0);
    save("b", 1e-12);
    assert_eq!(place.run("diff a b --fail-above 0").code, 1);
    assert_eq!(place.run("diff a b --fail-above 1e-10").code, 0);
    place.ok("compress a -o pruned --prune 0.5");
    let json: Value = serde_json::from_str(&place.ok("inspect pruned --json")).unwrap();
    assert_eq!(json["tensors"][0]["dtype"], "F64");
}

#[test]
fn a_model_without_tensors() {
    let place = Place::new();
    Model::<f32>::default().save(place.path("none")).unwrap();
    place.ok("inspect none");
    place.ok("diff none none --fail-above 0");
    place.ok("compress none -o out --prune 1");
    assert!(place.has("out"));
}
