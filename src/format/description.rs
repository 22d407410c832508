//! What a file says of a compressed model beside its arrays: JSON under the key `bantam`.

use super::safetensors::Stored;
use crate::error::FormatKind;
use crate::model::{Content, Kind, Model, WeightInfo};
use crate::nn::Graph;
use crate::weight::{Bytes, WeightForm};
use crate::{DType, Float, Result, Weight};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;

/// Key in `__metadata__`.
pub(super) const KEY: &str = "bantam";
/// Version of the layouts. Readers refuse newer ones.
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Description {
    version: u32,
    pub entries: Vec<EntryForm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graph: Option<Graph>,
}

/// One tensor of the model, in its order.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct EntryForm {
    pub name: String,
    /// Where it is not what the name and the shape suggest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// Where it is not a plain tensor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<WeightForm>,
}

impl EntryForm {
    pub fn new(info: &WeightInfo, form: Option<WeightForm>) -> Self {
        let guessed = Kind::guess(&info.name, &info.shape);
        Self { name: info.name.to_string(), kind: (info.kind != guessed).then_some(info.kind), form }
    }

    /// Whether the reader would find all this without being told.
    fn is_obvious(&self) -> bool {
        self.kind.is_none() && self.form.is_none()
    }
}

impl Description {
    pub fn new(entries: Vec<EntryForm>, graph: Option<Graph>) -> Self {
        Self { version: VERSION, entries, graph }
    }

    /// Whether the file is a plain one, whose arrays lie in the order of the model.
    pub fn is_needless(&self, in_order: bool) -> bool {
        // A tensor of this name alone would be taken for an archive.
        let is_told_apart = !matches!(self.entries.as_slice(), [entry] if entry.name == super::archive::NAME);
        in_order && is_told_apart && self.graph.is_none() && self.entries.iter().all(EntryForm::is_obvious)
    }

    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| FormatKind::Description(e.to_string()).into())
    }

    pub fn from_json(text: &[u8]) -> Result<Self> {
        // A newer description may have another shape altogether, so the version is read first.
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let bad = |e: serde_json::Error| FormatKind::Description(e.to_string());
        let Version { version } = serde_json::from_slice(text).map_err(bad)?;
        if version > VERSION {
            return Err(FormatKind::Newer(version).into());
        }
        Ok(serde_json::from_slice(text).map_err(bad)?)
    }

    /// The model: every array is used exactly once.
    pub fn build<T: Float>(self, arrays: Vec<Stored>) -> Result<Model<T>> {
        let mut arrays: HashMap<String, Stored> = arrays.into_iter().map(|a| (a.name.clone(), a)).collect();
        let model = self.build_with(|entry| match &entry.form {
            None => Ok(plain(take(&mut arrays, &entry.name)?)),
            Some(form) => {
                let weight = Weight::from_parts(&entry.name, form, &mut |name, _, dtype, bytes| {
                    part(&take(&mut arrays, name)?, dtype, bytes)
                })?;
                Ok((weight.shape().to_vec(), Content::Weight(Arc::new(weight))))
            }
        })?;
        match arrays.into_keys().min() {
            None => Ok(model),
            Some(name) => Err(FormatKind::Tensor { name, why: "the description does not mention it" }.into()),
        }
    }

    /// The model, with the shape and content of each entry from `content`.
    pub fn build_with<T: Float>(
        self,
        mut content: impl FnMut(&EntryForm) -> Result<(Vec<usize>, Content<T>)>,
    ) -> Result<Model<T>> {
        let mut model = Model::default();
        for entry in self.entries {
            let (shape, content) = content(&entry)?;
            let kind = entry.kind.unwrap_or_else(|| Kind::guess(&entry.name, &shape));
            model.push_content(WeightInfo::new(entry.name, kind, &shape), content)?;
        }
        if let Some(graph) = self.graph {
            // A graph that does not fit is a fault of the file, which the error is to name.
            model.set_graph(graph).map_err(|e| FormatKind::Description(e.to_string()))?;
        }
        Ok(model)
    }
}

/// A tensor as it lies in the file.
pub(super) fn plain<T: Float>(array: Stored) -> (Vec<usize>, Content<T>) {
    let content = if array.dtype.is_float() {
        Content::Weight(Arc::new(Weight::raw(&array.shape, array.dtype, array.bytes)))
    } else {
        Content::Carried(array.dtype, array.bytes)
    };
    (array.shape, content)
}

fn take(arrays: &mut HashMap<String, Stored>, name: &str) -> Result<Stored> {
    let missing = || FormatKind::Tensor { name: name.to_owned(), why: "it is described but missing" };
    Ok(arrays.remove(name).ok_or_else(missing)?)
}

/// An array of a compressed weight: the right type and length. Those that pad a line may be longer by less
/// than 8 bytes.
fn part(array: &Stored, dtype: DType, bytes: usize) -> Result<Bytes> {
    let padded = array.shape.len() == 1 && array.bytes.len() == bytes.next_multiple_of(8);
    if array.dtype == dtype && (array.bytes.len() == bytes || padded) {
        return Ok(array.bytes.slice(0, bytes));
    }
    Err(FormatKind::TensorType {
        name: array.name.clone(),
        expected: format!("{dtype} of {bytes} bytes"),
        got: format!("{} of {} bytes", array.dtype, array.bytes.len()),
    }
    .into())
}
