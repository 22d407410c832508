//! A line of the comparison, as both sides read it from `rows.json`.

use bantam::{BoxError, Recipe};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;

#[derive(Debug, Deserialize)]
pub struct Row {
    pub name: String,
    /// Of a matrix; `[1, 1]` for a network.
    #[serde(default = "network")]
    pub shape: [usize; 2],
    /// Matrices: compressed together, or run in turn.
    #[serde(default = "one")]
    pub copies: usize,
    /// Rows of the input of a product, samples of that of a network.
    #[serde(default)]
    pub batches: Vec<usize>,
    #[serde(default)]
    pub measure: Measure,
    #[serde(default)]
    pub steps: serde_json::Value,
    #[serde(default)]
    pub activations: bantam::Activations,
    /// Channels, height and width of a sample.
    #[serde(default)]
    pub input: [usize; 3],
    #[serde(default)]
    pub layers: Vec<Layer>,
    /// Layers of the network that is distilled into these.
    #[serde(default)]
    pub teacher: Vec<Layer>,
    /// What the memory and the arithmetic must do at least: bytes, and multiplications and additions for a
    /// row of input, each for one entry of one matrix (for a network: for all of it).
    pub limit: BTreeMap<String, f64>,
}

fn one() -> usize {
    1
}

fn network() -> [usize; 2] {
    [1, 1]
}

/// What is timed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    /// The steps.
    #[default]
    Compress,
    /// Decoding what the steps made.
    Dequantize,
    /// The thin singular value decomposition.
    Svd,
    /// A product with what the steps made.
    Matmul,
    /// A network of what the steps made.
    Network,
    /// A step of training such a network.
    Training,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// With a bias, at stride 1.
    Conv {
        channels: usize,
        size: usize,
        padding: usize,
    },
    /// The largest of 2 x 2.
    Pool,
    /// To so many outputs, with a bias.
    Linear(usize),
    Relu,
}

impl Row {
    /// The row called `name`, and its batch where it has several: the name then ends in ", batch 16".
    pub fn find(name: &str) -> Result<(Self, usize), BoxError> {
        let rows: Vec<Self> = serde_json::from_str(include_str!("rows.json"))?;
        let mut names = Vec::new();
        for row in rows {
            if row.batches.is_empty() {
                if row.name == name {
                    return Ok((row, 1));
                }
                names.push(row.name);
                continue;
            }
            for batch in &row.batches {
                let full = format!("{}, batch {batch}", row.name);
                if full == name {
                    let batch = *batch;
                    return Ok((row, batch));
                }
                names.push(full);
            }
        }
        Err(format!("no row {name:?}; there are:\n{}", names.join("\n")).into())
    }

    pub fn recipe(&self) -> Result<Recipe, BoxError> {
        if self.steps.is_null() {
            return Ok(Recipe::default());
        }
        Ok(Recipe::from_json(&json!({ "steps": self.steps }).to_string())?)
    }
}
