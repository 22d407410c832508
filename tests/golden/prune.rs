//! Against `torch.nn.utils.prune`, and numpy for patterns and ties.
//!
//! Masks agree exactly where no two magnitudes are equal. Of equals we prune the first; PyTorch's `topk`
//! promises nothing. `amount * n` is rounded half away from zero here, half to even by PyTorch. PyTorch's
//! second round prunes a fraction of what is left; ours is always a fraction of all.

use crate::support::{Arrays, dense, model_of};
use bantam::{Kind, MagnitudePruner, Model, Pipeline};

fn model(data: &Arrays) -> Model {
    model_of(&[
        ("matrix", Kind::Linear, data.tensor("matrix")),
        ("kernel", Kind::Conv, data.tensor("kernel")),
        ("ties", Kind::Unknown, data.tensor("ties")),
        ("five", Kind::Unknown, data.tensor("five")),
    ])
}

#[track_caller]
fn check(data: &Arrays, pruned: &Model, name: &str, mask: &str) {
    let (before, after) = (data.numbers(name), dense(pruned.weight(name).unwrap()));
    let expected: Vec<f64> =
        before.iter().zip(data.numbers(&format!("{name}.{mask}"))).map(|(x, m)| x * m + 0.0).collect();
    assert_eq!(after, expected, "{name}.{mask}");
}

fn run(data: &Arrays, pruner: MagnitudePruner) -> Model {
    Pipeline::new().prune(pruner).run(model(data)).unwrap().model
}

#[test]
fn unstructured_and_global_masks_are_pytorchs() {
    let data = Arrays::golden("prune");
    for (amount, text) in [(0.0, "0.0"), (0.3, "0.3"), (0.5, "0.5"), (0.9, "0.9"), (1.0, "1.0")] {
        let local = run(&data, MagnitudePruner::sparsity(amount));
        let global = run(&data, MagnitudePruner::sparsity(amount).global());
        for name in ["matrix", "kernel"] {
            check(&data, &local, name, &format!("l1.{text}"));
            check(&data, &global, name, &format!("global.{text}"));
        }
    }
}

#[test]
fn pruned_rows_are_pytorchs() {
    let data = Arrays::golden("prune");
    for (fraction, text) in [(0.25, "0.25"), (0.5, "0.5")] {
        let pruned = run(&data, MagnitudePruner::channels(fraction));
        check(&data, &pruned, "kernel", &format!("rows.{text}"));
        if fraction == 0.5 {
            check(&data, &pruned, "matrix", "rows.0.5");
        }
    }
}

#[test]
fn patterns_run_along_the_inputs() {
    let data = Arrays::golden("prune");
    for (n, m) in [(2, 4), (1, 4), (4, 8), (1, 2)] {
        let pruned = run(&data, MagnitudePruner::n_of_m(n, m));
        check(&data, &pruned, "matrix", &format!("{n}:{m}"));
        check(&data, &pruned, "kernel", &format!("{n}:{m}"));
    }
}

#[test]
fn of_equals_the_first_are_pruned() {
    let data = Arrays::golden("prune");
    for (amount, text) in [(0.1, "0.1"), (0.45, "0.45"), (0.8, "0.8")] {
        check(
            &data,
            &run(&data, MagnitudePruner::sparsity(amount).only("ties")),
            "ties",
            &format!("l1.{text}"),
        );
    }
    check(&data, &run(&data, MagnitudePruner::n_of_m(2, 4).only("ties")), "ties", "2:4");
}

#[test]
fn a_half_entry_is_pruned_here_and_kept_by_pytorch() {
    let data = Arrays::golden("prune");
    let pruned = run(&data, MagnitudePruner::sparsity(0.5).only("five"));
    let zeros = |x: &[f64]| x.iter().filter(|x| **x == 0.0).count();
    // 2.5 entries: 3 here, 2 there, which are among the 3.
    assert_eq!(zeros(&dense(pruned.weight("five").unwrap())), 3);
    let theirs = data.numbers("five.l1.0.5");
    assert_eq!(zeros(&theirs), 2);
    let both = dense(pruned.weight("five").unwrap()).into_iter().zip(theirs);
    assert!(both.into_iter().all(|(x, m)| m == 1.0 || x == 0.0));
}

/// Two rounds of 50 % leave 25 % in PyTorch and 50 % here: sparsity is a fraction of all entries.
#[test]
fn a_second_round_changes_nothing() {
    let data = Arrays::golden("prune");
    let half = || MagnitudePruner::sparsity(0.5);
    let twice = Pipeline::new().prune(half()).prune(half()).run(model(&data)).unwrap().model;
    check(&data, &twice, "matrix", "l1.0.5");
}
