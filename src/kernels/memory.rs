//! Large results that are written once, front to back: in huge pages where the system has them, and past the
//! caches where they would not stay there anyway.
//!
//! The first touch of a fresh page costs more than computing what goes into it, and an ordinary store reads
//! the line that it is about to overwrite. Both cost most where the result is larger than the caches.

use crate::parallel;
use bytemuck::Pod;
use bytemuck::allocation::try_zeroed_vec;
use std::cell::RefCell;
use std::collections::TryReserveError;
use std::mem::MaybeUninit;
use std::sync::{Mutex, PoisonError};

/// Bytes from which huge pages, and stores past the caches, are worth it.
pub const LARGE: usize = 4 << 20;

/// An empty vector with room for `n` values.
///
/// # Errors
/// When there is not so much memory.
pub fn reserve<T>(n: usize) -> Result<Vec<T>, TryReserveError> {
    let mut values = Vec::new();
    values.try_reserve_exact(n)?;
    let room = values.spare_capacity_mut();
    advise(room.as_ptr().cast(), size_of_val(room));
    Ok(values)
}

/// `n` zeros, if there is so much memory. Its pages come when they are first touched: by the threads that write there.
pub fn zeroed<T: Pod>(n: usize) -> Option<Vec<T>> {
    let values: Vec<T> = try_zeroed_vec(n).ok()?;
    advise(values.as_ptr().cast(), size_of_val(&*values));
    Some(values)
}

/// Asks for huge pages for much memory. That is a wish: where it is not granted, nothing but the speed changes.
#[cfg(target_os = "linux")]
fn advise(start: *const u8, bytes: usize) {
    const PAGE: usize = 4096;
    let edge = start.align_offset(PAGE);
    if bytes >= LARGE && edge <= bytes {
        // SAFETY: whole pages of memory that the caller owns, and the advice changes no contents.
        #[allow(unsafe_code)]
        unsafe {
            let (first, pages) = (start.wrapping_add(edge), (bytes - edge) / PAGE);
            libc::madvise(first.cast_mut().cast(), pages * PAGE, libc::MADV_HUGEPAGE);
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn advise(_: *const u8, _: usize) {}

thread_local! {
    static SCRATCH: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Gives `f` a buffer of `n` bytes with any contents, the same one each time on a thread: fresh memory costs
/// more than what is done in it.
pub fn with_scratch<R>(n: usize, f: impl FnOnce(&mut [u8]) -> R) -> R {
    // Taken out while it is in use: `f` may come back here on the same thread.
    let mut buffer = SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.len() < n {
        buffer.resize(n, 0);
    }
    let result = f(&mut buffer[..n]);
    if buffer.len() < LARGE {
        SCRATCH.with_borrow_mut(|buffers| buffers.push(buffer));
    }
    result
}

/// The same for `len` numbers, the first of which begins a line of the caches.
pub fn with_room<T: Pod, R>(len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    const LINE: usize = 64;
    with_scratch(len * size_of::<T>() + LINE, |bytes| {
        let first = (bytes.as_ptr() as usize).wrapping_neg() % LINE;
        f(bytemuck::cast_slice_mut(&mut bytes[first..][..len * size_of::<T>()]))
    })
}

/// Has the values `ahead` of `block` brought near, unless that is 0.
#[inline(always)]
pub fn prefetch<T>(block: &[T], ahead: usize) {
    #[cfg(target_arch = "x86_64")]
    if ahead > 0 {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        const LINE: usize = 64;
        let at = block.as_ptr().wrapping_add(ahead).cast::<i8>();
        for line in 0..size_of_val(block) / LINE {
            // SAFETY: a hint, which never faults, wherever it points; in every x86-64.
            #[allow(unsafe_code)]
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(line * LINE));
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (block, ahead);
}

/// A place for values, written once from front to back.
pub struct Slot<'a, T> {
    rest: &'a mut [MaybeUninit<T>],
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    streamed: bool,
}

impl<'a, T: Pod> Slot<'a, T> {
    /// The next values. There must be room for them.
    #[inline(always)]
    pub fn push(&mut self, values: &[T]) {
        let (now, rest) = std::mem::take(&mut self.rest).split_at_mut(values.len());
        self.rest = rest;
        #[cfg(target_arch = "x86_64")]
        if self.streamed {
            return stream(values, now);
        }
        copy(values, now);
    }
}

/// Puts values to a place for as many.
#[inline(always)]
pub fn copy<T: Copy>(values: &[T], to: &mut [MaybeUninit<T>]) {
    assert_eq!(values.len(), to.len());
    // SAFETY: both have that many values, and what is borrowed mutably overlaps nothing.
    #[allow(unsafe_code)]
    unsafe {
        std::ptr::copy_nonoverlapping(values.as_ptr(), to.as_mut_ptr().cast::<T>(), values.len());
    }
}

/// Copies `values` past the caches, for good: they will not be looked at soon.
pub fn copy_past<T: Copy>(values: &[T], to: &mut [T]) {
    assert_eq!(values.len(), to.len());
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: a place for a value, of which none but values are written.
        #[allow(unsafe_code)]
        let to =
            unsafe { std::slice::from_raw_parts_mut(to.as_mut_ptr().cast::<MaybeUninit<T>>(), to.len()) };
        stream(values, to);
        fence(true);
    }
    #[cfg(not(target_arch = "x86_64"))]
    to.copy_from_slice(values);
}

/// A copy that does not pass through the caches. Whoever gives the memory to another thread calls [`fence`]
/// first.
#[cfg(target_arch = "x86_64")]
fn stream<T: Copy>(values: &[T], to: &mut [MaybeUninit<T>]) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};
    const LANE: usize = size_of::<__m128i>();
    assert_eq!(values.len(), to.len());
    // Values up to the first that is aligned, if one is.
    let size = size_of::<T>().max(1);
    let to_edge = (to.as_ptr() as usize).wrapping_neg() % LANE;
    let head = if to_edge.is_multiple_of(size) { to_edge / size } else { values.len() };
    let head = head.min(values.len());
    let lanes = (values.len() - head) * size / LANE;
    let tail = head + lanes * LANE / size;
    copy(&values[..head], &mut to[..head]);
    let (from, out) = (values[head..].as_ptr(), to[head..].as_mut_ptr());
    for i in 0..lanes {
        // SAFETY: `lanes` vectors lie between `head` and `tail`, within both slices, and the first of `out` is
        // aligned, so all are. The instructions are in every x86-64.
        #[allow(unsafe_code)]
        unsafe {
            let lane = _mm_loadu_si128(from.cast::<__m128i>().add(i));
            _mm_stream_si128(out.cast::<__m128i>().add(i), lane);
        }
    }
    copy(&values[tail..], &mut to[tail..]);
}

/// Orders the stores of [`stream`] before whatever follows.
fn fence(streamed: bool) {
    #[cfg(target_arch = "x86_64")]
    if streamed {
        // SAFETY: in every x86-64.
        #[allow(unsafe_code)]
        unsafe {
            std::arch::x86_64::_mm_sfence();
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = streamed;
}

/// The values of all pieces one after the other, in `values`, which is empty and has room for them, and what
/// `f` gives besides. A piece is its length and what `f` makes it from, on all threads.
///
/// # Errors
/// That of the first piece that has one.
///
/// # Panics
/// Where `f` pushes another number of values than it said: an error of the program.
pub fn fill<T: Pod + Send + Sync, I: Send, R: Send, E: Send>(
    values: Vec<T>,
    pieces: impl Iterator<Item = (usize, I)>,
    f: impl Fn(I, &mut Slot<'_, T>) -> Result<R, E> + Sync + Send,
) -> Result<(Vec<T>, Vec<R>), E> {
    fill_in_order(values, pieces, false, f)
}

/// The same, but begins with the last pieces: after a pass over all that they are made from, these are still in the
/// caches. Without results, and with the error of the last piece that has one.
///
/// # Errors
/// # Panics
/// As [`fill`].
pub fn fill_backwards<T: Pod + Send + Sync, I: Send, E: Send>(
    values: Vec<T>,
    pieces: impl Iterator<Item = (usize, I)>,
    f: impl Fn(I, &mut Slot<'_, T>) -> Result<(), E> + Sync + Send,
) -> Result<Vec<T>, E> {
    fill_in_order(values, pieces, true, f).map(|(values, _)| values)
}

/// The first `n` values of `values`, which is empty and has room for them, in chunks of `size`: `f(i, chunk)` computes
/// each on one of the threads, from zeros that it has just written, and that are still near.
///
/// # Errors
/// That of the first chunk that has one; later ones may not be begun.
pub fn by_chunks<T: Pod + Send, E: Send>(
    mut values: Vec<T>,
    n: usize,
    size: usize,
    f: impl Fn(usize, &mut [T]) -> Result<(), E> + Sync + Send,
) -> Result<Vec<T>, E> {
    values.clear();
    let failed = Mutex::new(None);
    let failure = || failed.lock().unwrap_or_else(PoisonError::into_inner);
    parallel::for_each_chunk(&mut values.spare_capacity_mut()[..n], size, |i, chunk| {
        chunk.fill(MaybeUninit::zeroed());
        // Those before a failure still run: one of them may fail, too, and is then the one to tell of.
        if failure().as_ref().is_some_and(|(first, _)| *first < i) {
            return;
        }
        // SAFETY: all of them have just been written, and zeros are numbers.
        #[allow(unsafe_code)]
        let result = f(i, unsafe { &mut *(std::ptr::from_mut(chunk) as *mut [T]) });
        if let Err(error) = result {
            let mut first = failure();
            if first.as_ref().is_none_or(|(first, _)| i < *first) {
                *first = Some((i, error));
            }
        }
    });
    if let Some((_, error)) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    // SAFETY: the chunks are the first `n` values, and have been written.
    #[allow(unsafe_code)]
    unsafe {
        values.set_len(n);
    }
    Ok(values)
}

fn fill_in_order<T: Pod + Send + Sync, I: Send, R: Send, E: Send>(
    mut values: Vec<T>,
    pieces: impl Iterator<Item = (usize, I)>,
    backwards: bool,
    f: impl Fn(I, &mut Slot<'_, T>) -> Result<R, E> + Sync + Send,
) -> Result<(Vec<T>, Vec<R>), E> {
    values.clear();
    let mut rest = values.spare_capacity_mut();
    let streamed = size_of_val(rest) >= LARGE;
    let mut total = 0;
    let slots = pieces.map(|(len, item)| {
        let (now, later) = std::mem::take(&mut rest).split_at_mut(len);
        rest = later;
        total += len;
        (now, item)
    });
    let mut slots: Vec<_> = slots.collect();
    if backwards {
        slots.reverse();
    }
    let results = parallel::try_map_vec(slots, |(rest, item)| {
        let mut slot = Slot { rest, streamed };
        let result = f(item, &mut slot)?;
        assert!(slot.rest.is_empty(), "a piece is shorter than it said");
        fence(streamed);
        Ok(result)
    })?;
    // SAFETY: the pieces are the first `total` places, and a slot that is empty has been written to its end.
    #[allow(unsafe_code)]
    unsafe {
        values.set_len(total);
    }
    Ok((values, results))
}

/// Values that begin where a cache line does.
pub struct Aligned<T> {
    values: Vec<T>,
    first: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    pub fn new(len: usize) -> Self {
        let values = vec![T::default(); len + 64 / size_of::<T>()];
        // No more than the slack for any address of a number.
        let first = values.as_ptr().align_offset(64).min(64 / size_of::<T>());
        Self { values, first, len }
    }

    pub fn get(&self) -> &[T] {
        &self.values[self.first..][..self.len]
    }

    pub fn get_mut(&mut self) -> &mut [T] {
        &mut self.values[self.first..][..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn chunks_begin_as_zeros_and_the_first_error_is_told() {
        for (n, size) in [(0, 3), (10, 3), (1000, 7), (5, 0)] {
            let add = |i: usize, chunk: &mut [f32]| {
                chunk.iter_mut().for_each(|x| *x += i as f32);
                Ok::<_, ()>(())
            };
            let values = by_chunks(reserve(n).unwrap(), n, size, add).unwrap();
            assert_eq!(values, (0..n).map(|i| (i / size.max(1)) as f32).collect::<Vec<_>>());
        }
        let fail = |i: usize, _: &mut [f32]| if i % 10 == 3 { Err(i) } else { Ok(()) };
        assert_eq!(by_chunks(reserve(1000).unwrap(), 1000, 1, fail), Err(3));
    }

    proptest! {
        #[test]
        fn pieces_lie_one_after_the_other(lens in prop::collection::vec(0_usize..300, 0..20), cut in 1_usize..40, large in any::<bool>()) {
            let value = |piece: usize, i: usize| (piece * 1000 + i) as f32;
            let room = if large { LARGE } else { lens.iter().sum() };
            let pieces = lens.iter().copied().zip(lens.iter().copied().enumerate());
            let push = |piece: usize, len: usize, slot: &mut Slot<'_, f32>| {
                let values: Vec<f32> = (0..len).map(|i| value(piece, i)).collect();
                values.chunks(cut).for_each(|c| slot.push(c));
            };
            let (all, given) = fill(reserve(room).unwrap(), pieces.clone(), |(piece, len), slot| {
                push(piece, len, slot);
                Ok::<_, ()>(piece)
            }).unwrap();
            let backwards = fill_backwards(reserve(room).unwrap(), pieces, |(piece, len), slot| {
                push(piece, len, slot);
                Ok::<_, ()>(())
            }).unwrap();
            prop_assert_eq!(&all, &backwards);
            let wanted: Vec<f32> = lens.iter().enumerate().flat_map(|(p, n)| (0..*n).map(move |i| value(p, i))).collect();
            prop_assert_eq!(all, wanted);
            prop_assert_eq!(given, (0..lens.len()).collect::<Vec<_>>());
        }

        #[test]
        fn copies_past_the_caches_are_copies(len in 0_usize..300, skip in 0_usize..20) {
            let values: Vec<u32> = (0..len as u32).collect();
            let mut to = vec![9; len + skip + 1];
            copy_past(&values, &mut to[skip..skip + len]);
            prop_assert_eq!(&to[skip..skip + len], &values[..]);
            prop_assert!(to[..skip].iter().chain(&to[skip + len..]).all(|x| *x == 9));
        }

        #[test]
        fn bytes_at_any_place(len in 0_usize..200, skip in 0_usize..40) {
            let values: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let pieces = [(skip, &[7; 40][..skip]), (len, &values)].into_iter();
            let push = |piece: &[u8], slot: &mut Slot<'_, u8>| { slot.push(piece); Ok::<_, ()>(()) };
            let (all, _) = fill(reserve(LARGE).unwrap(), pieces, push).unwrap();
            prop_assert_eq!(&all[..skip], &[7; 40][..skip]);
            prop_assert_eq!(&all[skip..], &values[..]);
        }
    }

    #[test]
    fn the_first_error_is_told() {
        let pieces = (0..10).map(|i| (1, i));
        let f = |i: i32, slot: &mut Slot<'_, u8>| {
            slot.push(&[1]);
            if i >= 3 { Err(i) } else { Ok(()) }
        };
        assert_eq!(fill(reserve(10).unwrap(), pieces, f).unwrap_err(), 3);
    }

    #[test]
    fn too_much_is_an_error() {
        assert!(reserve::<f32>(usize::MAX / 8).is_err());
    }
}
