//! [`Values`]: floats that are in memory, or still in the bytes of a file.

use super::ahead::{Coded, Coder};
use super::bytes::{Bytes, for_each_chunk};
use super::mask::Mask;
use crate::kernels::memory;
use crate::tensor::{decode_floats, encode_floats, fill_le_bytes, round_to, to_le_bytes};
use crate::{DType, Fault, Float};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// Bytes that are converted at a time, or values.
const CHUNK: usize = 1 << 18;
/// Entries of a word of a mask.
const WORD: usize = 64;

/// Floats of any stored type, seen as `T`.
///
/// Invariant: owned values are exactly representable in `dtype`, so that what is saved is what was there.
#[derive(Clone)]
pub(crate) enum Values<T: Float> {
    Owned {
        data: Arc<Vec<T>>,
        dtype: DType,
    },
    /// With what codes those of them that are chosen, if somebody wants to know.
    Raw {
        bytes: Bytes,
        dtype: DType,
        coder: Option<Arc<dyn Coder<T>>>,
    },
    /// Of the `dtype` values in a file, those whose bits are set: choosing among values that nobody has read
    /// yet needs no memory for them. `ends` are the least and the greatest, and 0; `coded`, their codes, where
    /// somebody wanted to know.
    Chosen {
        bytes: Bytes,
        dtype: DType,
        mask: Arc<Mask>,
        ends: (T, T),
        coded: Option<Arc<Coded<T>>>,
    },
}

impl<T: Float> Values<T> {
    /// Values in `T`'s own precision.
    pub fn new(data: Vec<T>) -> Self {
        Self::Owned { data: Arc::new(data), dtype: T::DTYPE }
    }

    /// Values rounded to `dtype`.
    pub fn rounded(mut data: Vec<T>, dtype: DType) -> Self {
        if dtype.bits() < T::DTYPE.bits() {
            data.iter_mut().for_each(|x| *x = round_to(dtype, *x));
        }
        Self::Owned { data: Arc::new(data), dtype: narrower::<T>(dtype) }
    }

    /// A selection of the values of a `dtype` tensor, which are representable in it by construction.
    pub fn selected(data: Vec<T>, dtype: DType) -> Self {
        Self::Owned { data: Arc::new(data), dtype: narrower::<T>(dtype) }
    }

    /// Stored bytes of a float `dtype`, untouched.
    pub fn raw(dtype: DType, bytes: Bytes) -> Self {
        Self::Raw { bytes, dtype, coder: None }
    }

    /// The values of `self` whose bits are set, of which the least and the greatest, and 0, are `ends`. Where
    /// these values are a choice already, `mask` chooses out of the same as that did.
    pub fn chosen(self, mask: Arc<Mask>, ends: (T, T), coded: Option<Arc<Coded<T>>>) -> Result<Self, Fault> {
        match self {
            Self::Raw { bytes, dtype, .. } | Self::Chosen { bytes, dtype, .. } => {
                Ok(Self::Chosen { bytes, dtype, mask, ends, coded })
            }
            Self::Owned { .. } => Err(Fault::Form("values in memory are chosen by moving them")),
        }
    }

    /// Has those that will be chosen of them coded.
    pub fn expect(&mut self, with: &Arc<dyn Coder<T>>) {
        if let Self::Raw { coder, .. } = self {
            *coder = Some(Arc::clone(with));
        }
    }

    /// What codes those that are chosen of them.
    pub fn coder(&self) -> Option<&dyn Coder<T>> {
        match self {
            Self::Raw { coder, .. } => coder.as_deref(),
            _ => None,
        }
    }

    /// Whether they are in a file.
    pub fn is_unread(&self) -> bool {
        match self {
            Self::Owned { .. } => false,
            Self::Raw { bytes, .. } | Self::Chosen { bytes, .. } => bytes.heap().is_none(),
        }
    }

    /// The least and the greatest of them, and 0, where that is known.
    pub fn ends(&self) -> Option<(T, T)> {
        match self {
            Self::Chosen { ends, .. } => Some(*ends),
            _ => None,
        }
    }

    pub fn dtype(&self) -> DType {
        match self {
            Self::Owned { dtype, .. } | Self::Raw { dtype, .. } => *dtype,
            Self::Chosen { dtype, .. } => narrower::<T>(*dtype),
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Owned { data, .. } => data.len(),
            Self::Raw { bytes, dtype, .. } => bytes.len() / (dtype.bits() / 8),
            Self::Chosen { mask, .. } => mask.kept(),
        }
    }

    /// Bytes in a file.
    pub fn stored_bytes(&self) -> usize {
        self.len() * self.dtype().bits() / 8
    }

    /// Bytes of memory.
    pub fn resident_bytes(&self) -> usize {
        match self {
            Self::Owned { data, .. } => size_of_val(&data[..]),
            Self::Raw { bytes, .. } => bytes.resident(),
            Self::Chosen { bytes, coded, .. } => {
                bytes.resident() + coded.as_ref().map_or(0, |coded| coded.resident_bytes())
            }
        }
    }

    /// The values in `range`: borrowed where they are in memory, read and converted where not.
    pub fn read(&self, range: Range<usize>) -> Result<Cow<'_, [T]>, Fault> {
        match self {
            Self::Owned { data, .. } => Ok(Cow::Borrowed(&data[range])),
            Self::Raw { bytes, dtype, .. } => decode(bytes, *dtype, range).map(Cow::Owned),
            // Piece by piece: what is not chosen may be most of it.
            Self::Chosen { .. } if range == (0..self.len()) => self.clone().into_vec().map(Cow::Owned),
            Self::Chosen { .. } => self.with(range, |values| Ok(Cow::Owned(values.to_vec()))),
        }
    }

    /// Calls `f` with the values in `range`, as [`read`](Self::read) gives them, in memory that is used again
    /// where they come from a file.
    pub fn with<R>(&self, range: Range<usize>, f: impl FnOnce(&[T]) -> Result<R, Fault>) -> Result<R, Fault> {
        match self {
            Self::Owned { data, .. } => f(&data[range]),
            _ => self.with_copy(range, |values| f(values)),
        }
    }

    /// The same with a copy of them, which `f` may change.
    pub fn with_copy<R>(
        &self,
        range: Range<usize>,
        f: impl FnOnce(&mut [T]) -> Result<R, Fault>,
    ) -> Result<R, Fault> {
        match self {
            Self::Raw { bytes, dtype, .. } => with_all(bytes, *dtype, range, f),
            Self::Chosen { bytes, dtype, mask, .. } => {
                if range.is_empty() {
                    return f(&mut []);
                }
                let first = mask.place(range.start) / WORD * WORD;
                let last = (mask.place(range.end - 1) + 1).next_multiple_of(WORD).min(mask.len());
                with_all(bytes, *dtype, first..last, |values| {
                    T::compact(values, 0, mask.words(first..last), 0);
                    f(&mut values[range.start - mask.rank(first)..][..range.len()])
                })
            }
            Self::Owned { data, .. } => f(&mut data[range].to_vec()),
        }
    }

    /// Which of the values in `range`, as they are stored, are not zero.
    pub fn nonzero(&self, range: Range<usize>) -> Result<Vec<bool>, Fault> {
        match self {
            Self::Raw { bytes, dtype, .. } if dtype.bits() > T::DTYPE.bits() => {
                // Wider than `T`, where a small one would round to zero.
                Ok(decode::<f64>(bytes, *dtype, range)?.into_iter().map(|x| x != 0.0).collect())
            }
            _ => Ok(self.read(range)?.iter().map(|x| *x != T::zero()).collect()),
        }
    }

    /// Whether none of the values, as they are stored, is NaN or infinite.
    pub fn is_finite(&self) -> Result<bool, Fault> {
        match self {
            Self::Owned { data, .. } => Ok(data.iter().all(|x| x.is_finite())),
            Self::Raw { bytes, dtype, .. } => {
                Ok(decode::<f64>(bytes, *dtype, 0..self.len())?.iter().all(|x| x.is_finite()))
            }
            // Nothing else is chosen.
            Self::Chosen { .. } => Ok(true),
        }
    }

    /// All values, moved out where nobody else holds them.
    pub fn into_vec(self) -> Result<Vec<T>, Fault> {
        match self {
            Self::Owned { data, .. } => Ok(Arc::unwrap_or_clone(data)),
            Self::Raw { bytes, dtype, .. } => {
                let n = bytes.len() / (dtype.bits() / 8);
                decode(&bytes, dtype, 0..n)
            }
            Self::Chosen { ref mask, .. } => {
                let room = memory::reserve(mask.kept())
                    .map_err(|_| Fault::Form("the kept values do not fit in memory"))?;
                let pieces = chunks(mask).map(|range| (range.len(), range));
                memory::fill(room, pieces, |range, slot| {
                    self.with(range, |values| {
                        slot.push(values);
                        Ok(())
                    })
                })
                .map(|(values, _)| values)
            }
        }
    }

    /// The values and their precision, where they are in memory and nobody else holds them.
    pub fn into_own(self) -> Result<(Vec<T>, DType), Self> {
        match self {
            Self::Owned { data, dtype } => match Arc::try_unwrap(data) {
                Ok(own) => Ok((own, dtype)),
                Err(data) => Err(Self::Owned { data, dtype }),
            },
            raw => Err(raw),
        }
    }

    /// The same values, in memory and, unless that would round them, as `T`.
    pub fn load(&self) -> Result<Self, Fault> {
        match self {
            Self::Owned { .. } => Ok(self.clone()),
            Self::Raw { bytes, dtype, .. } if dtype.bits() > T::DTYPE.bits() => {
                Ok(Self::raw(*dtype, bytes.load()?))
            }
            Self::Raw { dtype, .. } | Self::Chosen { dtype, .. } => {
                let data = self.clone().into_vec()?;
                Ok(Self::selected(data, *dtype))
            }
        }
    }

    /// The stored form, piece by piece.
    pub fn for_each_stored_chunk<E: From<Fault> + Send>(
        &self,
        mut f: impl FnMut(&[u8]) -> Result<(), E> + Send,
    ) -> Result<(), E> {
        let dtype = self.dtype();
        match self {
            Self::Raw { bytes, .. } => bytes.for_each_chunk(f),
            Self::Owned { data, .. } if dtype == T::DTYPE && cfg!(target_endian = "little") => {
                f(bytemuck::cast_slice(data))
            }
            _ => {
                let size = dtype.bits() / 8;
                let stored = |at: usize, out: &mut [u8]| {
                    self.with(at / size..(at + out.len()) / size, |values| {
                        if dtype == T::DTYPE {
                            out.copy_from_slice(&to_le_bytes(values));
                        } else {
                            let mut stored = Vec::with_capacity(out.len());
                            encode_floats(dtype, values, &mut stored);
                            out.copy_from_slice(&stored);
                        }
                        Ok(())
                    })
                };
                for_each_chunk(self.stored_bytes(), stored, f)
            }
        }
    }
}

/// The numbers of chosen values, in runs out of about [`CHUNK`] of all.
fn chunks(mask: &Mask) -> impl Iterator<Item = Range<usize>> {
    let starts = (0..mask.len()).step_by(CHUNK);
    starts.map(|start| mask.rank(start)..mask.rank(mask.len().min(start + CHUNK)))
}

/// Values of a wider stored type are held, and saved again, in `T`'s precision once they have been touched.
fn narrower<T: Float>(dtype: DType) -> DType {
    if dtype.bits() < T::DTYPE.bits() { dtype } else { T::DTYPE }
}

/// Calls `f` with the values in `range` of the stored ones, in memory that is used again and may be changed.
fn with_all<T: Float, R>(
    bytes: &Bytes,
    dtype: DType,
    range: Range<usize>,
    f: impl FnOnce(&mut [T]) -> Result<R, Fault>,
) -> Result<R, Fault> {
    if dtype == T::DTYPE && cfg!(target_endian = "little") {
        let size = size_of::<T>();
        bytes.with(range.start * size, range.len() * size, |bytes| f(bytemuck::cast_slice_mut(bytes)))?
    } else {
        f(&mut decode(bytes, dtype, range)?)
    }
}

fn decode<T: Float>(bytes: &Bytes, dtype: DType, range: Range<usize>) -> Result<Vec<T>, Fault> {
    let size = dtype.bits() / 8;
    let mut out = vec![T::default(); range.len()];
    if dtype == T::DTYPE {
        fill_le_bytes(&mut out, |b| bytes.read_into(range.start * size, b))?;
        return Ok(out);
    }
    let step = CHUNK / size;
    let mut buffer = vec![0; step.min(range.len()) * size];
    for (i, chunk) in out.chunks_mut(step).enumerate() {
        let buffer = &mut buffer[..chunk.len() * size];
        bytes.read_into((range.start + i * step) * size, buffer)?;
        decode_floats(dtype, buffer, chunk);
    }
    Ok(out)
}

impl<T: Float> std::fmt::Debug for Values<T> {
    /// Not the numbers: there may be millions.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{} of {:?}]", self.len(), self.dtype())
    }
}

impl<T: Float> PartialEq for Values<T> {
    /// Equal numbers in equal precision; whether they have been read from a file yet makes no difference.
    /// NaN equals NaN here, so that whatever is saved is equal when it is opened again.
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &[T], b: &[T]| a.iter().zip(b).all(|(a, b)| a == b || (a.is_nan() && b.is_nan()));
        self.len() == other.len()
            && self.dtype() == other.dtype()
            && matches!((self.read(0..self.len()), other.read(0..other.len())), (Ok(a), Ok(b)) if same(&a, &b))
    }
}

#[cfg(all(test, feature = "files"))]
mod tests {
    use super::super::bytes::OpenFile;
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    proptest! {
        #[test]
        fn chosen_values_of_a_file_are_those_in_memory(
            on in prop::collection::vec(any::<bool>(), 1..700), a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>(),
            dtype in prop::sample::select(vec![DType::F32, DType::F16, DType::F64]),
        ) {
            let all: Vec<f32> = (0..on.len()).map(|i| i as f32 - 99.0).collect();
            let mut bytes = vec![1; 3];
            encode_floats(dtype, &all, &mut bytes);
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            let file = Arc::new(OpenFile::new(file, std::path::Path::new("test")));
            let raw = Values::<f32>::raw(dtype, Bytes::from_file(&file, 3, bytes.len() - 3));
            let mask = Arc::new(Mask::from_positions((0..on.len()).filter(|i| on[*i]), on.len()));
            let chosen = raw.chosen(Arc::clone(&mask), (0.0, 0.0), None).unwrap();
            let wanted: Vec<f32> = mask.positions(0..on.len()).map(|i| all[i]).collect();
            let (a, b) = (a.index(wanted.len() + 1), b.index(wanted.len() + 1));
            let range = a.min(b)..a.max(b);
            prop_assert_eq!(&chosen.read(range.clone()).unwrap()[..], &wanted[range]);
            prop_assert_eq!(&chosen, &Values::selected(wanted.clone(), dtype));
            prop_assert_eq!(chosen.load().unwrap().into_own().unwrap(), (wanted.clone(), narrower::<f32>(dtype)));
            let (mut stored, mut expected) = (Vec::new(), Vec::new());
            let mut put = |bytes: &[u8]| {
                stored.extend_from_slice(bytes);
                Ok::<_, Fault>(())
            };
            chosen.for_each_stored_chunk(&mut put).unwrap();
            encode_floats(chosen.dtype(), &wanted, &mut expected);
            prop_assert_eq!(stored, expected);
        }
    }
}
