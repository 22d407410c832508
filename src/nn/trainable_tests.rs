//! Tests of training as a whole: gradients through every layer and every form of a weight, and what each
//! form promises.

use super::layers::gradcheck::{check, dot, numbers};
use super::testing::{Weights, close, fixture, input, lookup};
use super::{Conv2d, Graph, Input, Network, Optimizer, Outputs, Pool, Trainable};
use crate::weight::{Affine, Codes, Coding, Node, Values, value};
use crate::{
    Activations, AffineQuantizer, DType, Error, Fault, Granularity, Leaf, Tensor, Weight, WeightCompressor,
};
use proptest::prelude::*;
use std::sync::Arc;

fn trainable(graph: &Graph, weights: &Weights, optimizer: impl Into<Optimizer>) -> Trainable<f64> {
    Network::bind(graph, &lookup(weights)).unwrap().trainable(optimizer.into()).unwrap()
}

/// Keeps two of three entries.
fn pruned(weight: &Weight<f64>) -> Weight<f64> {
    let Node::Leaf(leaf) = weight.node().clone() else { panic!("a leaf") };
    let kept = leaf.restrict(1, |block| Ok(block.positions().map(|i| i % 3 != 1).collect()));
    Weight::from_leaf(weight.shape(), kept.unwrap())
}

/// 3-bit codes with a scale and a zero point for each row.
fn coded(weight: &Weight<f64>) -> Weight<f64> {
    coded_by(weight, Granularity::Channel, true)
}

fn coded_by(weight: &Weight<f64>, granularity: Granularity, zeros: bool) -> Weight<f64> {
    let Node::Leaf(leaf) = weight.node().clone() else { panic!("a leaf") };
    let (rows, kept) = (leaf.len() / granularity.block(leaf.rows(), leaf.cols()), leaf.kept());
    // Where all zero points are the middle code, the lowest code is not used.
    let codes = (0..kept).map(|i| if zeros { i * 5 % 8 } else { 1 + i * 5 % 7 } as u8);
    let codes: Vec<u8> = codes.collect();
    let places: Vec<u8> = (0..rows).map(|r| (r % 8) as u8).collect();
    let affine = Affine {
        granularity,
        scale: Values::new((0..rows).map(|r| 0.1 + 0.03 * r as f64).collect()),
        zero: zeros.then(|| Codes::pack(3, &places)),
        codes: Codes::pack(3, &codes),
    };
    Weight::from_leaf(weight.shape(), Leaf { coding: Coding::Affine(affine), ..leaf })
}

fn matrix(rows: usize, cols: usize, seed: u64) -> Weight<f64> {
    Tensor::new(&[rows, cols], numbers(rows * cols, seed)).unwrap().into()
}

fn factored(shape: &[usize], rank: usize) -> Weight<f64> {
    let cols = shape[1..].iter().product();
    Weight::product(shape, matrix(shape[0], rank, 5), pruned(&matrix(rank, cols, 6)))
}

fn gradients(student: &Trainable<f64>) -> Vec<(String, Vec<f64>, Vec<f64>)> {
    let paths: Vec<String> = student.trained().map(|(path, _)| path).collect();
    paths
        .into_iter()
        .map(|p| (p.clone(), student.values(&p).unwrap().to_vec(), student.gradient(&p).unwrap()))
        .collect()
}

#[test]
fn gradients_through_every_layer_and_form() {
    let graph = Graph::new()
        .conv2d("c1", Conv2d::default().padding(1).groups(2))
        .batch_norm("bn1")
        .silu()
        .conv2d("c2", Conv2d::default().padding(1).without_bias())
        .add(3)
        .max_pool(Pool::new(3).stride(2).padding(1))
        .tanh()
        .conv2d("c3", Conv2d::default().stride(2))
        .average_pool(Pool::new(2).stride(1))
        .flatten()
        .linear("fc1")
        .layer_norm("ln")
        .gelu()
        .dropout(0.3)
        .linear("fc2")
        .sigmoid()
        .linear("fc3");
    let mut weights = fixture(
        &graph,
        &[
            ("c1.weight", &[4, 1, 3, 3]),
            ("c2.weight", &[4, 4, 3, 3]),
            ("c3.weight", &[3, 4, 1, 1]),
            ("fc1.weight", &[6, 3]),
            ("fc2.weight", &[5, 6]),
            ("fc3.weight", &[2, 5]),
        ],
    );
    let set = |weights: &mut Weights, name: &str, weight: Weight<f64>| {
        weights.insert(name.to_owned(), Arc::new(weight));
    };
    set(&mut weights, "c1.weight", factored(&[4, 1, 3, 3], 2));
    let c2 = pruned(&weights["c2.weight"]);
    set(&mut weights, "c2.weight", c2);
    set(&mut weights, "fc1.weight", factored(&[6, 3], 2));
    let sum = vec![pruned(&matrix(5, 6, 7)), factored(&[5, 6], 1)];
    set(&mut weights, "fc2.weight", Weight::from_node(&[5, 6], Node::Sum(sum)));
    let mut student = trainable(&graph, &weights, Optimizer::sgd());
    let x = input(&[3, 2, 5, 6]);
    let (dy, dtap) = (numbers(6, 50), numbers(18, 51));
    let run = |student: &mut Trainable<f64>| {
        student.seed(3).unwrap();
        student.forward(&x, &["fc1"]).unwrap()
    };
    let out = run(&mut student);
    student
        .backward(&Outputs {
            logits: Tensor::new(out.logits.shape(), dy.clone()).unwrap(),
            taps: vec![Tensor::new(out.taps[0].shape(), dtap.clone()).unwrap()],
        })
        .unwrap();
    let all = gradients(&student);
    assert_eq!(all.len(), 19);
    for (path, values, gradient) in all {
        assert!(gradient.iter().any(|g| *g != 0.0), "{path} learns nothing");
        // The bias before a batch norm has no effect: nothing but rounding is left of its gradient.
        check(&path, &values, &gradient, |v| {
            student.edit(&path, |values| values.copy_from_slice(v));
            let out = run(&mut student);
            dot(out.logits.as_slice(), &dy) + dot(out.taps[0].as_slice(), &dtap)
        });
        student.edit(&path, |v| v.copy_from_slice(&values));
    }
}

/// A few steps towards a target; gives the losses.
fn learn(student: &mut Trainable<f64>, x: &Input<f64>, steps: usize, rate: f64) -> Vec<f64> {
    (0..steps)
        .map(|_| {
            let out = student.forward(x, &[]).unwrap();
            let wanted = Tensor::new(out.logits.shape(), numbers(out.logits.len(), 77)).unwrap();
            let (loss, logits) = super::mean_squared_error(&out.logits, &wanted).unwrap();
            student.backward(&Outputs { logits, taps: vec![] }).unwrap();
            student.step(rate).unwrap();
            loss
        })
        .collect()
}

fn one(weight: Weight<f64>) -> (Graph, Weights) {
    let graph = Graph::new().linear_without_bias("fc");
    (graph, Weights::from([("fc.weight".to_owned(), Arc::new(weight))]))
}

fn after(student: Trainable<f64>) -> Weight<f64> {
    let mut weights = student.into_weights().unwrap();
    assert_eq!((weights.len(), weights[0].0.as_str()), (1, "fc.weight"));
    weights.remove(0).1
}

#[test]
fn pruned_entries_stay_exactly_zero() {
    for optimizer in [
        Optimizer::from(Optimizer::sgd().momentum(0.9).nesterov().weight_decay(0.1)),
        Optimizer::adam_w().into(),
        Optimizer::adam().weight_decay(0.1).into(),
    ] {
        for weight in [pruned(&matrix(4, 6, 1)), coded(&pruned(&matrix(4, 6, 1)))] {
            let (graph, weights) = one(weight.clone());
            let mut student = trainable(&graph, &weights, optimizer);
            assert_eq!(student.trained().collect::<Vec<_>>(), [("fc.weight".to_owned(), 16)]);
            let losses = learn(&mut student, &input(&[8, 6]), 30, 0.01);
            assert!(losses[29] <= losses[0]);
            let new = after(student);
            assert_eq!(new.form(), weight.form());
            assert_eq!(new.leaves()[0].mask().unwrap(), weight.leaves()[0].mask().unwrap());
            let dense = new.to_dense().unwrap();
            assert!((0..24).filter(|i| i % 3 == 1).all(|i| dense.as_slice()[i].to_bits() == 0));
            assert_ne!(dense, weight.to_dense().unwrap());
        }
    }
}

#[test]
fn both_factors_learn_and_stay_factors() {
    let (graph, weights) = one(factored(&[4, 6], 2));
    let mut student = trainable(&graph, &weights, Optimizer::adam());
    let paths: Vec<String> = student.trained().map(|(path, _)| path).collect();
    assert_eq!(paths, ["fc.weight.u", "fc.weight.v"]);
    let before = gradients(&student);
    learn(&mut student, &input(&[8, 6]), 5, 0.01);
    for ((path, old, _), (_, new, _)) in before.iter().zip(gradients(&student)) {
        assert!(old.iter().zip(&new).all(|(a, b)| a != b), "{path}");
    }
    assert_eq!(after(student).rank(), Some(2));
}

#[test]
fn codes_come_back_and_stay_on_their_grid() {
    let (dense, sparse) = (matrix(5, 6, 1), pruned(&matrix(5, 6, 1)));
    for weight in [
        coded(&dense),
        coded(&sparse),
        coded_by(&dense, Granularity::Tensor, false),
        coded_by(&dense, Granularity::Group { size: 3 }, true),
        coded_by(&sparse, Granularity::Group { size: 2 }, false),
    ] {
        let weight = weight.with_activations(Activations::Int8);
        let (graph, weights) = one(weight.clone());
        let student = trainable(&graph, &weights, Optimizer::sgd());
        assert!(student.weights().unwrap().is_empty());
        assert_eq!(student.network().unwrap().weights[0], weights["fc.weight"]);

        // Stepping without a gradient touches every number and changes none.
        let mut student = trainable(&graph, &weights, Optimizer::sgd());
        student.step(1.0).unwrap();
        assert_eq!(after(student), weight);

        let mut student = trainable(&graph, &weights, Optimizer::sgd());
        let losses = learn(&mut student, &input(&[20, 6]), 100, 0.5);
        assert!(losses[99] < 0.9 * losses[0], "{losses:?}");
        let predicted = student.predict(&input(&[3, 6])).unwrap();
        let new = after(student);
        assert_ne!(new, weight);
        assert_eq!(new.activations(), Activations::Int8);
        let codings = (&weight.leaves()[0].coding, &new.leaves()[0].coding);
        let (Coding::Affine(old), Coding::Affine(affine)) = codings else { panic!("codes stay codes") };
        assert_eq!((&old.scale, &old.zero), (&affine.scale, &affine.zero));
        // What was trained with is what is decoded.
        let y = new.matmul(input(&[3, 6]).values().unwrap()).unwrap();
        close(predicted.as_slice(), y.as_slice(), 1e-12);
    }
}

#[test]
fn latent_floats_stop_at_the_edge_of_their_grid() {
    let (graph, weights) = one(coded(&matrix(5, 6, 1)));
    let mut student = trainable(&graph, &weights, Optimizer::sgd());
    student.edit("fc.weight", |v| v.fill(100.0));
    for (i, x) in student.values("fc.weight").unwrap().iter().enumerate() {
        let row = i / 6;
        let top = value(0.1 + 0.03 * row as f64, (row % 8) as i16, 7);
        assert!((x - top).abs() < 1e-12);
    }
    // NaN is beyond no edge, and no code stands for it.
    student.edit("fc.weight", |v| v[7] = f64::NAN);
    assert_eq!(not_finite(student.weights()), 7);
    assert!(student.network().is_err());
}

/// Place of the entry of `fc.weight` that is not finite.
fn not_finite<R: std::fmt::Debug>(result: crate::Result<R>) -> usize {
    match result {
        Err(Error::Weight { weight, fault: Fault::NotFinite { index, .. } }) if weight == "fc.weight" => {
            index
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn trained_numbers_that_are_not_finite_where_they_are_stored_are_refused() {
    let (graph, weights) = one(pruned(&matrix(4, 6, 1)));
    let mut student = trainable(&graph, &weights, Optimizer::sgd());
    student.edit("fc.weight", |v| v[2] = f64::INFINITY);
    // The third entry that is kept is the fourth.
    assert_eq!(not_finite(student.weights()), 3);
    let values = Values::rounded(numbers(12, 1), DType::F16);
    let (graph, weights) = one(Weight::from_leaf(&[3, 4], Leaf::dense(3, 4, values)));
    let mut student = trainable(&graph, &weights, Optimizer::sgd());
    student.edit("fc.weight", |v| v[5] = 65504.0);
    student.weights().unwrap();
    student.edit("fc.weight", |v| v[5] = 65536.0);
    assert_eq!(not_finite(student.weights()), 5);
}

/// Trains what `quantizer` makes of `values` towards both ends; gives the smallest and the largest number.
fn ends(quantizer: &AffineQuantizer, values: &[f64]) -> [f64; 2] {
    let weight = quantizer.apply(Tensor::new(&[1, values.len()], values.to_vec()).unwrap()).unwrap();
    assert!(weight.form().quantized);
    let (graph, weights) = one(weight);
    [-1.0, 1.0].map(|side| {
        let mut student = trainable(&graph, &weights, Optimizer::sgd());
        student.edit("fc.weight", |v| v.fill(side * f64::MAX));
        let dense = after(student).to_dense().unwrap();
        assert!(dense.iter().all(|x| *x == dense.as_slice()[0]));
        dense.as_slice()[0]
    })
}

#[test]
fn training_stays_within_the_codes_that_the_quantizer_uses() {
    let values: Vec<f64> = (0..40).map(|i| f64::from(i) / 39.0 * 2.0 - 1.0).collect();
    for bits in 2..=8 {
        let [low, high] = ends(&AffineQuantizer::bits(bits), &values);
        // Not one step further on the side that has a code to spare.
        assert!((low + 1.0).abs() < 1e-12 && (high - 1.0).abs() < 1e-12, "{bits}: {low} {high}");
        // Codes that stand for more than the largest number are not used.
        let large: Vec<f64> = values.iter().map(|x| if *x < 0.3 { 0.3 * x } else { *x } * f64::MAX).collect();
        for quantizer in [AffineQuantizer::bits(bits), AffineQuantizer::bits(bits).asymmetric()] {
            assert!(ends(&quantizer, &large).iter().all(|x| x.is_finite()), "{quantizer:?}");
        }
    }
}

#[test]
fn what_is_not_finite_is_refused_with_its_name_and_place() {
    let network = |weight: Weight<f64>| {
        let (graph, weights) = one(weight);
        Network::bind(&graph, &lookup(&weights)).unwrap()
    };
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut values = numbers(24, 1);
        values[17] = bad;
        let weight = Weight::from(Tensor::new(&[4, 6], values).unwrap());
        assert_eq!(not_finite(network(weight).trainable(Optimizer::sgd().into())), 17);
    }
    let scaled = with_scales(&coded(&matrix(5, 6, 1)), &[1.0, 1.0, f64::NAN, 1.0, 1.0]);
    assert_eq!(not_finite(network(scaled).trainable(Optimizer::sgd().into())), 12);
}

fn with_scales(weight: &Weight<f64>, scales: &[f64]) -> Weight<f64> {
    let scaled = weight.clone().map_leaves(&mut |leaf| {
        let Coding::Affine(affine) = leaf.coding.clone() else { panic!("coded") };
        let scale = Values::new(scales.to_vec());
        Ok(Leaf { coding: Coding::Affine(Affine { scale, ..affine }), ..leaf })
    });
    scaled.unwrap()
}

#[test]
fn an_entry_trained_to_zero_makes_no_weight_larger() {
    let values: Vec<f64> = numbers(1000, 1).iter().map(|x| x + x.signum()).collect();
    let leaf = Leaf::dense(40, 25, Values::new(values));
    let few = leaf.restrict(1, |block| Ok(block.positions().map(|i| i % 100 != 0).collect())).unwrap();
    let floats = Weight::from_leaf(&[40, 25], few);
    for weight in [AffineQuantizer::bits(8).apply(floats.clone()).unwrap(), floats] {
        // A bit an entry would be more than the zeros.
        let bytes = weight.stored_bytes();
        assert_eq!(weight.leaves()[0].kept(), 990);
        assert!(bytes < 990 * weight.leaves()[0].code_bits().map_or(8, |_| 1) + 125);
        let (graph, weights) = one(weight);
        let mut student = trainable(&graph, &weights, Optimizer::sgd());
        student.edit("fc.weight", |v| v[..3].fill(0.0));
        let dense = student.predict(&input(&[5, 25])).unwrap();
        let new = after(student);
        assert_eq!((new.stored_bytes(), new.leaves()[0].kept()), (bytes, 987));
        close(dense.as_slice(), new.matmul(input(&[5, 25]).values().unwrap()).unwrap().as_slice(), 1e-12);
    }
}

#[test]
fn hostile_scales_train_nothing() {
    let weight = with_scales(&coded(&matrix(5, 6, 1)), &[0.0, -1.0, 0.0, -1.0, 1.0]);
    let (graph, weights) = one(weight.clone());
    let mut student = trainable(&graph, &weights, Optimizer::sgd());
    student.edit("fc.weight", |v| v.iter_mut().for_each(|x| *x += 1.0));
    let new = after(student);
    let codes = |w: &Weight<f64>| match &w.leaves()[0].coding {
        Coding::Affine(a) => a.codes.unpack(0..30).unwrap(),
        Coding::Float(_) | Coding::Codebook(_) => panic!("coded"),
    };
    assert_eq!(codes(&new)[..24], codes(&weight)[..24]);
    assert_ne!(codes(&new)[24..], codes(&weight)[24..]);
}

#[test]
fn the_stored_precision_stays() {
    let values = Values::rounded(numbers(12, 1), DType::F16);
    let (graph, weights) = one(Weight::from_leaf(&[3, 4], Leaf::dense(3, 4, values)));
    let mut student = trainable(&graph, &weights, Optimizer::adam());
    learn(&mut student, &input(&[8, 4]), 3, 0.01);
    let new = after(student);
    let Coding::Float(values) = &new.leaves()[0].coding else { panic!("floats") };
    assert_eq!(values.dtype(), DType::F16);
    let dense = new.to_dense().unwrap();
    assert!(dense.iter().all(|x| crate::tensor::round_to(DType::F16, *x) == *x));
}

#[test]
fn running_statistics_follow_pytorch() {
    let graph = Graph::new().batch_norm("bn");
    let mut weights = Weights::new();
    for (name, x) in [("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)] {
        weights.insert(format!("bn.{name}"), Arc::new(Tensor::new(&[1], vec![x]).unwrap().into()));
    }
    let mut student = trainable(&graph, &weights, Optimizer::sgd());
    let x = Input::Values(Tensor::new(&[4, 1], vec![1.0, 2.0, 3.0, 6.0]).unwrap());
    student.forward(&x, &[]).unwrap();
    // A single sample has no variance: it is normalized by the running statistics, which stay.
    let single = Input::Values(Tensor::new(&[1, 1], vec![5.0]).unwrap());
    student.forward(&single, &[]).unwrap();
    close(student.values("bn.running_mean").unwrap(), &[0.3], 1e-12);
    close(student.values("bn.running_var").unwrap(), &[0.9 + 0.1 * 14.0 / 3.0], 1e-12);
    let predicted = student.predict(&x).unwrap();
    close(predicted.as_slice(), student.network().unwrap().forward(&x).unwrap().as_slice(), 1e-12);
    assert_eq!(student.trained().count(), 2);

    let mut held = trainable(&graph, &weights, Optimizer::sgd());
    assert_eq!(held.freeze("bn.running_*"), 2);
    held.forward(&x, &[]).unwrap();
    assert_eq!(held.values("bn.running_mean").unwrap(), [0.0]);
    assert!(held.weights().unwrap().is_empty());
}

#[test]
fn what_is_frozen_stays_and_costs_no_gradient() {
    let graph = Graph::new().linear("a").relu().linear("b");
    let weights = fixture(&graph, &[("a.weight", &[4, 3]), ("b.weight", &[2, 4])]);
    let mut student = trainable(&graph, &weights, Optimizer::adam_w());
    assert_eq!(student.freeze("a.*"), 2);
    assert_eq!(student.untrained().collect::<Vec<_>>(), ["a.weight", "a.bias"]);
    learn(&mut student, &input(&[8, 3]), 3, 0.01);
    let names: Vec<String> = student.into_weights().unwrap().into_iter().map(|(n, _)| n).collect();
    assert_eq!(names, ["b.weight", "b.bias"]);
}

#[test]
fn shared_weights_collect_both_gradients_and_misuse_is_an_error() {
    let (graph, weights) = one(matrix(3, 3, 1));
    let twice = graph.tanh().linear_without_bias("fc");
    let mut student = trainable(&twice, &weights, Optimizer::sgd());
    let x = input(&[2, 3]);
    let dy = numbers(6, 2);
    let gradient = Outputs { logits: Tensor::new(&[2, 3], dy.clone()).unwrap(), taps: vec![] };
    assert!(student.backward(&gradient).is_err());
    student.forward(&x, &[]).unwrap();
    let wrong = Outputs { logits: Tensor::zeros(&[2, 4]), taps: vec![] };
    assert!(student.backward(&wrong).is_err());
    student.backward(&gradient).unwrap();
    let (path, values, gradient) = gradients(&student).remove(0);
    check(&path, &values, &gradient, |v| {
        student.edit(&path, |values| values.copy_from_slice(v));
        dot(student.forward(&x, &[]).unwrap().logits.as_slice(), &dy)
    });
}

proptest! {
    /// Whatever a graph says and whatever comes in: an error or an output, the same from the compressed form
    /// and in training, and never a panic.
    #[test]
    fn any_graph_runs_or_is_refused(
        nodes in prop::collection::vec((0_usize..15, 0_usize..4, 0_usize..3, 0_usize..3), 0..7),
        shape in prop::collection::vec(0_usize..6, 0..5),
    ) {
        let mut weights = Weights::new();
        let mut add = |name: &str, weight: Weight<f64>| weights.insert(name.to_owned(), Arc::new(weight));
        add("fc.weight", pruned(&matrix(4, 4, 1)));
        add("up.weight", factored(&[4, 5], 2));
        add("c.weight", factored(&[4, 2, 2, 2], 2));
        add("c1.weight", Tensor::new(&[2, 4, 1, 2], numbers(16, 3)).unwrap().into());
        for name in ["v.weight", "v.bias", "v.running_mean", "v.running_var"] {
            add(name, Tensor::new(&[4], vec![0.5, 1.0, 1.5, 2.0]).unwrap().into());
        }
        let graph = nodes.into_iter().fold(Graph::new(), |g, (op, back, a, b)| {
            let from = g.last().saturating_sub(back);
            let pool = Pool::new(a + 1).stride(b + 1).padding(b);
            let conv = Conv2d::default().stride(a + 1).padding(b).without_bias();
            match op {
                0 => g.linear_without_bias("fc"),
                1 => g.linear_without_bias("up"),
                2 => g.conv2d("c", conv.groups(a + 1)),
                3 => g.conv2d("c1", conv),
                4 => g.batch_norm("v"),
                5 => g.layer_norm("v"),
                6 => g.max_pool(pool),
                7 => g.average_pool(pool),
                8 => g.global_average_pool(),
                9 => g.flatten(),
                10 => g.dropout(0.5),
                11 => g.add(from),
                12 => g.node(super::Op::Tanh, &[from]),
                13 => g.sigmoid(),
                _ => g.gelu(),
            }
        });
        if let Ok(net) = Network::bind(&graph, &lookup(&weights)) {
            let mut student = net.trainable(Optimizer::adam().into()).unwrap();
            let x = input(&shape);
            match net.forward(&x) {
                Ok(y) => {
                    close(student.predict(&x).unwrap().as_slice(), y.as_slice(), 1e-9);
                    let logits = student.forward(&x, &[]).unwrap().logits;
                    student.backward(&Outputs { logits, taps: vec![] }).unwrap();
                    student.step(0.1).unwrap();
                    student.network().unwrap();
                }
                Err(_) => prop_assert!(student.predict(&x).is_err()),
            }
        }
    }
}
