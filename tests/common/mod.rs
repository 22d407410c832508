//! What the test binaries share: safetensors files written by hand, and read by hand.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeMap;

/// One array of a file.
#[derive(Clone, Debug)]
pub struct Array {
    pub name: String,
    pub dtype: &'static str,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

pub fn array(name: &str, dtype: &'static str, shape: &[usize], bytes: Vec<u8>) -> Array {
    Array { name: name.to_owned(), dtype, shape: shape.to_vec(), bytes }
}

pub fn f32s(name: &str, shape: &[usize], values: &[f32]) -> Array {
    array(name, "F32", shape, values.iter().flat_map(|x| x.to_le_bytes()).collect())
}

/// A safetensors file as bantam and others write it: compact JSON, spaces up to a multiple of 8.
pub fn file(metadata: &[(&str, &str)], arrays: &[Array]) -> Vec<u8> {
    let mut header = Vec::new();
    if !metadata.is_empty() {
        let pairs: Vec<String> = metadata.iter().map(|(k, v)| format!("{}:{}", quote(k), quote(v))).collect();
        header.push(format!("\"__metadata__\":{{{}}}", pairs.join(",")));
    }
    let mut at = 0;
    for a in arrays {
        let end = at + a.bytes.len();
        let shape: Vec<String> = a.shape.iter().map(ToString::to_string).collect();
        header.push(format!(
            "{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{at},{end}]}}",
            quote(&a.name),
            a.dtype,
            shape.join(",")
        ));
        at = end;
    }
    let data: Vec<u8> = arrays.iter().flat_map(|a| a.bytes.iter().copied()).collect();
    with_header(&format!("{{{}}}", header.join(",")), &data)
}

fn quote(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

/// A file with this text as header.
pub fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut text = header.as_bytes().to_vec();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.extend(text);
    out.extend_from_slice(data);
    out
}

/// A file in the open layout with this description.
pub fn described(description: &str, arrays: &[Array]) -> Vec<u8> {
    file(&[("bantam", description)], arrays)
}

/// Header and data of a file, without bantam: what the file itself says.
pub struct Read {
    pub header_len: usize,
    pub metadata: BTreeMap<String, String>,
    /// In the order of their bytes.
    pub arrays: Vec<(String, String, Vec<usize>, Vec<u8>)>,
}

impl Read {
    pub fn new(bytes: &[u8]) -> Self {
        let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&bytes[8..8 + header_len]).unwrap();
        let (mut metadata, mut arrays) = (BTreeMap::new(), Vec::new());
        for (name, value) in header {
            if name == "__metadata__" {
                metadata = serde_json::from_value(value).unwrap();
                continue;
            }
            let dtype = value["dtype"].as_str().unwrap().to_owned();
            let shape: Vec<usize> = serde_json::from_value(value["shape"].clone()).unwrap();
            let [from, to]: [usize; 2] = serde_json::from_value(value["data_offsets"].clone()).unwrap();
            arrays.push((from, (name, dtype, shape, bytes[8 + header_len..][from..to].to_vec())));
        }
        arrays.sort_by_key(|a| (a.0, a.1.3.len()));
        Self { header_len, metadata, arrays: arrays.into_iter().map(|a| a.1).collect() }
    }

    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.arrays.iter().find(|a| a.0 == name).map(|a| &a.3[..])
    }
}

/// Numbers that look random and are the same each time.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let x = self.0 ^ (self.0 >> 29);
        x.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 11
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// Within -1..1.
    pub fn unit(&mut self) -> f64 {
        self.next() as f64 / (1_u64 << 52) as f64 - 1.0
    }
}
