//! Archives of each version, and the same model in the open layout.

use bantam::{AffineQuantizer, Layout, MagnitudePruner, Model, Pipeline};
use std::path::Path;

fn stored(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/archive").join(name)
}

/// What the files hold: pruned and quantized matrices, biases, integers and metadata.
fn model() -> Model {
    let model = Model::open(stored("model.safetensors")).unwrap();
    Pipeline::new()
        .prune(MagnitudePruner::sparsity(0.6).only("fc1*"))
        .quantize(AffineQuantizer::bits(3).asymmetric().only("fc1*"))
        .run(model)
        .unwrap()
        .model
}

#[test]
fn archives_of_every_version_open() {
    let truth = Model::open(stored("open.safetensors")).unwrap();
    for name in ["version1.safetensors", "version2.safetensors", "version3.safetensors"] {
        assert_eq!(Layout::of(stored(name)).unwrap(), Layout::Archive, "{name}");
        assert_eq!(Model::open(stored(name)).unwrap(), truth, "{name}");
    }
}

/// The same bytes on every machine.
#[test]
fn an_archive_is_written_as_before() {
    assert_eq!(
        model().to_bytes_with(Layout::Archive).unwrap(),
        std::fs::read(stored("version3.safetensors")).unwrap()
    );
}
