//! Training with data: [`Distiller`] learns from a teacher, [`FineTuner`] from labels alone.
//!
//! Both run one loop over a [`Dataset`](crate::nn::Dataset) and anything that is a [`Student`], so that a
//! network of another runtime can be taught as well as a [`Trainable`](crate::nn::Trainable).

mod checkpoint;
#[cfg(all(test, feature = "train"))]
mod depth_tests;
mod distiller;
mod early;
mod ensemble;
mod finetuner;
mod fit;
mod hint;
mod lesson;
mod logits;
mod objective;
mod ramp;
#[cfg(all(test, feature = "train", feature = "files"))]
mod refusal_tests;
#[cfg(all(test, feature = "train", feature = "files"))]
mod resume_tests;
mod settings;
mod step;
mod student;
mod teacher;
#[cfg(all(test, feature = "train"))]
mod tests;
mod witness;
#[cfg(all(test, feature = "train"))]
mod zoo;

pub use checkpoint::Checkpoint;
pub use distiller::Distiller;
pub use early::EarlyStop;
pub use ensemble::Ensemble;
pub use finetuner::FineTuner;
pub use fit::{Epoch, TrainStep, Training};
pub use hint::Hint;
pub use ramp::Ramp;
pub use settings::Hook;
pub(crate) use settings::Settings;
pub use student::Student;
pub use teacher::Teacher;
