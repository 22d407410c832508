//! A matrix that is computed in blocks of its columns, each of which is a row there.

use super::memory::{reserve, with_room};
use super::transpose::transpose;
use crate::parallel;
use bytemuck::Pod;
use std::mem::MaybeUninit;

/// `y [n, m]`, from what `f(first, rows)` adds to zeros `rows [.., n]`, for `height` columns of `y` at a time or fewer
/// at the end; `None` where there is not so much memory.
pub fn turned<T: Pod + Send + Sync>(
    [n, m]: [usize; 2],
    height: usize,
    f: impl Fn(usize, &mut [T]) + Sync + Send,
) -> Option<Vec<T>> {
    let mut y = reserve(n.checked_mul(m)?).ok()?;
    if n * m == 0 {
        return Some(y);
    }
    let room = &mut y.spare_capacity_mut()[..n * m];
    // Where the columns of a block belong, for each row.
    let mut places: Vec<Vec<&mut [MaybeUninit<T>]>> = Vec::new();
    places.resize_with(m.div_ceil(height), || Vec::with_capacity(n));
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
                place.write_copy_of_slice(y);
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
    use super::turned;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_number_has_its_place(n in 0_usize..40, m in 0_usize..70, height in 1_usize..20) {
            let number = |row: usize, column: usize| (row * 100 + column) as f32 + 1.0;
            let y = turned([n, m], height, |first, rows: &mut [f32]| {
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
        assert!(turned([usize::MAX, 2], 1, |_, _: &mut [f32]| {}).is_none());
        assert!(turned([1 << 40, 1 << 20], 1 << 20, |_, _: &mut [f32]| {}).is_none());
    }
}
