//! Values that many threads write, each a piece of its own, and that are then closed up to one run.

use crate::kernels::memory::{LARGE, copy_past, reserve};
use crate::parallel;
use std::mem::MaybeUninit;

/// Where a thread puts the values of its piece: at most as many as it said.
#[derive(Debug)]
pub struct Sink<'a, T> {
    free: &'a mut [MaybeUninit<T>],
    len: usize,
}

impl<T: Copy> Sink<'_, T> {
    /// Appends values, as many as there is room for.
    pub fn extend_from_slice(&mut self, values: &[T]) {
        let free = &mut self.free[self.len..];
        for (slot, x) in free.iter_mut().zip(values) {
            slot.write(*x);
        }
        self.len += values.len().min(free.len());
    }
}

/// Lets `fill` write a piece for each job, of at most as many values as stand beside the job, on all threads,
/// and gives the pieces one after the other. Memory is reserved for the largest pieces, but touched only as
/// far as it is written, in whole pages.
///
/// # Errors
/// The error of the first piece that has one; `too_large` where the memory cannot be reserved.
pub fn collect<T: Copy + Send + Sync, J: Send, E: Send>(
    jobs: Vec<(usize, J)>,
    too_large: impl FnOnce() -> E,
    fill: impl Fn(J, &mut Sink<'_, T>) -> Result<(), E> + Sync + Send,
) -> Result<Vec<T>, E> {
    let sizes: Vec<usize> = jobs.iter().map(|(size, _)| *size).collect();
    let total = sizes.iter().sum();
    let Ok(mut values) = reserve(total) else { return Err(too_large()) };
    let free = &mut values.spare_capacity_mut()[..total];
    let mut rest = &mut *free;
    let mut sinks = Vec::with_capacity(jobs.len());
    for (size, job) in jobs {
        let (piece, after) = rest.split_at_mut(size);
        rest = after;
        sinks.push((job, Sink { free: piece, len: 0 }));
    }
    let lens = parallel::try_map_vec(sinks, |(job, mut sink)| {
        fill(job, &mut sink)?;
        Ok(sink.len)
    })?;
    let len = close_up(free, &sizes, &lens);
    // SAFETY: each sink wrote its first `lens[i]` values, and these have been moved to the front, where they
    // are `len` together, at most the capacity.
    #[allow(unsafe_code)]
    unsafe {
        values.set_len(len);
    }
    values.shrink_to_fit();
    Ok(values)
}

/// Of pieces of `sizes` values that lie one after the other, moves the first `lens[i]` values of each to the
/// front of `values`, in order. How many that are.
pub fn close_up<T: Copy + Send + Sync>(values: &mut [T], sizes: &[usize], lens: &[usize]) -> usize {
    let (mut from, mut to) = (0, 0);
    let mut i = 0;
    while i < sizes.len() {
        // All pieces that fit into the gap before them can be moved at once.
        let gap = from - to;
        let (mut width, mut moved, mut last) = (0, 0, i);
        while last < sizes.len() && moved + lens[last] <= gap {
            width += sizes[last];
            moved += lens[last];
            last += 1;
        }
        if last == i {
            values.copy_within(from..from + lens[i], to);
            (width, moved, last) = (sizes[i], lens[i], i + 1);
        } else {
            let (front, back) = values.split_at_mut(from);
            move_pieces(&mut front[to..to + moved], &back[..width], &sizes[i..last], &lens[i..last]);
        }
        from += width;
        to += moved;
        i = last;
    }
    to
}

fn move_pieces<T: Copy + Send + Sync>(mut out: &mut [T], mut from: &[T], sizes: &[usize], lens: &[usize]) {
    let mut moves = Vec::with_capacity(lens.len());
    for (size, len) in sizes.iter().zip(lens) {
        let (own, rest) = out.split_at_mut(*len);
        out = rest;
        moves.push((own, &from[..*len]));
        from = &from[*size..];
    }
    let total: usize = lens.iter().sum();
    match total * size_of::<T>() {
        ..LARGE => parallel::for_each(moves, |(out, from)| out.copy_from_slice(from)),
        _ => parallel::for_each(moves, |(out, from)| copy_past(from, out)),
    }
}
