//! Tests of the step as a whole. What it does to awkward tensors is tested in `tests/properties`.

use super::{CodebookInit, CodebookQuantizer};
use crate::weight::Coding;
use crate::{MagnitudePruner, Model, Tensor, Weight, WeightCompressor};

fn waves(rows: usize, cols: usize) -> Tensor<f64> {
    let value = |i: usize| (i as f64 * 0.37).sin() + 0.3 * (i as f64 * 1.7).cos() + 0.01;
    Tensor::new(&[rows, cols], (0..rows * cols).map(value).collect()).unwrap()
}

fn table(weight: &Weight<f64>) -> Vec<f64> {
    match &weight.leaves()[0].coding {
        Coding::Codebook(book) => book.table.read(0..book.values()).unwrap().into_owned(),
        _ => panic!("a codebook"),
    }
}

#[test]
fn a_table_by_hand() {
    let values = [0.0, 0.9, 1.1, -4.0, 0.0, 1.0, -4.5, -3.5, 0.1, -0.1, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0];
    let tensor = Tensor::new(&[2, 8], values.to_vec()).unwrap();
    let shared = CodebookQuantizer::values(3).apply(tensor).unwrap();
    assert_eq!(table(&shared), [-4.0, 0.0, 1.0]);
    let rounded: Vec<f64> =
        values.iter().map(|x| x.round()).map(|x| if x < -1.0 { -4.0 } else { x + 0.0 }).collect();
    assert_eq!(shared.to_dense().unwrap().as_slice(), rounded);
    // Two bits a code and three doubles.
    assert_eq!((shared.stored_bytes(), shared.leaves()[0].code_bits()), (4 + 24, Some(2)));
    assert_eq!(shared.form().to_string(), "codebook 3");
}

#[test]
fn values_that_nobody_needs_are_left_out() {
    let constant = Tensor::new(&[8, 8], vec![-1.5_f32; 64]).unwrap();
    let shared = CodebookQuantizer::bits(4).apply(constant.clone()).unwrap();
    assert_eq!(shared.form().codebook, Some(1));
    assert_eq!(shared.stored_bytes(), 64 / 8 + 4);
    assert_eq!(shared.to_dense().unwrap(), constant);
}

/// Large enough for a histogram: as good as the search on the values themselves, for the same start.
#[test]
fn large_weights_are_as_good_as_small_ones() {
    let large = waves(300, 400);
    // Every second value, few enough to be looked at one by one.
    let half: Vec<f64> = large.iter().copied().step_by(2).collect();
    let half = Tensor::new(&[300, 200], half).unwrap();
    let error = |tensor: &Tensor<f64>, step: &CodebookQuantizer| {
        Weight::from(tensor.clone()).error_to(&step.apply(tensor.clone()).unwrap()).unwrap().relative
    };
    for step in [
        CodebookQuantizer::bits(4),
        CodebookQuantizer::bits(2).init(CodebookInit::Density),
        CodebookQuantizer::bits(3).init(CodebookInit::PlusPlus { seed: 3 }),
        CodebookQuantizer::bits(4).optimal(),
        CodebookQuantizer::bits(6).optimal(),
    ] {
        let (large, half) = (error(&large, &step), error(&half, &step));
        assert!((large / half - 1.0).abs() < 0.02, "{step:?}: {large} {half}");
    }
}

#[test]
fn a_pruned_entry_in_a_codebook_is_gone() {
    let shared = CodebookQuantizer::bits(4).apply(waves(40, 50)).unwrap();
    let pruned = MagnitudePruner::sparsity(0.5).apply(shared.clone()).unwrap();
    assert_eq!(pruned.form().to_string(), "pruned+codebook 16");
    assert_eq!(table(&pruned), table(&shared));
    let (a, b) = (shared.to_dense().unwrap(), pruned.to_dense().unwrap());
    assert!(a.iter().zip(b.iter()).all(|(a, b)| a == b || *b == 0.0));
    assert_eq!(pruned.leaves()[0].kept(), 1000);
}

#[test]
fn products_run_from_the_codes() {
    for (rows, cols, sparsity) in [(33, 70, 0.0), (33, 70, 0.3), (33, 70, 0.9), (5, 300, 0.0)] {
        let weight = MagnitudePruner::sparsity(sparsity).apply(waves(rows, cols)).unwrap();
        for bits in [1, 3, 4, 5] {
            let shared = CodebookQuantizer::bits(bits).apply(weight.clone()).unwrap();
            let dense = Weight::from(shared.to_dense().unwrap());
            for n in [1, 3, 90] {
                let x = Tensor::new(&[n, cols], waves(n, cols).into_vec()).unwrap();
                let (ours, plain) = (shared.matmul(&x).unwrap(), dense.matmul(&x).unwrap());
                assert!(ours.iter().zip(plain.iter()).all(|(a, b)| (a - b).abs() < 1e-9));
            }
        }
    }
}

#[test]
fn the_other_precision_reads_the_same_numbers() {
    let narrow: Tensor<f32> =
        Tensor::new(&[40, 50], waves(40, 50).iter().map(|x| *x as f32).collect()).unwrap();
    let shared = Model::from(CodebookQuantizer::bits(3).apply(narrow).unwrap());
    let wide = Model::<f64>::from_bytes_as(shared.to_bytes().unwrap()).unwrap();
    let (a, b) = (shared.weight("weight").unwrap(), wide.weight("weight").unwrap());
    assert!(a.to_dense().unwrap().iter().zip(b.to_dense().unwrap().iter()).all(|(a, b)| f64::from(*a) == *b));
    // And back, to the byte.
    assert_eq!(wide.to_bytes().unwrap(), shared.to_bytes().unwrap());
}

#[cfg(feature = "train")]
mod training {
    use super::*;
    use crate::nn::{Graph, Input, Optimizer, Outputs, Trainable};
    use crate::{Error, Fault};

    fn student(weight: &Weight<f64>) -> Trainable<f64> {
        let mut model = Model::default();
        model.push("fc.weight", crate::Kind::Linear, weight.clone()).unwrap();
        let model = model.with_graph(Graph::new().linear_without_bias("fc")).unwrap();
        model.network().unwrap().trainable(Optimizer::sgd().into()).unwrap()
    }

    fn run(student: &mut Trainable<f64>) -> Outputs<f64> {
        student.forward(&Input::Values(waves(7, 20)), &[]).unwrap()
    }

    fn backward(student: &mut Trainable<f64>) {
        let logits = run(student).logits;
        student.backward(&Outputs { logits, taps: Vec::new() }).unwrap();
    }

    fn after(student: Trainable<f64>) -> Weight<f64> {
        student.into_weights().unwrap().remove(0).1
    }

    #[test]
    fn a_shared_value_moves_by_the_sum_of_its_gradients() {
        for sparsity in [0.0, 0.5] {
            let weight = MagnitudePruner::sparsity(sparsity).apply(waves(30, 20)).unwrap();
            let shared = CodebookQuantizer::values(5).apply(weight).unwrap();
            let before = table(&shared);
            let mut ours = student(&shared);
            assert_eq!(ours.trained().collect::<Vec<_>>(), [("fc.weight".to_owned(), 5)]);
            assert_eq!(ours.values("fc.weight").unwrap(), before);
            // What each entry alone would be told.
            let dense = shared.to_dense().unwrap();
            let mut alone = student(&dense.clone().into());
            backward(&mut ours);
            backward(&mut alone);
            let gradient = ours.gradient("fc.weight").unwrap();
            let each = alone.gradient("fc.weight").unwrap();
            for (value, sum) in before.iter().zip(&gradient) {
                let wanted: f64 = dense.iter().zip(&each).filter(|(x, _)| *x == value).map(|(_, g)| g).sum();
                assert!((sum - wanted).abs() < 1e-9 * wanted.abs().max(1.0), "{sum} {wanted}");
            }
            ours.step(0.001).unwrap();
            let after = after(ours);
            assert_eq!((after.form(), after.sparsity()), (shared.form(), sparsity));
            for ((old, new), gradient) in before.iter().zip(table(&after)).zip(gradient) {
                assert!((new - (old - 0.001 * gradient)).abs() < 1e-12);
            }
            // Who shared a value still does.
            let (a, b) = (dense, after.to_dense().unwrap());
            for (old, new) in before.iter().zip(table(&after)) {
                assert!(a.iter().zip(b.iter()).all(|(a, b)| a != old || *b == new));
            }
            assert!(a.iter().zip(b.iter()).all(|(a, b)| *a != 0.0 || *b == 0.0));
        }
    }

    #[test]
    fn what_is_trained_with_is_what_is_saved() {
        let shared = CodebookQuantizer::bits(3).apply(waves(12, 20)).unwrap();
        let mut ours = student(&shared);
        for _ in 0..20 {
            backward(&mut ours);
            ours.step(0.003).unwrap();
        }
        let trained = run(&mut ours).logits;
        let after = after(ours);
        assert_ne!(after, shared);
        let y = after.matmul(&waves(7, 20)).unwrap();
        assert!(trained.iter().zip(y.iter()).all(|(a, b)| (a - b).abs() < 1e-9));
        assert!(student(&shared).weights().unwrap().is_empty(), "nothing was touched");
    }

    #[test]
    fn a_value_that_is_not_finite_is_found_by_its_first_entry() {
        let shared = CodebookQuantizer::bits(3).apply(waves(12, 20)).unwrap();
        let mut ours = student(&shared);
        let largest = table(&shared)[7];
        ours.edit("fc.weight", |values| values[7] = f64::NAN);
        let first = shared.to_dense().unwrap().iter().position(|x| *x == largest).unwrap();
        match ours.weights() {
            Err(Error::Weight { fault: Fault::NotFinite { index, .. }, .. }) => assert_eq!(index, first),
            other => panic!("{other:?}"),
        }
    }
}
