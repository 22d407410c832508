//! The archive layout: the whole model as one entropy-coded array.
//!
//! The file is a safetensors file with one array, `bantam`, of bytes, and no metadata. Its stream holds a
//! version, the description (JSON on a line), and then the data of each entry in the order of the
//! description. How each array is coded is said in `entropy`:
//!
//! | array | bits | in the context of |
//! | --- | --- | --- |
//! | mask | one an entry | entries beside and above, counts of the row, the column and those around, the rows of the matrix before |
//! | codes | sign, then magnitude | codes to the left, above and around, signs of the row and the column |
//! | zero points | a tree of their width | |
//! | floats, codebooks, tensors that are carried along | from the top bit down | the bits before, the number before |
//!
//! Each array is coded by models that mix many contexts or by simpler ones, whichever takes fewer bits. The first
//! take about a tenth of a microsecond a bit, so at most four million bits of a stream are. Nothing can be read by
//! position: a model is decoded as a whole.
//!
//! Archives of version 2, where the same models mix all that they may, and of version 1, an array `archive` beside
//! the metadata `"bantam": "archive"`, are read as well.

mod arrays;
mod first;

use super::description::{Description, EntryForm, KEY};
use super::entropy::{Coder, Decoder, Encoder, TextModel, Whole};
use super::safetensors::{Header, one_array};
use crate::error::FormatKind;
use crate::model::{Content, Model};
use crate::weight::{Bytes, MaskStorage, Part, PartKind, is_sane_shape};
use crate::{DType, Error, Float, Result, Weight};
use arrays::Arrays;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

/// Name of the one array.
pub(super) const NAME: &str = "bantam";
/// Name of the one array, and value of the metadata, in version 1.
const FIRST: &str = "archive";
/// What is written. Versions 1 and 2 have no number in their stream.
const VERSION: u32 = 3;
/// Probability of another version than 2, in parts of 2^16.
const NEWER: u32 = 1 << 12;
/// The longest description: some ten thousand weights. A stream holds far more text than it has bytes, and
/// what is made of the text takes more memory still, so this bounds what a small file can ask for.
const MAX_TEXT: u64 = 4 << 20;
/// Bytes of text that are claimed at a time.
const TEXT: usize = 1 << 10;
/// Ends the text: compact JSON has no line ends.
const END: u8 = b'\n';
/// Codes that are packed at a time.
const CHUNK: usize = 1 << 16;

pub(super) fn is_archive(header: &Header) -> bool {
    match header.metadata.get(KEY) {
        Some(value) => value == FIRST,
        None => header.tensors.len() == 1 && is_stream(header),
    }
}

fn is_stream(header: &Header) -> bool {
    header.tensors.first().is_some_and(|array| array.name == NAME && array.dtype == DType::U8)
}

#[derive(Serialize, Deserialize)]
struct Contents {
    #[serde(flatten)]
    description: Description,
    /// Type and shape of the entries without a form, in order: tensors that are carried along.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    carried: Vec<(DType, Vec<usize>)>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
}

pub(super) fn write<T: Float>(model: &Model<T>, out: &mut impl Write) -> Result<()> {
    let (mut entries, mut carried, mut parts) = (Vec::new(), Vec::new(), Vec::new());
    for (info, content) in model.contents() {
        match content {
            Content::Weight(weight) => {
                let masks = MaskStorage::Bits;
                let (form, own) =
                    weight.to_parts(&info.name, masks).map_err(|f| super::fault(&info.name, f))?;
                entries.push(EntryForm::new(info, Some(form)));
                parts.push((&info.shape, own));
            }
            Content::Carried(dtype, bytes) => {
                entries.push(EntryForm::new(info, None));
                carried.push((*dtype, info.shape.clone()));
                let part = Part::bytes(info.name.to_string(), *dtype, info.shape.clone(), bytes.clone());
                parts.push((&info.shape, vec![part]));
            }
        }
    }
    let description = Description::new(entries, model.graph().cloned());
    let contents = Contents { description, carried, metadata: model.metadata().clone() };
    let text = serde_json::to_vec(&contents).map_err(|e| FormatKind::Description(e.to_string()))?;
    check_text(text.len() as u64)?;

    let mut encoder = Encoder::new();
    encoder.bit(NEWER, true);
    Whole::new().code(&mut encoder, u64::from(VERSION));
    let mut model = TextModel::new(PRIMER);
    for (i, byte) in text.iter().chain(&[END]).enumerate() {
        if i % TEXT == 0 {
            encoder.claim(Some(TEXT * 8))?;
        }
        model.code(&mut encoder, *byte);
    }
    let mut arrays = Arrays::new(VERSION);
    for (shape, parts) in &parts {
        for part in parts {
            arrays.encode(&mut encoder, shape, part)?;
        }
    }
    let stream = encoder.finish();
    let header = one_array(NAME, DType::U8, stream.len())?;
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], &header, &stream]
        .into_iter()
        .try_for_each(|bytes| out.write_all(bytes).map_err(|e| Error::io(std::path::Path::new(""), e)))
}

/// What an archive of any version gives: its description, then its arrays in order.
trait Stream {
    fn text(&mut self) -> Result<Vec<u8>>;

    /// An array of an entry of this shape.
    fn array(&mut self, shape: &[usize], kind: PartKind, dtype: DType, bytes: usize) -> Result<Bytes>;

    fn is_exhausted(&self) -> bool;
}

struct Reader<'a> {
    decoder: Decoder<'a>,
    arrays: Arrays,
}

impl Stream for Reader<'_> {
    fn text(&mut self) -> Result<Vec<u8>> {
        let Self { decoder, arrays } = self;
        if decoder.bit(NEWER, false) {
            let version = Whole::new().code(decoder, 0);
            if version != u64::from(VERSION) {
                return Err(FormatKind::Newer(version.try_into().unwrap_or(u32::MAX)).into());
            }
            *arrays = Arrays::new(VERSION);
        }
        let mut model = TextModel::new(PRIMER);
        let mut text = Vec::new();
        loop {
            if text.len() % TEXT == 0 {
                check_text(text.len() as u64)?;
                decoder.claim(Some(TEXT * 8))?;
            }
            match model.code(decoder, 0) {
                END => return Ok(text),
                byte => text.push(byte),
            }
        }
    }

    fn array(&mut self, shape: &[usize], kind: PartKind, dtype: DType, bytes: usize) -> Result<Bytes> {
        self.arrays.decode(&mut self.decoder, shape, kind, dtype, bytes)
    }

    fn is_exhausted(&self) -> bool {
        self.decoder.is_exhausted()
    }
}

pub(super) fn read<T: Float>(header: &Header) -> Result<Model<T>> {
    let [array] = header.tensors.as_slice() else {
        return Err(FormatKind::Archive("it should be one array").into());
    };
    let is_first = header.metadata.contains_key(KEY);
    if array.name != if is_first { FIRST } else { NAME } || array.dtype != DType::U8 {
        return Err(FormatKind::Archive("its array has another name or type").into());
    }
    let bytes = array.bytes.read(0, array.bytes.len()).map_err(|f| super::fault(&array.name, f))?;
    if is_first {
        build(&mut first::Reader::new(&bytes))
    } else {
        build(&mut Reader { decoder: Decoder::new(&bytes), arrays: Arrays::new(2) })
    }
}

fn build<T: Float>(stream: &mut impl Stream) -> Result<Model<T>> {
    let text = stream.text()?;
    // The version is looked at before the rest.
    Description::from_json(&text)?;
    let contents: Contents =
        serde_json::from_slice(&text).map_err(|e| FormatKind::Description(e.to_string()))?;
    let mut carried = contents.carried.into_iter();
    let mut model = contents.description.build_with(|entry| match &entry.form {
        Some(form) => {
            let weight = Weight::<T>::from_parts(&entry.name, form, &mut |_, kind, dtype, bytes| {
                stream.array(&form.shape, kind, dtype, bytes)
            })?;
            // It is in memory already; now its mask is in the usual form, too.
            let weight =
                weight.map_leaves(&mut |leaf| leaf.with_mask()).map_err(|f| super::fault(&entry.name, f))?;
            Ok((weight.shape().to_vec(), Content::Weight(Arc::new(weight))))
        }
        None => {
            let bad = |why| FormatKind::Tensor { name: entry.name.clone(), why };
            let (dtype, shape) = carried.next().ok_or_else(|| bad("its type is missing"))?;
            if !is_sane_shape(&shape) {
                return Err(bad("its shape is too large").into());
            }
            let bytes = (shape.iter().product::<usize>() * dtype.bits()).div_ceil(8);
            let bytes = stream.array(&shape, PartKind::Numbers, dtype, bytes)?;
            Ok((shape, Content::Carried(dtype, bytes)))
        }
    })?;
    if stream.is_exhausted() {
        return Err(FormatKind::Archive("it ends too early").into());
    }
    super::check_metadata(&contents.metadata)?;
    *model.metadata_mut() = contents.metadata;
    Ok(model)
}

fn check_text(length: u64) -> Result<()> {
    if length > MAX_TEXT {
        let what = "the length of an archive's description";
        return Err(FormatKind::Limit { what, limit: MAX_TEXT, got: length }.into());
    }
    Ok(())
}

/// Bit `i` of a bitmask.
fn has(bits: &[u8], i: usize) -> bool {
    bits[i / 8] >> (i % 8) & 1 == 1
}

/// What descriptions are made of, for the model of their text.
const PRIMER: &[u8] = include_bytes!("primer.txt");
