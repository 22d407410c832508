//! A matrix that is computed in blocks of its columns, each of which is a row there.

use super::memory::{copy, reserve, with_room};
use super::transpose::transpose;
use crate::parallel;
use bytemuck::Pod;
use std::mem::MaybeUninit;

/// Bytes that a thread has for a block and what becomes of it, if that is more than a row.
const ROOM: usize = 2 << 20;

/// `y [n, m]`, from what `f(first, rows)` adds to zeros `rows [.., n]`, for `height` columns of `y` at a time, or fewer
/// where they are long and at the end; `None` where there is not so much memory.
pub fn by_columns<T: Pod + Send + Sync>(
    [n, m]: [usize; 2],
    height: usize,
    f: impl Fn(usize, &mut [T]) + Sync + Send,
) -> Option<Vec<T>> {
    let mut y = reserve(n.checked_mul(m)?).ok()?;
    if n * m == 0 {
        return Some(y);
    }
    let height = height.min(ROOM / (2 * n * size_of::<T>())).max(1);
    let room = &mut y.spare_capacity_mut()[..n * m];
    // Where the columns of a block belong, for each row.
    let mut places: Vec<Vec<&mut [MaybeUninit<T>]>> = Vec::new();
    places.try_reserve_exact(m.div_ceil(height)).ok()?;
    for _ in 0..m.div_ceil(height) {
        let mut of_block = Vec::new();
        of_block.try_reserve_exact(n).ok()?;
        places.push(of_block);
    }
    for row in room.chunks_mut(m) {
        places.iter_mut().zip(row.chunks_mut(height)).for_each(|(places, part)| places.push(part));
    }
    parallel::for_each(places.into_iter().enumerate().collect(), |(i, places)| {
        let columns = height.min(m - i * height);
        with_room(2 * columns * n, |room: &mut [T]| {
            let (rows, to) = room.split_at_mut(columns * n);
            rows.fill(T::zeroed());
            f(i * height, rows);
            transpose((rows, n), [columns, n], (to, columns));
            for (place, y) in places.into_iter().zip(to.chunks_exact(columns)) {
                copy(y, place);
            }
        });
    });
    // SAFETY: every column is in one block, and a block writes its part of every row to the end.
    #[allow(unsafe_code)]
    unsafe {
        y.set_len(n * m);
    }
    Some(y)
}

#[cfg(test)]
mod tests {
    use super::by_columns;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_number_has_its_place(n in 0_usize..40, m in 0_usize..70, height in 1_usize..20) {
            let number = |row: usize, column: usize| (row * 100 + column) as f32 + 1.0;
            let y = by_columns([n, m], height, |first, rows: &mut [f32]| {
                for (j, row) in rows.chunks_exact_mut(n).enumerate() {
                    row.iter_mut().enumerate().for_each(|(i, y)| *y += number(i, first + j));
                }
            });
            let wanted: Vec<f32> = (0..n * m).map(|i| number(i / m, i % m)).collect();
            prop_assert_eq!(y.unwrap(), wanted);
        }
    }

    #[test]
    fn too_much_is_none() {
        assert!(by_columns([usize::MAX, 2], 1, |_, _: &mut [f32]| {}).is_none());
        assert!(by_columns([usize::MAX / 8, 1], 1, |_, _: &mut [f32]| {}).is_none());
    }
}
