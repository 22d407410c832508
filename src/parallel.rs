//! Work on all cores where the feature `threads` is on, in order where it is not.
//!
//! Threads come from rayon's current pool, so an application decides how many there are with
//! `ThreadPool::install`. Results come back in order whatever the pool.

#[cfg(feature = "threads")]
use rayon::prelude::*;

/// `f(0), f(1), .., f(n - 1)`, in order.
pub fn map<R: Send>(n: usize, f: impl Fn(usize) -> R + Sync + Send) -> Vec<R> {
    #[cfg(feature = "threads")]
    return (0..n).into_par_iter().map(f).collect();
    #[cfg(not(feature = "threads"))]
    return (0..n).map(f).collect();
}

/// The same with an early end: the error of the lowest index that was reached.
pub fn try_map<R: Send, E: Send>(
    n: usize,
    f: impl Fn(usize) -> Result<R, E> + Sync + Send,
) -> Result<Vec<R>, E> {
    map(n, f).into_iter().collect()
}

/// `f` of each item, in order.
pub fn map_vec<I: Send, R: Send>(items: Vec<I>, f: impl Fn(I) -> R + Sync + Send) -> Vec<R> {
    #[cfg(feature = "threads")]
    return items.into_par_iter().map(f).collect();
    #[cfg(not(feature = "threads"))]
    return items.into_iter().map(f).collect();
}

/// `f(i, chunk)` for each chunk of `size` values.
pub fn for_each_chunk<T: Send>(values: &mut [T], size: usize, f: impl Fn(usize, &mut [T]) + Sync + Send) {
    let size = size.max(1);
    #[cfg(feature = "threads")]
    values.par_chunks_mut(size).enumerate().for_each(|(i, c)| f(i, c));
    #[cfg(not(feature = "threads"))]
    values.chunks_mut(size).enumerate().for_each(|(i, c)| f(i, c));
}
