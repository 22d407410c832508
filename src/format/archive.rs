//! The archive layout: the whole model as one entropy-coded array.
//!
//! The stream holds the description (its length, then its text) and then the data of each entry in the
//! order of the description:
//!
//! - a mask: a bit an entry, in the context of its neighbours to the left and above;
//! - codes and zero points: a binary tree of their width;
//! - floats and foreign tensors: bytes, each in the context of its place within the number.
//!
//! Nothing can be read by position: a model is decoded as a whole.

use super::description::{Description, EntryForm, KEY};
use super::entropy::{Coder, Decoder, Encoder, Flags, Learner, Numbers, Tree};
use super::safetensors::{Header, Writer, header_len};
use crate::error::FormatKind;
use crate::model::{Content, Model};
use crate::weight::{
    Bytes, Codes, MaskStorage, Packer, Part, PartData, PartKind, for_each_chunk, is_sane_shape,
};
use crate::{DType, Fault, Float, Result, Weight};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{Seek, Write};
use std::sync::Arc;

/// Name of the one array, and value of the metadata.
const NAME: &str = "archive";
/// The longest description: some ten thousand weights. A stream holds far more text than it has bytes, and
/// what is made of the text takes more memory still, so this bounds what a small file can ask for.
const MAX_TEXT: u64 = 4 << 20;
/// Codes that are packed at a time.
const CHUNK: usize = 1 << 16;

pub(super) fn is_archive(header: &Header) -> bool {
    header.metadata.get(KEY).is_some_and(|v| v == NAME)
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

pub(super) fn write<T: Float>(model: &Model<T>, out: &mut (impl Write + Seek)) -> Result<()> {
    let (mut entries, mut carried, mut parts) = (Vec::new(), Vec::new(), Vec::new());
    for (info, content) in model.contents() {
        match content {
            Content::Weight(weight) => {
                let masks = MaskStorage::Bits;
                let (form, own) =
                    weight.to_parts(&info.name, masks).map_err(|f| super::fault(&info.name, f))?;
                entries.push(EntryForm::new(info, Some(form)));
                parts.extend(own);
            }
            Content::Carried(dtype, bytes) => {
                entries.push(EntryForm::new(info, None));
                carried.push((*dtype, info.shape.clone()));
                parts.push(Part::bytes(info.name.to_string(), *dtype, info.shape.clone(), bytes.clone()));
            }
        }
    }
    let description = Description::new(entries, model.graph().cloned());
    let contents = Contents { description, carried, metadata: model.metadata().clone() };
    let text = serde_json::to_vec(&contents).map_err(|e| FormatKind::Description(e.to_string()))?;
    check_text(text.len() as u64)?;

    let mut encoder = Encoder::new();
    let mut models = Models::new();
    models.lengths.code(&mut encoder, text.len() as u64);
    for byte in text {
        models.text.code(&mut encoder, byte);
    }
    for part in &parts {
        let bytes = stored(part).map_err(|f| super::fault(&part.name, f))?;
        encode(&mut encoder, part, &bytes).map_err(|f| super::fault(&part.name, f))?;
    }
    let stream = encoder.finish();

    let metadata = BTreeMap::from([(KEY.to_owned(), NAME.to_owned())]);
    let shape = [stream.len()];
    let space = header_len(&metadata, [(NAME, DType::U8, &shape[..], stream.len())].into_iter())?;
    let mut writer = Writer::new(out, space)?;
    writer.add(NAME, DType::U8, &shape, stream.len(), |out| out(&stream))?;
    writer.finish(&metadata)
}

pub(super) fn read<T: Float>(header: &Header) -> Result<Model<T>> {
    let [array] = header.tensors.as_slice() else {
        return Err(FormatKind::Archive("it should be one array").into());
    };
    if array.name != NAME || array.dtype != DType::U8 {
        return Err(FormatKind::Archive("its array has another name or type").into());
    }
    let bytes = array.bytes.read(0, array.bytes.len()).map_err(|f| super::fault(NAME, f))?;
    let mut decoder = Decoder::new(&bytes);
    let mut models = Models::new();
    let length = models.lengths.code(&mut decoder, 0);
    check_text(length)?;
    decoder.check_claim((length as usize).checked_mul(8))?;
    let text: Vec<u8> = (0..length).map(|_| models.text.code(&mut decoder, 0)).collect();
    // The version is looked at before the rest.
    Description::from_json(&text)?;
    let contents: Contents =
        serde_json::from_slice(&text).map_err(|e| FormatKind::Description(e.to_string()))?;
    let mut carried = contents.carried.into_iter();
    let mut model = contents.description.build_with(|entry| match &entry.form {
        Some(form) => {
            let weight = Weight::<T>::from_parts(&entry.name, form, &mut |_, kind, dtype, bytes| {
                Ok(decode(&mut decoder, kind, dtype, bytes)?)
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
            let bytes = decode(&mut decoder, PartKind::Numbers, dtype, bytes)?;
            Ok((shape, Content::Carried(dtype, bytes)))
        }
    })?;
    if decoder.is_exhausted() {
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

/// The models of the description.
struct Models {
    lengths: Numbers,
    text: Text,
}

impl Models {
    fn new() -> Self {
        Self { lengths: Numbers::new(), text: Text::primed() }
    }
}

/// Bytes of text, each in the context of the one before.
struct Text {
    trees: Vec<Tree>,
    last: usize,
}

impl Text {
    /// Small descriptions are mostly words that every description has, so the model has seen one before it
    /// starts. Part of the format: changing the text needs a new version.
    fn primed() -> Self {
        let mut text = Self { trees: (0..256).map(|_| Tree::new(8)).collect(), last: 0 };
        PRIMER.iter().for_each(|byte| {
            text.code(&mut Learner, *byte);
        });
        text.last = 0;
        text
    }

    fn code(&mut self, coder: &mut impl Coder, byte: u8) -> u8 {
        let byte = self.trees[self.last].code(coder, u32::from(byte)) as u8;
        self.last = usize::from(byte);
        byte
    }
}

const PRIMER: &[u8] = br#"{"version":1,"entries":[{"name":"fc1.weight","kind":"linear","form":{"shape":[300,784],"product":[{"shape":[300,32],"leaf":{"mask":{"bitmask":{"kept":2400}},"affine":{"bits":4,"granularity":"channel","scale":"F32","symmetric":true}}},{"shape":[32,784],"leaf":{"mask":{"bitmask":{"kept":9000}},"affine":{"bits":4,"granularity":"tensor","scale":"F32","symmetric":false}}}]}},{"name":"fc1.bias","kind":"bias","form":{"shape":[300],"leaf":{"float":"F32"}}},{"name":"conv2.weight","kind":"conv","form":{"shape":[50,20,5,5],"leaf":{"mask":{"bitmask":{"kept":100}},"affine":{"bits":8,"granularity":{"group":{"size":128}},"scale":"F32","symmetric":true}},"activations":"int8"}},{"name":"fc2.bias","form":{"shape":[10],"leaf":{"float":"F32"}}}],"graph":{"nodes":[{"op":"flatten","from":[0]},{"op":{"linear":{"weight":"fc1.weight","bias":"fc1.bias"}},"from":[1]},{"op":"relu","from":[2]},{"op":{"linear":{"weight":"fc2.weight","bias":"fc2.bias"}},"from":[3]}]}}"#;

/// The bytes of an array.
fn stored<T: Float>(part: &Part<T>) -> Result<Vec<u8>, Fault> {
    let mut out = Vec::with_capacity(part.len());
    let push = |bytes: &[u8]| {
        out.extend_from_slice(bytes);
        Ok::<(), Fault>(())
    };
    match &part.data {
        PartData::Values(values) => values.for_each_stored_chunk(push)?,
        PartData::Bytes(bytes) => for_each_chunk(bytes, push)?,
    }
    Ok(out)
}

fn encode<T: Float>(encoder: &mut Encoder, part: &Part<T>, bytes: &[u8]) -> Result<(), Fault> {
    match part.kind {
        PartKind::Mask { entries, cols } => {
            code_mask(encoder, entries, cols, &mut vec![0; bytes.len()], |i| has(bytes, i));
        }
        PartKind::Codes { bits, len } => {
            let mut tree = Tree::new(u32::from(bits));
            for code in Codes::from_packed(bits, len, bytes.to_vec().into()).unpack(0..len)? {
                tree.code(encoder, u32::from(code));
            }
        }
        PartKind::Numbers => {
            let mut trees = byte_trees(part.dtype);
            let width = trees.len();
            for (i, byte) in bytes.iter().enumerate() {
                trees[i % width].code(encoder, u32::from(*byte));
            }
        }
    }
    Ok(())
}

fn decode(
    decoder: &mut Decoder<'_>,
    kind: PartKind,
    dtype: DType,
    bytes: usize,
) -> Result<Bytes, FormatKind> {
    let out = match kind {
        PartKind::Mask { entries, cols } => {
            decoder.check_claim(Some(entries))?;
            let mut on = vec![0; entries.div_ceil(8)];
            code_mask(decoder, entries, cols, &mut on, |_| false);
            on
        }
        PartKind::Codes { bits, len } => {
            decoder.check_claim(len.checked_mul(usize::from(bits)))?;
            let mut tree = Tree::new(u32::from(bits));
            let mut packer = Packer::new(bits);
            for first in (0..len).step_by(CHUNK) {
                let codes = first..len.min(first + CHUNK);
                packer.extend(&codes.map(|_| tree.code(decoder, 0) as u8).collect::<Vec<_>>());
            }
            return Ok(packer.finish().packed());
        }
        PartKind::Numbers => {
            decoder.check_claim(bytes.checked_mul(8))?;
            let mut trees = byte_trees(dtype);
            let width = trees.len();
            (0..bytes).map(|i| trees[i % width].code(decoder, 0) as u8).collect::<Vec<_>>()
        }
    };
    Ok(out.into())
}

/// A model for each byte of a number.
fn byte_trees(dtype: DType) -> Vec<Tree> {
    (0..(dtype.bits() / 8).max(1)).map(|_| Tree::new(8)).collect()
}

/// Bit `i` of a bitmask.
fn has(bits: &[u8], i: usize) -> bool {
    bits[i / 8] >> (i % 8) & 1 == 1
}

/// Codes `entries` bits, row by row; `on` is a bitmask of zeros that is filled with them.
fn code_mask(
    coder: &mut impl Coder,
    entries: usize,
    cols: usize,
    on: &mut [u8],
    bit: impl Fn(usize) -> bool,
) {
    let mut flags = Flags::new(16);
    for i in 0..entries {
        let column = i.checked_rem(cols).unwrap_or(0);
        let seen = |back: usize, there: bool| usize::from(there && back <= i && has(on, i - back));
        let context = seen(1, column >= 1)
            | seen(2, column >= 2) << 1
            | seen(cols, true) << 2
            | seen(cols.wrapping_sub(1), column + 1 < cols && cols > 1) << 3;
        on[i / 8] |= u8::from(flags.code(coder, context, bit(i))) << (i % 8);
    }
}
