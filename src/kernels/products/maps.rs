//! The sums of windows, a strip of them with each of some rows of weights, as numbers of maps.

use super::quads::{Form, LANES, Part, ROWS, Sums, WIDTH};

/// Neighbouring lanes of a strip that are neighbours in a map, too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Run {
    pub lane: usize,
    pub place: usize,
    pub len: usize,
}

/// Numbers of a strip, and as many again as may be copied with the last.
pub type Numbers<T> = [[T; 2 * WIDTH]; ROWS];

impl Form {
    /// Puts what `number(row, sum)` makes of the sums of each row of `parts` to the places of `runs` in that row's map,
    /// `len` long. From a sum, what zero points add to it is taken away first, and the rest scaled: `zero` is that of
    /// the inputs, and `of_windows` are the sums of the windows without it. `numbers` is room.
    ///
    /// What lies after a run may be overwritten where a later one of the map is: so they come in order. `number` calls
    /// nothing but inlined code.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "several arrays of one length, in step")]
    pub fn to_maps<T: Copy>(
        self,
        (sums, parts): (&Sums, &[Part]),
        (zero, of_windows): (i32, &[i32; WIDTH]),
        number: impl Fn(usize, f64) -> T,
        numbers: &mut Numbers<T>,
        runs: &[Run],
        (maps, len): (&mut [T], usize),
    ) {
        self.run(
            #[inline(always)]
            || {
                // All of them first: what has just been stored in parts cannot be loaded yet.
                for (r, ((part, sums), to)) in parts.iter().zip(sums).zip(&mut *numbers).enumerate() {
                    let known = zero.wrapping_mul(part.sum);
                    let sums_and_windows = sums.as_chunks::<LANES>().0.iter().zip(of_windows.as_chunks().0);
                    for ((sums, of_windows), to) in sums_and_windows.zip(to.as_chunks_mut::<LANES>().0) {
                        // Copies, which nothing else points to, and loops: closures of arrays would be calls.
                        let (mut now, scale, of_zero) = (*to, part.scale, part.zero);
                        let (sums, of_windows): ([i32; LANES], [i32; LANES]) = (*sums, *of_windows);
                        for i in 0..LANES {
                            // The result is exact, whatever is in between.
                            let known = known.wrapping_add(of_windows[i].wrapping_mul(of_zero));
                            now[i] = number(r, scale * f64::from(sums[i].wrapping_sub(known)));
                        }
                        *to = now;
                    }
                }
                for ((_, numbers), map) in parts.iter().zip(&*numbers).zip(maps.chunks_exact_mut(len)) {
                    for run in runs {
                        let Some(from) = numbers[run.lane..].first_chunk::<WIDTH>() else { continue };
                        // Of a length that is known, where it fits.
                        match map[run.place..].first_chunk_mut::<WIDTH>() {
                            Some(to) => *to = *from,
                            None => map[run.place..run.place + run.len].copy_from_slice(&from[..run.len]),
                        }
                    }
                }
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_to_their_places(
            seed in any::<i32>(), rows in 0..=ROWS, lens in prop::collection::vec((0_usize..3, 1_usize..9), 1..9),
        ) {
            let number = |i: usize| (seed ^ (i as i32 * 77_777)).wrapping_mul(0x0123_4567) >> 24;
            let sums: Sums = std::array::from_fn(|r| std::array::from_fn(|i| number(r * 40 + i) << 18));
            let part = |r: usize| Part { scale: 0.5 * r as f64, sum: number(r), zero: number(r + 1) };
            let parts: Vec<_> = (0..rows).map(part).collect();
            let (zero, of_windows) = (number(5) & 255, std::array::from_fn(|i| number(i + 9) << 8));
            let (mut runs, mut lane, mut place) = (Vec::new(), 0, 0);
            for (gap, len) in lens {
                let len = len.min(WIDTH.saturating_sub(lane + gap));
                if len > 0 {
                    runs.push(Run { lane: lane + gap, place, len });
                }
                (lane, place) = (lane + gap + len, place + len);
            }
            let of_sum = |r: usize, sum: f64| (sum * 0.1) as f32 + r as f32;
            let wanted = parts.iter().enumerate().flat_map(|(r, part)| {
                runs.iter().flat_map(|run| run.lane..run.lane + run.len).map(move |i| {
                    let exact = sums[r][i] - zero * part.sum - of_windows[i] * part.zero;
                    of_sum(r, part.scale * f64::from(exact))
                })
            });
            let wanted: Vec<f32> = wanted.collect();
            for form in Form::all() {
                let mut maps = vec![f32::NAN; rows * place];
                let mut numbers = [[0.0; 2 * WIDTH]; ROWS];
                form.to_maps((&sums, &parts), (zero, &of_windows), of_sum, &mut numbers, &runs, (&mut maps, place));
                prop_assert_eq!(&maps, &wanted);
            }
        }
    }
}
