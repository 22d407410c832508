//! Golden tests: bantam against the arithmetic of other people, which `*/make.py` wrote down beside the
//! data. `README.md` says how to make the data again.
#![allow(missing_docs, clippy::unwrap_used)]

#[cfg(feature = "files")]
mod archive;
mod codebook;
#[cfg(feature = "train")]
mod distil;
mod integer;
mod layers;
#[cfg(feature = "faer")]
mod lowrank;
#[cfg(all(feature = "faer", feature = "files"))]
mod open_layout;
mod prune;
mod quantize;
mod safetensors_files;
mod support;
#[cfg(feature = "train")]
mod training;
