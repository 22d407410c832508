//! Where kept entries are, in a byte each: an instruction finds the inputs of many of them at a time, where a mask
//! goes on word by word.

use super::lanes::{LONGEST, ROOM, fetch, places_room};
#[cfg(target_arch = "x86_64")]
use super::vbmi;
use super::{Bits, WORD};
use crate::kernels::cpu::fast;
#[cfg(target_arch = "x86_64")]
use crate::kernels::cpu::{Vbmi2, Vnni};
use crate::kernels::memory::{Aligned, with_room, zeroed};
use crate::parallel;
use std::ops::Range;

/// Columns of a block: a byte tells them apart.
pub const BLOCK: usize = 256;
/// Places that are written at a time, whether there are as many or not.
const STEP: usize = ROOM;
/// Rows whose offsets are found by one thread at a time.
const PIECE: usize = 64;
/// Rows that some form takes together.
pub const TOGETHER: usize = 4;
/// Side by side: a sum must wait for the one before it.
pub(super) const SUMS: usize = 8;

/// Columns of the kept entries of rows, within blocks of [`BLOCK`].
#[derive(Clone)]
pub struct Offsets {
    /// Of all rows, one after the other, and [`WORD`] bytes more.
    offsets: Vec<u8>,
    /// Entries of each block of each row.
    counts: Vec<u8>,
    /// Kept entries before each row; one more at the end: all of them.
    starts: Vec<usize>,
    /// Blocks of a row: an even number, as some are taken in pairs.
    blocks: usize,
}

impl Offsets {
    /// Of rows of `cols` entries before which `starts` are kept, from 0 on, and one more at the end. `None` where a block
    /// keeps all of its entries, rows keep something else than that, or there is not so much memory.
    pub fn new<'a>(
        cols: usize,
        starts: Vec<usize>,
        bits: impl Fn(usize) -> Bits<'a> + Sync + Send,
    ) -> Option<Self> {
        let (rows, blocks) = (starts.len().checked_sub(1)?, 2 * cols.div_ceil(2 * BLOCK));
        if starts[0] != 0 {
            return None;
        }
        let mut offsets = zeroed(starts[rows].checked_add(WORD)?)?;
        let mut counts = zeroed(rows.checked_mul(blocks)?)?;
        let mut pieces = Vec::with_capacity(rows.div_ceil(PIECE));
        let (mut offsets_left, mut counts_left) = (&mut offsets[..], &mut counts[..]);
        for first in (0..rows).step_by(PIECE) {
            let last = rows.min(first + PIECE);
            let now = offsets_left.split_off_mut(..starts[last].checked_sub(starts[first])?)?;
            let counts = counts_left.split_off_mut(..(last - first) * blocks)?;
            pieces.push((first..last, now, counts));
        }
        let found = parallel::map_vec(pieces, |(rows, out, counts): (_, &mut [u8], &mut [u8])| {
            let mut at = 0;
            for (row, counts) in Range::zip(rows, counts.chunks_mut(blocks.max(1))) {
                let end = at + starts[row + 1].checked_sub(starts[row])?;
                find(bits(row), out.get_mut(at..end)?, counts)?;
                at = end;
            }
            Some(())
        });
        found.into_iter().collect::<Option<()>>()?;
        Some(Self { offsets, counts, starts, blocks })
    }

    pub fn resident_bytes(&self) -> usize {
        self.offsets.len() + self.counts.len() + size_of_val(&self.starts[..])
    }

    /// Puts the places of the kept entries of a row in some columns, counted from their first, to the front of `out`
    /// and says how many they are: as [`places`](super::places). They begin where a block does, and `rank` entries are
    /// kept before them.
    pub fn places(&self, row: usize, columns: Range<usize>, rank: usize, out: &mut [u16]) -> usize {
        debug_assert!(columns.start.is_multiple_of(BLOCK) && columns.len() <= LONGEST);
        let blocks = columns.start / BLOCK..columns.end.div_ceil(BLOCK);
        places(&self.counts[row * self.blocks..][blocks], &self.offsets[rank..], out)
    }

    /// `f(rows, values)` for parts of some rows, of which `all` holds the kept values: theirs, and [`WORD`] more of any
    /// kind. The last rows of a weight, after which there are not so many, are copied.
    pub fn for_each_part<V: Copy + Default>(
        &self,
        rows: Range<usize>,
        all: &[V],
        mut f: impl FnMut(Range<usize>, &[V]),
    ) {
        let starts = &self.starts[rows.start..=rows.end];
        let followed = starts.partition_point(|start| start + WORD <= all.len()).saturating_sub(1);
        let middle = rows.start + followed;
        if followed > 0 {
            f(rows.start..middle, &all[starts[0]..starts[followed] + WORD]);
        }
        if middle < rows.end {
            let own = &all[starts[followed]..starts[rows.len()]];
            let mut buffer = Vec::with_capacity(own.len() + WORD);
            buffer.extend_from_slice(own);
            buffer.resize(own.len() + WORD, V::default());
            f(middle..rows.end, &buffer);
        }
    }

    /// `rows` of them, from `first` on.
    pub(super) fn rows(&self, first: usize, rows: usize) -> RowsOf<'_> {
        let starts = &self.starts[first..=first + rows];
        RowsOf {
            offsets: &self.offsets[starts[0]..starts[rows] + WORD],
            counts: &self.counts[first * self.blocks..][..rows * self.blocks],
            starts,
            blocks: self.blocks,
        }
    }

    /// The exact sums of `(code - zero) * (x + offset)` over the kept entries of the rows from `first` on that `out` and
    /// `zeros` are for, with `x` at their places: of as many as an `i32` holds. `codes` are those of these rows and
    /// [`WORD`] more of any kind.
    pub fn sums_of_bytes(
        &self,
        first: usize,
        (codes, zeros): (&[u8], &[u8]),
        (x, offset): (&Bytes, i32),
        out: &mut [i32],
    ) {
        let rows = self.rows(first, out.len());
        #[cfg(target_arch = "x86_64")]
        if let (Some(vbmi2), Some(vnni)) = (Vbmi2::new(), Vnni::new()) {
            return vbmi::sums_of_bytes((vbmi2, vnni), rows, (codes, zeros), (x.get(), offset), out);
        }
        rows.sums_of_bytes((codes, zeros), (x.get(), offset), out);
    }
}

/// Some rows of [`Offsets`], which alone make it: the counts of a row add up to what its `starts` say, and no offset is
/// missing.
#[derive(Clone, Copy)]
pub struct RowsOf<'a> {
    /// [`WORD`] more than these rows keep.
    pub(super) offsets: &'a [u8],
    /// `blocks` for each row. All of a row together are the difference of its `starts`.
    pub(super) counts: &'a [u8],
    /// Of each row, and the end of the last: how far apart they are is what counts.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub(super) starts: &'a [usize],
    pub(super) blocks: usize,
}

impl<'a> RowsOf<'a> {
    /// Entries that these rows keep.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn kept(self) -> usize {
        self.offsets.len() - WORD
    }

    /// Of `R` rows from `first` on: where their entries begin, and how many there are in each block.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn some<const R: usize>(self, first: usize) -> ([usize; R], [&'a [u8]; R]) {
        (
            std::array::from_fn(|r| self.starts[first + r] - self.starts[0]),
            std::array::from_fn(|r| &self.counts[(first + r) * self.blocks..][..self.blocks]),
        )
    }

    /// `f(row, first, places, kept)` for stretches of rows: the places from column `first` on of some kept entries.
    pub(super) fn for_each_stretch(self, mut f: impl FnMut(usize, usize, &[u16], Range<usize>)) {
        const BLOCKS: usize = LONGEST / BLOCK;
        let mut at = 0;
        with_room(places_room(self.blocks.min(BLOCKS) * BLOCK), |room| {
            for (row, counts) in self.counts.chunks(self.blocks.max(1)).enumerate() {
                for (part, counts) in counts.chunks(BLOCKS).enumerate() {
                    let count = places(counts, &self.offsets[at..], room);
                    f(row, part * LONGEST, &room[..count], at..at + count);
                    at += count;
                }
            }
        });
    }

    /// The portable form of [`Offsets::sums_of_bytes`].
    pub(super) fn sums_of_bytes(
        self,
        (codes, zeros): (&[u8], &[u8]),
        (x, offset): (&[i8], i32),
        out: &mut [i32],
    ) {
        out.fill(0);
        self.for_each_stretch(|row, first, places, kept| {
            let (zero, codes, x) = (i32::from(zeros[row]), &codes[kept], &x[first..]);
            out[row] += fast(
                #[inline(always)]
                || dot_bytes(places, codes, zero, x, offset),
            );
        });
    }
}

/// The sum of `(code - zero) * (x + offset)`, with `x` at the places of codes.
#[inline(always)]
fn dot_bytes(places: &[u16], codes: &[u8], zero: i32, x: &[i8], offset: i32) -> i32 {
    let product =
        |code: u8, place: u16| (i32::from(code) - zero) * (i32::from(x[usize::from(place)]) + offset);
    let mut sums = [0; SUMS];
    let ((codes, more), (places, more_places)) = (codes.as_chunks::<SUMS>(), places.as_chunks::<SUMS>());
    for (codes, places) in codes.iter().zip(places) {
        fetch(codes);
        for i in 0..SUMS {
            sums[i] += product(codes[i], places[i]);
        }
    }
    for ((sum, code), place) in sums.iter_mut().zip(more).zip(more_places) {
        *sum += product(*code, *place);
    }
    sums.into_iter().sum()
}

/// The places of entries of which so many are in each block, to the front of `out`; how many they are. Some more are read
/// and written.
fn places(counts: &[u8], offsets: &[u8], out: &mut [u16]) -> usize {
    let mut at = 0;
    fast(
        #[inline(always)]
        || {
            for (block, count) in counts.iter().enumerate() {
                let mut left = usize::from(*count);
                loop {
                    let mut next = [(block * BLOCK) as u16; STEP];
                    next.iter_mut().zip(&offsets[at..at + STEP]).for_each(|(to, offset)| {
                        *to += u16::from(*offset);
                    });
                    out[at..at + STEP].copy_from_slice(&next);
                    fetch(&offsets[at]);
                    at += left.min(STEP);
                    if left <= STEP {
                        break;
                    }
                    left -= STEP;
                }
            }
        },
    );
    at
}

/// The offsets of a row and how many there are in each block; `None` where one has too many, or they are not as many as
/// there is room for.
fn find(bits: Bits<'_>, out: &mut [u8], counts: &mut [u8]) -> Option<()> {
    #[cfg(target_arch = "x86_64")]
    if let Some(cpu) = Vbmi2::new() {
        return vbmi::find(cpu, bits, out, counts);
    }
    plain_find(bits, out, counts)
}

/// The portable form.
pub(super) fn plain_find(bits: Bits<'_>, out: &mut [u8], counts: &mut [u8]) -> Option<()> {
    const WORDS: usize = BLOCK / WORD;
    let mut out = out.iter_mut();
    for (block, count) in counts.iter_mut().enumerate() {
        let mut found = 0;
        for i in 0..WORDS.min(bits.len().saturating_sub(block * WORDS)) {
            let mut word = bits.word(block * WORDS + i);
            found += word.count_ones();
            while word != 0 {
                *out.next()? = (i * WORD) as u8 + word.trailing_zeros() as u8;
                word &= word - 1;
            }
        }
        *count = u8::try_from(found).ok()?;
    }
    out.next().is_none().then_some(())
}

/// An input of bytes, followed by zeros: in whole pairs of blocks.
pub struct Bytes(Aligned<i8>);

impl Bytes {
    pub fn new(x: impl ExactSizeIterator<Item = i8>) -> Self {
        let mut all = Aligned::new(x.len().next_multiple_of(2 * BLOCK));
        all.get_mut().iter_mut().zip(x).for_each(|(to, x)| *to = x);
        Self(all)
    }

    pub(super) fn get(&self) -> &[i8] {
        self.0.get()
    }
}
