//! Own data, teachers and students; double precision from file to file; a network behind many threads.

use bantam::distill::{Distiller, FineTuner};
use bantam::nn::{Dataset, Input, Network};
use bantam::{
    Activations, AffineQuantizer, BoxError, Calibrator, DType, Error, Float, MagnitudePruner, Model,
    Pipeline, Tensor,
};
use std::error::Error as _;
use std::ops::ControlFlow;
use std::sync::Arc;
use stranger::{Blobs, ClipOutliers, Equalize, SoftmaxRegression, mlp};

type Test = Result<(), BoxError>;

const TRAIN: Blobs = Blobs { samples: 600, features: 8, classes: 3, seed: 1 };
const TEST: Blobs = Blobs { seed: 2, samples: 300, ..TRAIN };

/// The first samples of the test data.
fn input<T: Float>(samples: usize) -> Result<Input<T>, BoxError> {
    Ok(TEST.batch(&(0..samples).collect::<Vec<_>>())?.input)
}

/// A network that knows the blobs.
fn trained<T: Float>() -> Result<Model<T>, BoxError> {
    let tuner = FineTuner::new(&TRAIN).epochs(8).batch_size(32).rate(1e-2);
    Ok(Pipeline::default().finetune(tuner).run(mlp::<T>(&[8, 32, 32, 3], 3)?)?.model)
}

/// The logits of a nearest-centre rule that knows where the blobs are.
fn centres() -> Result<Tensor<f32>, BoxError> {
    let wide = Blobs { samples: 900, seed: 3, ..TRAIN };
    let mut sums = vec![0.0; 3 * 8];
    let batch: bantam::nn::Batch<f32> = wide.batch(&(0..900).collect::<Vec<_>>())?;
    for (i, x) in batch.input.values()?.as_slice().chunks(8).enumerate() {
        sums[i % 3 * 8..][..8].iter_mut().zip(x).for_each(|(sum, x)| *sum += x / 300.0);
    }
    Ok(Tensor::new(&[3, 8], sums)?)
}

#[test]
fn a_closure_teaches_a_network() -> Test {
    let centres = centres()?;
    let teacher = |input: &Input<f32>| -> Result<Tensor<f32>, BoxError> {
        let rows = input.values()?.as_slice().chunks(8);
        let distance = |x: &[f32], c: &[f32]| x.iter().zip(c).map(|(x, c)| (x - c).powi(2)).sum::<f32>();
        let logits = rows.flat_map(|x| centres.as_slice().chunks(8).map(move |c| -4.0 * distance(x, c)));
        Ok(Tensor::new(&[input.samples(), 3], logits.collect())?)
    };
    let distiller = Distiller::new(&teacher, &TRAIN).alpha(0.0).cache_logits();
    let pupil = Pipeline::new()
        .distill(distiller.epochs(10).batch_size(32).rate(1e-2).student(mlp(&[8, 12, 3], 5)?))
        .run(mlp::<f32>(&[8, 32, 32, 3], 3)?)?;
    assert_eq!(pupil.model.weight("fc1.weight").ok_or("no weight")?.shape(), [12, 8]);
    let accuracy = pupil.model.network()?.accuracy(&TEST)?;
    assert!(accuracy > 0.9, "{accuracy}");
    Ok(())
}

#[test]
fn what_a_failing_teacher_says_comes_through() -> Test {
    let teacher =
        |_: &Input<f32>| -> Result<Tensor<f32>, BoxError> { Err("the teacher is out of credit".into()) };
    let pipeline = Pipeline::new().distill(Distiller::new(&teacher, &TRAIN));
    let error = pipeline.run(mlp::<f32>(&[8, 4, 3], 0)?).unwrap_err();
    assert!(matches!(error, Error::Other(_)));
    assert_eq!(error.to_string(), "the teacher is out of credit");
    assert!(error.source().is_none(), "it is not said twice");
    Ok(())
}

#[test]
fn a_student_of_another_runtime_learns_from_a_network() -> Test {
    let teacher = trained::<f32>()?.network()?;
    let mut student = SoftmaxRegression::new(8, 3);
    let training = Distiller::new(&teacher, &TRAIN)
        .temperature(2.0)
        .epochs(50)
        .rate(0.5)
        .validate_on(&TEST)
        .after_step(|step, student| {
            assert!(student.as_trainable().is_none());
            Ok(if step.epoch == 20 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })
        .fit(&mut student, &mut |_done, _of| Ok(()))?;
    assert_eq!(training.epochs.len(), 21, "stopped by the hook");
    let accuracy = training.epochs.last().and_then(|epoch| epoch.validation).ok_or("not validated")?;
    assert!(accuracy > 0.9, "{accuracy}");
    Ok(())
}

#[test]
fn double_precision_from_file_to_file() -> Test {
    let folder = tempfile::tempdir()?;
    let (before, after) = (folder.path().join("before"), folder.path().join("after"));
    trained::<f64>()?.save(&before)?;

    let model = Model::<f64>::open_as(&before)?;
    assert_eq!(model.weight("fc1.weight").ok_or("no weight")?.leaves()[0].float_dtype(), DType::F64);
    let small = Pipeline::<f64>::default()
        .then(Equalize)
        .prune(MagnitudePruner::sparsity(0.5))
        .then_each(ClipOutliers::at(3.0))
        .finetune(FineTuner::new(&TRAIN).epochs(2).rate(1e-3))
        .quantize(AffineQuantizer::bits(8).per_channel())
        .run(&model)?;
    small.model.save(&after)?;

    let again = Model::<f64>::open_as(&after)?;
    assert_eq!(again, small.model);
    let network = again.network()?;
    assert!(network.accuracy(&TEST)? > 0.9);
    // The same file, computed in single precision.
    let single = Model::open(&after)?.network()?.forward(&input(20)?)?;
    for (double, single) in network.forward(&input(20)?)?.iter().zip(single.iter()) {
        assert!((double - f64::from(*single)).abs() < 1e-4);
    }
    Ok(())
}

#[test]
fn threads_share_a_network() -> Test {
    let small = Pipeline::new().prune(MagnitudePruner::sparsity(0.5)).quantize(8).run(trained()?)?;
    let network: Arc<Network> = Arc::new(small.model.network()?);
    drop(small);
    let expected = network.forward(&input(64)?)?;
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let network = Arc::clone(&network);
            std::thread::spawn(move || -> Result<_, BoxError> {
                (0..20).map(|_| Ok(network.forward(&input(64)?)?)).collect::<Result<Vec<_>, BoxError>>()
            })
        })
        .collect();
    for thread in threads {
        for logits in thread.join().map_err(|_| "a thread panicked")?? {
            assert_eq!(logits, expected);
        }
    }
    Ok(())
}

#[test]
fn integer_activations_are_close_to_float() -> Test {
    let model = trained::<f32>()?;
    let quantizer = AffineQuantizer::bits(8).per_channel();
    let float = Pipeline::new().quantize(quantizer.clone()).run(&model)?.model;
    let dynamic = Pipeline::new().quantize(quantizer.activations(Activations::Int8)).run(&model)?.model;
    let fixed = Pipeline::new().then(Calibrator::new(&TRAIN)).run(&float)?.model;
    let coded = fixed.weight("fc2.weight").ok_or("no weight")?.activations();
    assert!(
        matches!(coded, Activations::Int8Static { low: 0.0, high } if high > 0.0),
        "after a ReLU: {coded:?}"
    );

    let expected = float.network()?.forward(&input(100)?)?;
    let largest = expected.iter().fold(0.0_f32, |a, x| a.max(x.abs()));
    for integers in [dynamic, fixed] {
        let network = integers.network()?;
        let logits = network.forward(&input(100)?)?;
        for (x, y) in expected.iter().zip(logits.iter()) {
            assert!((x - y).abs() < 0.05 * largest, "{x} and {y}");
        }
        assert!(network.accuracy(&TEST)? > 0.9);
    }
    Ok(())
}
