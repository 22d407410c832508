//! [`Store`]: arrays by name that the same lines write and read, for what a training must not lose; and
//! [`Container`], the safetensors file around them.
//!
//! A container carries the hash of its contents, so that damage is an error and not another number.

use super::safetensors::{Header, Writer, header_len};
use super::{AtomicFile, name_file, with_file};
use crate::error::FormatKind;
use crate::tensor::{fill_le_bytes, to_le_bytes};
use crate::weight::Bytes;
use crate::{DType, Element, Error, Result};
use std::collections::BTreeMap;
use std::io::{Cursor, Seek, Write};
use std::path::Path;

/// Key of the hash in the metadata.
const HASH: &str = "hash";
/// Key of what kind of container it is, with its version.
const KIND: &str = "bantam_kind";

/// A hash to notice change and damage by. It keeps no secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hash(u64);

impl Hash {
    pub fn new() -> Self {
        Self(0x243f_6a88_85a3_08d3)
    }

    /// Every word of the bytes goes through a bijection of the state, so that a change of one word cannot be lost.
    pub fn add(&mut self, bytes: &[u8]) {
        let mut word = |word: u64| {
            self.0 = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        };
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|w| word(u64::from_le_bytes(*w)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        word(u64::from_le_bytes(last));
        word(bytes.len() as u64);
    }

    pub fn numbers<E: Element>(&mut self, values: &[E]) {
        self.add(&to_le_bytes(values));
    }

    /// Sixteen hexadecimal digits.
    pub fn text(self) -> String {
        format!("{:016x}", self.0)
    }
}

/// What is wrong with bytes that should be those of a training.
pub(crate) fn bad(why: impl Into<String>) -> Error {
    FormatKind::Training(why.into()).into()
}

/// Texts and arrays, in the order of their names.
#[derive(Default)]
pub(crate) struct Container {
    pub texts: BTreeMap<String, String>,
    pub arrays: BTreeMap<String, Array>,
}

#[derive(Clone)]
pub(crate) struct Array {
    dtype: DType,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Array {
    pub fn new<E: Element>(shape: &[usize], values: &[E]) -> Self {
        Self { dtype: E::DTYPE, shape: shape.to_vec(), bytes: to_le_bytes(values).into_owned() }
    }

    /// Bytes that mean something to somebody else.
    pub fn opaque(bytes: Vec<u8>) -> Self {
        Self { dtype: DType::U8, shape: vec![bytes.len()], bytes }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The numbers, if they are of this type.
    pub fn values<E: Element>(&self) -> Option<Vec<E>> {
        if self.dtype != E::DTYPE {
            return None;
        }
        let mut values = vec![E::default(); self.bytes.len() / size_of::<E>()];
        fill_le_bytes(&mut values, |to| to.copy_from_slice(&self.bytes));
        Some(values)
    }
}

impl Container {
    fn hash(&self) -> String {
        let mut hash = Hash::new();
        for (key, text) in self.texts.iter().filter(|(key, _)| *key != HASH) {
            hash.add(key.as_bytes());
            hash.add(text.as_bytes());
        }
        for (name, array) in &self.arrays {
            hash.add(name.as_bytes());
            hash.add(array.dtype.name().as_bytes());
            array.shape.iter().for_each(|n| hash.add(&(*n as u64).to_le_bytes()));
            hash.add(&array.bytes);
        }
        hash.text()
    }

    fn write(&mut self, kind: &str, out: impl Write + Seek + Send) -> Result<()> {
        self.texts.insert(KIND.to_owned(), kind.to_owned());
        let hash = self.hash();
        self.texts.insert(HASH.to_owned(), hash);
        let arrays = self.arrays.iter().map(|(n, a)| (n.as_str(), a.dtype, &a.shape[..], a.bytes.len()));
        let mut writer = Writer::new(out, header_len(&self.texts, arrays)?)?;
        for (name, array) in &self.arrays {
            writer.add(name, array.dtype, &array.shape, array.bytes.len(), |put| put(&array.bytes))?;
        }
        writer.finish(&self.texts)
    }

    /// Into a file that has been created already; it appears whole or not at all.
    pub fn save(mut self, kind: &str, mut file: AtomicFile, path: &Path) -> Result<()> {
        self.write(kind, &mut file).map_err(|e| name_file(e, path))?;
        file.commit()
    }

    pub fn into_bytes(mut self, kind: &str) -> Result<Vec<u8>> {
        let mut bytes = Cursor::new(Vec::new());
        self.write(kind, &mut bytes)?;
        Ok(bytes.into_inner())
    }

    /// The container of this kind in a file.
    pub fn open(kind: &str, path: &Path) -> Result<Self> {
        with_file(path, |bytes| Self::read(kind, bytes))
    }

    pub fn from_bytes(kind: &str, bytes: &[u8]) -> Result<Self> {
        Self::read(kind, &bytes.to_vec().into())
    }

    fn read(kind: &str, bytes: &Bytes) -> Result<Self> {
        let header = Header::read(bytes)?;
        if header.metadata.get(KIND).map(String::as_str) != Some(kind) {
            return Err(bad(format!("it is not a `{kind}` of this version")));
        }
        let mut out = Self { texts: header.metadata, arrays: BTreeMap::new() };
        for stored in header.tensors {
            let bytes =
                stored.bytes.read(0, stored.bytes.len()).map_err(|f| super::fault(&stored.name, f))?;
            out.arrays.insert(stored.name, Array { dtype: stored.dtype, shape: stored.shape, bytes });
        }
        if out.texts.get(HASH) != Some(&out.hash()) {
            return Err(bad("it is damaged: its contents are not those it was written with"));
        }
        Ok(out)
    }

    /// The text called `key`.
    pub fn text(&self, key: &str) -> Result<&str> {
        self.texts.get(key).map(String::as_str).ok_or_else(|| bad(format!("it has no `{key}`")))
    }
}

/// Arrays of something that writes itself into a container, or takes its numbers out of one. Whoever visits says the
/// names and holds the numbers; which way they go is the store's affair.
pub(crate) struct Store {
    container: Container,
    reading: bool,
    prefix: String,
}

impl Store {
    pub fn writer() -> Self {
        Self { container: Container::default(), reading: false, prefix: String::new() }
    }

    pub fn reader(container: Container) -> Self {
        Self { container, reading: true, prefix: String::new() }
    }

    pub fn is_reading(&self) -> bool {
        self.reading
    }

    /// What has been written; of a reader, what nobody has asked for.
    pub fn into_container(self) -> Container {
        self.container
    }

    /// Names within `f` begin with `part`.
    pub fn within<R>(&mut self, part: &str, f: impl FnOnce(&mut Self) -> R) -> R {
        let len = self.prefix.len();
        self.prefix.push_str(part);
        self.prefix.push('/');
        let result = f(self);
        self.prefix.truncate(len);
        result
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// What is wrong with an array.
    pub fn fault(&self, name: &str, why: &str) -> Error {
        bad(format!("`{}`: {why}", self.name(name)))
    }

    /// Numbers that may be missing.
    pub fn optional<E: Element>(&mut self, name: &str, values: &mut Option<Vec<E>>) -> Result<()> {
        let key = self.name(name);
        if !self.reading {
            if let Some(values) = values {
                let before = self.container.arrays.insert(key, Array::new(&[values.len()], values));
                debug_assert!(before.is_none(), "{name} twice");
            }
            return Ok(());
        }
        *values = match self.container.arrays.remove(&key) {
            None => None,
            Some(array) => Some(array.values().ok_or_else(|| self.fault(name, "it is of another type"))?),
        };
        Ok(())
    }

    /// As many numbers as there are; with a reader, `lens` says how many there may be.
    pub fn numbers<E: Element>(&mut self, name: &str, values: &mut Vec<E>, lens: &[usize]) -> Result<()> {
        let mut held = (!self.reading).then(|| std::mem::take(values));
        self.optional(name, &mut held)?;
        *values = held.ok_or_else(|| self.fault(name, "it is missing"))?;
        if self.reading && !lens.contains(&values.len()) {
            let why = format!("{} numbers where {lens:?} belong", values.len());
            return Err(self.fault(name, &why));
        }
        Ok(())
    }

    /// Whole numbers in one array.
    pub fn counts<const N: usize>(&mut self, name: &str, counts: [&mut u64; N]) -> Result<()> {
        let mut values: Vec<i64> = counts.iter().map(|n| **n as i64).collect();
        self.numbers(name, &mut values, &[N])?;
        counts.into_iter().zip(values).for_each(|(n, value)| *n = value as u64);
        Ok(())
    }

    /// Bits in one number.
    pub fn flags<const N: usize>(&mut self, name: &str, flags: [&mut bool; N]) -> Result<()> {
        let mut bits = flags.iter().rev().fold(0, |bits, flag| bits << 1 | u64::from(**flag));
        self.counts(name, [&mut bits])?;
        flags.into_iter().enumerate().for_each(|(i, flag)| *flag = bits >> i & 1 == 1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container() -> Container {
        let mut store = Store::writer();
        store.within("a", |store| store.numbers("x", &mut vec![1.0_f32, -0.0, f32::NAN], &[])).unwrap();
        store.flags("f", [&mut true, &mut false, &mut true]).unwrap();
        store.counts("n", [&mut 7, &mut { u64::MAX }]).unwrap();
        store.into_container()
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = container().into_bytes("test 1").unwrap();
        let mut store = Store::reader(Container::from_bytes("test 1", &bytes).unwrap());
        let (mut x, mut nothing) = (Vec::<f32>::new(), Some(vec![1_u8]));
        store.within("a", |store| store.numbers("x", &mut x, &[3])).unwrap();
        assert_eq!(
            x.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
            [1.0, -0.0, f32::NAN].map(f32::to_bits)
        );
        let (mut a, mut b, mut c) = (false, true, false);
        store.flags("f", [&mut a, &mut b, &mut c]).unwrap();
        assert_eq!((a, b, c), (true, false, true));
        let (mut n, mut most) = (0, 0);
        store.counts("n", [&mut n, &mut most]).unwrap();
        assert_eq!((n, most), (7, u64::MAX));
        store.optional("nothing", &mut nothing).unwrap();
        assert_eq!(nothing, None);
    }

    #[test]
    fn other_lengths_types_and_names_are_errors() {
        let store = || Store::reader(container());
        let error = |e: Result<()>| e.unwrap_err().to_string();
        let mut x = Vec::<f32>::new();
        assert!(error(store().within("a", |s| s.numbers("x", &mut x, &[2, 4]))).contains("`a/x`: 3 numbers"));
        assert!(error(store().numbers("x", &mut x, &[3])).contains("missing"));
        assert!(error(store().numbers("n", &mut x, &[2])).contains("another type"));
    }

    #[test]
    fn damage_is_noticed_wherever_it_is() {
        let bytes = container().into_bytes("test 1").unwrap();
        assert!(Container::from_bytes("test 2", &bytes).is_err());
        for len in 0..bytes.len() {
            assert!(Container::from_bytes("test 1", &bytes[..len]).is_err(), "{len}");
        }
        for i in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[i / 8] ^= 1 << (i % 8);
            // Blanks that fill up the header may change into each other.
            let Ok(read) = Container::from_bytes("test 1", &bytes) else { continue };
            assert_eq!(read.hash(), container_with_kind().hash(), "{i}");
        }
    }

    fn container_with_kind() -> Container {
        let bytes = container().into_bytes("test 1").unwrap();
        Container::from_bytes("test 1", &bytes).unwrap()
    }
}
