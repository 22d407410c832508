use super::super::fold::fold_batch_norm;
use super::super::layers::gradcheck::numbers;
use super::super::op::{Conv2d, Op, Pool};
use super::super::testing::{close, fixture, input, lookup};
use super::*;
use crate::{Activations, AffineQuantizer, WeightCompressor};

#[test]
fn misfits_name_the_layer() {
    let graph = Graph::new().conv2d("c", Conv2d::default()).relu().flatten().linear("fc");
    let weights = fixture(&graph, &[("c.weight", &[2, 3, 3, 3]), ("fc.weight", &[5, 8])]);
    let net = Network::bind(&graph, &lookup(&weights)).unwrap();
    assert_eq!(net.forward(&input(&[6, 3, 4, 4])).unwrap().shape(), [6, 5]);
    assert_eq!(net.forward(&input(&[0, 3, 4, 4])).unwrap().shape(), [0, 5]);
    for (shape, layer) in [
        (&[6, 2, 4, 4][..], "`c`"),
        (&[6, 3, 2, 4], "`c`"),
        (&[6, 3], "`c`"),
        (&[], "`c`"),
        (&[6, 3, 5, 4], "`fc`"),
    ] {
        let message = net.forward(&input(shape)).unwrap_err().to_string();
        assert!(message.contains(layer), "{message}");
    }
    let ids = Input::Ids(Tensor::new(&[1, 1], vec![1]).unwrap());
    assert!(matches!(net.forward(&ids), Err(Error::Data(_))));
}

#[test]
fn taps_and_observers_see_what_is_between() {
    let graph = Graph::new().linear("a").relu().linear("b").add(2).dropout(0.5);
    let weights = fixture(&graph, &[("a.weight", &[4, 3]), ("b.weight", &[4, 4])]);
    let net = Network::bind(&graph, &lookup(&weights)).unwrap();
    let x = input(&[2, 3]);
    let out = net.outputs(&x, &["a", "2", "0"]).unwrap();
    let (a, relu) = (&out.taps[0], &out.taps[1]);
    assert!(a.iter().zip(relu.iter()).all(|(a, r)| a.max(0.0) == *r));
    assert_eq!(&out.taps[2], x.values().unwrap());
    assert_eq!(out.logits, net.forward(&x).unwrap());
    assert!(net.outputs(&x, &["nothing"]).is_err());
    assert!(net.outputs(&x, &["6"]).is_err());
    let mut seen = Vec::new();
    let mut see = |name: &str, x: &[f64]| {
        seen.push((name.to_owned(), x.to_vec()));
        Ok(())
    };
    net.forward_observed(&x, &mut see).unwrap();
    assert_eq!(seen[0], ("a.weight".to_owned(), x.values().unwrap().as_slice().to_vec()));
    assert_eq!(seen[1], ("b.weight".to_owned(), relu.as_slice().to_vec()));
}

#[test]
fn groups_equal_separate_convolutions() {
    let graph = |groups| Graph::new().conv2d("c", Conv2d::default().padding(1).stride(2).groups(groups));
    let weights = fixture(&graph(2), &[("c.weight", &[4, 3, 3, 3])]);
    let (w, b) = (weights["c.weight"].to_dense().unwrap(), weights["c.bias"].to_dense().unwrap());
    let x = input(&[2, 6, 5, 5]);
    let whole = Network::bind(&graph(2), &lookup(&weights)).unwrap().forward(&x).unwrap();
    for group in 0..2 {
        let mut part = weights.clone();
        let half = |v: &[f64], n: usize| v[group * n..(group + 1) * n].to_vec();
        let w = Tensor::new(&[2, 3, 3, 3], half(w.as_slice(), 54)).unwrap();
        part.insert("c.weight".into(), Arc::new(w.into()));
        part.insert("c.bias".into(), Arc::new(Tensor::new(&[2], half(b.as_slice(), 2)).unwrap().into()));
        let net = Network::bind(&graph(1), &lookup(&part)).unwrap();
        let samples = x.values().unwrap().as_slice().chunks(150);
        let own: Vec<f64> = samples.flat_map(|s| half(s, 75)).collect();
        let y = net.forward(&Input::Values(Tensor::new(&[2, 3, 5, 5], own).unwrap())).unwrap();
        let wanted: Vec<f64> = whole.as_slice().chunks(36).flat_map(|s| half(s, 18)).collect();
        close(y.as_slice(), &wanted, 1e-12);
    }
}

#[test]
fn folding_a_batch_norm_changes_nothing() {
    let graph = Graph::new()
        .conv2d("c1", Conv2d::default().without_bias())
        .batch_norm("bn1")
        .relu()
        .conv2d("c2", Conv2d::default().padding(1))
        .batch_norm("bn2")
        .add(3)
        .batch_norm("bn3")
        .max_pool(Pool::new(2))
        .flatten()
        .linear("fc")
        .batch_norm("bn4");
    let weights = fixture(
        &graph,
        &[("c1.weight", &[3, 2, 2, 2]), ("c2.weight", &[3, 3, 3, 3]), ("fc.weight", &[5, 12])],
    );
    let (folded, changed) = fold_batch_norm(&graph, &lookup(&weights)).unwrap();
    let left = folded.ops().filter(|(op, _)| matches!(op, Op::BatchNorm { .. })).count();
    // The third takes a sum, which cannot hold it.
    assert_eq!((folded.len(), left), (8, 1));
    let mut new = weights.clone();
    changed.into_iter().for_each(|(name, w)| drop(new.insert(name, Arc::new(w))));
    let x = input(&[3, 2, 5, 5]);
    let before = Network::bind(&graph, &lookup(&weights)).unwrap().forward(&x).unwrap();
    let after = Network::bind(&folded, &lookup(&new)).unwrap().forward(&x).unwrap();
    close(before.as_slice(), after.as_slice(), 1e-10);
}

#[test]
fn a_batch_norm_is_folded_into_a_linear_layer_only_where_there_are_two_axes() {
    let graph = Graph::new().linear("a").batch_norm("bn");
    let weights = fixture(&graph, &[("a.weight", &[4, 3])]);
    // Axis 1 of `[n, 4, 3]` has the length of the norm, which then works on it and not on the last.
    for (t, rows) in [(2, 4), (4, 4), (4, 5)] {
        let mut weights = weights.clone();
        let a = |shape: &[usize]| {
            Arc::new(Tensor::new(shape, numbers(shape.iter().product(), 8)).unwrap().into())
        };
        weights.insert("a.weight".into(), a(&[rows, 3]));
        weights.insert("a.bias".into(), a(&[rows]));
        let (folded, changed) = fold_batch_norm(&graph, &lookup(&weights)).unwrap();
        assert_eq!((&folded, changed.len()), (&graph, 0));
        let run = |graph| Network::bind(graph, &lookup(&weights)).unwrap().forward(&input(&[2, t, 3]));
        assert_eq!(run(&folded).ok(), run(&graph).ok());
    }
    let flat = Graph::new().flatten().linear("a").batch_norm("bn");
    let (folded, changed) = fold_batch_norm(&flat, &lookup(&weights)).unwrap();
    assert_eq!((folded, changed.len()), (Graph::new().flatten().linear("a"), 2));
}

#[test]
fn integers_are_honoured_and_refused_for_floats() {
    let graph = Graph::new().linear("fc");
    let mut weights = fixture(&graph, &[("fc.weight", &[4, 3])]);
    let int8 = (*weights["fc.weight"]).clone().with_activations(Activations::Int8);
    weights.insert("fc.weight".into(), Arc::new(int8));
    let net = Network::bind(&graph, &lookup(&weights)).unwrap();
    assert!(matches!(net.forward(&input(&[2, 3])), Err(Error::Weight { weight, .. }) if weight == "fc"));
}

#[test]
fn an_input_that_has_no_code_is_named_by_its_place() {
    let graph = Graph::new().conv2d("c", Conv2d::default().padding(1)).flatten().linear("fc");
    let mut weights = fixture(&graph, &[("c.weight", &[2, 3, 3, 3]), ("fc.weight", &[40, 32])]);
    for name in ["c.weight", "fc.weight"] {
        let quantizer = AffineQuantizer::bits(8).activations(Activations::Int8);
        let coded = quantizer.apply((*weights[name]).clone()).unwrap();
        weights.insert(name.into(), Arc::new(coded));
    }
    let net = Network::bind(&graph, &lookup(&weights)).unwrap();
    let mut x = input(&[5, 3, 4, 4]).values().unwrap().clone();
    assert!(net.forward(&Input::Values(x.clone())).is_ok());
    for bad in [f64::NAN, f64::INFINITY] {
        x.as_mut_slice()[163] = bad;
        let Err(Error::Weight { weight, fault }) = net.forward(&Input::Values(x.clone())) else { panic!() };
        assert_eq!((&*weight, fault.to_string()), ("c", format!("input entry 163 is {bad}")));
    }
}

#[test]
fn accuracy_counts() {
    let graph = Graph::new().relu();
    let net = Network::<f64>::bind(&graph, &|_| None).unwrap();
    let x = Tensor::new(&[300, 2], numbers(600, 1)).unwrap();
    let labels: Vec<u32> = x.as_slice().chunks(2).map(|r| u32::from(r[1].max(0.0) > r[0].max(0.0))).collect();
    let data = super::super::Examples::new(x.clone(), labels.clone()).unwrap();
    assert_eq!(net.accuracy(&data).unwrap(), 1.0);
    assert_eq!(net.classify(&Input::Values(x)).unwrap(), labels);
    assert_eq!(net.accuracy(&data.subset([]).unwrap()).unwrap(), 0.0);
    // No output can be right about it.
    let mut wrong = labels;
    wrong[290] = 2;
    let wrong = super::super::Examples::new(data.inputs().clone(), wrong).unwrap();
    let error = net.accuracy(&wrong).unwrap_err();
    assert!(matches!(error, Error::Label { label: 2, sample: 290, classes: 2 }), "{error}");
}

#[cfg(feature = "threads")]
mod threads {
    use super::*;
    use proptest::prelude::*;
    use rayon::{ThreadPool, ThreadPoolBuilder};
    use std::sync::OnceLock;

    fn pools() -> &'static [ThreadPool; 2] {
        static POOLS: OnceLock<[ThreadPool; 2]> = OnceLock::new();
        POOLS.get_or_init(|| [1, 3].map(|n| ThreadPoolBuilder::new().num_threads(n).build().unwrap()))
    }

    fn single(x: &Tensor<f64>) -> Tensor<f32> {
        Tensor::new(x.shape(), x.iter().map(|x| *x as f32).collect()).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn a_pass_gives_the_same_bits_on_any_threads(
            size in 0..3, batch in 1_usize..6, [channels, maps, more] in [1_usize..9, 8_usize..20, 8_usize..20],
            side in 12_usize..20, integers in [any::<bool>(), any::<bool>(), any::<bool>()],
        ) {
            // Each layer's products count: those of integers a quarter, and those of a matrix as with 8 inputs at least.
            let cols = more * (side / 2).pow(2);
            let entries = if integers[2] { 1 << 21 } else { 1 << 19 };
            let (n, rows) = match size {
                0 => (1, 3),
                1 => (batch, entries / cols + 1),
                _ => (64, entries / cols + 1),
            };
            let same = Conv2d::default().padding(1);
            let graph = Graph::new().conv2d("a", same).relu().conv2d("b", same).max_pool(Pool::new(2)).flatten();
            let graph = graph.linear("fc");
            let shapes = [
                ("a.weight", &[maps, channels, 3, 3][..]), ("b.weight", &[more, maps, 3, 3]), ("fc.weight", &[rows, cols]),
            ];
            let weights = fixture(&graph, &shapes);
            let find = |name: &str| {
                let weight: Weight<f32> = single(&weights.get(name)?.to_dense().unwrap()).into();
                let integers = shapes.iter().zip(integers).any(|(shape, integers)| shape.0 == name && integers);
                let quantizer = AffineQuantizer::bits(8).per_channel().activations(Activations::Int8);
                Some(Arc::new(if integers { quantizer.apply(weight).unwrap() } else { weight }))
            };
            let net = Network::<f32>::bind(&graph, &find).unwrap();
            let shape = [n, channels, side, side];
            let of_pass = net.size(&net.sizes(&shape).unwrap());
            prop_assert!(matches!((size, of_pass), (0, Size::Small) | (1, Size::Middle) | (2, Size::Large)));
            let x = Input::Values(single(input(&shape).values().unwrap()));
            let run = || net.forward(&x).unwrap().iter().map(|y| y.to_bits()).collect::<Vec<_>>();
            let here = run();
            for pool in pools() {
                prop_assert!(pool.install(run) == here);
            }
        }
    }
}
