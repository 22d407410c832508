//! Compresses a model that is larger than memory should hold, from file to file, and says what it took.
//!
//! ```text
//! cargo run --release --example stream_large -- --gigabytes 4
//! cargo run --release --example stream_large -- --gigabytes 0.3 --check
//! ```
//!
//! Makes a safetensors file of that size in the folder `--folder` (default: the system's for temporary
//! files), runs two pipelines on it with `run_to`, and removes what it made. Says how long that takes beside a
//! plain read of the file, by one thread and by two, and a plain write of as much as the result, synced like it: all
//! of them `--rounds` times (default 3) in turn, each into a new file, after some that do not count, as memory that a
//! system has not used for long can be slow the first time. Medians, with the least and the most.
//! With `--check`, the files are compared with those of `run` and `save`, in memory.

#[path = "support/args.rs"]
mod args;

use args::Args;
use bantam::{AffineQuantizer, BoxError, MagnitudePruner, Model, Pipeline};
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Peak memory that streaming may take, for weights of up to 256 MB.
const LIMIT_MB: u64 = 600;

fn main() -> Result<(), BoxError> {
    let mut args = Args::from_env();
    let gigabytes: f64 = args.value("--gigabytes")?.unwrap_or(0.5);
    let folder: PathBuf = args.value("--folder")?.unwrap_or_else(std::env::temp_dir);
    let rounds: usize = args.value("--rounds")?.unwrap_or(3);
    let check = args.flag("--check");
    args.finish()?;
    let folder = Folder(folder.join(format!("bantam-stream-{}", std::process::id())));
    std::fs::create_dir_all(&folder.0)?;
    let original = folder.0.join("original.safetensors");
    let start = Instant::now();
    let bytes = make(&original, (gigabytes * 1e9) as usize)?;
    println!("made {:.2} GB in {:.1} s", bytes as f64 / 1e9, start.elapsed().as_secs_f64());
    // What is made has to be on the disk, or it would still be written there while the clock runs.
    File::open(&original)?.sync_all()?;

    let grouped = AffineQuantizer::bits(4).group(64);
    let pipelines = [
        ("threshold, 8 bits", Pipeline::new().prune(0.3).quantize(8)),
        (
            "global sparsity, 4 bits in groups",
            Pipeline::new().prune(MagnitudePruner::sparsity(0.5).global()).quantize(grouped),
        ),
    ];
    let mut high = None;
    for (what, pipeline) in &pipelines {
        let (streamed, plain) = (folder.0.join("streamed.safetensors"), folder.0.join("plain"));
        let mut smaller = 0.0;
        let mut times = Vec::new();
        let mut bytes = 0;
        for round in 0..rounds + 2 {
            // Taking an old file's place costs the time of its removal; and the memory of both has just become free.
            let clear = || [&streamed, &plain].map(std::fs::remove_file);
            let _ = clear();
            let write = plain_write(&plain, bytes)?;
            let _ = clear();
            let start = Instant::now();
            smaller = pipeline.run_to(Model::open(&original)?, &streamed)?.ratio();
            let own = start.elapsed().as_secs_f64();
            bytes = std::fs::metadata(&streamed)?.len();
            let reads = [plain_read(&original, 1)?, plain_read(&original, 2)?];
            // The first write is of nothing.
            if round > 1 {
                times.push([own, reads[0], reads[1], write]);
            }
        }
        high = peak_mb();
        let peak = high.map_or("unknown".to_owned(), |mb| format!("{mb} MB"));
        println!("{what}: {smaller:.2} times smaller, peak memory so far {peak}");
        let of = |f: &dyn Fn(&[f64; 4]) -> f64| spread(times.iter().map(f).collect());
        println!("  run_to {} s", of(&|t| t[0]));
        println!("  read   {} s by one thread, {} s by two", of(&|t| t[1]), of(&|t| t[2]));
        println!("  write  {} s", of(&|t| t[3]));
        for (threads, i) in [("one thread", 1), ("two", 2)] {
            let once = of(&|t| t[0] / (t[i] + t[3]));
            let twice = of(&|t| t[0] / (2.0 * t[i] + t[3]));
            println!("  {once} times a read by {threads} and a write; {twice} times two reads and a write");
        }
        if check {
            let saved = folder.0.join("saved.safetensors");
            pipeline.run(Model::open(&original)?)?.model.save(&saved)?;
            if !same(&streamed, &saved)? {
                return Err("streamed and saved files differ".into());
            }
            println!("{what}: the same bytes as in memory");
        }
    }
    match high {
        Some(mb) if mb > LIMIT_MB && !check => Err(format!("more than {LIMIT_MB} MB of memory").into()),
        _ => Ok(()),
    }
}

/// A folder that is removed at the end, however that comes.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Writes matrices of 64, 128 and 256 MB until there are so many bytes, a megabyte at a time.
fn make(path: &Path, wanted: usize) -> Result<usize, BoxError> {
    let (mut shapes, mut at) = (Vec::new(), 0);
    while at < wanted {
        let rows = [4096, 8192, 16384][shapes.len() % 3].min((wanted - at).div_ceil(4096 * 4));
        shapes.push((rows, at));
        at += rows * 4096 * 4;
    }
    let arrays: Vec<String> = (shapes.iter().enumerate())
        .map(|(i, (rows, at))| {
            let end = at + rows * 4096 * 4;
            format!(
                r#""layer{i}.weight":{{"dtype":"F32","shape":[{rows},4096],"data_offsets":[{at},{end}]}}"#
            )
        })
        .collect();
    let mut header = format!("{{{}}}", arrays.join(","));
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let mut out = BufWriter::new(File::create(path)?);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    let mut state = 1_u64;
    let mut chunk = vec![0_u8; 1 << 20];
    let mut left = at;
    while left > 0 {
        for x in chunk.chunks_exact_mut(4) {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let value = (state >> 40) as f32 / (1 << 23) as f32 - 1.0;
            x.copy_from_slice(&value.to_le_bytes());
        }
        let n = left.min(chunk.len());
        out.write_all(&chunk[..n])?;
        left -= n;
    }
    out.flush()?;
    Ok(at)
}

/// The median, and the least and the most.
fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    match values.as_slice() {
        [] => "unknown".to_owned(),
        [least, .., most] => format!("{:.2} ({least:.2} to {most:.2})", values[values.len() / 2]),
        [only] => format!("{only:.2}"),
    }
}

/// Bytes that are read or written plainly at a time.
const PLAIN: usize = 1 << 20;

/// Calls `f` with memory of that size, at the start of a page: elsewhere, copies from the system's can run several
/// times slower.
fn with_chunk<R>(f: impl FnOnce(&mut [u8]) -> R) -> R {
    const PAGE: usize = 4096;
    let mut room = vec![0; PLAIN + PAGE];
    let first = room.as_ptr().align_offset(PAGE);
    f(&mut room[first..first + PLAIN])
}

/// Seconds for reading all of a file, by so many threads.
fn plain_read(original: &Path, threads: u64) -> std::io::Result<f64> {
    let bytes = std::fs::metadata(original)?.len();
    let start = Instant::now();
    std::thread::scope(|scope| {
        let read = |thread: u64| {
            with_chunk(|chunk| {
                let mut file = File::open(original)?;
                let (first, last) = (bytes * thread / threads, bytes * (thread + 1) / threads);
                file.seek(SeekFrom::Start(first))?;
                let mut file = file.take(last - first);
                while file.read(chunk)? > 0 {}
                Ok::<_, std::io::Error>(())
            })
        };
        let readers: Vec<_> = (0..threads).map(|thread| scope.spawn(move || read(thread))).collect();
        readers
            .into_iter()
            .try_for_each(|reader| reader.join().unwrap_or_else(|_| Err(std::io::Error::other("panic"))))
    })?;
    Ok(start.elapsed().as_secs_f64())
}

/// Seconds for writing a file of so many bytes.
fn plain_write(copy: &Path, bytes: u64) -> std::io::Result<f64> {
    with_chunk(|chunk| {
        let start = Instant::now();
        let mut file = File::create(copy)?;
        let mut left = bytes as usize;
        while left > 0 {
            let n = left.min(chunk.len());
            file.write_all(&chunk[..n])?;
            left -= n;
        }
        file.sync_all()?;
        Ok(start.elapsed().as_secs_f64())
    })
}

fn same(a: &Path, b: &Path) -> std::io::Result<bool> {
    let (mut a, mut b) = (File::open(a)?, File::open(b)?);
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    let (mut x, mut y) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let n = a.read(&mut x)?;
        if n == 0 {
            return Ok(true);
        }
        b.read_exact(&mut y[..n])?;
        if x[..n] != y[..n] {
            return Ok(false);
        }
    }
}

/// Most resident memory that this process has had, where the system says.
fn peak_mb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kb| kb / 1000)
}
