//! Reading golden data and looking into saved weights, without bantam's own reader.

use bantam::nn::Graph;
use bantam::{AffineQuantizer, Float, Kind, Model, Pipeline, Tensor, Weight};
use safetensors::{Dtype, SafeTensors};
use std::path::PathBuf;

pub fn path(case: &str, file: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "golden", case, file].iter().collect()
}

/// The arrays of one safetensors file.
pub struct Arrays(Vec<u8>);

impl Arrays {
    /// `tests/golden/CASE/data.safetensors`.
    pub fn golden(case: &str) -> Self {
        Self::open(&path(case, "data.safetensors"))
    }

    pub fn open(path: &std::path::Path) -> Self {
        Self(std::fs::read(path).unwrap())
    }

    pub fn saved<T: Float>(model: &Model<T>) -> Self {
        Self(model.to_bytes().unwrap())
    }

    pub fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).unwrap()
    }

    pub fn has(&self, name: &str) -> bool {
        self.file().tensor(name).is_ok()
    }

    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.file().tensor(name).unwrap().shape().to_vec()
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        self.file().tensor(name).unwrap_or_else(|e| panic!("{name}: {e}")).data().to_vec()
    }

    /// Numbers of any type, as `f64`: exact but for large `i64`.
    pub fn numbers(&self, name: &str) -> Vec<f64> {
        let bytes = self.bytes(name);
        fn each<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> f64) -> Vec<f64> {
            bytes.as_chunks::<N>().0.iter().map(|b| f(*b)).collect()
        }
        match self.file().tensor(name).unwrap().dtype() {
            Dtype::F64 => each(&bytes, f64::from_le_bytes),
            Dtype::F32 => each(&bytes, |b| f64::from(f32::from_le_bytes(b))),
            Dtype::I64 => each(&bytes, |b| i64::from_le_bytes(b) as f64),
            Dtype::I32 => each(&bytes, |b| f64::from(i32::from_le_bytes(b))),
            Dtype::I16 => each(&bytes, |b| f64::from(i16::from_le_bytes(b))),
            Dtype::U8 => each(&bytes, |[b]| f64::from(b)),
            other => panic!("{name} is {other:?}"),
        }
    }

    pub fn tensor<T: Float>(&self, name: &str) -> Tensor<T> {
        Tensor::new(&self.shape(name), self.numbers(name).into_iter().map(T::narrow).collect()).unwrap()
    }

    /// The model of all weights under `prefix`.
    pub fn model<T: Float>(&self, prefix: &str, graph: Graph) -> Model<T> {
        let named: Vec<(String, Tensor<T>)> = graph
            .weights()
            .map(|(name, _)| (name.to_owned(), self.tensor(&format!("{prefix}.{name}"))))
            .collect();
        Model::from_tensors(named).unwrap().with_graph(graph).unwrap()
    }
}

/// What the open layout says of one quantized matrix.
pub struct Coded {
    pub scale: Vec<f64>,
    /// One for each scale.
    pub zero: Vec<i32>,
    /// A code for each entry.
    pub codes: Vec<i32>,
    pub decoded: Vec<f64>,
}

/// Quantizes one tensor and takes the parts apart.
pub fn quantized<T: Float>(tensor: Tensor<T>, bits: u8, quantizer: AffineQuantizer) -> Coded {
    let entries = tensor.len();
    let model = Pipeline::<T>::default().quantize(quantizer).run(tensor).unwrap().model;
    let saved = Arrays::saved(&model);
    let scale = saved.numbers("weight.scale");
    let decoded = model.weight("weight").unwrap().to_dense().unwrap();
    // The description says how many blocks there are; the arrays are padded to 8 bytes.
    let blocks = blocks(&saved, entries, &scale);
    let zero = if saved.has("weight.zero_point") {
        unpack(&saved.bytes("weight.zero_point"), bits, blocks)
    } else {
        vec![1 << (bits - 1); blocks]
    };
    Coded {
        scale: scale[..blocks].to_vec(),
        zero,
        codes: unpack(&saved.bytes("weight.codes"), bits, entries),
        decoded: decoded.iter().map(|x| x.widen()).collect(),
    }
}

fn blocks(saved: &Arrays, entries: usize, scale: &[f64]) -> usize {
    let (_, header) = SafeTensors::read_metadata(&saved.0).unwrap();
    let text = &header.metadata().as_ref().unwrap()["bantam"];
    let description: serde_json::Value = serde_json::from_str(text).unwrap();
    let form = &description["entries"][0]["form"];
    let granularity = &form["leaf"]["affine"]["granularity"];
    let rows = form["shape"][0].as_u64().unwrap() as usize;
    let blocks = match granularity["group"]["size"].as_u64() {
        Some(size) => entries / size as usize,
        None if granularity == "channel" => rows,
        None => 1,
    };
    assert!(blocks <= scale.len() && scale.len() < blocks + 8, "{text}");
    blocks
}

/// Codes of `bits` bits, least significant first.
pub fn unpack(packed: &[u8], bits: u8, len: usize) -> Vec<i32> {
    let bit = |i: usize| i32::from(packed[i / 8] >> (i % 8) & 1);
    let bits = usize::from(bits);
    (0..len).map(|i| (0..bits).map(|b| bit(i * bits + b) << b).sum()).collect()
}

pub fn dense<T: Float>(weight: &Weight<T>) -> Vec<f64> {
    weight.to_dense().unwrap().iter().map(|x| x.widen()).collect()
}

/// A model of tensors of one kind.
pub fn model_of<T: Float>(tensors: &[(&str, Kind, Tensor<T>)]) -> Model<T> {
    let mut model = Model::default();
    for (name, kind, tensor) in tensors {
        model.push(name, *kind, tensor.clone().into()).unwrap();
    }
    model
}

/// `|a - b| <= relative * max(|b|, floor)` for each pair.
#[track_caller]
pub fn assert_close(what: &str, a: &[f64], b: &[f64], relative: f64, floor: f64) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        let bound = relative * b.abs().max(floor);
        assert!((a - b).abs() <= bound, "{what} [{i}]: {a:e} is not {b:e} within {bound:e}");
    }
}
