//! The archive layout: streams that lie and streams that end.

use crate::common::{Random, array, file};
use crate::memory::peak;
use crate::using::{open, open_path};
use bantam::{Layout, MagnitudePruner, Model, Pipeline, Tensor};
use proptest::prelude::*;

fn archive(stream: &[u8]) -> Vec<u8> {
    file(&[], &[array("bantam", "U8", &[stream.len()], stream.to_vec())])
}

fn first_version(stream: &[u8]) -> Vec<u8> {
    file(&[("bantam", "archive")], &[array("archive", "U8", &[stream.len()], stream.to_vec())])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_stream(stream in prop::collection::vec(any::<u8>(), 0..300)) {
        open(&archive(&stream));
        open(&first_version(&stream));
    }

    #[test]
    fn a_stream_of_one_byte_again_and_again(byte in any::<u8>(), n in 0_usize..3000) {
        open(&archive(&vec![byte; n]));
        open(&first_version(&vec![byte; n]));
    }
}

#[test]
fn a_long_stream_that_is_wrong() {
    for byte in [0, 0xFF, 0x55] {
        assert!(!open(&archive(&vec![byte; 200_000])));
        assert!(!open(&first_version(&vec![byte; 200_000])));
    }
    let mut random = Random(1);
    let noise: Vec<u8> = (0..200_000).map(|_| random.below(256) as u8).collect();
    assert!(!open(&archive(&noise)));
    assert!(!open(&first_version(&noise)));
}

#[test]
fn archives_of_another_shape() {
    let folder = tempfile::tempdir().unwrap();
    let key = [("bantam", "archive")];
    for arrays in [
        vec![],
        vec![array("archive", "F32", &[1], vec![0; 4])],
        vec![array("other", "U8", &[4], vec![0; 4])],
        vec![array("archive", "U8", &[4], vec![0; 4]), array("b", "U8", &[4], vec![0; 4])],
        vec![array("archive", "U8", &[0], vec![])],
    ] {
        let bytes = file(&key, &arrays);
        assert!(!open(&bytes));
        open_path(folder.path(), &bytes);
    }
    assert!(!open(&archive(&[])));
    // Files of others that only look like one.
    for arrays in [
        vec![array("bantam", "U8", &[4], vec![0; 4]), array("b", "U8", &[4], vec![0; 4])],
        vec![array("bantam", "F32", &[1], vec![0; 4])],
    ] {
        assert!(open(&file(&[], &arrays)));
    }
}

/// Archives of a model that compresses well, and what they cost to open.
fn bomb(model: &Model) -> (usize, usize) {
    let bytes = model.to_bytes_with(Layout::Archive).unwrap();
    let n = bytes.len();
    let (opened, most) = peak(|| Model::from_bytes(bytes));
    assert_eq!(&opened.unwrap(), model);
    (n, most)
}

#[test]
fn honest_archives_that_expand_have_bounded_memory() {
    // All zero: next to nothing an entry.
    let zeros = Tensor::<f32>::zeros(&[2000, 2000]);
    let (n, most) = bomb(&Model::from(zeros));
    assert!(most <= (8 << 20) + 200 * n, "{most} for {n}");
    let mut random = Random(3);
    let sparse = (0..4_000_000).map(|_| if random.below(100_000) == 0 { 1.0 } else { 0.0 }).collect();
    let sparse = Tensor::<f32>::new(&[2000, 2000], sparse).unwrap();
    let pruned = Pipeline::new().prune(MagnitudePruner::threshold(0.5)).run(sparse).unwrap().model;
    let (n, most) = bomb(&pruned);
    assert!(most <= (8 << 20) + 200 * n, "{most} for {n}");
}

#[test]
fn a_description_that_is_too_long_is_refused_both_ways() {
    let mut model = Model::from_tensors([("a", Tensor::<f32>::zeros(&[1]))]).unwrap();
    model.metadata_mut().insert("tokens".into(), "x".repeat(5 << 20));
    let error = model.to_bytes_with(Layout::Archive).unwrap_err();
    assert!(error.to_string().contains("limit"), "{error}");
    assert_eq!(Model::from_bytes(model.to_bytes().unwrap()).unwrap(), model);
}
