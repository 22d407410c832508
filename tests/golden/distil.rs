//! Attention transfer, hints and schedules of distillation against PyTorch, in double precision.
//!
//! The program of arXiv 1612.03928 takes the mean over places as well, where ours sums them: the data hold the sum.

use crate::support::{Arrays, assert_close};
use bantam::distill::{Hint, Ramp};
use bantam::nn::{Conv2d, Examples, Graph, Optimizer, Schedule, attention_transfer};
use bantam::{Distiller, Model};

const ERROR: f64 = 1e-13;
/// Some steps, each of which may amplify what the last one rounded.
const ERROR_AFTER_STEPS: f64 = 1e-11;

#[test]
fn attention() {
    let data = Arrays::golden("distil");
    let (x, y) = (data.tensor::<f64>("attention.x"), data.tensor("attention.y"));
    let (loss, gradient) = attention_transfer(&x, &y).unwrap();
    assert_close("loss", &[loss], &data.numbers("attention.loss"), ERROR, 1.0);
    assert_close("gradient", gradient.as_slice(), &data.numbers("attention.gradient"), ERROR, 0.1);
}

#[test]
fn hints_and_schedules_walk_the_same_way() {
    let data = Arrays::golden("distil");
    let graph = || {
        let graph = Graph::new().conv2d("conv1", Conv2d::default().padding(1)).relu();
        graph.conv2d("conv2", Conv2d::default()).tanh().flatten().linear("fc")
    };
    let model = |prefix: &str| -> Model<f64> { data.model(prefix, graph()) };
    let teacher = model("teacher").network().unwrap();
    let labels = data.numbers("labels").iter().map(|x| *x as u32).collect();
    let train = Examples::new(data.tensor("x"), labels).unwrap();
    let optimizer = Optimizer::sgd().momentum(0.9);
    let mut student = model("student").network().unwrap().trainable(optimizer.into()).unwrap();
    // All samples in one batch: their order matters to rounding alone.
    let training = Distiller::new(&teacher, &train)
        .alpha(0.3)
        .temperature(Ramp::linear(6.0, 2.0))
        .hint(Hint::features("conv2", "conv2").weight(Ramp::linear(1.5, 0.0)))
        .hint(Hint::attention("conv1", "conv1").weight(2.0))
        .epochs(4)
        .rate(0.1)
        .schedule(Schedule::Constant)
        .fit(&mut student, &mut |_, _| Ok(()))
        .unwrap();
    let losses: Vec<f64> = training.epochs.iter().map(|epoch| epoch.loss).collect();
    assert_close("losses", &losses, &data.numbers("losses"), ERROR_AFTER_STEPS, 1.0);
    for (name, weight) in student.into_weights().unwrap() {
        let (ours, key) = (weight.to_dense().unwrap(), format!("after.{name}"));
        assert_close(&key, ours.as_slice(), &data.numbers(&key), ERROR_AFTER_STEPS, 0.1);
    }
}
