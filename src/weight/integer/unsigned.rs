//! Products with inputs that lie side by side, of rows with one scale: they meet codes as they are, which are read
//! where they are, or where a row has been spread to that is pruned.

use super::beside::{Beside, Columns};
use super::{FLIP, MIN_PARALLEL, Product, by_rows};
use crate::kernels::memory::with_room;
use crate::kernels::products::EXACT;
use crate::kernels::products::quads::{ALONE, Form, Part, ROWS, SIGNED_INPUTS, WIDTH, WITH_ROWS, Weights};
use crate::{Fault, Float};

/// Rows that meet an input at a time, at most.
const BAND: usize = 6 * ROWS;
/// Bytes of these rows, which stay near until they have met all inputs.
const NEAR: usize = 192 << 10;

impl<T: Float> Product<'_, T> {
    /// `[n, m]`; `None` where a row has several scales, its codes are not bytes, or a sum of them might not fit.
    pub(super) fn unsigned(&self) -> Option<Result<Vec<T>, Fault>> {
        let Self { decoder, k, n, step, .. } = self;
        let (k, n, form) = (*k, *n, Form::best());
        let codes = decoder.packed(8).filter(|_| *step == k)?;
        if !k.is_multiple_of(4) || k > EXACT {
            return None;
        }
        // Codes are unsigned as they are, so that inputs must be signed.
        let beside = Beside::new(self, &Columns::new(k, k, k), WIDTH, true, FLIP);
        // Few inputs wait for the memory: the next rows are brought near while some are computed.
        let band = if n <= WIDTH { 2 * ROWS } else { (NEAR / k / ROWS * ROWS).clamp(ROWS, BAND) };
        let product = |first: usize, out: &mut [T], spread: &mut [u8]| {
            let count = out.len() / n;
            let w = match self.mask {
                None => &codes[first * k..],
                Some(mask) => {
                    for (row, spread) in (first..first + count).zip(spread.chunks_exact_mut(k)) {
                        decoder.codes(row * k..(row + 1) * k, mask, spread);
                    }
                    &*spread
                }
            };
            let quads: &[Weights] = bytemuck::cast_slice(w.as_chunks::<4>().0);
            let mut parts = [[Part::default(); ROWS]; BAND / ROWS];
            for strip in &beside.strips {
                let x = beside.inputs(strip, 0, k / 4);
                let (taps, lanes) = (&beside.taps[strip.lanes / WIDTH], WIDTH.min(n - strip.first));
                for (r, parts) in (0..count).step_by(ROWS).zip(&mut parts) {
                    let some = ROWS.min(count - r);
                    // What is missing is computed again.
                    let rows = std::array::from_fn(|i| &quads[(r + i.min(some - 1)) * k / 4..][..k / 4]);
                    let mut sums = [[0; WIDTH]; ROWS];
                    if strip.first == 0 {
                        let next = (first + count + r) * k..(first + count + r + some) * k;
                        let ahead = decoder.bytes(next, self.mask);
                        let of_rows = form.strip::<SIGNED_INPUTS, WITH_ROWS>(
                            rows,
                            x,
                            taps,
                            strip.lanes,
                            ahead,
                            &mut sums,
                        );
                        for (i, (part, sum)) in parts.iter_mut().zip(of_rows).take(some).enumerate() {
                            let (scale, zero) = decoder.grid(first + r + i, 0);
                            *part = Part { scale: scale.widen(), sum, zero: zero.into() };
                        }
                    } else {
                        form.strip::<SIGNED_INPUTS, ALONE>(rows, x, taps, strip.lanes, &[], &mut sums);
                    }
                    let number = |_, lane: usize, sum: f64| T::narrow(sum * strip.scales[lane]);
                    form.finish(&sums, &parts[..some], &strip.known[0], number, |i, row| {
                        out[(r + i) * n + strip.first..][..lanes].copy_from_slice(&row[..lanes]);
                    });
                }
            }
        };
        Some(by_rows([n, self.m], self.height(band, MIN_PARALLEL), |start, out| {
            with_room(if self.mask.is_some() { band * k } else { 0 }, |spread| {
                for (j, out) in out.chunks_mut(band * n).enumerate() {
                    product(start + j * band, out, spread);
                }
            });
        }))
    }
}
