//! Statements 7 and 8, and saving: what is in a file, to the byte.

use crate::cases::*;
use crate::common::{Array, Read, array, f32s, file};
use bantam::{Error, Float, Layout, MagnitudePruner, Model, Pipeline, Tensor};
use proptest::prelude::*;

fn to_the_byte<T: Float>(cases: &[Case], steps: &[AnyStep]) {
    let Some(after) = if_it_fits(pipeline::<T>(steps).run(model::<T>(cases))) else { return };
    let model = after.model;
    let bytes = model.to_bytes().unwrap();
    let file = Read::new(&bytes);
    // Padding is what the arrays have beyond what the weights need, less than 8 bytes each.
    let data: usize = file.arrays.iter().map(|a| a.3.len()).sum();
    let padding = data - model.stored_bytes();
    assert_eq!(bytes.len(), 8 + file.header_len + model.stored_bytes() + padding);
    assert!(padding <= 7 * file.arrays.len());
    assert!(padding == 0 || model.weights().any(|(_, w)| w.form() != bantam::Form::default()));
    assert_eq!(file.header_len % 8, 0, "the data is aligned");
    let mut at = 0;
    for (name, dtype, _, data) in &file.arrays {
        let size = match dtype.as_str() {
            "F64" | "I64" | "U64" => 8,
            "F32" | "U32" | "I32" => 4,
            "U16" | "F16" => 2,
            _ => 1,
        };
        assert!(data.is_empty() || at % size == 0, "{name} is not aligned to its type");
        at += data.len();
    }
    let of_weights: usize = model.weights().map(|(_, w)| w.stored_bytes()).sum();
    assert_eq!(model.stored_bytes(), of_weights);
    for layout in [Layout::Open, Layout::Archive] {
        let bytes = model.to_bytes_with(layout).unwrap();
        let again = Model::<T>::from_bytes_as(bytes.clone()).unwrap();
        assert_eq!(again, model, "{layout:?}");
        assert_eq!(leaves(&again), leaves(&model));
        assert_eq!(again.stored_bytes(), model.stored_bytes());
        assert_eq!(again.to_bytes_with(layout).unwrap(), bytes, "saving is a fixed point");
        let names: Vec<&str> = again.names().collect();
        assert_eq!(names, model.names().collect::<Vec<_>>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn statement_7_stored_bytes_and_header_are_the_file(
        cases in prop::collection::vec(any_case(), 0..3), steps in steps(), double in any::<bool>(),
    ) {
        if double { to_the_byte::<f64>(&cases, &steps) } else { to_the_byte::<f32>(&cases, &steps) }
    }

    #[test]
    fn statement_8_foreign_tensors_keep_type_bytes_and_order(
        kinds in prop::collection::vec((0_usize..12, 0_usize..5, 0_usize..5), 0..8), seed in any::<u64>(),
        named in any::<bool>(), layout in prop::sample::select(vec![Layout::Open, Layout::Archive]),
    ) {
        const DTYPES: [(&str, usize); 12] = [
            ("F16", 2), ("BF16", 2), ("F32", 4), ("F64", 8), ("I64", 8), ("BOOL", 1), ("U8", 1),
            ("F8_E4M3", 1), ("I32", 4), ("U16", 2), ("F8_E5M2", 1), ("C64", 8),
        ];
        let mut random = crate::common::Random(seed);
        let mut arrays: Vec<Array> = kinds.iter().enumerate().map(|(i, (dtype, m, n))| {
            let (dtype, size) = DTYPES[*dtype];
            let bytes = (0..m * n * size).map(|_| if dtype == "BOOL" { random.below(2) } else { random.below(256) } as u8);
            // Arrays without bytes lie at one place, where they come by name.
                    let name = if m * n == 0 { format!("e{i}.bias") } else { format!("t{}.bias", 9 - i) };
                    array(&name, dtype, &[*m, *n], bytes.collect())
        }).collect();
        arrays.insert(arrays.len() / 2, f32s("touched.weight", &[8, 8], &[0.25; 64]));
        let metadata: &[(&str, &str)] = if named { &[("format", "pt"), ("a \"quoted\" key", "\u{1F980}\n\\")] } else { &[] };
        let bytes = file(metadata, &arrays);
        let mut single = Model::from_bytes(bytes.clone()).unwrap();
        check_foreign(&arrays, &Model::from_bytes(single.to_bytes_with(layout).unwrap()).unwrap());
        prop_assert_eq!(&Model::from_bytes(single.to_bytes_with(layout).unwrap()).unwrap(), &single);
        prop_assert_eq!(single.metadata().len(), metadata.len());
        let double = Model::<f64>::from_bytes_as(bytes).unwrap();
        check_foreign(&arrays, &Model::<f64>::from_bytes_as(double.to_bytes_with(layout).unwrap()).unwrap());
        // Also through a step that takes another tensor.
        let steps = Pipeline::new().prune(MagnitudePruner::threshold(0.5).only("touched.weight"));
        single = steps.run(single).unwrap().model;
        let again = Model::from_bytes(single.to_bytes_with(layout).unwrap()).unwrap();
        prop_assert!(again.weight("touched.weight").unwrap().form().pruned);
        let others: Vec<Array> = arrays.iter().filter(|a| a.name != "touched.weight").cloned().collect();
        check_bytes(&others, &again);
        prop_assert_eq!(again.names().collect::<Vec<_>>(), arrays.iter().map(|a| &*a.name).collect::<Vec<_>>());
    }
}

fn check_foreign<T: Float>(arrays: &[Array], model: &Model<T>) {
    assert_eq!(model.names().collect::<Vec<_>>(), arrays.iter().map(|a| &*a.name).collect::<Vec<_>>());
    check_bytes(arrays, model);
}

fn check_bytes<T: Float>(arrays: &[Array], model: &Model<T>) {
    let file = Read::new(&model.to_bytes().unwrap());
    for a in arrays {
        let (_, dtype, shape, bytes) = file.arrays.iter().find(|b| b.0 == a.name).unwrap();
        assert_eq!((&**dtype, shape, bytes), (a.dtype, &a.shape, &a.bytes), "{}", a.name);
    }
}

#[test]
fn statement_8_a_plain_file_is_saved_as_it_was() {
    let arrays = [
        f32s("b.weight", &[2, 4], &[1.0, f32::NAN, -0.0, 1e-45, f32::INFINITY, 2.0, 3.0, 4.0]),
        array("a.ids", "I64", &[3], (0..24).collect()),
        array("c.flags", "BOOL", &[2, 4], vec![1, 0, 1, 0, 0, 0, 0, 1]),
        array("half", "F16", &[4], vec![0, 0x7E, 1, 0xFC, 0, 0, 0xFF, 0xFF]),
    ];
    for metadata in [&[][..], &[("format", "pt")]] {
        let bytes = file(metadata, &arrays);
        assert_eq!(Model::from_bytes(bytes.clone()).unwrap().to_bytes().unwrap(), bytes);
        // A pipeline that touches nothing writes the same.
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&from, &bytes).unwrap();
        Pipeline::new().run_to(Model::open(&from).unwrap(), &to).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), bytes);
    }
}

#[test]
fn statement_7_nan_in_a_tensor_that_is_not_touched_is_equal_after_saving() {
    let model = Model::from_tensors([("a.bias", Tensor::new(&[2], vec![f32::NAN, 1.0]).unwrap())]).unwrap();
    for layout in [Layout::Open, Layout::Archive] {
        assert_eq!(Model::from_bytes(model.to_bytes_with(layout).unwrap()).unwrap(), model);
    }
}

#[test]
fn statement_8_wider_floats_are_rounded_only_when_they_are_touched() {
    let values: Vec<u8> = [1.0_f64 / 3.0, 1e-300, -0.0, 5.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let bytes = file(&[], &[array("w.weight", "F64", &[2, 2], values.clone())]);
    let wide =
        Pipeline::<f64>::default().prune(1.0).run(Model::<f64>::from_bytes_as(bytes).unwrap()).unwrap();
    for layout in [Layout::Open, Layout::Archive] {
        let saved = wide.model.to_bytes_with(layout).unwrap();
        // Opened in less precision and saved again in each layout: still the doubles.
        let narrow = Model::from_bytes(saved).unwrap();
        for layout in [Layout::Open, Layout::Archive] {
            let again = Model::<f64>::from_bytes_as(narrow.to_bytes_with(layout).unwrap()).unwrap();
            assert_eq!(again, wide.model, "{layout:?}");
        }
    }
}

#[test]
fn a_failed_save_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("model.safetensors");
    std::fs::write(&old, b"old").unwrap();
    // Two arrays that would have the same name.
    let twins = Model::from_tensors([
        ("a", Tensor::new(&[8, 8], (0..64).map(|i| i as f32).collect()).unwrap()),
        ("a.codes", Tensor::zeros(&[1])),
    ])
    .unwrap();
    let twins =
        Pipeline::new().quantize(bantam::AffineQuantizer::bits(4).only("a")).run(twins).unwrap().model;
    let error = twins.save(&old).unwrap_err();
    assert!(error.to_string().contains("a.codes"), "{error}");
    let reserved = Model::from_tensors([("__metadata__", Tensor::<f32>::zeros(&[1]))]).unwrap();
    assert!(reserved.save(&old).is_err());
    assert_eq!(std::fs::read(&old).unwrap(), b"old");
    // A folder, a folder that does not exist, and no name at all.
    let good = Model::from_tensors([("a", Tensor::<f32>::zeros(&[1]))]).unwrap();
    let missing = folder.path().join("no").join("model");
    for path in [folder.path(), &missing, std::path::Path::new("")] {
        for layout in [Layout::Open, Layout::Archive] {
            let error = good.save_with(path, layout).unwrap_err();
            assert!(matches!(error, Error::Io { .. }), "{error}");
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        }
        assert!(Pipeline::new().run_to(&good, path).is_err());
    }
    // Nothing was left behind.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    good.save(&old).unwrap();
    assert_eq!(Model::open(&old).unwrap(), good);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_the_old_file() {
    // A limit on the size of files, which holds for a whole process, does what a full disk would.
    const CHILD: &str = "BANTAM_TEST_LIMITED";
    if let Some(path) = std::env::var_os(CHILD) {
        let large = Model::from(Tensor::<f32>::zeros(&[300, 300]));
        for layout in [Layout::Open, Layout::Archive] {
            // Noise, which the archive does not make small.
            let noise = (0..90_000_u32).map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761) >> 2)).collect();
            let noise = Model::from(Tensor::new(&[300, 300], noise).unwrap());
            let error = noise.save_with(&path, layout).unwrap_err();
            assert!(matches!(&error, Error::Io { path: at, .. } if at.as_os_str() == path), "{error}");
        }
        assert!(matches!(Pipeline::new().run_to(&large, &path), Err(Error::Io { .. })));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    std::fs::write(&path, b"old").unwrap();
    let child = std::process::Command::new("sh")
        .args([
            "-c",
            "trap '' XFSZ; ulimit -f 16; exec \"$0\" --exact files::a_full_disk_leaves_the_old_file",
        ])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, &path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn a_folder_that_cannot_be_written_leaves_the_old_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    std::fs::write(&path, b"old").unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o500)).unwrap();
    // The superuser may write anywhere, and then it is saved.
    let saved = Model::from(Tensor::<f32>::zeros(&[3])).save(&path);
    assert_eq!(saved.is_err(), std::fs::read(&path).unwrap() == b"old");
    assert_eq!(saved.is_ok(), std::fs::write(folder.path().join("probe"), b"").is_ok());
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn statement_7_empty_tensors_keep_their_order() {
    let names = ["c", "a", "b", "x", "z", "y"];
    let empty = |n: &str| Tensor::<f32>::zeros(if n == "x" { &[2] } else { &[0, 2] });
    let model = Model::from_tensors(names.map(|n| (n, empty(n)))).unwrap();
    for layout in [Layout::Open, Layout::Archive] {
        assert_eq!(Model::from_bytes(model.to_bytes_with(layout).unwrap()).unwrap(), model);
    }
}

#[test]
fn weights_that_do_not_fit_the_graph_are_not_saved() {
    use bantam::{Fault, Outcome, Outline, Refusal, Select, Step, Weight, WeightCompressor, WeightInfo};
    #[derive(Debug)]
    struct Reshape(Select);
    impl Step for Reshape {
        fn name(&self) -> &str {
            "reshape"
        }
        fn plan(&self, outline: &mut Outline) -> Result<(), (String, Refusal)> {
            outline.for_each_selected(&self.0, |weight| {
                weight.info.shape = vec![2, 2];
                Ok(())
            })
        }
    }
    impl WeightCompressor for Reshape {
        fn select(&self) -> &Select {
            &self.0
        }
        fn compress_weight(&self, _: &WeightInfo, _: Weight) -> Result<Outcome, Fault> {
            Ok(Weight::from(Tensor::zeros(&[2, 2])).into())
        }
    }
    let tensors = [("fc1.weight", Tensor::zeros(&[3, 4])), ("fc1.bias", Tensor::zeros(&[3]))];
    let model: Model = Model::from_tensors(tensors).unwrap();
    let model = model.with_graph(bantam::nn::Graph::new().linear("fc1")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    std::fs::write(&path, b"old").unwrap();
    let pipeline = || Pipeline::new().then_each(Reshape(Select::default()));

    let reshaped = pipeline().run(&model).unwrap().model;
    for layout in [Layout::Open, Layout::Archive] {
        assert!(matches!(reshaped.save_with(&path, layout), Err(Error::Shape { .. })));
        assert!(matches!(reshaped.to_bytes_with(layout), Err(Error::Shape { .. })));
    }
    assert!(matches!(pipeline().run_to(&model, &path), Err(Error::Shape { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
}

#[test]
fn the_metadata_key_of_the_crate_is_not_for_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let mut model = Model::from(Tensor::<f32>::zeros(&[3, 2]));
    model.metadata_mut().insert("bantam".to_owned(), "archive".to_owned());
    for layout in [Layout::Open, Layout::Archive] {
        assert!(model.to_bytes_with(layout).unwrap_err().to_string().contains("`bantam`"));
        assert!(model.save_with(&path, layout).is_err());
    }
    assert!(Pipeline::new().prune(0.1).run_to(&model, &path).is_err());
    assert!(!path.exists());
}

#[test]
fn an_f64_model_stored_as_zeros_opens_as_f32() {
    let mut values = vec![1.0_f64; 1024];
    (values[3], values[5]) = (1e-50, 1e-70);
    let pruned = Pipeline::default().prune(1e-60).run(Tensor::new(&[32, 32], values).unwrap()).unwrap().model;
    let bytes = pruned.to_bytes().unwrap();
    assert!(Read::new(&bytes).arrays.len() == 1, "no mask");
    assert_eq!(Model::<f64>::from_bytes_as(bytes.clone()).unwrap(), pruned);
    let narrow = Model::from_bytes(bytes).unwrap();
    let dense = narrow.weight("weight").unwrap().to_dense().unwrap();
    assert_eq!(dense.as_slice()[..6], [1.0, 1.0, 1.0, 0.0, 1.0, 0.0]);
    assert_eq!(narrow.weight("weight").unwrap().sparsity(), 1.0 / 1024.0);
}

#[test]
fn statement_11_floats_that_are_not_computed_on_are_not_passed_over_in_silence() {
    let arrays =
        [array("fc.weight", "F8_E4M3", &[8, 8], vec![56; 64]), array("ids", "I64", &[2, 2], vec![1; 32])];
    let model = Model::from_bytes(file(&[], &arrays)).unwrap();
    let pipeline = || Pipeline::new().prune(0.5).quantize(4);
    let report = pipeline().run(&model).unwrap().report;
    let row = report.weight("fc.weight").unwrap();
    assert_eq!((row.form.as_str(), row.bytes_after, row.bits_per_weight), ("carried", 64, 8.0));
    let left: Vec<_> = row.left.iter().map(|l| (l.step.as_str(), l.why)).collect();
    assert_eq!(left, [("prune", bantam::LeftAlone::Type), ("quantize", bantam::LeftAlone::Type)]);
    assert_eq!(report.weight("ids").unwrap().form, "carried");
    assert_eq!(report.weights.iter().map(|w| w.bytes_after).sum::<usize>(), report.bytes_after);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    assert_eq!(pipeline().run_to(&model, &path).unwrap().weights, report.weights);
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(pipeline().strict().run(&model), Err(Error::Left { .. })));
    assert!(matches!(pipeline().strict().run_to(&model, &path), Err(Error::Left { .. })));
    assert!(!path.exists());
}
