//! A file in the open layout for `check_open_layout.py`, which reads it with the Python package alone.

use crate::support::{Arrays, dense, model_of};
use bantam::{
    Activations, AffineQuantizer, CodebookQuantizer, Kind, LowRankFactorizer, MagnitudePruner, Model,
    Pipeline, Tensor,
};
use std::path::Path;

/// Numbers around 0 without ties and without a zero.
fn numbers(shape: &[usize], seed: u32) -> Tensor<f32> {
    let mut state = seed;
    let values = (0..shape.iter().product::<usize>())
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0 + 1e-7
        })
        .collect();
    Tensor::new(shape, values).unwrap()
}

fn model() -> Model {
    let matrix = |seed| numbers(&[12, 40], seed);
    let dense = model_of(&[
        ("plain", Kind::Linear, matrix(1)),
        ("tensor8", Kind::Linear, matrix(2)),
        ("channel3", Kind::Linear, matrix(3)),
        ("group4", Kind::Linear, matrix(4)),
        ("one_bit", Kind::Linear, matrix(5)),
        ("bitmask", Kind::Linear, matrix(6)),
        ("csr", Kind::Linear, numbers(&[4, 256], 7)),
        ("csr_wide", Kind::Linear, numbers(&[3, 600], 20)),
        ("pattern", Kind::Linear, matrix(8)),
        ("pattern8", Kind::Linear, matrix(9)),
        ("kernel", Kind::Conv, numbers(&[4, 8, 3, 3], 10)),
        ("zeros", Kind::Linear, numbers(&[4, 32], 11)),
        ("zeros_coded", Kind::Linear, numbers(&[4, 32], 19)),
        ("product", Kind::Linear, matrix(12)),
        ("product_coded", Kind::Linear, numbers(&[40, 40], 13)),
        ("sum", Kind::Linear, numbers(&[40, 40], 14)),
        ("pruned_coded", Kind::Linear, matrix(15)),
        ("csr_coded", Kind::Linear, numbers(&[4, 256], 16)),
        ("kernel_coded", Kind::Conv, numbers(&[4, 8, 3, 3], 17)),
        ("codebook5", Kind::Linear, matrix(21)),
        ("codebook_pruned", Kind::Linear, matrix(22)),
        ("bias", Kind::Bias, numbers(&[13], 18)),
    ]);
    let bits = AffineQuantizer::bits;
    let prune = MagnitudePruner::sparsity;
    Pipeline::new()
        .factorize(LowRankFactorizer::rank(3).only("product"))
        .factorize(LowRankFactorizer::rank(4).only("product_coded"))
        .factorize(LowRankFactorizer::rank(4).residual(bits(3).group(8)).only("sum"))
        .prune(prune(0.6).only("bitmask").only("pruned_coded").only("codebook_pruned"))
        .prune(prune(0.97).only("csr*"))
        .prune(MagnitudePruner::n_of_m(2, 4).only("pattern").only("kernel").only("kernel_coded"))
        .prune(MagnitudePruner::n_of_m(3, 8).only("pattern8"))
        .prune(MagnitudePruner::threshold(0.03).only("zeros*"))
        .quantize(bits(8).only("tensor8").only("zeros_coded"))
        .quantize(bits(3).per_channel().asymmetric().only("channel3"))
        .quantize(bits(4).group(10).asymmetric().activations(Activations::Int8).only("group4"))
        .quantize(bits(1).only("one_bit"))
        .quantize(bits(5).only("product_coded"))
        .quantize(bits(6).asymmetric().group(8).only("pruned_coded"))
        .codebook(CodebookQuantizer::values(5).only("codebook5"))
        .codebook(CodebookQuantizer::bits(4).optimal().only("codebook_pruned"))
        .quantize(bits(7).per_channel().only("csr_coded").only("kernel_coded"))
        .run(dense)
        .unwrap()
        .model
}

/// Writes `open_layout.safetensors`, and `open_layout_dense.safetensors` with what it stands for.
#[test]
fn a_file_for_python_holds_every_form() {
    let model = model();
    let arrays = Arrays::saved(&model);
    let file = arrays.file();
    for part in [
        "plain",
        "tensor8.codes",
        "channel3.zero_point",
        "bitmask.mask",
        "bitmask.values",
        "csr.indices",
        "csr.row_offsets",
        "csr_wide.indices",
        "pattern.pattern",
        "kernel.pattern",
        "zeros",
        "zeros_coded.codes",
        "product.u",
        "product_coded.u.codes",
        "product_coded.v.scale",
        "sum.0.u",
        "sum.1.codes",
        "pruned_coded.mask",
        "csr_coded.indices",
        "kernel_coded.pattern",
        "codebook5.codebook",
        "codebook5.codes",
        "codebook_pruned.codebook",
        "codebook_pruned.mask",
        "bias",
    ] {
        assert!(file.tensor(part).is_ok(), "{part} is not among {:?}", file.names());
    }
    assert!(!arrays.has("zeros_coded.mask"));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = folder.join("open_layout.safetensors");
    model.save(&path).unwrap();
    assert_eq!(Model::open(&path).unwrap(), model);
    let decoded: Vec<(String, Tensor<f32>)> =
        model.weights().map(|(name, w)| (name.to_owned(), w.to_dense().unwrap())).collect();
    Model::from_tensors(decoded).unwrap().save(folder.join("open_layout_dense.safetensors")).unwrap();
    assert!(dense(model.weight("zeros").unwrap()).contains(&0.0));
}
