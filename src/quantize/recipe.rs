//! The settings of quantization as a recipe writes them.

use super::{AffineQuantizer, Range};
use crate::model::{Kind, Select};
use crate::{Activations, Granularity};
use serde::{Deserialize, Serialize};

/// `bits`, and what differs from the defaults.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    bits: u8,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    asymmetric: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    per_channel: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<usize>,
    #[serde(default, skip_serializing_if = "is_default")]
    range: Range,
    #[serde(default, skip_serializing_if = "is_default")]
    activations: Activations,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    only: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    except: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    kinds: Vec<Kind>,
}

fn is_default<S: Default + PartialEq>(setting: &S) -> bool {
    *setting == S::default()
}

impl From<AffineQuantizer> for Settings {
    fn from(step: AffineQuantizer) -> Self {
        let Select { only, except, kinds } = step.select;
        Self {
            bits: step.bits,
            asymmetric: !step.symmetric,
            per_channel: step.granularity == Granularity::Channel,
            group: match step.granularity {
                Granularity::Group { size } => Some(size),
                _ => None,
            },
            range: step.range,
            activations: step.activations,
            only,
            except,
            kinds,
        }
    }
}

impl TryFrom<Settings> for AffineQuantizer {
    type Error = String;

    fn try_from(s: Settings) -> Result<Self, String> {
        let granularity = match (s.per_channel, s.group) {
            (false, None) => Granularity::Tensor,
            (true, None) => Granularity::Channel,
            (false, Some(size)) => Granularity::Group { size },
            (true, Some(_)) => return Err("quantize takes per_channel or group, not both".to_owned()),
        };
        Ok(Self {
            bits: s.bits,
            symmetric: !s.asymmetric,
            granularity,
            range: s.range,
            activations: s.activations,
            select: Select { only: s.only, except: s.except, kinds: s.kinds },
        })
    }
}
