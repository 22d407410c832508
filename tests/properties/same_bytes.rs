//! Statement 9: the same bytes for any number of threads, in memory and streamed.

use crate::cases::*;
use bantam::{AffineQuantizer, Float, MagnitudePruner, Model, Pipeline, Tensor};
use proptest::prelude::*;
use std::sync::OnceLock;

fn pools() -> &'static [rayon::ThreadPool] {
    static POOLS: OnceLock<Vec<rayon::ThreadPool>> = OnceLock::new();
    POOLS.get_or_init(|| {
        (1..=3).map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap()).collect()
    })
}

/// Bytes or the error's text, in every way of running.
fn all_ways<T: Float>(steps: &Pipeline<'_, T>, model: &Model<T>) {
    let folder = tempfile::tempdir().unwrap();
    let (original, path) = (folder.path().join("original"), folder.path().join("out"));
    model.save(&original).unwrap();
    let opened = Model::<T>::open_as(&original).unwrap();
    let in_memory =
        |model: &Model<T>| steps.run(model).and_then(|c| c.model.to_bytes()).map_err(|e| e.to_string());
    let streamed = |model: &Model<T>| {
        let report = steps.run_to(model, &path).map_err(|e| e.to_string())?;
        let bytes = std::fs::read(&path).unwrap();
        let mut plain = steps.run(model).unwrap().report;
        // Steps run together when streaming, so their times differ.
        for (a, b) in plain.steps.iter_mut().zip(&report.steps) {
            a.seconds = b.seconds;
        }
        assert_eq!(plain, report);
        Ok(bytes)
    };
    let expected = pools()[0].install(|| in_memory(model));
    for pool in pools() {
        assert_eq!(pool.install(|| in_memory(model)), expected);
        assert_eq!(pool.install(|| in_memory(&opened)), expected);
        assert_eq!(pool.install(|| streamed(model)), expected);
        assert_eq!(pool.install(|| streamed(&opened)), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn statement_9_threads_and_streaming_make_no_difference(
        cases in prop::collection::vec(any_case(), 1..4), steps in steps(), double in any::<bool>(),
    ) {
        if double { all_ways(&pipeline::<f64>(&steps), &model(&cases)) }
        else { all_ways(&pipeline::<f32>(&steps), &model(&cases)) }
    }
}

#[test]
fn statement_9_of_two_weights_that_fail_the_one_of_the_earlier_step_is_named() {
    let bad = Tensor::new(&[2, 64], vec![f32::NAN; 128]).unwrap();
    let model = Model::from_tensors(["a", "b", "c"].map(|name| (name, bad.clone()))).unwrap();
    let (prune, quantize) = (MagnitudePruner::sparsity(0.5), AffineQuantizer::bits(4));
    let one_by_one = || prune.clone().only("b");
    for later in [prune.clone().global().only("a"), prune.clone().only("a")] {
        for steps in [
            Pipeline::new().prune(one_by_one()).prune(later.clone()),
            Pipeline::new().prune(one_by_one()).quantize(quantize.clone().only("a")).prune(later.clone()),
            Pipeline::new().quantize(quantize.clone().only("c")).prune(one_by_one()).prune(later.clone()),
        ] {
            all_ways(&steps, &model);
        }
    }
    let steps = Pipeline::new().prune(one_by_one()).quantize(quantize.only("a"));
    let error = steps.run_to(&model, tempfile::tempdir().unwrap().path().join("out")).unwrap_err();
    assert!(error.to_string().contains("`b`"), "{error}");
}

#[test]
fn statement_9_large_tensors_are_cut_the_same_way() {
    // So large that they are shared out.
    let case = |seed, m, n| Case { shape: vec![m, n], look: Look::Mixed, seed };
    let model = model::<f32>(&[case(1, 1100, 1000), case(2, 1, 1_100_001), case(3, 300, 96)]);
    let global = MagnitudePruner::sparsity(0.7).global();
    all_ways(
        &Pipeline::new().prune(global).quantize(AffineQuantizer::bits(5).per_channel().asymmetric()),
        &model,
    );
    all_ways(&Pipeline::new().factorize(3_usize).prune(0.01).quantize(7), &model);
}

#[test]
fn statement_9_codes_that_are_made_while_choosing_are_the_same() {
    let case = |seed, m, n| Case { shape: vec![m, n], look: Look::Mixed, seed };
    // Shared out in several pieces, the codes of most of which begin within a byte.
    let model = model::<f32>(&[case(4, 1100, 1000), case(5, 1, 1_100_000), case(6, 3, 8)]);
    for bits in [1, 3, 4, 8] {
        let quantizer = AffineQuantizer::bits(bits).group(8).asymmetric();
        all_ways(&Pipeline::new().prune(0.2).quantize(quantizer), &model);
    }
    let global = MagnitudePruner::sparsity(0.6).global();
    all_ways(&Pipeline::new().prune(global).quantize(AffineQuantizer::bits(5).group(4)), &model);
    let (no_more, all) = (MagnitudePruner::threshold(0.0), MagnitudePruner::sparsity(1.0));
    all_ways(&Pipeline::new().prune(no_more).quantize(AffineQuantizer::bits(4).per_channel()), &model);
    all_ways(&Pipeline::new().prune(all).quantize(AffineQuantizer::bits(4).per_channel()), &model);
    all_ways(&Pipeline::new().prune(0.1).prune(0.2).quantize(AffineQuantizer::bits(4).group(8)), &model);
}

#[test]
fn statement_9_streaming_above_the_threshold_of_collection() {
    // 4096 * 4100 * 4 bytes are more than 64 MiB; bytes instead of floats make it cheap.
    let weight = Case { shape: vec![64, 256], look: Look::Distinct, seed: 5 }.tensor::<f32>();
    let mut ids = Vec::new();
    ids.resize(17_000_001, 7_u8);
    let bytes = crate::common::file(
        &[("format", "pt")],
        &[
            crate::common::f32s("a.weight", &[64, 256], weight.as_slice()),
            crate::common::array("ids", "U8", &[17_000_001], ids),
            crate::common::f32s("odd.bias", &[3], &[1.0, 2.0, 3.0]),
            crate::common::f32s("b.weight", &[64, 256], weight.as_slice()),
        ],
    );
    let folder = tempfile::tempdir().unwrap();
    let (original, saved, streamed) =
        (folder.path().join("original"), folder.path().join("saved"), folder.path().join("streamed"));
    std::fs::write(&original, bytes).unwrap();
    let steps = Pipeline::new().prune(MagnitudePruner::sparsity(0.5).global()).quantize(4);
    let after = steps.run(Model::open(&original).unwrap()).unwrap().model;
    after.save(&saved).unwrap();
    steps.run_to(Model::open(&original).unwrap(), &streamed).unwrap();
    let (a, b) = (std::fs::read(&saved).unwrap(), std::fs::read(&streamed).unwrap());
    assert!(a == b, "streamed and saved files differ");
    assert_eq!(Model::open(&streamed).unwrap(), after);
    let names: Vec<String> = Model::open(&streamed).unwrap().names().map(str::to_owned).collect();
    assert_eq!(names, ["a.weight", "ids", "odd.bias", "b.weight"]);
}

#[test]
fn statement_9_a_header_of_awkward_names_fits_its_reserved_space() {
    let mut model = Model::from_tensors([("x", Tensor::<f32>::zeros(&[0, 3]))]).unwrap();
    let quotes = "\"\\\u{1}\u{1F980}".repeat(40);
    for i in 0..40 {
        let tensor = Case { shape: vec![48, 32], look: Look::Distinct, seed: i }.tensor::<f32>();
        model.push(&format!("{quotes}{i}"), bantam::Kind::Embedding, tensor.into()).unwrap();
    }
    model.push("big", bantam::Kind::Bias, Tensor::zeros(&[17_000_000]).into()).unwrap();
    model.metadata_mut().insert(quotes.clone(), quotes);
    let folder = tempfile::tempdir().unwrap();
    let (saved, streamed) = (folder.path().join("saved"), folder.path().join("streamed"));
    let q = AffineQuantizer::bits(3)
        .group(16)
        .asymmetric()
        .activations(bantam::Activations::Int8Static { low: -1.0 / 3.0, high: 1.0 / 3.0 });
    let residual =
        bantam::LowRankFactorizer::rank(2).residual(AffineQuantizer::bits(3).group(16).asymmetric());
    let steps =
        Pipeline::new().factorize(residual).prune(MagnitudePruner::sparsity(0.9)).quantize(q.per_channel());
    steps.run(&model).unwrap().model.save(&saved).unwrap();
    steps.run_to(&model, &streamed).unwrap();
    assert!(std::fs::read(&saved).unwrap() == std::fs::read(&streamed).unwrap());
}
