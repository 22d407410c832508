//! The numbers that codes are places of.

use super::Share;
use crate::kernels::cpu::fast;
use crate::kernels::memory::Slot;

/// Numbers that are written at a time.
const BUFFER: usize = 1 << 7;

/// Puts out the numbers of `table` that `codes` are places of.
pub fn decode<T: Share>(codes: &[u8], table: &[T; 256], out: &mut Slot<'_, T>) {
    fast(
        #[inline(always)]
        || {
            let mut buffer = [T::zeroed(); BUFFER];
            for codes in codes.chunks(BUFFER) {
                for (code, x) in codes.iter().zip(&mut buffer) {
                    *x = table[usize::from(*code)];
                }
                out.push(&buffer[..codes.len()]);
            }
        },
    );
}
