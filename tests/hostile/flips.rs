//! Valid files of both layouts, cut and changed everywhere.

use crate::common::Random;
use crate::using::{open, open_path};
use bantam::nn::Graph;
use bantam::{
    Activations, AffineQuantizer, CodebookQuantizer, Layout, LowRankFactorizer, MagnitudePruner, Model,
    Pipeline, Tensor,
};
use proptest::prelude::*;

fn tensor(m: usize, n: usize) -> Tensor<f32> {
    let mut random = Random((m * 1000 + n) as u64);
    Tensor::new(&[m, n], (0..m * n).map(|_| random.unit() as f32).collect()).unwrap()
}

/// A network with a bit of everything: N:M, CSR, bitmask, zeros, groups, zero points, a codebook, a sum, carried
/// tensors.
pub fn everything() -> Model {
    let mut model = Model::from_tensors([
        ("fc1.weight", tensor(16, 16)),
        ("fc1.bias", Tensor::zeros(&[16])),
        ("fc2.weight", tensor(24, 16)),
        ("fc3.weight", tensor(12, 24)),
        ("fc4.weight", tensor(16, 12)),
        ("fc4.bias", tensor(1, 16).reshape(&[16]).unwrap()),
    ])
    .unwrap()
    .with_graph(
        Graph::new()
            .flatten()
            .linear("fc1")
            .relu()
            .linear_without_bias("fc2")
            .linear_without_bias("fc3")
            .gelu()
            .linear("fc4"),
    )
    .unwrap();
    model.metadata_mut().insert("made".into(), "by hand".into());
    Pipeline::new()
        .factorize(
            LowRankFactorizer::rank(2).residual(AffineQuantizer::bits(2).group(4).asymmetric()).only("fc2.*"),
        )
        .prune(MagnitudePruner::n_of_m(2, 4).only("fc1.weight"))
        .prune(MagnitudePruner::sparsity(0.95).only("fc3.weight"))
        .prune(MagnitudePruner::sparsity(0.05).only("fc4.weight"))
        // Some codes lie beyond its five values.
        .codebook(CodebookQuantizer::values(5).only("fc3.weight"))
        .quantize(AffineQuantizer::bits(5).asymmetric().activations(Activations::Int8).only("fc1.weight"))
        .run(model)
        .unwrap()
        .model
}

fn files() -> Vec<Vec<u8>> {
    let model = everything();
    let tensor = Pipeline::new().prune(0.5).quantize(3).run(tensor(8, 8)).unwrap().model;
    let of = |m: &Model| [Layout::Open, Layout::Archive].map(|l| m.to_bytes_with(l).unwrap());
    of(&model).into_iter().chain(of(&tensor)).collect()
}

#[test]
fn truncations_at_every_length() {
    for bytes in files() {
        assert!(open(&bytes));
        // Opening is cheap; a cut file must not open, as offsets tile the data.
        for n in 0..bytes.len() {
            let error = Model::from_bytes(&bytes[..n]).expect_err("a cut file opens");
            assert!(!error.to_string().is_empty());
        }
    }
}

#[test]
fn single_flips_of_every_header_byte() {
    let mut opened = 0;
    for bytes in files() {
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        for i in 0..header {
            // Each way in turn; all of them would take long and find little more.
            for bit in [i % 8, (i + 3) % 8] {
                let mut changed = bytes.clone();
                changed[i] ^= 1 << bit;
                opened += usize::from(open(&changed));
            }
        }
    }
    assert!(opened > 0, "some changes are harmless");
}

#[test]
fn errors_name_the_file() {
    let folder = tempfile::tempdir().unwrap();
    for bytes in files() {
        for i in (0..bytes.len()).step_by(bytes.len() / 150 + 1) {
            let mut changed = bytes.clone();
            changed[i] ^= 0x15;
            open_path(folder.path(), &changed);
            open_path(folder.path(), &bytes[..i]);
        }
    }
    let missing = Model::open(folder.path().join("missing")).unwrap_err().to_string();
    assert!(missing.contains("missing"), "{missing}");
    let directory = Model::open(folder.path()).unwrap_err().to_string();
    assert!(directory.contains(&folder.path().display().to_string()), "{directory}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200), with_length in any::<bool>()) {
        if with_length && bytes.len() > 8 {
            let mut bytes = bytes;
            let n = bytes.len() as u64 - 8;
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            open(&bytes);
        } else {
            open(&bytes);
        }
    }

    #[test]
    fn any_json_header(text in "\\{(\"[a-z_]{0,12}\":(\\{(\"(dtype|shape|data_offsets)\":(\"F32\"|\\[[0-9]{1,3},?[0-9]{0,3}\\]),?){0,3}\\}|[0-9]),?){0,3}\\}", data in 0_usize..40) {
        open(&crate::common::with_header(&text, &vec![1; data]));
    }

    #[test]
    fn flips_of_any_bytes(which in 0_usize..4, flips in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..=255), 1..6)) {
        thread_local! { static FILES: Vec<Vec<u8>> = files(); }
        let mut bytes = FILES.with(|f| f[which].clone());
        for (at, mask) in flips {
            // Half of the flips hit data, which are most of the bytes only in large files.
            let n = bytes.len();
            bytes[at.index(n)] ^= mask;
        }
        open(&bytes);
    }
}
