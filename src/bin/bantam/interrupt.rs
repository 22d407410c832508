//! Ctrl-C: the first ends the work in order, so that no part of a file is left; the second at once.

use crate::failure::Failure;
use bantam::Error;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Hears signals from its creation on.
pub struct Interrupt {
    /// Whether one came.
    pub flag: Arc<AtomicBool>,
    number: Arc<AtomicUsize>,
}

impl Interrupt {
    pub fn listen() -> Self {
        let this = Self { flag: Arc::default(), number: Arc::default() };
        for signal in [SIGINT, SIGTERM] {
            // In this order: the default is for the signal after the one that sets the flag. Where signals
            // cannot be heard they do what they always do.
            let _ = flag::register_conditional_default(signal, Arc::clone(&this.flag));
            let _ = flag::register_usize(signal, Arc::clone(&this.number), signal as usize);
            let _ = flag::register(signal, Arc::clone(&this.flag));
        }
        this
    }

    /// What a failed run comes to.
    pub fn explain(&self, error: Error) -> Failure {
        match error {
            Error::Cancelled => Failure::Interrupted(self.number.load(Ordering::Relaxed) as u8),
            other => other.into(),
        }
    }
}
