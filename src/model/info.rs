//! What a step may know of a weight besides its values, and how it chooses weights.

use crate::nn::Role;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use wildmatch::WildMatch;

/// What a tensor does in its network.
///
/// A model with a graph knows; otherwise it is guessed from the number of axes and the name, by the
/// customs of PyTorch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// A single tensor given to a pipeline without a model. Always selected.
    Lone,
    /// A matrix `[out, in]`.
    Linear,
    /// A convolution kernel `[out, in, kh, kw]`, or with any number of kernel axes.
    Conv,
    /// A table `[entries, width]`.
    Embedding,
    /// Scale, shift or running statistics of a normalisation.
    Norm,
    /// Something that is added.
    Bias,
    /// None of these.
    Unknown,
}

impl Kind {
    /// Steps that are not told otherwise take matrices, kernels, tables and lone tensors; never biases or
    /// norms.
    pub fn is_compressible(self) -> bool {
        matches!(self, Self::Lone | Self::Linear | Self::Conv | Self::Embedding)
    }

    /// By what the weight does in a graph.
    pub(crate) fn of(role: Role) -> Self {
        match role {
            Role::Linear => Self::Linear,
            Role::Conv2d => Self::Conv,
            Role::Bias => Self::Bias,
            Role::Scale | Role::Shift | Role::Mean | Role::Variance => Self::Norm,
        }
    }

    /// A guess by name and shape.
    pub(crate) fn guess(name: &str, shape: &[usize]) -> Self {
        let lower = name.to_ascii_lowercase();
        let has = |words: &[&str]| words.iter().any(|w| lower.contains(w));
        match shape.len() {
            0 => Self::Unknown,
            1 if lower.ends_with("bias") => Self::Bias,
            1 if has(&["norm", "bn", "ln", "running_", "scale", "gamma", "beta"]) => Self::Norm,
            1 => Self::Unknown,
            2 if has(&["embed", "wte", "wpe"]) => Self::Embedding,
            2 => Self::Linear,
            _ => Self::Conv,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Lone => "tensor",
            Self::Linear => "linear",
            Self::Conv => "conv",
            Self::Embedding => "embedding",
            Self::Norm => "norm",
            Self::Bias => "bias",
            Self::Unknown => "other",
        })
    }
}

/// Name, kind and shape of a weight.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct WeightInfo {
    /// Its name in the model, for example `"fc1.weight"`.
    pub name: Arc<str>,
    /// What it does.
    pub kind: Kind,
    /// Lengths of its axes, outputs first: `[out, in]`, `[out, in, kh, kw]`.
    pub shape: Vec<usize>,
}

impl WeightInfo {
    /// A weight of that name, kind and shape.
    pub fn new(name: impl Into<Arc<str>>, kind: Kind, shape: &[usize]) -> Self {
        Self { name: name.into(), kind, shape: shape.to_vec() }
    }
}

/// Which weights a step takes.
///
/// | setting | default | meaning |
/// | --- | --- | --- |
/// | `only` | empty: all names | globs (`*` and `?`), at least one of which must match the name |
/// | `except` | empty | globs, none of which may match |
/// | `kinds` | empty | kinds to take; empty: those of [`Kind::is_compressible`], or any kind where `only` names it |
///
/// A lone tensor is taken unless `except` or `kinds` say no. A step whose `only` selects nothing is refused
/// before any work.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Select {
    /// Globs of names to take.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
    /// Globs of names to leave.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
    /// Kinds to take.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<Kind>,
}

impl Select {
    /// Whether the step takes this weight.
    pub fn takes(&self, info: &WeightInfo) -> bool {
        let matched = |globs: &[String]| globs.iter().any(|g| WildMatch::new(g).matches(&info.name));
        let by_name = self.only.is_empty() || info.kind == Kind::Lone || matched(&self.only);
        let by_kind = if self.kinds.is_empty() {
            !self.only.is_empty() || info.kind.is_compressible()
        } else {
            self.kinds.contains(&info.kind)
        };
        by_name && by_kind && !matched(&self.except)
    }
}

/// The setters by which every step chooses its weights.
macro_rules! select_setters {
    () => {
        /// Takes only weights whose name matches this glob (`*` and `?`); may be given several times.
        /// Default: all.
        pub fn only(mut self, glob: impl Into<String>) -> Self {
            self.select.only.push(glob.into());
            self
        }

        /// Leaves weights whose name matches this glob (`*` and `?`); may be given several times. Default:
        /// none.
        pub fn except(mut self, glob: impl Into<String>) -> Self {
            self.select.except.push(glob.into());
            self
        }

        /// Takes weights of this kind; may be given several times. Default: matrices, kernels, tables and
        /// lone tensors ([`Kind::is_compressible`](crate::Kind::is_compressible)).
        pub fn kind(mut self, kind: crate::Kind) -> Self {
            self.select.kinds.push(kind);
            self
        }
    };
}
pub(crate) use select_setters;
