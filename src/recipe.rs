//! [`Recipe`]: a pipeline of plain settings, as a value that can be kept in a file.

use crate::error::FormatKind;
use crate::{
    AffineQuantizer, ChannelPruner, CodebookQuantizer, Float, LowRankFactorizer, MagnitudePruner, Pipeline,
    Result,
};
use serde::{Deserialize, Serialize};

/// A pipeline of plain settings, in TOML or JSON.
///
/// ```
/// use bantam::{Pipeline, Recipe};
///
/// let recipe = Recipe::from_json(
///     r#"{ "steps": [
///         { "factorize": { "energy": 0.95, "only": ["fc1.*"] } },
///         { "prune": { "sparsity": 0.9, "global": true } },
///         { "quantize": { "bits": 4, "group": 32, "except": ["fc3.*"] } } ] }"#,
/// )?;
/// let pipeline: Pipeline = recipe.clone().into();
/// assert_eq!(pipeline.recipe()?, recipe);
/// # Ok::<(), bantam::Error>(())
/// ```
///
/// The same in TOML:
///
/// ```toml
/// [[steps]]
/// factorize = { energy = 0.95, only = ["fc1.*"] }
/// [[steps]]
/// prune = { sparsity = 0.9, global = true }
/// [[steps]]
/// quantize = { bits = 4, group = 32, except = ["fc3.*"] }
/// ```
///
/// Settings that are not given have their defaults; unknown ones are errors. Steps that carry data
/// (fine-tuning, distillation, calibration, your own) cannot be written down.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The steps in order.
    pub steps: Vec<RecipeStep>,
}

/// One step of a [`Recipe`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RecipeStep {
    /// Pruning.
    Prune(MagnitudePruner),
    /// Quantization.
    Quantize(AffineQuantizer),
    /// Sharing of values.
    Codebook(CodebookQuantizer),
    /// Factorization.
    Factorize(LowRankFactorizer),
    /// Removal of channels.
    Slim(ChannelPruner),
    /// Several steps in one.
    Steps(Vec<RecipeStep>),
}

impl Recipe {
    /// Reads a recipe in JSON.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) that says what is wrong and where.
    pub fn from_json(text: &str) -> Result<Self> {
        Ok(serde_json::from_str(text).map_err(|e| FormatKind::Recipe(e.to_string()))?)
    }

    /// The recipe in JSON.
    pub fn to_json(&self) -> String {
        // Plain data with text keys: there is nothing that JSON cannot hold.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Reads a recipe in TOML.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) that says what is wrong and where;
    /// [`Error::Unsupported`](crate::Error::Unsupported) without the feature `toml`.
    pub fn from_toml(text: &str) -> Result<Self> {
        #[cfg(feature = "toml")]
        return Ok(toml::from_str(text).map_err(|e| FormatKind::Recipe(one_line(text, &e)))?);
        #[cfg(not(feature = "toml"))]
        {
            let _ = text;
            Err(crate::Error::Unsupported { what: "reading a recipe in TOML", feature: "toml" })
        }
    }

    /// The recipe in TOML.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) without the feature `toml`.
    pub fn to_toml(&self) -> Result<String> {
        #[cfg(feature = "toml")]
        return Ok(toml::to_string(self).map_err(|e| FormatKind::Recipe(e.to_string()))?);
        #[cfg(not(feature = "toml"))]
        Err(crate::Error::Unsupported { what: "writing a recipe in TOML", feature: "toml" })
    }
}

/// What is wrong and where, without the excerpt that the error shows over several lines.
#[cfg(feature = "toml")]
fn one_line(text: &str, error: &toml::de::Error) -> String {
    let message = error.message();
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else {
        return message.to_owned();
    };
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    format!("{message} at line {line} column {column}")
}

impl<T: Float> From<Recipe> for Pipeline<'_, T> {
    fn from(recipe: Recipe) -> Self {
        recipe.steps.into_iter().fold(Self::default(), |pipeline, step| match step {
            RecipeStep::Prune(step) => pipeline.then(step),
            RecipeStep::Quantize(step) => pipeline.then(step),
            RecipeStep::Codebook(step) => pipeline.then(step),
            RecipeStep::Factorize(step) => pipeline.then(step),
            RecipeStep::Slim(step) => pipeline.then(step),
            RecipeStep::Steps(steps) => pipeline.then(Self::from(Recipe { steps })),
        })
    }
}

impl<T: Float> From<&Recipe> for Pipeline<'_, T> {
    fn from(recipe: &Recipe) -> Self {
        recipe.clone().into()
    }
}

#[cfg(all(test, feature = "toml"))]
mod tests {
    use super::Recipe;

    #[test]
    fn a_mistake_is_named_with_its_place_in_one_line() {
        let error =
            Recipe::from_toml("[[steps]]\nquantize = { bits = 4, gruop = 32 }\n").unwrap_err().to_string();
        assert!(error.contains("gruop") && error.contains("line 2"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}
