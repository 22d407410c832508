//! Standard output and error: closed pipes and full disks are met without panics, and text from files
//! cannot speak to the terminal.

use crate::failure::Failure;
use serde::Serialize;
use std::io::{self, ErrorKind, Write};

/// Writes `text` to standard output.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(printable(text).as_bytes()).and_then(|()| out.flush()).map_err(|e| match e.kind() {
        ErrorKind::BrokenPipe => Failure::Closed,
        _ => Failure::Io("standard output".to_owned(), e),
    })
}

/// Writes a value to standard output in JSON.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Failure::Io("standard output".to_owned(), io::Error::other(e)))?;
    print(&format!("{text}\n"))
}

/// One line on standard error.
pub fn complain(message: &str) {
    let line = printable(message).replace('\n', " ");
    // Nobody is left to be told if this fails.
    let _ = writeln!(io::stderr(), "bantam: {line}");
}

/// A name from a file, which must not break its line.
pub fn line(name: &str) -> String {
    printable(name).replace('\n', "\\n")
}

/// Names come from files: control characters in them are shown, not obeyed.
fn printable(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match c.is_control() && c != '\n' {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
        out
    })
}

/// A table: the first column and those without numbers lie left.
pub struct Table {
    rows: Vec<Vec<String>>,
    left: &'static [usize],
}

impl Table {
    /// `left` says which columns lie left; the others lie right.
    pub fn new(head: &[&str], left: &'static [usize]) -> Self {
        Self { rows: vec![head.iter().map(|h| (*h).to_owned()).collect()], left }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|cell| line(cell)).collect());
    }

    pub fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| self.rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (c, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let gap = if c == 0 { "" } else { "  " };
                line += &match self.left.contains(&c) {
                    true => format!("{gap}{cell:width$}"),
                    false => format!("{gap}{cell:>width$}"),
                };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Lengths of axes as `[300, 784]`.
pub fn shape(axes: &[usize]) -> String {
    format!("{axes:?}")
}
