//! Training with data: [`Distiller`] learns from a teacher, [`FineTuner`] from labels alone.
//!
//! Both run one loop over a [`Dataset`](crate::nn::Dataset) and anything that is a [`Student`], so that a
//! network of another runtime can be taught as well as a [`Trainable`](crate::nn::Trainable).

mod distiller;
mod finetuner;
mod fit;
mod settings;
mod step;
mod student;
mod teacher;
#[cfg(all(test, feature = "train"))]
mod tests;

pub use distiller::Distiller;
pub use finetuner::FineTuner;
pub use fit::{Epoch, TrainStep, Training};
pub use settings::Hook;
pub(crate) use settings::Settings;
pub use student::Student;
pub use teacher::Teacher;
