//! Tests of the training loop with networks that really learn.

use super::{Distiller, FineTuner, Student, Teacher};
use crate::nn::{Batch, Dataset, Examples, Graph, Input, Network, Optimizer, Outputs, Schedule, Trainable};
use crate::random::Random;
use crate::weight::Weight;
use crate::{BoxError, Error, Fault, MagnitudePruner, Model, Pipeline, Refusal, Result, Tensor};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

fn net(sizes: &[usize], seed: u64) -> Network {
    let mut random = Random::new(seed).unwrap();
    let mut weights = BTreeMap::new();
    let mut graph = Graph::new();
    for (i, pair) in sizes.windows(2).enumerate() {
        let bound = (2.0 / pair[0] as f64).sqrt();
        let values = (0..pair[0] * pair[1]).map(|_| (random.normal() * bound) as f32).collect();
        let weight: Weight = Tensor::new(&[pair[1], pair[0]], values).unwrap().into();
        weights.insert(format!("fc{i}.weight"), Arc::new(weight));
        weights.insert(format!("fc{i}.bias"), Arc::new(Tensor::<f32>::zeros(&[pair[1]]).into()));
        graph = graph.linear(&format!("fc{i}"));
        if i + 2 < sizes.len() {
            graph = graph.relu();
        }
    }
    Network::bind(&graph, &|name| weights.get(name).cloned()).unwrap()
}

/// Three clouds around the corners of a triangle.
fn blobs(n: usize, seed: u64) -> Examples {
    let mut random = Random::new(seed).unwrap();
    let labels: Vec<u32> = (0..n).map(|i| (i % 3) as u32).collect();
    let centre = |l: u32| [[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]][l as usize];
    let x = labels.iter().flat_map(|l| centre(*l).map(|c| (c + 0.5 * random.normal()) as f32)).collect();
    Examples::new(Tensor::new(&[n, 2], x).unwrap(), labels).unwrap()
}

fn student(seed: u64) -> Trainable {
    net(&[2, 16, 3], seed).trainable(Optimizer::adam().into()).unwrap()
}

fn quiet(_: usize, _: usize) -> Result<()> {
    Ok(())
}

#[test]
fn a_small_network_learns_blobs_and_xor() {
    let (train, test) = (blobs(300, 1), blobs(150, 2));
    let mut learner = student(1);
    let tuner = FineTuner::new(&train).epochs(20).batch_size(32).rate(0.01).validate_on(&test);
    let training = tuner.fit(&mut learner, &mut quiet).unwrap();
    let last = training.epochs.last().unwrap();
    assert!(last.validation.unwrap() > 0.95 && last.accuracy.unwrap() > 0.95, "{training:?}");
    assert_eq!(learner.network().unwrap().accuracy(&test).unwrap(), last.validation.unwrap());

    let inputs = Tensor::new(&[4, 2], vec![0.0_f32, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]).unwrap();
    let xor = Examples::new(inputs, vec![0, 1, 1, 0]).unwrap();
    let mut learner = net(&[2, 8, 2], 3).trainable(Optimizer::adam().into()).unwrap();
    let tuner = FineTuner::new(&xor).epochs(300).rate(0.02).schedule(Schedule::Constant);
    let training = tuner.fit(&mut learner, &mut quiet).unwrap();
    assert_eq!(training.epochs.last().unwrap().accuracy, Some(1.0));
}

#[test]
fn a_student_learns_from_a_teacher_without_labels() {
    let (train, test) = (blobs(300, 1), blobs(150, 2));
    let mut teacher = student(5);
    FineTuner::new(&train).epochs(20).rate(0.02).fit(&mut teacher, &mut quiet).unwrap();
    let teacher = teacher.network().unwrap();
    let unlabelled = Examples::unlabelled(train.inputs().clone()).unwrap();
    let mut learner = net(&[2, 4, 3], 6).trainable(Optimizer::adam().into()).unwrap();
    let distiller = Distiller::new(&teacher, &unlabelled).alpha(0.0).epochs(40).batch_size(32).rate(0.02);
    let training = distiller.validate_on(&test).fit(&mut learner, &mut quiet).unwrap();
    let last = training.epochs.last().unwrap();
    assert_eq!(last.accuracy, None);
    assert!(last.validation.unwrap() > 0.93 && last.loss < 0.1 * training.epochs[0].loss, "{training:?}");
}

#[test]
fn closures_teach_and_caching_asks_once() {
    let train = blobs(50, 1);
    let asked = AtomicUsize::new(0);
    let network = net(&[2, 8, 3], 7);
    let teacher = |x: &Input<f32>| -> Result<Tensor<f32>, BoxError> {
        asked.fetch_add(x.samples(), Ordering::Relaxed);
        Ok(network.forward(x)?)
    };
    let distiller = Distiller::new(&teacher, &train).epochs(3).batch_size(16);
    let mut cached = student(8);
    let a = distiller.clone().cache_logits().fit(&mut cached, &mut quiet).unwrap();
    assert_eq!(asked.swap(0, Ordering::Relaxed), 50);
    let mut plain = student(8);
    let b = distiller.fit(&mut plain, &mut quiet).unwrap();
    // The first batch is asked for once more, to see that everything fits.
    assert_eq!(asked.load(Ordering::Relaxed), 3 * 50 + 16);
    assert!((a.epochs[2].loss - b.epochs[2].loss).abs() < 1e-4);
    let shared: Arc<dyn Teacher> = Arc::new(net(&[2, 3], 1));
    assert!(shared.outputs(&train.batch(&[0]).unwrap().input, &["fc0"]).is_ok());
    assert!((&teacher as &dyn Teacher).outputs(&train.batch(&[0]).unwrap().input, &["fc0"]).is_err());
}

#[cfg(feature = "threads")]
#[test]
fn threads_change_no_bit() {
    let train = blobs(500, 1);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            // Wide enough for products to be cut into blocks.
            let mut learner = net(&[2, 300, 100, 3], 9).trainable(Optimizer::adam().into()).unwrap();
            FineTuner::new(&train).batch_size(200).epochs(2).seed(4).fit(&mut learner, &mut quiet).unwrap();
            learner.into_weights().unwrap()
        })
    };
    let one = run(1);
    assert_eq!(one.len(), 6);
    assert_eq!(one, run(2));
}

#[test]
fn hooks_see_steps_change_rates_and_stop() {
    let train = blobs(70, 1);
    let seen = Mutex::new(Vec::new());
    let mut progress = Vec::new();
    let training = FineTuner::new(&train)
        .batch_size(32)
        .epochs(5)
        .rate(0.1)
        .schedule(Schedule::Constant)
        .after_step(|step, student| {
            assert!(student.as_trainable().is_some());
            step.scale_rate(0.5);
            let mut seen = seen.lock().map_err(|_| "poisoned")?;
            seen.push((step.epoch, step.step, step.steps, step.rate));
            Ok(if step.step == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })
        .fit(&mut student(1), &mut |done, of| {
            progress.push((done, of));
            Ok(())
        })
        .unwrap();
    let wanted = [(0, 0, 15, 0.1), (0, 1, 15, 0.05), (0, 2, 15, 0.025), (1, 3, 15, 0.0125)];
    assert_eq!(*seen.lock().unwrap(), wanted);
    assert_eq!(progress, [(0, 15), (1, 15), (2, 15), (3, 15), (4, 15)]);
    assert_eq!(training.epochs.len(), 2);
    let cancelled = FineTuner::new(&train).fit(&mut student(1), &mut |_, _| Err(Error::Cancelled));
    assert!(matches!(cancelled, Err(Error::Cancelled)));
}

/// A dataset that says what it was asked.
struct Fixed(Batch<f32>, usize);

impl Dataset for Fixed {
    fn len(&self) -> usize {
        self.1
    }
    fn batch(&self, _: &[usize]) -> Result<Batch<f32>, BoxError> {
        Ok(self.0.clone())
    }
}

#[test]
fn misfits_are_found_before_the_student_changes() {
    let train = blobs(10, 1);
    let mut learner = student(1);
    let mut fails = |data: &dyn Dataset, teacher: &dyn Teacher| {
        let error = Distiller::new(teacher, data).fit(&mut learner, &mut quiet).unwrap_err();
        assert!(learner.weights().unwrap().is_empty());
        error
    };
    let good = net(&[2, 3], 1);
    assert!(matches!(fails(&train.subset([]).unwrap(), &good), Error::Data(_)));
    assert!(matches!(fails(&train, &net(&[2, 4], 1)), Error::Shape { .. }));
    assert!(matches!(fails(&train, &net(&[3, 3], 1)), Error::Shape { .. }));
    let broken = |_: &Input<f32>| -> Result<Tensor<f32>, BoxError> { Err("on strike".into()) };
    assert_eq!(fails(&train, &broken).to_string(), "on strike");
    let unlabelled = Examples::unlabelled(train.inputs().clone()).unwrap();
    assert!(matches!(fails(&unlabelled, &good), Error::Data(_)));
    let wrong = Examples::new(train.inputs().clone(), vec![3; 10]).unwrap();
    assert!(matches!(fails(&wrong, &good), Error::Label { label: 3, sample: 0, classes: 3 }));
    let three = Examples::new(Tensor::zeros(&[10, 3]), vec![0; 10]).unwrap();
    assert!(fails(&three, &net(&[3, 3], 1)).to_string().contains("fc0"));
    let short = Fixed(train.batch(&[0, 1]).unwrap(), 5);
    assert!(matches!(fails(&short, &good), Error::Shape { .. }));
}

#[test]
fn a_loss_that_explodes_is_an_error() {
    let train = blobs(30, 1);
    let tuner = FineTuner::new(&train).epochs(100).rate(1e30).schedule(Schedule::Constant);
    let mut learner = net(&[2, 16, 16, 3], 1).trainable(Optimizer::sgd().into()).unwrap();
    let error = tuner.fit(&mut learner, &mut quiet).unwrap_err();
    assert!(matches!(error, Error::Diverged { epoch: 1.., .. }), "{error}");
}

#[test]
fn a_label_that_is_no_class_is_named_by_its_place_in_the_dataset() {
    let train = blobs(40, 1);
    let mut labels = train.labels().unwrap().to_vec();
    labels[33] = 3;
    let wrong = Examples::new(train.inputs().clone(), labels).unwrap();
    let tuner = |data, validation| FineTuner::new(data).batch_size(8).validate_on(validation);
    for tuner in [tuner(&wrong, &train), tuner(&train, &wrong)] {
        let error = tuner.fit(&mut student(1), &mut quiet).unwrap_err();
        assert!(matches!(error, Error::Label { label: 3, sample: 33, classes: 3 }), "{error}");
    }
}

#[test]
fn a_network_with_nothing_to_train_is_refused() {
    let train = blobs(30, 1);
    let nothing = |error: &Error| {
        let why = match error {
            Error::Plan { why, .. } => why,
            Error::Weight { fault: Fault::Refused(why), .. } => why,
            _ => return false,
        };
        matches!(why, Refusal::NothingToTrain(_))
    };
    let mut frozen = student(1);
    assert_eq!(frozen.freeze("*"), 4);
    let error = FineTuner::new(&train).fit(&mut frozen, &mut quiet).unwrap_err();
    assert!(nothing(&error), "{error}");
    // Running statistics are measured without any step.
    let scales =
        ["weight", "bias", "running_mean", "running_var"].map(|n| (format!("bn.{n}"), vec![1.0_f32; 2]));
    let tensors = scales.map(|(name, x)| (name, Tensor::new(&[2], x).unwrap()));
    let model = Model::from_tensors(tensors).unwrap().with_graph(Graph::new().batch_norm("bn")).unwrap();
    let two = train.subset((0..30).filter(|i| i % 3 != 2)).unwrap();
    let mut norm = model.network().unwrap().trainable(Optimizer::default()).unwrap();
    norm.freeze("bn.weight");
    norm.freeze("bn.bias");
    FineTuner::new(&two).fit(&mut norm, &mut quiet).unwrap();
    assert_eq!(norm.weights().unwrap().len(), 2);

    let all = Pipeline::new().prune(MagnitudePruner::sparsity(1.0).only("*"));
    let error = all.finetune(FineTuner::new(&two)).run(&model).unwrap_err();
    assert!(nothing(&error), "{error}");
    let bare = Model::from_tensors::<String>([]).unwrap().with_graph(Graph::new().relu()).unwrap();
    let error = Pipeline::new().finetune(FineTuner::new(&two)).plan(&bare).unwrap_err();
    assert!(nothing(&error), "{error}");
}

#[test]
fn a_last_step_that_explodes_is_an_error() {
    let train = blobs(30, 1);
    let mut learner = net(&[2, 16, 3], 1).trainable(Optimizer::sgd().into()).unwrap();
    let tuner = FineTuner::new(&train).rate(1e308).schedule(Schedule::Constant);
    let error = tuner.fit(&mut learner, &mut quiet).unwrap_err();
    let Error::Diverged { epoch: 0, step: 0, source: Some(source), checkpoint: None, .. } = error else {
        panic!("{error}")
    };
    assert!(matches!(*source, Error::Weight { fault: Fault::NotFinite { .. }, .. }), "{source}");
}

#[test]
fn settings_out_of_range_are_found() {
    let (train, teacher) = (blobs(3, 1), net(&[2, 3], 1));
    let d = || Distiller::new(&teacher, &train);
    for bad in [
        d().alpha(1.1),
        d().alpha(f64::NAN),
        d().temperature(0.0),
        d().temperature(f64::NAN),
        d().temperature(f64::INFINITY),
        d().rate(0.0),
        d().epochs(0),
        d().batch_size(0),
        d().optimizer(Optimizer::sgd().momentum(2.0)),
        d().schedule(Schedule::Step { every: 0.0, factor: 0.1 }),
    ] {
        assert!(bad.validate().is_err(), "{bad:?}");
        let result = bad.fit(&mut student(1), &mut quiet);
        assert!(matches!(result, Err(Error::Setting { .. })));
    }
    assert!(d().alpha(0.0).temperature(1.0).validate().is_ok());
}

/// A student of another runtime: one number, no bantam inside.
struct Foreign {
    bias: f32,
    gradient: f32,
}

impl Student for Foreign {
    fn forward(&mut self, input: &Input<f32>, _: &[&str]) -> Result<Outputs<f32>, BoxError> {
        let n = input.samples();
        let logits = (0..n).flat_map(|_| [0.0, 0.0, self.bias]).collect();
        Ok(Outputs { logits: Tensor::new(&[n, 3], logits)?, taps: vec![] })
    }
    fn backward(&mut self, gradients: &Outputs<f32>) -> Result<(), BoxError> {
        self.gradient = gradients.logits.as_slice().chunks(3).map(|row| row[2]).sum();
        Ok(())
    }
    fn step(&mut self, rate: f64) -> Result<(), BoxError> {
        self.bias -= rate as f32 * self.gradient;
        Ok(())
    }
}

#[test]
fn a_foreign_student_learns_what_the_teacher_says() {
    let train = blobs(30, 1);
    let teacher = |x: &Input<f32>| -> Result<Tensor<f32>, BoxError> {
        let n = x.samples();
        Ok(Tensor::new(&[n, 3], [0.0, 0.0, 2.0].repeat(n))?)
    };
    let mut foreign = Foreign { bias: 0.0, gradient: 0.0 };
    let distiller = Distiller::new(&teacher, &train).alpha(0.0).epochs(200).rate(1.0).validate_on(&train);
    let training = distiller.fit(&mut foreign, &mut quiet).unwrap();
    assert!((foreign.bias - 2.0).abs() < 0.01, "{}", foreign.bias);
    assert!((training.epochs[199].validation.unwrap() - 1.0 / 3.0).abs() < 1e-9);
}

#[test]
fn distilling_keeps_zeros() {
    let train = blobs(60, 1);
    let teacher = net(&[2, 16, 3], 1);
    let weights: Vec<(String, Arc<Weight>)> = ["fc0.weight", "fc1.weight"]
        .into_iter()
        .map(|name| {
            let weight = teacher.weight(name).unwrap().clone();
            let keep = |b: &crate::weight::Block<'_, f32>| Ok(b.kept.iter().map(|x| x.abs() > 0.3).collect());
            (name.to_owned(), Arc::new(weight.map_leaves(&mut |l| l.restrict(1, keep)).unwrap()))
        })
        .collect();
    let graph = Graph::new().linear_without_bias("fc0").relu().linear_without_bias("fc1");
    let find = |name: &str| weights.iter().find(|w| w.0 == name).map(|w| Arc::clone(&w.1));
    let mut learner = Network::bind(&graph, &find).unwrap().trainable(Optimizer::adam_w().into()).unwrap();
    Distiller::new(&teacher, &train).epochs(3).fit(&mut learner, &mut quiet).unwrap();
    for (name, new) in learner.into_weights().unwrap() {
        let old = find(&name).unwrap();
        assert!(old.sparsity() > 0.0);
        let (old, new) = (old.to_dense().unwrap(), new.to_dense().unwrap());
        assert_ne!(old, new);
        assert!(old.iter().zip(new.iter()).all(|(a, b)| *a != 0.0 || b.to_bits() == 0));
    }
}
