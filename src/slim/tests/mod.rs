mod random;

use super::*;
use crate::nn::{Conv2d, Examples, Input, Op, Pool};
use crate::{
    Activations, AffineQuantizer, CodebookQuantizer, Fault, LowRankFactorizer, MagnitudePruner, Pipeline,
    Recipe, Report, Tensor, Weight,
};
#[cfg(feature = "train")]
use random::network;

/// Numbers in -1..1 that depend on a seed.
fn numbers(n: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    };
    (0..n + 3).map(|_| next()).skip(3).collect()
}

/// A model for `graph` whose matrices have the given shapes, and everything else what fits to them.
fn model(graph: Graph, shapes: &[(&str, &[usize])], seed: u64) -> Model<f64> {
    let mut tensors = Vec::new();
    let mut out = 0;
    for (i, (name, role)) in graph.weights().enumerate() {
        if tensors.iter().any(|(known, _)| known == name) {
            continue;
        }
        let shape = match role {
            Role::Linear | Role::Conv2d => shapes.iter().find(|s| s.0 == name).unwrap().1.to_vec(),
            _ => vec![out],
        };
        out = shape[0];
        let mut values = numbers(shape.iter().product(), seed * 1000 + i as u64);
        if role == Role::Variance {
            values.iter_mut().for_each(|x| *x = x.abs() + 0.1);
        }
        tensors.push((name.to_owned(), Tensor::new(&shape, values).unwrap()));
    }
    Model::from_tensors(tensors).unwrap().with_graph(graph).unwrap()
}

fn conv(padding: usize) -> Conv2d {
    Conv2d::default().padding(padding)
}

fn input(shape: &[usize]) -> Input<f64> {
    Tensor::new(shape, numbers(shape.iter().product(), 77)).unwrap().into()
}

fn forward(model: &Model<f64>, shape: &[usize]) -> Tensor<f64> {
    model.network().unwrap().forward(&input(shape)).unwrap()
}

fn assert_close(a: &Tensor<f64>, b: &Tensor<f64>) {
    assert_eq!(a.shape(), b.shape());
    for (a, b) in a.iter().zip(b.iter()) {
        assert!((a - b).abs() <= 1e-9 * b.abs().max(1.0), "{a} and {b}");
    }
}

fn slim(model: &Model<f64>, pruner: ChannelPruner) -> (Model<f64>, Report) {
    let small = Pipeline::default().slim(pruner).run(model).unwrap();
    // What is saved is a network again.
    let again = Model::from_bytes_as(small.model.to_bytes().unwrap()).unwrap();
    assert_eq!(again, small.model);
    (small.model, small.report)
}

fn shape<'a>(model: &'a Model<f64>, name: &str) -> &'a [usize] {
    model.weight(name).unwrap().shape()
}

fn why(report: &Report, name: &str) -> Option<LeftAlone> {
    report.weight(name).unwrap().left.first().map(|left| left.why)
}

fn tensor(shape: &[usize], values: &[f64]) -> Tensor<f64> {
    Tensor::new(shape, values.to_vec()).unwrap()
}

/// Two linear layers `[3, 2]` and `[2, 3]`.
fn mlp(a: &[f64], bias: &[f64], b: &[f64]) -> Model<f64> {
    Model::from_tensors([
        ("a.weight", tensor(&[3, 2], a)),
        ("a.bias", tensor(&[3], bias)),
        ("b.weight", tensor(&[2, 3], b)),
        ("b.bias", tensor(&[2], &[0.5, 0.25])),
    ])
    .unwrap()
    .with_graph(Graph::new().linear("a").relu().linear("b"))
    .unwrap()
}

#[test]
fn constants_move_into_the_next_bias() {
    let model = mlp(&[1.0, 2.0, 0.0, 0.0, 0.0, 0.0], &[0.1, 3.0, -1.0], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let (small, report) = slim(&model, ChannelPruner::dead());
    let dense = |name: &str| small.weight(name).unwrap().to_dense().unwrap().as_slice().to_vec();
    assert_eq!(dense("a.weight"), [1.0, 2.0]);
    assert_eq!(dense("a.bias"), [0.1]);
    assert_eq!(dense("b.weight"), [1.0, 4.0]);
    assert_eq!(dense("b.bias"), [6.5, 15.25]);
    assert_eq!(report.weight("a.weight").unwrap().shape_before.as_deref(), Some(&[3, 2][..]));
    assert!(report.to_string().contains("[1, 2] of [3, 2]"), "{report}");
}

#[test]
fn what_nobody_reads_goes_and_so_does_what_only_it_read() {
    let graph = Graph::new().linear("a").relu().linear("b").relu().linear("c");
    let shapes: [(&str, &[usize]); 3] = [("a.weight", &[3, 4]), ("b.weight", &[3, 3]), ("c.weight", &[2, 3])];
    let mut model = model(graph, &shapes, 5);
    // Channel 0 of a is read by channel 2 of b alone, and that by nobody.
    model.set("b.weight", tensor(&[3, 3], &[0.0, 1.0, 2.0, 0.0, 3.0, 4.0, 5.0, 6.0, 7.0]).into()).unwrap();
    model.set("c.weight", tensor(&[2, 3], &[1.0, 2.0, 0.0, 3.0, 4.0, 0.0]).into()).unwrap();
    let (small, _) = slim(&model, ChannelPruner::dead());
    assert_eq!([shape(&small, "a.weight"), shape(&small, "b.weight")], [[2, 4], [2, 2]]);
    assert_close(&forward(&small, &[3, 4]), &forward(&model, &[3, 4]));
}

#[test]
fn where_all_is_dead_one_channel_stays() {
    let model = mlp(&[0.0; 6], &[0.0; 3], &[0.0; 6]);
    let (small, _) = slim(&model, ChannelPruner::dead());
    assert_eq!([shape(&small, "a.weight"), shape(&small, "b.weight")], [[1, 2], [2, 1]]);
    let (small, _) = slim(&model, ChannelPruner::dead().at_least(2));
    assert_eq!(shape(&small, "a.weight"), [2, 2]);
    let (small, _) = slim(&model, ChannelPruner::dead().round_to(8));
    assert_eq!(small, model);
    let (small, _) = slim(&model, ChannelPruner::ratio(0.99).at_least(100));
    assert_eq!(small, model);
}

#[test]
fn constants_stay_where_nothing_can_take_them_over() {
    let still = |graph: Graph, shape_of_b: &[usize]| {
        let mut model = model(graph, &[("a.weight", &[3, 1, 1, 1]), ("b.weight", shape_of_b)], 3);
        model.set("a.weight", tensor(&[3, 1, 1, 1], &[1.0, 0.0, 0.0]).into()).unwrap();
        model.set("a.bias", tensor(&[3], &[1.0, 1.0, -1.0]).into()).unwrap();
        let (small, _) = slim(&model, ChannelPruner::dead());
        assert_close(&forward(&small, &[2, 1, 5, 5]), &forward(&model, &[2, 1, 5, 5]));
        shape(&small, "a.weight")[0]
    };
    let a = || Graph::new().conv2d("a", conv(0)).relu();
    // After the activation, the channels are something, 1 and 0.
    assert_eq!(still(a().conv2d("b", conv(0)), &[2, 3, 3, 3]), 1);
    assert_eq!(still(a().conv2d("b", conv(1)), &[2, 3, 3, 3]), 2);
    assert_eq!(still(a().conv2d("b", conv(0).without_bias()), &[2, 3, 3, 3]), 2);
    assert_eq!(still(a().average_pool(Pool::new(3).padding(1)).conv2d("b", conv(0)), &[2, 3, 1, 1]), 2);
    assert_eq!(still(a().max_pool(Pool::new(3).padding(1)).conv2d("b", conv(0)), &[2, 3, 1, 1]), 1);
}

#[test]
fn importance_is_what_it_says() {
    let model = mlp(&[3.0, 0.0, 2.0, 2.0, 1.0, 1.0], &[0.0; 3], &[1.0; 6]);
    let first = |importance, ratio| {
        let (small, _) = slim(&model, ChannelPruner::ratio(ratio).importance(importance));
        small.weight("a.weight").unwrap().to_dense().unwrap().as_slice().to_vec()
    };
    assert_eq!(first(Importance::L1, 0.67), [2.0, 2.0]);
    assert_eq!(first(Importance::L2, 0.67), [3.0, 0.0]);
    assert_eq!(first(Importance::L2, 0.3), [3.0, 0.0, 2.0, 2.0]);
    let (same, report) = slim(&model, ChannelPruner::ratio(0.5).importance(Importance::BatchNormScale));
    assert_eq!((same, why(&report, "a.weight")), (model.clone(), Some(LeftAlone::NoBatchNorm)));
    assert_eq!(why(&report, "b.weight"), Some(LeftAlone::Boundary));

    let graph = Graph::new().flatten().linear("a").batch_norm("bn").relu().linear("b");
    let mut scaled = self::model(graph, &[("a.weight", &[3, 2]), ("b.weight", &[2, 3])], 9);
    scaled.set("bn.weight", tensor(&[3], &[0.5, -2.0, 0.1]).into()).unwrap();
    let (small, _) = slim(&scaled, ChannelPruner::ratio(0.67).importance(Importance::BatchNormScale));
    assert_eq!(small.weight("bn.weight").unwrap().to_dense().unwrap().as_slice(), [-2.0]);
}

#[test]
fn importance_is_measured_where_others_read() {
    // With this input, the channels are 2, 3 and 0.
    let model = mlp(&[2.0, 0.0, 3.0, 0.0, -9.0, 0.0], &[0.0; 3], &[5.0, 0.1, 1.0, 0.0, 0.0, 0.0]);
    let data =
        Examples::with_values(tensor(&[2, 2], &[1.0, 0.0, 1.0, 0.0]), tensor(&[2, 2], &[0.0; 4])).unwrap();
    let first = |pruner: MeasuredChannelPruner<'_, f64>| {
        let small = Pipeline::default().then(pruner).run(&model).unwrap().model;
        small.weight("a.weight").unwrap().to_dense().unwrap().as_slice().to_vec()
    };
    let by_activation = |ratio| ChannelPruner::ratio(ratio).activation(&data).batch_size(1);
    assert_eq!(first(by_activation(0.67)), [3.0, 0.0]);
    assert_eq!(first(by_activation(0.3)), [2.0, 0.0, 3.0, 0.0]);
    #[cfg(feature = "train")]
    {
        assert_eq!(first(ChannelPruner::ratio(0.67).taylor(&data)), [2.0, 0.0]);
        let unlabelled = Examples::unlabelled(tensor(&[1, 2], &[1.0, 0.0])).unwrap();
        let step = ChannelPruner::ratio(0.5).taylor(&unlabelled);
        assert!(matches!(Pipeline::default().then(step).run(&model), Err(Error::Data(_))));
    }
    let none = Examples::unlabelled(Tensor::<f64>::zeros(&[0, 2])).unwrap();
    let step = || ChannelPruner::ratio(0.5).activation(&none);
    assert!(matches!(Pipeline::default().then(step()).run(&model), Err(Error::Data(_))));
    let setting = |step: MeasuredChannelPruner<'_, f64>| Step::validate(&step).unwrap_err().setting;
    assert_eq!(setting(ChannelPruner::dead().activation(&data)), "dead");
    assert_eq!(setting(ChannelPruner::ratio(0.5).importance(Importance::L1).activation(&data)), "importance");
    assert_eq!(setting(step().batch_size(0)), "batch_size");
}

/// A channel of a residual sum counts at both of its readers: with each alone, another one would stay.
#[test]
fn importance_adds_up_through_residual_sums() {
    let residual = |a: &[f64], b: &[f64]| {
        let stem = Graph::new().linear_without_bias("a").relu();
        let skip = stem.last();
        let graph = stem.linear_without_bias("b").add(skip).relu().linear_without_bias("c");
        Model::from_tensors([
            ("a.weight", tensor(&[3, 1], a)),
            ("b.weight", tensor(&[3, 3], b)),
            ("c.weight", tensor(&[2, 3], &[1.0, 0.0, 1.0, 0.0, 1.0, 1.0])),
        ])
        .unwrap()
        .with_graph(graph)
        .unwrap()
    };
    let stays = |model: &Model<f64>, pruner: MeasuredChannelPruner<'_, f64>| {
        let small = Pipeline::default().then(pruner).run(model).unwrap().model;
        assert_eq!([shape(&small, "b.weight"), shape(&small, "c.weight")], [[1, 1], [2, 1]]);
        small.weight("a.weight").unwrap().to_dense().unwrap().as_slice().to_vec()
    };
    // 1, 2.5, 3 are read first, and then 4, 3.5, 0.
    let model = residual(&[1.0, 2.5, 3.0], &[0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, -2.0]);
    let data = Examples::unlabelled(tensor(&[1, 1], &[1.0])).unwrap();
    assert_eq!(stays(&model, ChannelPruner::ratio(0.67).activation(&data)), [2.5]);
    #[cfg(feature = "train")]
    {
        // 1, 2.5, 3.5 and 4.5, 6, 0, and with the gradients of the loss 6.5, 12.5, 14 and 18, 15, 0.
        let model = residual(&[1.0, 2.5, 3.5], &[0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, -2.0]);
        let wanted = tensor(&[1, 2], &[0.5, 3.5]);
        let data = Examples::with_values(tensor(&[1, 1], &[1.0]), wanted).unwrap();
        assert_eq!(stays(&model, ChannelPruner::ratio(0.67).taylor(&data)), [2.5]);
    }
}

#[test]
fn data_measure_maps_and_flattened_maps_alike() {
    let graph = Graph::new().conv2d("a", conv(0)).relu().conv2d("b", conv(0)).relu().flatten().linear("c");
    let shapes: [(&str, &[usize]); 3] =
        [("a.weight", &[4, 1, 1, 1]), ("b.weight", &[3, 4, 1, 1]), ("c.weight", &[2, 12])];
    let mut model = model(graph, &shapes, 4);
    let set = |model: &mut Model<f64>, name: &str, values: &[f64]| {
        let shape = model.weight(name).unwrap().shape().to_vec();
        model.set(name, tensor(&shape, values).into()).unwrap();
    };
    set(&mut model, "a.weight", &[1.0, 4.0, 3.0, 2.0]);
    set(&mut model, "a.bias", &[0.0; 4]);
    set(&mut model, "b.weight", &[2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 3.0, 3.0, 3.0, 3.0]);
    set(&mut model, "b.bias", &[0.0; 3]);
    let x = Tensor::new(&[3, 1, 2, 2], numbers(12, 8).iter().map(|x| x.abs()).collect()).unwrap();
    let data = Examples::new(x, vec![0, 1, 1]).unwrap();
    let step = ChannelPruner::ratio(0.5).activation(&data);
    let small = Pipeline::default().then(step).run(&model).unwrap().model;
    assert_eq!(small.weight("a.weight").unwrap().to_dense().unwrap().as_slice(), [4.0, 3.0]);
    assert_eq!(small.weight("b.weight").unwrap().to_dense().unwrap().as_slice(), [3.0, 3.0]);
    assert_eq!(shape(&small, "c.weight"), [2, 4]);
    #[cfg(feature = "train")]
    {
        let small =
            Pipeline::default().then(ChannelPruner::ratio(0.5).taylor(&data).batch_size(2)).run(&model);
        assert_eq!(shape(&small.unwrap().model, "c.weight"), [2, 4]);
    }
}

#[test]
fn forms_stay() {
    let graph = Graph::new().linear("a").relu().linear("b");
    let whole = model(graph, &[("a.weight", &[64, 32]), ("b.weight", &[64, 64])], 6);
    let steps: [(Pipeline<'_, f64>, &str); 6] = [
        (Pipeline::default().prune(MagnitudePruner::sparsity(0.5)), "pruned"),
        (Pipeline::default().quantize(AffineQuantizer::bits(3).per_channel().asymmetric()), "quantized"),
        (Pipeline::default().quantize(8), "quantized"),
        (Pipeline::default().codebook(16), "codebook 16"),
        (Pipeline::default().then(LowRankFactorizer::rank(8)).quantize(8), "factored+quantized"),
        (Pipeline::default().prune(MagnitudePruner::sparsity(0.5)).codebook(7), "pruned+codebook 7"),
    ];
    for (pipeline, form) in steps {
        if cfg!(not(any(feature = "faer", feature = "lapack"))) && form.contains("factored") {
            continue;
        }
        let before = pipeline.run(&whole).unwrap().model;
        let (after, report) = slim(&before, ChannelPruner::ratio(0.25));
        assert_eq!([shape(&after, "a.weight"), shape(&after, "b.weight")], [[48, 32], [64, 48]]);
        assert!(report.bytes_after < report.bytes_before);
        for name in ["a.weight", "b.weight"] {
            assert_eq!(after.weight(name).unwrap().form().to_string(), form);
            // Each number that is left is one that was there, in the same order.
            let values =
                |model: &Model<f64>| model.weight(name).unwrap().to_dense().unwrap().as_slice().to_vec();
            let (was, is) = (values(&before), values(&after));
            let mut was = was.iter();
            let close = |a: &f64, b: &f64| (a - b).abs() < 1e-12;
            assert!(is.iter().all(|x| was.any(|y| close(x, y))), "{name} {form}");
        }
    }
}

#[test]
fn groups_of_inputs_are_not_split() {
    let graph = Graph::new().linear("a").relu().linear("b");
    let model = model(graph, &[("a.weight", &[8, 32]), ("b.weight", &[4, 8])], 6);
    let coded = Pipeline::default().quantize(AffineQuantizer::bits(8).group(4)).run(&model).unwrap().model;
    let (same, report) = slim(&coded, ChannelPruner::ratio(0.5));
    assert_eq!((same, why(&report, "a.weight")), (coded.clone(), Some(LeftAlone::GroupScales)));
    let strict = Pipeline::default().strict().slim(0.5).run(&coded);
    assert!(matches!(strict, Err(Error::Left { why: LeftAlone::GroupScales, .. })));
    // Rows do not matter, nor do columns where each channel has whole groups.
    let only = AffineQuantizer::bits(8).group(4).asymmetric().only("a.weight");
    let rows = Pipeline::default().quantize(only).slim(0.5).run(&model).unwrap();
    assert_eq!(shape(&rows.model, "a.weight"), [4, 32], "{}", rows.report);
    let graph = Graph::new().conv2d("a", conv(0)).relu().flatten().linear("b");
    let model = self::model(graph, &[("a.weight", &[6, 1, 1, 1]), ("b.weight", &[4, 6 * 16])], 6);
    let coded = Pipeline::default()
        .quantize(AffineQuantizer::bits(8).group(16).only("b.weight"))
        .run(&model)
        .unwrap();
    let (small, _) = slim(&coded.model, ChannelPruner::ratio(0.5));
    assert_eq!(shape(&small, "b.weight"), [4, 48]);
}

#[test]
fn graphs_that_do_not_allow_it_say_why() {
    let reason = |graph: Graph, shapes: &[(&str, &[usize])], pruner: ChannelPruner| {
        let model = model(graph, shapes, 2);
        let (same, report) = slim(&model, pruner);
        assert_eq!(same, model);
        why(&report, "a.weight")
    };
    let half = || ChannelPruner::ratio(0.5);
    let two: [(&str, &[usize]); 2] = [("a.weight", &[4, 4]), ("b.weight", &[2, 4])];
    let linear = || Graph::new().linear("a");
    assert_eq!(reason(linear().batch_norm("bn").linear("b"), &two, half()), Some(LeftAlone::Axes));
    let normed = || linear().layer_norm("ln").linear("b");
    assert_eq!(reason(normed(), &two, ChannelPruner::dead()), Some(LeftAlone::LayerNorm));
    assert_eq!(reason(linear().add(0).linear("b"), &two, half()), Some(LeftAlone::Boundary));
    assert_eq!(reason(linear().relu().linear("a").relu().linear("b"), &two, half()), Some(LeftAlone::Shared));
    assert_eq!(reason(linear().linear("b"), &two, half().except("a.*")), Some(LeftAlone::NotSelected));
    let residual = linear().linear("c").add(1).linear("b");
    let three: [(&str, &[usize]); 3] = [("a.weight", &[4, 4]), ("b.weight", &[2, 4]), ("c.weight", &[4, 4])];
    assert_eq!(reason(residual, &three, half().except("c.*")), Some(LeftAlone::Coupled));
    let grouped = Graph::new().conv2d("a", conv(0)).conv2d("b", conv(0).groups(2)).relu();
    assert_eq!(
        reason(grouped, &[("a.weight", &[4, 1, 1, 1]), ("b.weight", &[4, 2, 1, 1])], half()),
        Some(LeftAlone::Grouped)
    );
    let width = Graph::new().conv2d("a", conv(0)).linear("b").flatten();
    assert_eq!(
        reason(width, &[("a.weight", &[4, 1, 1, 1]), ("b.weight", &[4, 4])], half()),
        Some(LeftAlone::Axes)
    );

    // With a ratio, a layer norm is no obstacle.
    let (small, _) = slim(&model(normed(), &two, 2), half());
    assert_eq!([shape(&small, "ln.weight"), shape(&small, "b.bias")], [[2], [2]]);
    // Flattened sequences have each channel again and again.
    let sequences = Graph::new().linear("a").relu().flatten().linear("b");
    let model = model(sequences, &[("a.weight", &[4, 3]), ("b.weight", &[2, 20])], 2);
    let (small, _) = slim(&model, half());
    assert_eq!(shape(&small, "b.weight"), [2, 10]);
    assert_eq!(forward(&small, &[3, 5, 3]).shape(), [3, 2]);
}

#[test]
fn odd_models_are_refused_or_stay() {
    let lone = Pipeline::default().slim(0.5).run(tensor(&[4, 4], &[1.0; 16]));
    assert!(matches!(lone, Err(Error::Plan { why: Refusal::NoGraph, .. })));
    let model = mlp(&[1.0; 6], &[0.0; 3], &[1.0; 6]);
    let nothing = Pipeline::default().slim(ChannelPruner::dead().only("x.*")).run(&model);
    assert!(matches!(nothing, Err(Error::Plan { why: Refusal::SelectsNothing, .. })));
    for odd in [f64::NAN, f64::INFINITY] {
        let mut bad = model.clone();
        bad.set("a.weight", tensor(&[3, 2], &[1.0, 1.0, 1.0, odd, 1.0, 1.0]).into()).unwrap();
        for pruner in [ChannelPruner::dead(), ChannelPruner::ratio(0.5)] {
            let error = Pipeline::default().slim(pruner).run(&bad).unwrap_err();
            assert!(
                matches!(&error, Error::Weight { weight, fault: Fault::NotFinite { index: 3, .. } } if weight == "a.weight")
            );
        }
    }
    for (pruner, setting) in [
        (ChannelPruner::ratio(1.0), "ratio"),
        (ChannelPruner::ratio(f64::NAN), "ratio"),
        (ChannelPruner::ratio(-0.1), "ratio"),
        (ChannelPruner::ratio(0.5).at_least(0), "at_least"),
        (ChannelPruner::ratio(0.5).round_to(0), "round_to"),
        (ChannelPruner::dead().global(), "global"),
        (ChannelPruner::dead().importance(Importance::L1), "importance"),
    ] {
        assert_eq!(pruner.validate().unwrap_err().setting, setting);
    }
    for graph in [Graph::new(), Graph::new().relu()] {
        let empty = Model::<f64>::default().with_graph(graph).unwrap();
        assert_eq!(slim(&empty, ChannelPruner::dead()).0, empty);
    }
    // An output that nobody takes.
    let graph = Graph::new().linear("a").node(Op::Linear { weight: "b.weight".into(), bias: None }, &[0]);
    let branch = self::model(graph, &[("a.weight", &[5, 3]), ("b.weight", &[2, 3])], 1);
    let (small, _) = slim(&branch, ChannelPruner::dead());
    assert_eq!([shape(&small, "a.weight"), shape(&small, "b.weight")], [[1, 3], [2, 3]]);
    let strict = Pipeline::default().strict().slim(0.3).run(&model).unwrap();
    assert_eq!(shape(&strict.model, "a.weight"), [2, 2]);
}

#[test]
fn steps_before_and_after_agree_with_what_is_planned() {
    let graph = Graph::new().linear("a").relu().linear("b");
    let whole = model(graph, &[("a.weight", &[40, 20]), ("b.weight", &[8, 40])], 3);
    let pipeline = Pipeline::default()
        .prune(MagnitudePruner::channels(0.5))
        .slim(ChannelPruner::dead())
        .prune(MagnitudePruner::n_of_m(2, 4).only("a.weight"))
        .slim(ChannelPruner::ratio(0.5).global())
        .quantize(AffineQuantizer::bits(8).per_channel());
    assert!(
        pipeline.plan(&whole).unwrap().weights().iter().all(|w| w.may_shrink == (&*w.info.name != "b.bias"))
    );
    let small = pipeline.run(&whole).unwrap().model;
    assert!(shape(&small, "a.weight")[0] <= 20);
    assert_eq!(shape(&small, "b.weight"), [8, shape(&small, "a.weight")[0]]);
    let error = pipeline.run_to(&whole, "/nonexistent/model.safetensors").unwrap_err();
    assert!(matches!(error, Error::Plan { why: Refusal::NotStreamable, .. }), "{error}");
}

#[test]
fn recipes_hold_all_settings() {
    let text = r#"{ "steps": [ { "slim": { "dead": true, "except": ["x.*"] } },
        { "slim": { "ratio": 0.5, "global": true, "importance": "batch_norm_scale", "at_least": 4, "round_to": 8 } } ] }"#;
    let recipe = Recipe::from_json(text).unwrap();
    let pipeline: Pipeline = recipe.clone().into();
    assert_eq!(pipeline.recipe().unwrap(), recipe);
    assert_eq!(Recipe::from_json(&recipe.to_json()).unwrap(), recipe);
    for bad in [r#"{}"#, r#"{ "dead": true, "ratio": 0.5 }"#, r#"{ "ratoi": 0.5 }"#] {
        assert!(Recipe::from_json(&format!(r#"{{ "steps": [ {{ "slim": {bad} }} ] }}"#)).is_err());
    }
    let data = Examples::unlabelled(Tensor::<f32>::zeros(&[1, 2])).unwrap();
    assert!(Pipeline::new().then(ChannelPruner::ratio(0.5).activation(&data)).recipe().is_err());
}

#[cfg(feature = "train")]
#[test]
fn a_slimmed_network_learns_on() {
    use crate::FineTuner;
    let (model, shape) = network(3, 6, 2);
    let Input::Values(x) = input(&shape) else { unreachable!() };
    let data = Examples::new(x, vec![0, 1]).unwrap();
    let pipeline = Pipeline::default()
        .prune(MagnitudePruner::sparsity(0.6))
        .finetune(FineTuner::new(&data))
        .slim(ChannelPruner::dead())
        .then(ChannelPruner::ratio(0.3).taylor(&data))
        .finetune(FineTuner::new(&data).epochs(30).rate(1e-2));
    let small = pipeline.run(&model).unwrap();
    let epochs = &small.report.steps[4].training.as_ref().unwrap().epochs;
    assert!(epochs[29].loss < epochs[0].loss);
    assert!(small.model.weight("up.weight").unwrap().shape()[0] < 6);

    // In the middle of a training of one's own.
    let student = model.network().unwrap().trainable(crate::nn::Optimizer::adam().into()).unwrap();
    let mut now = model.clone();
    for (name, weight) in student.weights().unwrap() {
        now.set(&name, weight).unwrap();
    }
    let slimmed: Model<f64> = ChannelPruner::ratio(0.5).apply(&now).unwrap();
    let student = slimmed.network().unwrap().trainable(crate::nn::Optimizer::adam().into()).unwrap();
    assert!(student.trained().count() > 0);
}

#[test]
fn sixteen_bit_biases_keep_their_precision() {
    let bias = Weight::<f32>::raw(&[2], crate::DType::F16, vec![0, 0x3C, 0, 0x3C].into());
    let mut model = Model::<f32>::default();
    let tensor = |shape: &[usize], values: &[f32]| Weight::from(Tensor::new(shape, values.to_vec()).unwrap());
    model.push("a.weight", crate::Kind::Linear, tensor(&[2, 1], &[1.0, 0.0])).unwrap();
    model.push("a.bias", crate::Kind::Bias, tensor(&[2], &[0.0, 1.0])).unwrap();
    model.push("b.weight", crate::Kind::Linear, tensor(&[2, 2], &[1.0, 0.1, 1.0, 0.5])).unwrap();
    model.push("b.bias", crate::Kind::Bias, bias).unwrap();
    let model = model.with_graph(Graph::new().linear("a").relu().linear("b")).unwrap();
    let small = ChannelPruner::dead().apply(&model).unwrap();
    let bias = small.weight("b.bias").unwrap();
    assert_eq!(bias.stored_bytes(), 4);
    let dense = bias.to_dense().unwrap();
    assert!((dense.as_slice()[0] - 1.1).abs() < 1e-3 && dense.as_slice()[1] == 1.5);
}
