//! What I promise of the models that I deploy, for any shapes and values.

use bantam::distill::FineTuner;
use bantam::nn::{Graph, Input};
use bantam::{AffineQuantizer, Form, Layout, LeftAlone, MagnitudePruner, Model, Pipeline, Tensor};
use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, Strategy, any};
use proptest::{prop_assert, prop_assert_eq, proptest};
use stranger::{Blobs, ClipOutliers, Equalize, mlp};

/// `inputs -> hidden -> 3` with a ReLU, of values between -4 and 4 of which some are large, some zero.
fn network() -> impl Strategy<Value = Model> {
    let value =
        proptest::prop_oneof![8 => -0.5_f32..0.5, 1 => -4.0_f32..4.0, 1 => proptest::strategy::Just(0.0)];
    (1_usize..40, 1_usize..40).prop_flat_map(move |(inputs, hidden)| {
        let shapes = [vec![hidden, inputs], vec![hidden], vec![3, hidden], vec![3]];
        let sizes: Vec<usize> = shapes.iter().map(|shape| shape.iter().product()).collect();
        vec(value.clone(), sizes.iter().sum::<usize>()).prop_map(move |values| {
            let mut rest = values.as_slice();
            let names = ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"];
            let tensors = names.iter().zip(&shapes).zip(&sizes).map(|((name, shape), &size)| {
                let (tensor, others) = rest.split_at(size);
                rest = others;
                (*name, Tensor::new(shape, tensor.to_vec()).unwrap())
            });
            let model = Model::from_tensors(tensors).unwrap();
            model.with_graph(Graph::new().linear("fc1").relu().linear("fc2")).unwrap()
        })
    })
}

/// Some inputs that fit.
fn inputs(model: &Model) -> Input<f32> {
    let features = model.weight("fc1.weight").unwrap().shape()[1];
    let values = (0..5 * features).map(|i| (i as f32 * 0.7).sin()).collect();
    Tensor::new(&[5, features], values).unwrap().into()
}

fn logits(model: &Model) -> Vec<f32> {
    model.network().unwrap().forward(&inputs(model)).unwrap().into_vec()
}

fn close(a: &[f32], b: &[f32], tolerance: f32) -> bool {
    let largest = a.iter().fold(1.0_f32, |largest, x| largest.max(x.abs()));
    a.iter().zip(b).all(|(a, b)| (a - b).abs() <= tolerance * largest)
}

/// What goes out: at most half of the entries, no outliers, few bits.
fn deploy<'a>(bits: u8) -> Pipeline<'a> {
    Pipeline::new()
        .then(Equalize)
        .prune(MagnitudePruner::sparsity(0.5))
        .then_each(ClipOutliers::at(4.0))
        .quantize(AffineQuantizer::bits(bits).per_channel())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn eight_bits_cost_at_most_a_tenth_of_a_weight(model in network()) {
        let mut small = Pipeline::new().quantize(AffineQuantizer::bits(8).per_channel()).run(&model).unwrap();
        small.measure(&model).unwrap();
        for weight in &small.report.weights {
            let error = weight.error.unwrap();
            prop_assert!(error.relative <= 0.1, "{}: {}", weight.name, error.relative);
        }
    }

    #[test]
    fn pruned_weights_stay_zero(model in network(), sparsity in 0.0..1.0, bits in 2_u8..=8, seed in any::<u64>()) {
        let pruned = Pipeline::new().prune(MagnitudePruner::sparsity(sparsity)).run(&model).unwrap().model;
        let features = model.weight("fc1.weight").unwrap().shape()[1];
        let data = Blobs { samples: 30, features, classes: 3, seed: 0 };
        let after = Pipeline::new()
            .then(Equalize)
            .then_each(ClipOutliers::at(2.0))
            .finetune(FineTuner::new(&data).rate(0.1).seed(seed))
            .quantize(bits)
            .run(&pruned)
            .unwrap();
        for (name, before) in pruned.weights().filter(|(_, weight)| weight.form().pruned) {
            let (before, after) = (before.to_dense().unwrap(), after.model.weight(name).unwrap().to_dense().unwrap());
            let mut pairs = before.iter().zip(after.iter());
            prop_assert!(pairs.all(|(before, after)| *before != 0.0 || *after == 0.0), "{name}");
        }
    }

    #[test]
    fn saving_and_opening_keeps_the_predictions(model in network(), bits in 1_u8..=8, archive in any::<bool>()) {
        let small = deploy(bits).run(&model).unwrap().model;
        let layout = if archive { Layout::Archive } else { Layout::Open };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("small.safetensors");
        small.save_with(&path, layout).unwrap();
        let again = Model::open(&path).unwrap();
        prop_assert_eq!(logits(&again), logits(&small));
        prop_assert_eq!(again, small);
    }

    #[test]
    fn fewer_bits_are_fewer_bytes(seed in any::<u64>(), width in 16_usize..64) {
        let model: Model = mlp(&[16, width, 8], seed).unwrap();
        let bytes = |bits: u8| deploy(bits).run(&model).unwrap().model.to_bytes().unwrap().len();
        let sizes: Vec<usize> = [8, 6, 4, 3, 2].map(bytes).to_vec();
        prop_assert!(sizes.is_sorted_by(|more, fewer| more > fewer), "{sizes:?}");
        prop_assert!(sizes[0] < model.to_bytes().unwrap().len());
    }

    #[test]
    fn equalizing_changes_no_prediction(model in network()) {
        let even = Pipeline::new().then(Equalize).run(&model).unwrap().model;
        prop_assert!(close(&logits(&model), &logits(&even), 1e-5));
    }

    #[test]
    fn clipping_bounds_every_entry(model in network(), sigmas in 1.0..4.0) {
        let clipped = Pipeline::new().then_each(ClipOutliers::at(sigmas)).run(&model).unwrap().model;
        for (name, before) in model.weights().filter(|(name, _)| name.ends_with("weight")) {
            let (before, after) = (before.to_dense().unwrap(), clipped.weight(name).unwrap().to_dense().unwrap());
            let square = before.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / before.len() as f64;
            let limit = sigmas * square.sqrt() * (1.0 + 1e-6);
            prop_assert!(after.iter().all(|x| f64::from(x.abs()) <= limit), "{name}");
        }
    }

    #[test]
    fn the_dry_run_tells_the_forms(model in network(), bits in 1_u8..=8) {
        let pipeline = deploy(bits);
        let planned = pipeline.plan(&model).unwrap();
        let small = pipeline.run(&model).unwrap();
        for planned in planned.weights() {
            let form: Form = small.model.weight(&planned.info.name).unwrap().form();
            let row = small.report.weight(&planned.info.name).unwrap();
            let stays = row.left.iter().any(|left| left.why != LeftAlone::NotSelected);
            prop_assert!(form == planned.form || stays, "{} {form}, not {}", row.name, planned.form);
        }
    }
}
