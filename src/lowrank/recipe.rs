//! The settings of factorization as a recipe writes them.

use super::{Amount, LowRankFactorizer, Svd};
use crate::AffineQuantizer;
use crate::model::{Kind, Select};
use serde::{Deserialize, Serialize};

/// Exactly one of `rank`, `energy` and `parameters`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Settings {
    #[serde(skip_serializing_if = "Option::is_none")]
    rank: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    energy: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<f64>,
    #[serde(skip_serializing_if = "is_default")]
    svd: Svd,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    exact: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    only: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    except: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kinds: Vec<Kind>,
    // Last: in TOML a table ends the plain settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    residual: Option<AffineQuantizer>,
}

fn is_default(svd: &Svd) -> bool {
    *svd == Svd::default()
}

impl From<LowRankFactorizer> for Settings {
    fn from(step: LowRankFactorizer) -> Self {
        let Select { only, except, kinds } = step.select;
        let settings = Self {
            residual: step.residual,
            svd: step.svd,
            exact: step.exact,
            only,
            except,
            kinds,
            ..Self::default()
        };
        match step.amount {
            Amount::Rank(rank) => Self { rank: Some(rank), ..settings },
            Amount::Energy(fraction) => Self { energy: Some(fraction), ..settings },
            Amount::Parameters(fraction) => Self { parameters: Some(fraction), ..settings },
        }
    }
}

impl TryFrom<Settings> for LowRankFactorizer {
    type Error = String;

    fn try_from(s: Settings) -> Result<Self, String> {
        let amount = match (s.rank, s.energy, s.parameters) {
            (Some(rank), None, None) => Amount::Rank(rank),
            (None, Some(fraction), None) => Amount::Energy(fraction),
            (None, None, Some(fraction)) => Amount::Parameters(fraction),
            _ => return Err("factorize needs exactly one of rank, energy, parameters".to_owned()),
        };
        let select = Select { only: s.only, except: s.except, kinds: s.kinds };
        Ok(Self { amount, residual: s.residual, svd: s.svd, exact: s.exact, select })
    }
}
