//! Reads a folder of IDX files: MNIST, or anything of the same shape.

use bantam::nn::Examples;
use bantam::{BoxError, Tensor};
use flate2::read::GzDecoder;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// Largest number of bytes that an IDX file may declare.
const MAX_BYTES: usize = 1 << 31;

/// How bytes become numbers.
#[derive(Clone, Copy)]
#[allow(dead_code, reason = "not every example needs both")]
pub enum Scale {
    /// By the usual mean and standard deviation of MNIST.
    Normal,
    /// To 0..=1: what is black stays zero.
    Unit,
}

/// The training set: `train-images-idx3-ubyte` and `train-labels-idx1-ubyte`, gzipped or not.
pub fn train(folder: &Path, scale: Scale) -> Result<Examples, BoxError> {
    load(folder, "train", scale)
}

/// The test set: `t10k-images-idx3-ubyte` and `t10k-labels-idx1-ubyte`, gzipped or not.
pub fn test(folder: &Path, scale: Scale) -> Result<Examples, BoxError> {
    load(folder, "t10k", scale)
}

fn load(folder: &Path, prefix: &str, scale: Scale) -> Result<Examples, BoxError> {
    let (shape, pixels) = read(&find(folder, &format!("{prefix}-images-idx3-ubyte"))?, 3)?;
    let (_, labels) = read(&find(folder, &format!("{prefix}-labels-idx1-ubyte"))?, 1)?;
    let (mean, deviation) = match scale {
        Scale::Normal => (0.1307, 0.3081),
        Scale::Unit => (0.0, 1.0),
    };
    let scaled = pixels.iter().map(|p| (f32::from(*p) / 255.0 - mean) / deviation).collect();
    let images = Tensor::new(&[shape[0], 1, shape[1], shape[2]], scaled)?;
    Ok(Examples::new(images, labels.into_iter().map(u32::from).collect())?)
}

fn find(folder: &Path, name: &str) -> Result<PathBuf, BoxError> {
    [format!("{name}.gz"), name.to_owned()]
        .iter()
        .map(|name| folder.join(name))
        .find(|path| path.exists())
        .ok_or_else(|| format!("{}: no {name} or {name}.gz", folder.display()).into())
}

/// Shape and bytes of an IDX file of unsigned bytes with so many axes.
fn read(path: &Path, axes: usize) -> Result<(Vec<usize>, Vec<u8>), BoxError> {
    let named = |e: std::io::Error| format!("{}: {e}", path.display());
    let bad = |why: &str| format!("{}: not an IDX file: {why}", path.display());
    let file = BufReader::new(File::open(path).map_err(named)?);
    let mut reader: Box<dyn Read> = if path.extension().is_some_and(|e| e == "gz") {
        Box::new(GzDecoder::new(file))
    } else {
        Box::new(file)
    };
    let mut head = [0; 4];
    reader.read_exact(&mut head).map_err(named)?;
    if head != [0, 0, 8, axes as u8] {
        return Err(bad("it does not hold unsigned bytes in the right number of axes").into());
    }
    let mut shape = Vec::new();
    for _ in 0..axes {
        let mut length = [0; 4];
        reader.read_exact(&mut length).map_err(named)?;
        shape.push(u32::from_be_bytes(length) as usize);
    }
    let size = shape.iter().try_fold(1_usize, |n, d| n.checked_mul(*d)).filter(|n| *n <= MAX_BYTES);
    let size = size.ok_or_else(|| bad("it declares too many bytes"))?;
    let mut bytes = Vec::new();
    reader.take(size as u64 + 1).read_to_end(&mut bytes).map_err(named)?;
    if bytes.len() != size {
        return Err(bad("its length is not what it declares").into());
    }
    Ok((shape, bytes))
}
