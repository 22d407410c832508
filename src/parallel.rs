//! Work on all cores where the feature `threads` is on, in order where it is not.
//!
//! Threads come from rayon's current pool, so an application decides how many there are with
//! `ThreadPool::install`. Results come back in order whatever the pool.

#[cfg(feature = "threads")]
use rayon::prelude::*;
#[cfg(feature = "threads")]
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

#[cfg(feature = "threads")]
thread_local! {
    /// Whether this thread shares nothing.
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Threads that share the work.
pub fn threads() -> usize {
    #[cfg(feature = "threads")]
    return if ALONE.get() { 1 } else { rayon::current_num_threads() };
    #[cfg(not(feature = "threads"))]
    1
}

/// `f()` on this thread, with all that it would share out: for so little work that waking others takes longer.
pub fn alone<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(feature = "threads")]
    let _before = Before(ALONE.replace(true));
    f()
}

/// Whether a thread was alone before, which it is again in the end: also where something panics.
#[cfg(feature = "threads")]
struct Before(bool);

#[cfg(feature = "threads")]
impl Drop for Before {
    fn drop(&mut self) {
        ALONE.set(self.0);
    }
}

/// `f()` on one of the threads that share the work: what it shares out then costs less, since nobody outside has
/// to wait for it.
pub fn inside<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    #[cfg(feature = "threads")]
    if threads() > 1 && rayon::current_thread_index().is_none() {
        return rayon::scope(|_| f());
    }
    f()
}

/// `f(0), f(1), .., f(n - 1)`, in order.
pub fn map<R: Send>(n: usize, f: impl Fn(usize) -> R + Sync + Send) -> Vec<R> {
    #[cfg(feature = "threads")]
    if n > 1 && threads() > 1 {
        return (0..n).into_par_iter().map(f).collect();
    }
    (0..n).map(f).collect()
}

/// The same with an early end: the error of the lowest index that has one. Later ones are not begun once it
/// is known.
pub fn try_map<R: Send, E: Send>(
    n: usize,
    f: impl Fn(usize) -> Result<R, E> + Sync + Send,
) -> Result<Vec<R>, E> {
    try_map_vec((0..n).collect(), f)
}

/// `f` of each item, in order, with the early end of [`try_map`].
pub fn try_map_vec<I: Send, R: Send, E: Send>(
    items: Vec<I>,
    f: impl Fn(I) -> Result<R, E> + Sync + Send,
) -> Result<Vec<R>, E> {
    let failed = AtomicUsize::new(usize::MAX);
    let unless_failed = |(i, item)| {
        // Those before a failure still run: one of them may fail, too, and is then the one to tell of.
        if i > failed.load(Ordering::Relaxed) {
            return None;
        }
        let result = f(item);
        if result.is_err() {
            failed.fetch_min(i, Ordering::Relaxed);
        }
        Some(result)
    };
    #[cfg(feature = "threads")]
    if items.len() > 1 && threads() > 1 {
        let results: Vec<_> = items.into_par_iter().enumerate().map(unless_failed).collect();
        return results.into_iter().flatten().collect();
    }
    items.into_iter().enumerate().filter_map(unless_failed).collect()
}

/// `f` of each item, in order.
pub fn map_vec<I: Send, R: Send>(items: Vec<I>, f: impl Fn(I) -> R + Sync + Send) -> Vec<R> {
    #[cfg(feature = "threads")]
    if items.len() > 1 && threads() > 1 {
        return items.into_par_iter().map(f).collect();
    }
    items.into_iter().map(f).collect()
}

/// Both results, of work that may be done at the same time.
pub fn join<A: Send, B: Send>(a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B) {
    #[cfg(feature = "threads")]
    if threads() > 1 {
        return rayon::join(a, b);
    }
    (a(), b())
}

/// `f` of each item.
pub fn for_each<I: Send>(items: Vec<I>, f: impl Fn(I) + Sync + Send) {
    #[cfg(feature = "threads")]
    if items.len() > 1 && threads() > 1 {
        return items.into_par_iter().for_each(f);
    }
    items.into_iter().for_each(f);
}

/// `f(i, chunk)` for each chunk of `size` values.
pub fn for_each_chunk<T: Send>(values: &mut [T], size: usize, f: impl Fn(usize, &mut [T]) + Sync + Send) {
    let size = size.max(1);
    #[cfg(feature = "threads")]
    if values.len() > size && threads() > 1 {
        return values.par_chunks_mut(size).enumerate().for_each(|(i, c)| f(i, c));
    }
    values.chunks_mut(size).enumerate().for_each(|(i, c)| f(i, c));
}

/// `f(i, first, second)` for each pair of chunks of two lists that have as many chunks.
pub fn for_each_pair<A: Send, B: Send>(
    (first, first_size): (&mut [A], usize),
    (second, second_size): (&mut [B], usize),
    f: impl Fn(usize, &mut [A], &mut [B]) + Sync + Send,
) {
    let (first_size, second_size) = (first_size.max(1), second_size.max(1));
    #[cfg(feature = "threads")]
    if first.len() > first_size && threads() > 1 {
        return (first.par_chunks_mut(first_size).zip(second.par_chunks_mut(second_size)).enumerate())
            .for_each(|(i, (a, b))| f(i, a, b));
    }
    (first.chunks_mut(first_size).zip(second.chunks_mut(second_size)).enumerate())
        .for_each(|(i, (a, b))| f(i, a, b));
}

#[cfg(test)]
mod tests {
    #[cfg(feature = "threads")]
    #[test]
    fn alone_is_on_this_thread_and_ends() {
        let here = std::thread::current().id();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        pool.install(|| {
            let here = std::thread::current().id();
            let ids = super::alone(|| super::map(1000, |_| std::thread::current().id()));
            assert!(ids.iter().all(|id| *id == here));
            assert_eq!(super::threads(), 3);
        });
        let caught = std::panic::catch_unwind(|| super::alone(|| panic!("ends, too")));
        assert!(caught.is_err());
        assert!(super::alone(|| super::map(9, |_| std::thread::current().id())).iter().all(|id| *id == here));
        assert!(!super::ALONE.get());
    }

    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn the_first_error_ends_the_work() {
        for failing in [0, 7, 999] {
            let done = AtomicUsize::new(0);
            let error = super::try_map(1_000_000, |i| {
                done.fetch_add(1, Ordering::Relaxed);
                if i >= failing { Err(i) } else { Ok(i) }
            });
            assert_eq!(error, Err(failing));
            assert!(done.into_inner() < 900_000);
        }
        assert_eq!(super::try_map(3, Ok::<_, ()>), Ok(vec![0, 1, 2]));
    }
}
