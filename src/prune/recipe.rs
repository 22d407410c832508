//! The settings of pruning as a recipe writes them.

use super::{Amount, MagnitudePruner};
use crate::model::{Kind, Select};
use serde::{Deserialize, Serialize};

/// Exactly one of `threshold`, `sparsity`, `pattern` and `channels`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Settings {
    #[serde(skip_serializing_if = "Option::is_none")]
    threshold: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sparsity: Option<f64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    global: bool,
    /// `"2:4"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pattern: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channels: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    only: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    except: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kinds: Vec<Kind>,
}

impl From<MagnitudePruner> for Settings {
    fn from(step: MagnitudePruner) -> Self {
        let Select { only, except, kinds } = step.select;
        let settings = Self { global: step.global, only, except, kinds, ..Self::default() };
        match step.amount {
            Amount::Threshold(t) => Self { threshold: Some(t), ..settings },
            Amount::Sparsity(fraction) => Self { sparsity: Some(fraction), ..settings },
            Amount::Pattern { n, m } => Self { pattern: Some(format!("{n}:{m}")), ..settings },
            Amount::Channels(fraction) => Self { channels: Some(fraction), ..settings },
        }
    }
}

impl TryFrom<Settings> for MagnitudePruner {
    type Error = String;

    fn try_from(s: Settings) -> Result<Self, String> {
        let pattern = |p: &str| {
            let (n, m) = p.split_once(':')?;
            Some(Amount::Pattern { n: n.trim().parse().ok()?, m: m.trim().parse().ok()? })
        };
        let amount = match (s.threshold, s.sparsity, &s.pattern, s.channels) {
            (Some(t), None, None, None) => Amount::Threshold(t),
            (None, Some(fraction), None, None) => Amount::Sparsity(fraction),
            (None, None, Some(p), None) => {
                pattern(p).ok_or_else(|| format!("pattern = {p:?}: must be like \"2:4\""))?
            }
            (None, None, None, Some(fraction)) => Amount::Channels(fraction),
            _ => return Err("prune needs exactly one of threshold, sparsity, pattern, channels".to_owned()),
        };
        Ok(Self {
            amount,
            global: s.global,
            select: Select { only: s.only, except: s.except, kinds: s.kinds },
        })
    }
}
