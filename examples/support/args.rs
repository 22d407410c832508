//! Options of the examples: `--name value` and `--flag`.

use bantam::BoxError;
use std::str::FromStr;

pub struct Args(Vec<String>);

impl Args {
    pub fn from_env() -> Self {
        Self(std::env::args().skip(1).collect())
    }

    /// The value of `--name`, if it is given.
    pub fn value<V: FromStr>(&mut self, name: &str) -> Result<Option<V>, BoxError>
    where
        V::Err: std::fmt::Display,
    {
        let Some(at) = self.0.iter().position(|a| a == name) else { return Ok(None) };
        self.0.remove(at);
        if at >= self.0.len() {
            return Err(format!("{name} needs a value").into());
        }
        let text = self.0.remove(at);
        text.parse().map(Some).map_err(|e| format!("{name} {text}: {e}").into())
    }

    /// Whether `--name` is given.
    #[allow(dead_code, reason = "not every example has flags")]
    pub fn flag(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|a| a != name);
        self.0.len() < before
    }

    /// Nothing may be left over.
    pub fn finish(self) -> Result<(), BoxError> {
        match self.0.first() {
            None => Ok(()),
            Some(unknown) => Err(format!("unknown option {unknown}").into()),
        }
    }
}
