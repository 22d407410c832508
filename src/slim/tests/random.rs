//! Random networks, pruned and coded at random.

use super::super::rank;
use super::*;
use proptest::prelude::*;

/// One of several small networks of `n` channels, and the shape of its input.
pub(super) fn network(which: usize, n: usize, seed: u64) -> (Model<f64>, Vec<usize>) {
    let padding = seed as usize % 2;
    match which {
        0 => {
            let graph = Graph::new().linear("a").sigmoid().linear("b").tanh().linear("c");
            (
                model(
                    graph,
                    &[("a.weight", &[n, 5]), ("b.weight", &[n + 2, n]), ("c.weight", &[3, n + 2])],
                    seed,
                ),
                vec![4, 5],
            )
        }
        1 => {
            let graph = Graph::new().conv2d("a", conv(padding)).batch_norm("bn").relu().max_pool(2);
            let graph = graph.conv2d("b", conv(0)).gelu().average_pool(Pool::new(2)).flatten();
            let graph = graph.linear("c").batch_norm("bn2").relu().dropout(0.5).linear("d");
            // Of 14: 12 or 14, 6 or 7, 4 or 5, and 2 after the second pool.
            let places = 4;
            let shapes: [(&str, &[usize]); 4] = [
                ("a.weight", &[n, 2, 3, 3]),
                ("b.weight", &[n, n, 3, 3]),
                ("c.weight", &[n + 1, n * places]),
                ("d.weight", &[3, n + 1]),
            ];
            (model(graph, &shapes, seed), vec![2, 2, 14, 14])
        }
        2 => {
            let stem = Graph::new().conv2d("stem", conv(1)).relu();
            let skip = stem.last();
            let graph = stem.conv2d("a", conv(1).without_bias()).batch_norm("bn1").relu();
            let graph = graph.conv2d("b", conv(1)).batch_norm("bn2").add(skip).relu();
            let graph = graph.conv2d("c", conv(0)).silu().global_average_pool().linear("head");
            let shapes: [(&str, &[usize]); 5] = [
                ("stem.weight", &[n, 1, 3, 3]),
                ("a.weight", &[n + 2, n, 3, 3]),
                ("b.weight", &[n, n + 2, 3, 3]),
                ("c.weight", &[4, n, 3, 3]),
                ("head.weight", &[3, 4]),
            ];
            (model(graph, &shapes, seed), vec![2, 1, 6, 6])
        }
        3 => {
            let graph = Graph::new().conv2d("up", conv(0)).batch_norm("bn1").relu();
            let graph = graph.conv2d("depth", conv(padding).groups(n)).batch_norm("bn2").relu();
            let graph = graph.conv2d("down", conv(0)).max_pool(Pool::new(2)).flatten().linear("head");
            let shapes: [(&str, &[usize]); 4] = [
                ("up.weight", &[n, 2, 1, 1]),
                ("depth.weight", &[n, 1, 3, 3]),
                ("down.weight", &[3, n, 1, 1]),
                ("head.weight", &[2, if padding == 0 { 12 } else { 27 }]),
            ];
            (model(graph, &shapes, seed), vec![2, 2, 6, 6])
        }
        _ => {
            let stem = Graph::new().flatten().linear("a").relu();
            let skip = stem.last();
            let graph = stem.linear("b").batch_norm("bn").tanh().add(skip).linear("c").layer_norm("ln");
            let graph = graph.relu().linear("d");
            let shapes: [(&str, &[usize]); 4] =
                [("a.weight", &[n, 6]), ("b.weight", &[n, n]), ("c.weight", &[n, n]), ("d.weight", &[2, n])];
            (model(graph, &shapes, seed), vec![3, 6])
        }
    }
}

/// The model with some rows, columns and entries pruned away, and some scales of batch norms at 0.
fn pruned(mut model: Model<f64>, density: f64, seed: u64) -> Model<f64> {
    let chance = |name: &str, what: u64, i: usize| {
        let hash = name.bytes().fold(seed + what, |hash, b| hash.wrapping_mul(31).wrapping_add(b.into()));
        numbers(1, hash.wrapping_mul(7919).wrapping_add(i as u64))[0].abs()
    };
    let entries: Vec<_> = model.entries().map(|(info, weight)| (info.clone(), weight.clone())).collect();
    for (info, weight) in entries {
        let name = &*info.name;
        let (_, cols) = fold(weight.shape());
        let matrix = weight.shape().len() > 1;
        if !matrix && name.starts_with("bn") && name.ends_with(".weight") {
            let mut dense = weight.to_dense().unwrap();
            for (i, x) in
                dense.as_mut_slice().iter_mut().enumerate().filter(|(i, _)| chance(name, 3, *i) < 0.3)
            {
                *x = if i % 2 == 0 { 0.0 } else { -*x };
            }
            model.set(name, dense.into()).unwrap();
        } else if matrix {
            let run = crate::weight::stride(weight.shape());
            let keep = |i: usize, _: f64| {
                chance(name, 0, i) < density
                    && chance(name, 1, i / cols) < 0.7
                    && chance(name, 2, i % cols / run) < 0.7
            };
            model.set(name, weight.map_leaves(&mut |leaf| leaf.retain(keep)).unwrap()).unwrap();
        }
    }
    model
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn without_dead_channels_the_function_is_the_same(
        which in 0_usize..5, n in 1_usize..9, seed in 0_u64..1000, density in 0.0_f64..1.0, form in 0_usize..5,
    ) {
        let (model, shape) = network(which, n, seed);
        let model = pruned(model, density, seed);
        let shared = if which == 3 { "down.weight" } else { "c.weight" };
        let formed = match form {
            1 => Pipeline::default().quantize(AffineQuantizer::bits(6).per_channel().asymmetric()),
            2 => Pipeline::default().quantize(AffineQuantizer::bits(4)),
            3 => Pipeline::default().quantize(AffineQuantizer::bits(8).activations(Activations::Int8)),
            4 => Pipeline::default().then(CodebookQuantizer::values(2).only(shared)),
            _ => Pipeline::default(),
        };
        let model = match formed.run(&model) {
            Ok(formed) => formed.model,
            // A codebook may find too few entries to share it.
            Err(
                Error::Plan { why: Refusal::CodebookTooLarge { .. }, .. }
                | Error::Weight { fault: Fault::Refused(Refusal::CodebookTooLarge { .. }), .. },
            ) => model,
            Err(error) => panic!("{error}"),
        };
        let (small, report) = slim(&model, ChannelPruner::dead());
        let (before, after) = (forward(&model, &shape), forward(&small, &shape));
        if form == 3 {
            // What nobody reads may have been the largest of the inputs that are coded together.
            let most = before.iter().fold(1.0_f64, |most, x| most.max(x.abs()));
            prop_assert!(before.iter().zip(after.iter()).all(|(a, b)| (a - b).abs() <= 0.05 * most));
        } else {
            assert_close(&after, &before);
        }
        prop_assert!(report.bytes_after <= report.bytes_before);
        let (again, _) = slim(&small, ChannelPruner::dead());
        prop_assert_eq!(again, small);
    }

    #[test]
    fn a_ratio_computes_what_zeros_would(
        which in 1_usize..4, n in 1_usize..9, seed in 0_u64..1000, ratio in 0.0_f64..1.0, global in any::<bool>(),
        round in 1_usize..4, by in 0_usize..3,
    ) {
        let (model, shape) = network(which, n, seed);
        let by = [Importance::L1, Importance::L2, Importance::BatchNormScale][by];
        let pruner = ChannelPruner::ratio(ratio).importance(by).round_to(round);
        let pruner = if global { pruner.global() } else { pruner };
        let (small, _) = slim(&model, pruner.clone());
        let graph = model.graph().unwrap();
        let channels = Channels::new(graph, &|name| model.weight(name).map(|w| w.shape().to_vec())).unwrap();
        let open: Vec<bool> = channels.groups.iter().map(|g| pruner.bar(g, &|_| true).is_none()).collect();
        let scores = rank::of_weights(&model, &channels, &open, by).unwrap();
        let kept = pruner.choose(ratio, &scores, by != Importance::BatchNormScale);
        let mut zeroed = model.clone();
        for (group, kept) in channels.groups.iter().zip(&kept).filter(|(_, kept)| !kept.is_empty()) {
            let left = kept.iter().filter(|kept| **kept).count();
            prop_assert!(left >= 1 && (left % round == 0 || left == kept.len()));
            let vectors = group.vectors.iter().map(|(name, _)| name);
            for name in group.rows.iter().chain(vectors.filter(|name| !name.contains("running"))) {
                let mut dense = zeroed.weight(name).unwrap().to_dense().unwrap();
                let run = dense.len() / kept.len();
                let values = dense.as_mut_slice().iter_mut().enumerate();
                values.filter(|(i, _)| !kept[i / run]).for_each(|(_, x)| *x = 0.0);
                zeroed.set(name, dense.into()).unwrap();
            }
        }
        assert_close(&forward(&small, &shape), &forward(&zeroed, &shape));
    }

    #[test]
    fn plans_say_what_comes(which in 0_usize..5, n in 1_usize..9, ratio in 0.0_f64..1.0, twice in any::<bool>()) {
        let (model, _) = network(which, n, 1);
        let pipeline = Pipeline::default().slim(ratio);
        let pipeline = if twice { pipeline.slim(0.4) } else { pipeline };
        let planned = pipeline.plan(&model).unwrap();
        let small = pipeline.run(&model).unwrap().model;
        prop_assert_eq!(planned.graph(), small.graph());
        for weight in planned.weights() {
            prop_assert!(!weight.may_shrink);
            prop_assert_eq!(&weight.info.shape[..], shape(&small, &weight.info.name));
        }
    }
}
