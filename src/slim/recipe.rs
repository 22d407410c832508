//! The settings of slimming as a recipe writes them.

use super::{Amount, ChannelPruner, Importance};
use crate::model::{Kind, Select};
use serde::{Deserialize, Serialize};

/// Exactly one of `dead` and `ratio`, and what differs from the defaults.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Settings {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dead: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    global: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    importance: Option<Importance>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_least: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    round_to: Option<usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    only: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    except: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kinds: Vec<Kind>,
}

impl From<ChannelPruner> for Settings {
    fn from(step: ChannelPruner) -> Self {
        let Select { only, except, kinds } = step.select;
        let (dead, ratio) = match step.amount {
            Amount::Dead => (true, None),
            Amount::Ratio(fraction) => (false, Some(fraction)),
        };
        let unless_one = |n: usize| (n != 1).then_some(n);
        Self {
            dead,
            ratio,
            global: step.global,
            importance: step.importance,
            at_least: unless_one(step.at_least),
            round_to: unless_one(step.round_to),
            only,
            except,
            kinds,
        }
    }
}

impl TryFrom<Settings> for ChannelPruner {
    type Error = String;

    fn try_from(s: Settings) -> Result<Self, String> {
        let amount = match (s.dead, s.ratio) {
            (true, None) => Amount::Dead,
            (false, Some(fraction)) => Amount::Ratio(fraction),
            _ => return Err("slim needs exactly one of dead, ratio".to_owned()),
        };
        Ok(Self {
            amount,
            global: s.global,
            importance: s.importance,
            at_least: s.at_least.unwrap_or(1),
            round_to: s.round_to.unwrap_or(1),
            select: Select { only: s.only, except: s.except, kinds: s.kinds },
        })
    }
}
