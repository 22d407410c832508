//! A weight as named arrays and a description, and back. The two directions are inverses of each other.
//!
//! | part | holds |
//! | --- | --- |
//! | `NAME` | a dense float tensor, under its own name and shape |
//! | `NAME.values` | floats of the kept entries |
//! | `NAME.codes` | codes of the kept entries, packed at their true width |
//! | `NAME.codebook` | the values that codes are places in; a code has the fewest bits (at least 1) that tell them apart |
//! | `NAME.scale` | a scale for each block |
//! | `NAME.zero_point` | a code for each block, packed; absent where all are the middle code |
//! | `NAME.mask`, `.pattern`, `.indices` + `.row_offsets` | the mask: see `storage` |
//! | `NAME.u`, `NAME.v` | parts of the factors of a product, as above |
//! | `NAME.0`, `NAME.1`, .. | parts of the terms of a sum, as above |

use super::storage::{MaskForm, MaskPart, StoredMask};
use super::{
    Activations, Affine, Bytes, Codebook, Codes, Coding, Granularity, Leaf, Node, Support, Values, Weight,
    fold, stride,
};
use crate::{DType, Fault, Float};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::sync::Arc;

/// Products and sums may be nested this deep in a file.
const MAX_DEPTH: usize = 8;

/// Description of a weight: all that its parts do not say themselves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct WeightForm {
    pub shape: Vec<usize>,
    #[serde(flatten)]
    pub node: NodeForm,
    #[serde(default, skip_serializing_if = "is_default")]
    pub activations: Activations,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NodeForm {
    Leaf(LeafForm),
    Product(Box<WeightForm>, Box<WeightForm>),
    Sum(Vec<WeightForm>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LeafForm {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<MaskForm>,
    #[serde(flatten)]
    pub coding: CodingForm,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CodingForm {
    Float(DType),
    Affine { bits: u8, granularity: Granularity, scale: DType, symmetric: bool },
    Codebook { values: usize, table: DType },
}

fn is_default(activations: &Activations) -> bool {
    *activations == Activations::default()
}

/// What an array holds, for coders that can use it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum PartKind {
    /// A bit an entry of a matrix with so many columns, which keeps so many of them.
    Mask { entries: usize, cols: usize, kept: usize },
    /// Codes of a true width, one for each kept entry.
    Codes { bits: u8, len: usize },
    /// Codes of a true width, one for each block.
    ZeroPoints { bits: u8, len: usize },
    /// The numbers that the codes of the next array are places among.
    Table,
    /// Numbers of whole bytes.
    Numbers,
}

/// Where the arrays of a weight come from when it is opened: asked in the order in which
/// [`Weight::to_parts`] gives them, for name, kind, type and bytes.
pub(crate) type Find<'a> = dyn FnMut(&str, PartKind, DType, usize) -> Result<Bytes, crate::Error> + 'a;

/// How masks are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum MaskStorage {
    /// In the form that takes the fewest bytes.
    Smallest,
    /// As a bit an entry, for an entropy coder.
    Bits,
}

/// One array of a weight.
#[derive(Clone, Debug)]
pub(crate) struct Part<T: Float> {
    /// Full name.
    pub name: String,
    pub kind: PartKind,
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub data: PartData<T>,
}

#[derive(Clone, Debug)]
pub(crate) enum PartData<T: Float> {
    Values(Values<T>),
    Bytes(Bytes),
}

impl<T: Float> Part<T> {
    pub fn bytes(name: String, dtype: DType, shape: Vec<usize>, bytes: Bytes) -> Self {
        Self { name, kind: PartKind::Numbers, dtype, shape, data: PartData::Bytes(bytes) }
    }

    fn values(name: String, shape: Vec<usize>, values: Values<T>) -> Self {
        Self { name, kind: PartKind::Numbers, dtype: values.dtype(), shape, data: PartData::Values(values) }
    }

    fn codes(name: String, codes: &Codes) -> Self {
        let bytes = codes.packed();
        let kind = PartKind::Codes { bits: codes.bits(), len: codes.len() };
        Self { kind, ..Self::bytes(name, DType::U8, vec![bytes.len()], bytes) }
    }

    fn zero_points(name: String, codes: &Codes) -> Self {
        let kind = PartKind::ZeroPoints { bits: codes.bits(), len: codes.len() };
        Self { kind, ..Self::codes(name, codes) }
    }

    fn table(name: String, values: Values<T>) -> Self {
        Self { kind: PartKind::Table, ..Self::values(name, vec![values.len()], values) }
    }

    pub fn len(&self) -> usize {
        match &self.data {
            PartData::Values(values) => values.stored_bytes(),
            PartData::Bytes(bytes) => bytes.len(),
        }
    }
}

impl<T: Float> Weight<T> {
    /// Whether it is a plain tensor, which needs no description.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(&self.node, Node::Leaf(Leaf { support: Support::All, coding: Coding::Float(_), .. }))
            && self.activations == Activations::Float
    }

    /// Its description and its arrays.
    pub(crate) fn to_parts(
        &self,
        name: &str,
        masks: MaskStorage,
    ) -> Result<(WeightForm, Vec<Part<T>>), Fault> {
        let mut parts = Vec::new();
        let form = self.collect(name, masks, &mut parts)?;
        Ok((form, parts))
    }

    fn collect(&self, name: &str, masks: MaskStorage, parts: &mut Vec<Part<T>>) -> Result<WeightForm, Fault> {
        let node = match &self.node {
            Node::Leaf(leaf) => NodeForm::Leaf(match masks {
                MaskStorage::Smallest => leaf.collect(name, &self.shape, parts)?,
                MaskStorage::Bits => leaf.collect_bits(name, &self.shape, parts)?,
            }),
            Node::Product(u, v) => NodeForm::Product(
                Box::new(u.collect(&format!("{name}.u"), masks, parts)?),
                Box::new(v.collect(&format!("{name}.v"), masks, parts)?),
            ),
            Node::Sum(terms) => NodeForm::Sum(
                terms
                    .iter()
                    .enumerate()
                    .map(|(i, t)| t.collect(&format!("{name}.{i}"), masks, parts))
                    .collect::<Result<_, _>>()?,
            ),
        };
        if !self.activations.is_sane() {
            return Err(Fault::Form(NO_RANGE));
        }
        Ok(WeightForm { shape: self.shape.clone(), node, activations: self.activations })
    }

    /// The weight that `form` describes, from the arrays that `find` gives.
    pub(crate) fn from_parts(
        name: &str,
        form: &WeightForm,
        find: &mut Find<'_>,
    ) -> Result<Self, crate::Error> {
        build(name, form, find, MAX_DEPTH)
    }
}

impl<T: Float> Leaf<T> {
    fn collect(&self, name: &str, shape: &[usize], parts: &mut Vec<Part<T>>) -> Result<LeafForm, Fault> {
        let kept = MaskForm::Zeros { kept: self.kept() };
        let (mask, coding) = match &self.support {
            Support::All => (None, Cow::Borrowed(&self.coding)),
            Support::Zeros(_) => (Some(kept), Cow::Borrowed(&self.coding)),
            Support::Stored(mask) => (Some(push_mask(name, mask, parts)), Cow::Borrowed(&self.coding)),
            Support::Kept(mask) => {
                let stored = StoredMask::encode(mask, self.rows, self.cols, stride(shape));
                if self.fits_as_zeros(stored.stored_bytes() + self.coding.stored_bytes())? {
                    (Some(kept), Cow::Owned(self.spread()?))
                } else {
                    (Some(push_mask(name, &stored, parts)), Cow::Borrowed(&self.coding))
                }
            }
        };
        let coding = push_coding(name, shape, mask.as_ref(), &coding, parts);
        Ok(LeafForm { mask, coding })
    }

    /// As [`collect`](Self::collect), with a bitmask where there is a mask.
    fn collect_bits(&self, name: &str, shape: &[usize], parts: &mut Vec<Part<T>>) -> Result<LeafForm, Fault> {
        let leaf = match &self.support {
            // Taking the zeros out would round the values.
            Support::Zeros(_) if self.float_dtype().bits() > T::DTYPE.bits() => {
                return self.collect(name, shape, parts);
            }
            Support::Zeros(_) => self.load()?,
            _ => self.clone(),
        };
        let mask = leaf.mask()?.map(|mask| {
            let stored =
                StoredMask::encode_as(MaskForm::Bitmask { kept: mask.kept() }, &mask, self.rows, self.cols);
            push_mask(name, &stored, parts)
        });
        let coding = push_coding(name, shape, mask.as_ref(), &leaf.coding, parts);
        Ok(LeafForm { mask, coding })
    }
}

fn push_coding<T: Float>(
    name: &str,
    shape: &[usize],
    mask: Option<&MaskForm>,
    coding: &Coding<T>,
    parts: &mut Vec<Part<T>>,
) -> CodingForm {
    let spread = matches!(mask, None | Some(MaskForm::Zeros { .. }));
    match coding {
        Coding::Float(values) => {
            let dtype = values.dtype();
            parts.push(if spread {
                Part::values(name.to_owned(), shape.to_vec(), values.clone())
            } else {
                Part::values(format!("{name}.values"), vec![values.len()], values.clone())
            });
            CodingForm::Float(dtype)
        }
        Coding::Affine(affine) => {
            let scales = affine.scale.clone();
            parts.push(Part::values(format!("{name}.scale"), vec![scales.len()], scales));
            if let Some(zero) = &affine.zero {
                parts.push(Part::zero_points(format!("{name}.zero_point"), zero));
            }
            parts.push(Part::codes(format!("{name}.codes"), &affine.codes));
            CodingForm::Affine {
                bits: affine.bits(),
                granularity: affine.granularity,
                scale: affine.scale.dtype(),
                symmetric: affine.zero.is_none(),
            }
        }
        Coding::Codebook(book) => {
            let table = book.table.clone();
            let form = CodingForm::Codebook { values: table.len(), table: table.dtype() };
            parts.push(Part::table(format!("{name}.codebook"), table));
            parts.push(Part::codes(format!("{name}.codes"), book.codes()));
            form
        }
    }
}

/// Whether no product of axes overflows, also where some axis is 0.
pub(crate) fn is_sane_shape(shape: &[usize]) -> bool {
    let size = shape.iter().try_fold(1_usize, |n, d| n.checked_mul((*d).max(1)));
    // A byte count of eight times that must still be a number.
    size.is_some_and(|n| n.checked_mul(64).is_some())
}

fn push_mask<T: Float>(name: &str, mask: &StoredMask, parts: &mut Vec<Part<T>>) -> MaskForm {
    for (part, bytes) in mask.parts() {
        let name = format!("{name}.{}", part.name);
        let kind = mask.kind();
        parts.push(Part { kind, ..Part::bytes(name, part.dtype, vec![part.len], bytes.clone()) });
    }
    mask.form.clone()
}

const NO_RANGE: &str = "the range of its activations is not a range around 0";

fn bad(name: &str, why: &'static str) -> crate::Error {
    crate::error::FormatKind::Tensor { name: name.to_owned(), why }.into()
}

fn build<T: Float>(
    name: &str,
    form: &WeightForm,
    find: &mut Find<'_>,
    depth: usize,
) -> Result<Weight<T>, crate::Error> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(bad(name, "products and sums are nested too deep"));
    };
    if !is_sane_shape(&form.shape) {
        return Err(bad(name, "its shape is too large"));
    }
    let (rows, cols) = fold(&form.shape);
    let node = match &form.node {
        NodeForm::Leaf(leaf) => Node::Leaf(build_leaf(name, rows, cols, leaf, find)?),
        NodeForm::Product(u, v) => {
            let ([ur, rank], [vr, vc]) = (u.shape.as_slice(), v.shape.as_slice()) else {
                return Err(bad(name, "the factors of a product must be matrices"));
            };
            if (*ur, *vc) != (rows, cols) || rank != vr || *rank == 0 {
                return Err(bad(name, "the shapes of the factors do not fit"));
            }
            Node::Product(
                Box::new(build(&format!("{name}.u"), u, find, depth)?),
                Box::new(build(&format!("{name}.v"), v, find, depth)?),
            )
        }
        NodeForm::Sum(terms) => {
            if terms.is_empty() || terms.iter().any(|t| t.shape != form.shape) {
                return Err(bad(name, "the shapes of the terms of a sum do not fit"));
            }
            let terms = terms.iter().enumerate();
            Node::Sum(
                terms
                    .map(|(i, t)| build(&format!("{name}.{i}"), t, find, depth))
                    .collect::<Result<_, _>>()?,
            )
        }
    };
    if !form.activations.is_sane() {
        return Err(bad(name, NO_RANGE));
    }
    Ok(Weight { shape: form.shape.clone(), node, activations: form.activations })
}

fn build_leaf<T: Float>(
    name: &str,
    rows: usize,
    cols: usize,
    form: &LeafForm,
    find: &mut Find<'_>,
) -> Result<Leaf<T>, crate::Error> {
    let too_large = || bad(name, "it declares more entries than a file can hold");
    let (support, coded) = match &form.mask {
        None => (Support::All, rows * cols),
        Some(MaskForm::Zeros { kept }) if *kept <= rows * cols => (Support::Zeros(*kept), rows * cols),
        Some(mask) => {
            let parts: Vec<MaskPart> =
                mask.parts(rows, cols).ok_or_else(|| bad(name, "its mask does not fit its shape"))?;
            let kept = mask.kept(rows, cols).ok_or_else(too_large)?;
            let mut found = Vec::with_capacity(parts.len());
            for part in parts {
                let bytes = part.bytes().ok_or_else(too_large)?;
                let bytes = find(&format!("{name}.{}", part.name), mask.kind(rows, cols), part.dtype, bytes)?;
                found.push((part, bytes));
            }
            (Support::Stored(Arc::new(StoredMask::from_parts(mask.clone(), rows, cols, found))), kept)
        }
    };
    let bytes_of = |n: usize, dtype: DType| n.checked_mul(dtype.bits() / 8).ok_or_else(too_large);
    let float =
        |dtype: DType| if dtype.is_float() { Ok(dtype) } else { Err(bad(name, "its values are not floats")) };
    let coding = match form.coding {
        CodingForm::Float(dtype) => {
            let spread = matches!(support, Support::All | Support::Zeros(_));
            let part = if spread { name.to_owned() } else { format!("{name}.values") };
            Coding::Float(Values::raw(
                float(dtype)?,
                find(&part, PartKind::Numbers, dtype, bytes_of(coded, dtype)?)?,
            ))
        }
        CodingForm::Affine { bits, granularity, scale, symmetric } => {
            if !(1..=8).contains(&bits) {
                return Err(bad(name, "its codes are not of 1 to 8 bits"));
            }
            if let Granularity::Group { size } = granularity
                && (size == 0 || !cols.is_multiple_of(size))
            {
                return Err(bad(name, "its groups do not divide its inputs"));
            }
            let blocks = (rows * cols).checked_div(granularity.block(rows, cols)).unwrap_or(0);
            let codes = |name: &str, kind: PartKind, len: usize, find: &mut Find<'_>| {
                let bytes = Codes::packed_bytes(bits, len).ok_or_else(too_large)?;
                let bytes = find(name, kind, DType::U8, bytes)?;
                Ok::<_, crate::Error>(Codes::from_packed(bits, len, bytes))
            };
            let bytes = bytes_of(blocks, float(scale)?)?;
            let scale = Values::raw(scale, find(&format!("{name}.scale"), PartKind::Numbers, scale, bytes)?);
            let zero = match symmetric {
                true => None,
                false => {
                    let kind = PartKind::ZeroPoints { bits, len: blocks };
                    Some(codes(&format!("{name}.zero_point"), kind, blocks, find)?)
                }
            };
            let kind = PartKind::Codes { bits, len: coded };
            let codes = codes(&format!("{name}.codes"), kind, coded, find)?;
            Coding::Affine(Affine { granularity, scale, zero, codes })
        }
        CodingForm::Codebook { values, table } => {
            if matches!(support, Support::Zeros(_)) {
                return Err(bad(name, "a codebook does not hold pruned entries as zeros"));
            }
            if !(1..=Codebook::<T>::MOST).contains(&values) {
                return Err(bad(name, "its codebook is not of 1 to 256 values"));
            }
            let bytes = bytes_of(values, float(table)?)?;
            let part = format!("{name}.codebook");
            let table = Values::raw(table, find(&part, PartKind::Table, table, bytes)?);
            // A few numbers, and all that the codes can mean, so that they are looked at now.
            if !table.is_finite().map_err(|fault| crate::Error::weight(name, fault))? {
                return Err(bad(name, "its codebook holds a value that is NaN or infinite"));
            }
            let bits = Codebook::<T>::bits_for(values);
            let bytes = Codes::packed_bytes(bits, coded).ok_or_else(too_large)?;
            let part = format!("{name}.codes");
            let codes = find(&part, PartKind::Codes { bits, len: coded }, DType::U8, bytes)?;
            Coding::Codebook(Codebook::new(table, Codes::from_packed(bits, coded, codes)))
        }
    };
    Ok(Leaf { rows, cols, support, coding })
}
