//! The settings of a codebook as a recipe writes them.

use super::{CodebookInit, CodebookQuantizer, Size};
use crate::model::{Kind, Select};
use serde::{Deserialize, Serialize};

/// Exactly one of `bits` and `values`, and what differs from the defaults.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Settings {
    #[serde(skip_serializing_if = "Option::is_none")]
    bits: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    values: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iterations: Option<usize>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    optimal: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    only: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    except: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kinds: Vec<Kind>,
    // Last: in TOML a table ends the plain settings.
    #[serde(skip_serializing_if = "is_default")]
    init: CodebookInit,
}

fn is_default(init: &CodebookInit) -> bool {
    *init == CodebookInit::default()
}

impl From<CodebookQuantizer> for Settings {
    fn from(step: CodebookQuantizer) -> Self {
        let Select { only, except, kinds } = step.select;
        let (bits, values) = match step.size {
            Size::Bits(bits) => (Some(bits), None),
            Size::Values(values) => (None, Some(values)),
        };
        let iterations = (step.iterations != CodebookQuantizer::ITERATIONS).then_some(step.iterations);
        Self { bits, values, iterations, optimal: step.optimal, only, except, kinds, init: step.init }
    }
}

impl TryFrom<Settings> for CodebookQuantizer {
    type Error = String;

    fn try_from(s: Settings) -> Result<Self, String> {
        let size = match (s.bits, s.values) {
            (Some(bits), None) => Size::Bits(bits),
            (None, Some(values)) => Size::Values(values),
            _ => return Err("codebook needs exactly one of bits, values".to_owned()),
        };
        Ok(Self {
            size,
            init: s.init,
            iterations: s.iterations.unwrap_or(Self::ITERATIONS),
            optimal: s.optimal,
            select: Select { only: s.only, except: s.except, kinds: s.kinds },
        })
    }
}
