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
use std::sync::{Mutex, PoisonError};
#[cfg(feature = "threads")]
use std::time::{Duration, Instant};

/// What a thread does with work that may be shared.
#[cfg(feature = "threads")]
#[derive(Clone, Copy, PartialEq)]
enum Sharing {
    /// It goes to the pool.
    Pool,
    /// It stays here.
    Alone,
    /// This thread begins with it, and some of the pool help.
    Helped,
}

#[cfg(feature = "threads")]
thread_local! {
    static SHARING: Cell<Sharing> = const { Cell::new(Sharing::Pool) };
}

/// Threads that help one which is not of the pool, at most.
#[cfg(feature = "threads")]
const HELPERS: usize = 3;
/// How long such a thread waits for its helpers before it falls asleep: a while longer than what they do at a time.
#[cfg(feature = "threads")]
const PATIENCE: Duration = Duration::from_micros(200);

/// Threads that share the work.
pub fn threads() -> usize {
    #[cfg(feature = "threads")]
    return match SHARING.get() {
        Sharing::Pool => rayon::current_num_threads(),
        Sharing::Alone => 1,
        Sharing::Helped => rayon::current_num_threads().min(1 + HELPERS),
    };
    #[cfg(not(feature = "threads"))]
    1
}

/// Whether the pool takes work that may be shared.
#[cfg(feature = "threads")]
fn pooled() -> bool {
    threads() > 1 && SHARING.get() == Sharing::Pool
}

/// `f()` on this thread, with all that it would share out: for so little work that waking others takes longer.
pub fn alone<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(feature = "threads")]
    let _before = Before(SHARING.replace(Sharing::Alone));
    f()
}

/// Values of a weight that are few: one thread is through with the passes of a step sooner than others have woken for
/// each of them. On two cores, alone and shared out, 2^20 values take 0.12 and 0.18 ms by a threshold, 0.39 and 0.53 by
/// sparsity, 0.17 and 0.17 in 2:4, 0.11 and 0.13 to 0.15 in 8 bits; 4 bits in groups alone are better shared out (0.18 and
/// 0.13). At 2^22 most are.
pub const FEW_VALUES: usize = 1 << 20;

/// `f()`: [`alone`] if so.
pub fn alone_if<R>(so: bool, f: impl FnOnce() -> R) -> R {
    if so { alone(f) } else { f() }
}

/// `f()` on this thread, which works on what it shares out as others do, and stays awake while these end: for work that
/// takes about as long as falling asleep and waking.
pub fn helped<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(feature = "threads")]
    let _before = {
        let pool = SHARING.get() == Sharing::Pool && rayon::current_thread_index().is_none();
        Before(SHARING.replace(if pool { Sharing::Helped } else { SHARING.get() }))
    };
    f()
}

/// What a thread did before, and does again in the end: also where something panics.
#[cfg(feature = "threads")]
struct Before(Sharing);

#[cfg(feature = "threads")]
impl Drop for Before {
    fn drop(&mut self) {
        SHARING.set(self.0);
    }
}

/// `f` of each of `n` items, on this thread and on some of the pool: all are done when these have looked for more.
#[cfg(feature = "threads")]
fn with_help<I>(n: usize, items: impl Iterator<Item = I> + Send, f: impl Fn(I) + Sync) {
    let (items, ended) = (Mutex::new(items), AtomicUsize::new(0));
    let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || std::iter::from_fn(next).for_each(&f);
    let helpers = threads().min(n) - 1;
    rayon::in_place_scope(|scope| {
        for _ in 0..helpers {
            scope.spawn(|_| {
                work();
                ended.fetch_add(1, Ordering::Release);
            });
        }
        // An item shares nothing again: the helpers are at work.
        alone(work);
        let start = Instant::now();
        while ended.load(Ordering::Acquire) < helpers && start.elapsed() < PATIENCE {
            std::hint::spin_loop();
        }
    });
}

/// `f()` on one of the threads that share the work: what it shares out then costs less, since nobody outside has
/// to wait for it.
pub fn inside<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    #[cfg(feature = "threads")]
    if pooled() && rayon::current_thread_index().is_none() {
        return rayon::scope(|_| f());
    }
    f()
}

/// `f(0), f(1), .., f(n - 1)`, in order.
pub fn map<R: Send>(n: usize, f: impl Fn(usize) -> R + Sync + Send) -> Vec<R> {
    map_vec((0..n).collect(), f)
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
    map_vec(items.into_iter().enumerate().collect(), unless_failed).into_iter().flatten().collect()
}

/// `f` of each item, in order.
pub fn map_vec<I: Send, R: Send>(items: Vec<I>, f: impl Fn(I) -> R + Sync + Send) -> Vec<R> {
    #[cfg(feature = "threads")]
    if items.len() > 1 && threads() > 1 {
        if SHARING.get() != Sharing::Helped {
            return items.into_par_iter().map(f).collect();
        }
        let mut results = Vec::new();
        results.resize_with(items.len(), || None);
        with_help(items.len(), items.into_iter().zip(&mut results), |(item, to)| *to = Some(f(item)));
        return results.into_iter().flatten().collect();
    }
    items.into_iter().map(f).collect()
}

/// Both results, of work that may be done at the same time.
pub fn join<A: Send, B: Send>(a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B) {
    #[cfg(feature = "threads")]
    if pooled() {
        return rayon::join(a, b);
    }
    (a(), b())
}

/// `f` of each item.
pub fn for_each<I: Send>(items: Vec<I>, f: impl Fn(I) + Sync + Send) {
    #[cfg(feature = "threads")]
    if items.len() > 1 && threads() > 1 {
        if SHARING.get() == Sharing::Helped {
            return with_help(items.len(), items.into_iter(), f);
        }
        return items.into_par_iter().for_each(f);
    }
    items.into_iter().for_each(f);
}

/// `f(i, chunk)` for each chunk of `size` values.
pub fn for_each_chunk<T: Send>(values: &mut [T], size: usize, f: impl Fn(usize, &mut [T]) + Sync + Send) {
    let size = size.max(1);
    #[cfg(feature = "threads")]
    if values.len() > size && threads() > 1 {
        if SHARING.get() == Sharing::Helped {
            let n = values.len().div_ceil(size);
            return with_help(n, values.chunks_mut(size).enumerate(), |(i, c)| f(i, c));
        }
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
    if first.len() > first_size && pooled() {
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
            assert_eq!(
                (super::alone_if(true, super::threads), super::alone_if(false, super::threads)),
                (1, 3)
            );
            assert_eq!(super::threads(), 3);
            // It is one of the pool.
            super::helped(|| assert!(super::SHARING.get() == super::Sharing::Pool));
        });
        let caught = std::panic::catch_unwind(|| super::alone(|| panic!("ends, too")));
        assert!(caught.is_err());
        assert!(super::alone(|| super::map(9, |_| std::thread::current().id())).iter().all(|id| *id == here));
        assert!(super::SHARING.get() == super::Sharing::Pool);
    }

    #[cfg(feature = "threads")]
    #[test]
    fn all_that_is_shared_out_is_helped_with() {
        use super::{Duration, Instant};
        super::helped(|| {
            assert_eq!(super::map(1000, |i| 2 * i), (0..1000).map(|i| 2 * i).collect::<Vec<_>>());
            let failing = |i| if i % 300 == 299 { Err(i) } else { Ok(i) };
            assert_eq!(super::try_map(1000, failing), Err(299));
            let done = AtomicUsize::new(0);
            super::for_each((1..=1000).collect(), |i| {
                done.fetch_add(i, Ordering::Relaxed);
            });
            assert_eq!(done.into_inner(), 500_500);
            if super::threads() > 1 {
                // Both of two items are begun before one ends.
                let begun = AtomicUsize::new(0);
                super::for_each(vec![(); 2], |()| {
                    begun.fetch_add(1, Ordering::Relaxed);
                    let start = Instant::now();
                    while begun.load(Ordering::Relaxed) < 2 {
                        assert!(start.elapsed() < Duration::from_secs(60), "nobody helps");
                        std::thread::yield_now();
                    }
                });
            }
        });
    }

    #[cfg(feature = "threads")]
    #[test]
    fn helpers_do_each_chunk_once_and_their_panics_arrive() {
        for _ in 0..200 {
            let mut values = vec![0; 1000];
            super::helped(|| {
                super::for_each_chunk(&mut values, 7, |i, chunk| chunk.iter_mut().for_each(|x| *x += i + 1));
                assert!(super::alone(super::threads) == 1);
            });
            assert!(values.iter().enumerate().all(|(i, x)| *x == i / 7 + 1));
        }
        let mut values = [0; 100];
        let panics = || super::helped(|| super::for_each_chunk(&mut values, 1, |i, _| assert!(i != 60)));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
        assert!(super::SHARING.get() == super::Sharing::Pool);
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
