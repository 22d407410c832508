//! Losses, optimizers and a few steps of training against PyTorch, in double precision.
//!
//! Everything agrees to rounding. PyTorch's `F.kl_div(reduction = "batchmean")` is ours; its `T^2` is the
//! caller's there and the [`Distiller`]'s here.

use crate::support::{Arrays, assert_close};
use bantam::nn::{
    Conv2d, Examples, Graph, Input, Loss, Optimizer, Outputs, Trainable, cross_entropy, kl_divergence,
    mean_squared_error, soft_cross_entropy,
};
use bantam::{BoxError, Distiller, Tensor};
use std::sync::Mutex;

const ERROR: f64 = 1e-14;
/// Twenty steps, each of which may amplify what the last one rounded; Adam divides small by small.
const ERROR_AFTER_STEPS: f64 = 1e-11;
const STEPS: usize = 20;

fn labels(data: &Arrays, name: &str) -> Vec<u32> {
    data.numbers(name).iter().map(|x| *x as u32).collect()
}

fn check(data: &Arrays, name: &str, loss: &Loss<f64>) {
    assert_close(name, &[loss.0], &data.numbers(&format!("{name}.loss")), ERROR, 1.0);
    assert_close(name, loss.1.as_slice(), &data.numbers(&format!("{name}.gradient")), ERROR, 1.0);
}

#[test]
fn losses_and_gradients() {
    let data = Arrays::golden("training");
    let (z, teacher, soft) = (data.tensor("logits"), data.tensor("teacher"), data.tensor("soft"));
    check(&data, "cross_entropy", &cross_entropy(&z, &labels(&data, "labels")).unwrap());
    check(&data, "soft_cross_entropy", &soft_cross_entropy(&z, &soft).unwrap());
    check(&data, "mse", &mean_squared_error(&z, &teacher).unwrap());
    for (temperature, name) in [(1.0, "kl.1.0"), (2.0, "kl.2.0"), (4.0, "kl.4.0")] {
        check(&data, name, &kl_divergence(&z, &teacher, temperature).unwrap());
    }
}

/// A student that is its logits: it keeps the gradient that the distiller sends.
struct Logits(Tensor<f64>, Mutex<Option<Tensor<f64>>>);

impl bantam::distill::Student<f64> for Logits {
    fn forward(&mut self, _: &Input<f64>, _: &[&str]) -> Result<Outputs<f64>, BoxError> {
        Ok(Outputs { logits: self.0.clone(), taps: vec![] })
    }
    fn backward(&mut self, gradients: &Outputs<f64>) -> Result<(), BoxError> {
        *self.1.lock().unwrap() = Some(gradients.logits.clone());
        Ok(())
    }
    fn step(&mut self, _: f64) -> Result<(), BoxError> {
        Ok(())
    }
}

/// `0.3 CE + 0.7 T^2 KL` with T = 4, as the distiller minimizes it.
#[test]
fn distillation_mixes_with_the_square_of_the_temperature() {
    let data = Arrays::golden("training");
    let answers: Tensor<f64> = data.tensor("teacher");
    // The distiller shuffles: each sample is its own number, and the student's logits are all alike.
    let numbers = Tensor::new(&[6, 1], (0..6).map(f64::from).collect()).unwrap();
    let train = Examples::new(numbers, labels(&data, "labels")).unwrap();
    let order = Mutex::new(Vec::new());
    let teacher = |x: &Input<f64>| -> Result<Tensor<f64>, BoxError> {
        let picked: Vec<usize> = x.values()?.iter().map(|i| *i as usize).collect();
        let rows = picked.iter().flat_map(|i| answers.as_slice()[i * 5..(i + 1) * 5].to_vec()).collect();
        *order.lock().unwrap() = picked.clone();
        Ok(Tensor::new(&[picked.len(), 5], rows)?)
    };
    struct Shuffled<'a>(&'a Mutex<Vec<usize>>, Logits);
    impl bantam::distill::Student<f64> for Shuffled<'_> {
        fn forward(&mut self, x: &Input<f64>, taps: &[&str]) -> Result<Outputs<f64>, BoxError> {
            let picked: Vec<usize> = x.values()?.iter().map(|i| *i as usize).collect();
            let all = self.1.forward(x, taps)?.logits;
            let rows = picked.iter().flat_map(|i| all.as_slice()[i * 5..(i + 1) * 5].to_vec()).collect();
            *self.0.lock().unwrap() = picked.clone();
            Ok(Outputs { logits: Tensor::new(&[picked.len(), 5], rows)?, taps: vec![] })
        }
        fn backward(&mut self, gradients: &Outputs<f64>) -> Result<(), BoxError> {
            self.1.backward(gradients)
        }
        fn step(&mut self, rate: f64) -> Result<(), BoxError> {
            self.1.step(rate)
        }
    }
    let seen = Mutex::new(Vec::new());
    let mut student = Shuffled(&seen, Logits(data.tensor("logits"), Mutex::new(None)));
    let distiller = Distiller::new(&teacher, &train).alpha(0.3).temperature(4.0).batch_size(6);
    let training = distiller.fit(&mut student, &mut |_, _| Ok(())).unwrap();
    assert_close("loss", &[training.epochs[0].loss], &data.numbers("distillation.loss"), ERROR, 1.0);
    let gradient = student.1.1.lock().unwrap().clone().unwrap();
    let expected = data.numbers("distillation.gradient");
    let expected: Vec<f64> =
        seen.lock().unwrap().iter().flat_map(|i| expected[i * 5..(i + 1) * 5].to_vec()).collect();
    assert_close("gradient", gradient.as_slice(), &expected, ERROR, 1.0);
}

/// Steps with one batch; the losses before each.
fn train(
    student: &mut Trainable<f64>,
    x: Tensor<f64>,
    labels: &[u32],
    rate: f64,
    steps: usize,
    mut see: impl FnMut(usize, &Trainable<f64>),
) -> Vec<f64> {
    let x = Input::Values(x);
    (0..steps)
        .map(|step| {
            let out = student.forward(&x, &[]).unwrap();
            let (loss, logits) = cross_entropy(&out.logits, labels).unwrap();
            student.backward(&Outputs { logits, taps: vec![] }).unwrap();
            see(step, student);
            student.step(rate).unwrap();
            loss
        })
        .collect()
}

#[test]
fn optimizers_walk_the_same_way() {
    let data = Arrays::golden("training");
    let graph = || Graph::new().linear("fc1").tanh().linear("fc2");
    let optimizers: [(&str, f64, Optimizer); 8] = [
        ("sgd", 0.1, Optimizer::sgd().into()),
        ("sgd_decay", 0.1, Optimizer::sgd().weight_decay(0.05).into()),
        ("momentum", 0.05, Optimizer::sgd().momentum(0.9).into()),
        ("nesterov", 0.05, Optimizer::sgd().momentum(0.9).nesterov().weight_decay(0.01).into()),
        ("adam", 0.02, Optimizer::adam().into()),
        ("adam_decay", 0.02, Optimizer::adam().betas(0.8, 0.95).epsilon(1e-6).weight_decay(0.05).into()),
        ("adam_w", 0.02, Optimizer::adam_w().into()),
        ("adam_w_decay", 0.02, Optimizer::adam_w().weight_decay(0.3).into()),
    ];
    for (name, rate, optimizer) in optimizers {
        let network = data.model::<f64>("mlp", graph()).network().unwrap();
        let mut student = network.trainable(optimizer).unwrap();
        let y = labels(&data, "mlp.labels");
        let losses = train(&mut student, data.tensor("mlp.x"), &y, rate, STEPS, |_, _| {});
        assert_close(name, &losses, &data.numbers(&format!("{name}.losses")), ERROR_AFTER_STEPS, 1.0);
        for path in ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"] {
            let key = format!("{name}.{path}");
            let (ours, theirs) = (student.values(path).unwrap(), data.numbers(&key));
            assert_close(&key, ours, &theirs, ERROR_AFTER_STEPS, 0.1);
        }
    }
}

/// Batch norm in training (statistics of the batch, biased; running ones, unbiased), layer norm, gelu and
/// overlapping max pools: gradients of all weights, and where three steps lead.
#[test]
fn a_convolutional_network_learns_alike() {
    let data = Arrays::golden("training");
    let graph = Graph::new()
        .conv2d("conv", Conv2d::default().stride(2).padding(1).without_bias())
        .batch_norm("bn")
        .gelu()
        .max_pool(bantam::nn::Pool::new(2).stride(1))
        .flatten()
        .layer_norm("ln")
        .linear("fc");
    let network = data.model::<f64>("cnn", graph).network().unwrap();
    let mut student = network.trainable(Optimizer::sgd().into()).unwrap();
    let paths = ["conv.weight", "bn.weight", "bn.bias", "ln.weight", "ln.bias", "fc.weight", "fc.bias"];
    let y = labels(&data, "cnn.labels");
    let losses = train(&mut student, data.tensor("cnn.x"), &y, 0.1, 3, |step, student| {
        for path in paths.iter().filter(|_| step == 0) {
            let key = format!("cnn.gradient.{path}");
            let gradient = student.gradient(path).unwrap();
            assert_close(&key, &gradient, &data.numbers(&key), 1e-13, 0.1);
        }
    });
    assert_close("losses", &losses, &data.numbers("cnn.losses"), ERROR_AFTER_STEPS, 1.0);
    let trained = student.into_weights().unwrap();
    assert_eq!(trained.len(), paths.len() + 2);
    for (name, weight) in trained {
        let key = format!("cnn.after.{name}");
        assert_close(
            &key,
            weight.to_dense().unwrap().as_slice(),
            &data.numbers(&key),
            ERROR_AFTER_STEPS,
            0.1,
        );
    }
}
