//! A weight as named arrays and a description, and back. The two directions are inverses of each other.
//!
//! | part | holds |
//! | --- | --- |
//! | `NAME` | a dense float tensor, under its own name and shape |
//! | `NAME.values` | floats of the kept entries |
//! | `NAME.codes` | codes of the kept entries, packed at their true width |
//! | `NAME.scale` | a scale for each block |
//! | `NAME.zero_point` | a code for each block, packed; absent where all are the middle code |
//! | `NAME.mask`, `.pattern`, `.indices` + `.row_offsets` | the mask: see `storage` |
//! | `NAME.u`, `NAME.v` | parts of the factors of a product, as above |
//! | `NAME.0`, `NAME.1`, .. | parts of the terms of a sum, as above |

use super::storage::{MaskForm, MaskPart, StoredMask};
use super::{
    Activations, Affine, Bytes, Codes, Coding, Granularity, Leaf, Node, Support, Values, Weight, fold, stride,
};
use crate::{DType, Fault, Float};
use serde::{Deserialize, Serialize};
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
}

fn is_default(activations: &Activations) -> bool {
    *activations == Activations::default()
}

/// One array of a weight.
#[derive(Clone, Debug)]
pub(crate) struct Part<T: Float> {
    /// Full name.
    pub name: String,
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
        Self { name, dtype, shape, data: PartData::Bytes(bytes) }
    }

    fn values(name: String, shape: Vec<usize>, values: Values<T>) -> Self {
        Self { name, dtype: values.dtype(), shape, data: PartData::Values(values) }
    }

    /// Packed bytes, whose length says all about their shape.
    fn packed(name: String, bytes: Bytes) -> Self {
        Self::bytes(name, DType::U8, vec![bytes.len()], bytes)
    }

    pub fn len(&self) -> usize {
        match &self.data {
            PartData::Values(values) => values.stored_bytes(),
            PartData::Bytes(bytes) => bytes.len(),
        }
    }
}

/// Whether the weight is a plain tensor, which needs no description.
fn is_plain<T: Float>(weight: &Weight<T>) -> bool {
    matches!(&weight.node, Node::Leaf(Leaf { support: Support::All, coding: Coding::Float(_), .. }))
        && weight.activations == Activations::Float
}

impl<T: Float> Weight<T> {
    /// Its arrays, and its description unless it is a plain tensor.
    pub(crate) fn to_parts(&self, name: &str) -> Result<(Option<WeightForm>, Vec<Part<T>>), Fault> {
        let mut parts = Vec::new();
        let form = self.collect(name, &mut parts)?;
        Ok(((!is_plain(self)).then_some(form), parts))
    }

    fn collect(&self, name: &str, parts: &mut Vec<Part<T>>) -> Result<WeightForm, Fault> {
        let node = match &self.node {
            Node::Leaf(leaf) => NodeForm::Leaf(leaf.collect(name, &self.shape, parts)?),
            Node::Product(u, v) => NodeForm::Product(
                Box::new(u.collect(&format!("{name}.u"), parts)?),
                Box::new(v.collect(&format!("{name}.v"), parts)?),
            ),
            Node::Sum(terms) => NodeForm::Sum(
                terms
                    .iter()
                    .enumerate()
                    .map(|(i, t)| t.collect(&format!("{name}.{i}"), parts))
                    .collect::<Result<_, _>>()?,
            ),
        };
        Ok(WeightForm { shape: self.shape.clone(), node, activations: self.activations })
    }

    /// The weight that `form` describes, from the arrays that `find` gives.
    pub(crate) fn from_parts(
        name: &str,
        form: &WeightForm,
        find: &mut dyn FnMut(&str, DType, usize) -> Result<Bytes, crate::Error>,
    ) -> Result<Self, crate::Error> {
        build(name, form, find, MAX_DEPTH)
    }
}

impl<T: Float> Leaf<T> {
    fn collect(&self, name: &str, shape: &[usize], parts: &mut Vec<Part<T>>) -> Result<LeafForm, Fault> {
        let stored = match &self.support {
            Support::All => None,
            Support::Kept(mask) => {
                Some(Arc::new(StoredMask::encode(mask, self.rows, self.cols, stride(shape))))
            }
            Support::Stored(mask) => Some(Arc::clone(mask)),
        };
        let mask = stored.map(|mask| {
            for (part, bytes) in mask.parts() {
                let name = format!("{name}.{}", part.name);
                parts.push(Part::bytes(name, part.dtype, vec![part.len], bytes.clone()));
            }
            mask.form.clone()
        });
        let coding = match &self.coding {
            Coding::Float(values) => {
                let dtype = values.dtype();
                parts.push(match mask {
                    None => Part::values(name.to_owned(), shape.to_vec(), values.clone()),
                    Some(_) => Part::values(format!("{name}.values"), vec![values.len()], values.clone()),
                });
                CodingForm::Float(dtype)
            }
            Coding::Affine(affine) => {
                let scales = affine.scale.clone();
                parts.push(Part::values(format!("{name}.scale"), vec![scales.len()], scales));
                if let Some(zero) = &affine.zero {
                    parts.push(Part::packed(format!("{name}.zero_point"), zero.packed()));
                }
                parts.push(Part::packed(format!("{name}.codes"), affine.codes.packed()));
                CodingForm::Affine {
                    bits: affine.bits(),
                    granularity: affine.granularity,
                    scale: affine.scale.dtype(),
                    symmetric: affine.zero.is_none(),
                }
            }
        };
        Ok(LeafForm { mask, coding })
    }
}

fn bad(name: &str, why: &'static str) -> crate::Error {
    crate::error::FormatKind::Tensor { name: name.to_owned(), why }.into()
}

fn build<T: Float>(
    name: &str,
    form: &WeightForm,
    find: &mut dyn FnMut(&str, DType, usize) -> Result<Bytes, crate::Error>,
    depth: usize,
) -> Result<Weight<T>, crate::Error> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(bad(name, "products and sums are nested too deep"));
    };
    let size = form.shape.iter().copied().try_fold(1, usize::checked_mul);
    if size.is_none_or(|n| isize::try_from(n).is_err()) {
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
            Node::Sum(terms.map(|(i, t)| build(&format!("{name}.{i}"), t, find, depth)).collect::<Result<_, _>>()?)
        }
    };
    if let Activations::Int8Static { low, high } = form.activations
        && !(low.is_finite() && high.is_finite() && low <= 0.0 && high >= 0.0)
    {
        return Err(bad(name, "the range of its activations is not a range around 0"));
    }
    Ok(Weight { shape: form.shape.clone(), node, activations: form.activations })
}

fn build_leaf<T: Float>(
    name: &str,
    rows: usize,
    cols: usize,
    form: &LeafForm,
    find: &mut dyn FnMut(&str, DType, usize) -> Result<Bytes, crate::Error>,
) -> Result<Leaf<T>, crate::Error> {
    let too_large = || bad(name, "it declares more entries than a file can hold");
    let (support, kept) = match &form.mask {
        None => (Support::All, rows * cols),
        Some(mask) => {
            let parts: Vec<MaskPart> =
                mask.parts(rows, cols).ok_or_else(|| bad(name, "its mask does not fit its shape"))?;
            let kept = mask.kept(rows, cols).ok_or_else(too_large)?;
            let mut found = Vec::with_capacity(parts.len());
            for part in parts {
                let bytes = find(&format!("{name}.{}", part.name), part.dtype, part.bytes().ok_or_else(too_large)?)?;
                found.push((part, bytes));
            }
            (Support::Stored(Arc::new(StoredMask::from_parts(mask.clone(), rows, cols, found))), kept)
        }
    };
    let bytes_of = |n: usize, dtype: DType| n.checked_mul(dtype.bits() / 8).ok_or_else(too_large);
    let float = |dtype: DType| if dtype.is_float() { Ok(dtype) } else { Err(bad(name, "its values are not floats")) };
    let coding = match form.coding {
        CodingForm::Float(dtype) => {
            let part = if form.mask.is_some() { format!("{name}.values") } else { name.to_owned() };
            Coding::Float(Values::raw(float(dtype)?, find(&part, dtype, bytes_of(kept, dtype)?)?))
        }
        CodingForm::Affine { bits, granularity, scale, symmetric } => {
            if !(1..=8).contains(&bits) {
                return Err(bad(name, "its codes are not of 1 to 8 bits"));
            }
            if let Granularity::Group { size } = granularity
                && (size == 0 || cols % size != 0)
            {
                return Err(bad(name, "its groups do not divide its inputs"));
            }
            let blocks = (rows * cols).checked_div(granularity.block(rows, cols)).unwrap_or(0);
            let packed = |n: usize| Codes::packed_bytes(bits, n).ok_or_else(too_large);
            let scale = Values::raw(float(scale)?, find(&format!("{name}.scale"), scale, bytes_of(blocks, scale)?)?);
            let zero = match symmetric {
                true => None,
                false => {
                    let bytes = find(&format!("{name}.zero_point"), DType::U8, packed(blocks)?)?;
                    Some(Codes::from_packed(bits, blocks, bytes))
                }
            };
            let codes = find(&format!("{name}.codes"), DType::U8, packed(kept)?)?;
            Coding::Affine(Affine { granularity, scale, zero, codes: Codes::from_packed(bits, kept, codes) })
        }
    };
    Ok(Leaf { rows, cols, support, coding })
}
