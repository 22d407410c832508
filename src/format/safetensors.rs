//! The safetensors container: reading a header that may lie, and writing arrays as they come.
//!
//! A file is `u64` header length, a JSON header, and the bytes of the arrays without holes. The header
//! crate checks that offsets tile the data and that sizes agree with shapes; here they are checked against
//! the length of the file.

use crate::error::FormatKind;
use crate::weight::{Bytes, is_sane_shape};
use crate::{DType, Error, Result};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::io::{Seek, SeekFrom, Write};

/// The longest header that is read: the limit of the format.
const MAX_HEADER: u64 = 100_000_000;

/// What a file holds, by its header.
pub(super) struct Header {
    pub metadata: BTreeMap<String, String>,
    /// In the order of their bytes.
    pub tensors: Vec<Stored>,
}

/// One array in a file.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub bytes: Bytes,
}

impl Header {
    pub fn read(file: &Bytes) -> Result<Self> {
        let have = file.len() as u64;
        let io = |f| super::fault("header", f);
        if have < 8 {
            return Err(FormatKind::NotSafetensors("it is shorter than 8 bytes").into());
        }
        let mut length = [0; 8];
        file.read_into(0, &mut length).map_err(io)?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER {
            return Err(
                FormatKind::Limit { what: "the header's length", limit: MAX_HEADER, got: length }.into()
            );
        }
        if length > have - 8 {
            return Err(FormatKind::HeaderLength { got: length, have }.into());
        }
        // Not larger than what is really there.
        let text = file.read(8, length as usize).map_err(io)?;
        let header: safetensors::tensor::Metadata =
            serde_json::from_slice(&text).map_err(|e| FormatKind::Header(e.to_string()))?;
        let described = header.data_len() as u64;
        let data = have - 8 - length;
        if described != data {
            return Err(FormatKind::Length { described, have: data }.into());
        }
        let metadata = header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        let start = 8 + length as usize;
        let mut names: Vec<_> = header
            .offset_keys()
            .into_iter()
            .filter_map(|n| Some((header.info(&n)?.data_offsets, n)))
            .collect();
        // Arrays without bytes may lie at the same place: those by name.
        names.sort();
        let mut tensors = Vec::new();
        for (_, name) in names {
            let Some(info) = header.info(&name) else { continue };
            let bad = |why| FormatKind::Tensor { name: name.clone(), why };
            let dtype = DType::from_name(&info.dtype.to_string())
                .ok_or_else(|| bad("its type is not known to this version"))?;
            if !is_sane_shape(&info.shape) {
                return Err(bad("its shape is too large").into());
            }
            let (first, last) = info.data_offsets;
            let bytes = file.slice(start + first, last - first);
            tensors.push(Stored { name, dtype, shape: info.shape.clone(), bytes });
        }
        Ok(Self { metadata, tensors })
    }
}

#[derive(Serialize)]
struct TensorHeader<'a> {
    dtype: DType,
    shape: &'a [usize],
    data_offsets: [usize; 2],
}

/// Writes arrays one after the other. The header's place is reserved first and filled in last, so nothing
/// is written twice.
pub(super) struct Writer<W> {
    out: W,
    /// Bytes for the JSON header.
    space: usize,
    at: usize,
    tensors: Vec<(String, DType, Vec<usize>, [usize; 2])>,
    names: HashMap<String, ()>,
}

impl<W: Write + Seek + Send> Writer<W> {
    /// `space` bytes are kept for the header, rounded up so that the data starts at a multiple of 8.
    pub fn new(mut out: W, space: usize) -> Result<Self> {
        let space = space.next_multiple_of(8);
        let blank = vec![b' '; 8 + space];
        out.write_all(&blank).map_err(unnamed)?;
        Ok(Self { out, space, at: 0, tensors: Vec::new(), names: HashMap::new() })
    }

    /// Adds an array, whose bytes `write` puts out.
    pub fn add(
        &mut self,
        name: &str,
        dtype: DType,
        shape: &[usize],
        len: usize,
        write: impl FnOnce(&mut (dyn FnMut(&[u8]) -> Result<()> + Send)) -> Result<()>,
    ) -> Result<()> {
        if self.names.insert(name.to_owned(), ()).is_some() {
            return Err(FormatKind::Duplicate(name.to_owned()).into());
        }
        let out = &mut self.out;
        let mut written = 0;
        write(&mut |bytes| {
            written += bytes.len();
            out.write_all(bytes).map_err(unnamed)
        })?;
        debug_assert_eq!(written, len, "{name}");
        self.tensors.push((name.to_owned(), dtype, shape.to_vec(), [self.at, self.at + len]));
        self.at += len;
        Ok(())
    }

    /// Fills in the header.
    pub fn finish(mut self, metadata: &BTreeMap<String, String>) -> Result<()> {
        let header = header(metadata, &self.tensors)?;
        if header.len() > self.space {
            return Err(FormatKind::Header("it needs more than the reserved space".to_owned()).into());
        }
        let mut start = (self.space as u64).to_le_bytes().to_vec();
        start.extend_from_slice(&header);
        self.out.seek(SeekFrom::Start(0)).map_err(unnamed)?;
        self.out.write_all(&start).map_err(unnamed)?;
        self.out.seek(SeekFrom::End(0)).map_err(unnamed)?;
        self.out.flush().map_err(unnamed)
    }
}

/// Whoever called knows the file's name: see [`super::name_file`].
fn unnamed(source: std::io::Error) -> Error {
    Error::io(std::path::Path::new(""), source)
}

fn header(
    metadata: &BTreeMap<String, String>,
    tensors: &[(String, DType, Vec<usize>, [usize; 2])],
) -> Result<Vec<u8>> {
    let mut out = vec![b'{'];
    let mut entry = |key: &str, value: Vec<u8>| -> Result<()> {
        if out.len() > 1 {
            out.push(b',');
        }
        out.extend(to_json(&key)?);
        out.push(b':');
        out.extend(value);
        Ok(())
    };
    if !metadata.is_empty() {
        entry("__metadata__", to_json(metadata)?)?;
    }
    for (name, dtype, shape, data_offsets) in tensors {
        entry(name, to_json(&TensorHeader { dtype: *dtype, shape, data_offsets: *data_offsets })?)?;
    }
    out.push(b'}');
    Ok(out)
}

/// The header of a file that is one list of numbers and nothing else. It is not filled up to a multiple of 8
/// bytes, so the numbers should be bytes.
pub(super) fn one_array(name: &str, dtype: DType, len: usize) -> Result<Vec<u8>> {
    header(&BTreeMap::new(), &[(name.to_owned(), dtype, vec![len], [0, len * dtype.bits() / 8])])
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| FormatKind::Header(e.to_string()).into())
}

/// Length of a header with these arrays, given by name, type, shape and bytes.
pub(super) fn header_len<'a>(
    metadata: &BTreeMap<String, String>,
    arrays: impl Iterator<Item = (&'a str, DType, &'a [usize], usize)>,
) -> Result<usize> {
    let mut at = 0;
    let tensors: Vec<_> = arrays
        .map(|(name, dtype, shape, len)| {
            at += len;
            (name.to_owned(), dtype, shape.to_vec(), [at - len, at])
        })
        .collect();
    header(metadata, &tensors).map(|h| h.len())
}

/// A name that cannot be an array's: safetensors keeps it for itself.
pub(super) fn check_name(name: &str) -> Result<()> {
    if name == "__metadata__" {
        return Err(FormatKind::Tensor { name: name.to_owned(), why: "the name is reserved" }.into());
    }
    Ok(())
}
