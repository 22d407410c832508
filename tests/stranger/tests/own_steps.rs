//! Steps of one's own: together with bantam's, nested, streamed, on one tensor, and what happens to wrong ones.

use bantam::{
    AffineQuantizer, BoxError, Error, Fault, Float, LeftAlone, MagnitudePruner, Model, Pipeline, Refusal,
    Tensor, Weight, WeightCompressor,
};
use stranger::{ClipOutliers, Equalize, Forgetful, mlp};

type Test = Result<(), BoxError>;

fn lone(values: &[f32]) -> Result<Weight, Error> {
    Ok(Weight::from(Tensor::new(&[1, values.len()], values.to_vec())?))
}

#[test]
fn a_weight_compressor_works_on_a_single_tensor() -> Test {
    let clipped = ClipOutliers::at(1.0).apply(lone(&[1.0, -1.0, 1.0, 5.0])?)?; // root mean square: sqrt(7)
    assert_eq!(clipped.to_dense()?.as_slice(), [1.0, -1.0, 1.0, 7.0_f32.sqrt()]);

    let wide = ClipOutliers::at(1.0).apply(Tensor::new(&[1, 4], vec![1.0_f64, -1.0, 1.0, 5.0])?)?;
    assert_eq!(wide.to_dense()?.as_slice()[3], 7.0_f64.sqrt());
    Ok(())
}

#[test]
fn own_and_given_steps_nest() -> Test {
    fn run<T: Float>() -> Result<(), BoxError> {
        let model: Model<T> = mlp(&[16, 32, 32, 4], 1)?;
        let soften = Pipeline::default().then_each(ClipOutliers::at(1.5)).then(Equalize);
        let deploy = Pipeline::default().prune(MagnitudePruner::sparsity(0.5)).then(soften).quantize(8);
        let small = deploy.run(&model)?;

        let steps: Vec<&str> = small.report.steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(steps, ["prune", "clip", "equalize", "quantize"]);
        for name in ["fc1.weight", "fc2.weight", "fc3.weight"] {
            let weight = small.model.weight(name).ok_or(name)?;
            assert_eq!(weight.form().to_string(), "pruned+quantized");
            assert_eq!(weight.sparsity(), 0.5);
        }
        Ok(())
    }
    run::<f32>()?;
    run::<f64>()
}

#[test]
fn streaming_gives_the_bytes_of_run_and_save() -> Test {
    let folder = tempfile::tempdir()?;
    let (large, whole, stream) =
        (folder.path().join("large"), folder.path().join("whole"), folder.path().join("stream"));
    mlp::<f32>(&[16, 32, 32, 4], 2)?.save(&large)?;

    let each = Pipeline::new()
        .then_each(ClipOutliers::at(1.5).only("fc?.weight"))
        .then(Pipeline::new().prune(MagnitudePruner::sparsity(0.6).global()))
        .then_each(ClipOutliers::at(2.0))
        .quantize(AffineQuantizer::bits(4).group(16));
    let model = Model::open(&large)?;
    each.run(&model)?.model.save(&whole)?;
    let report = each.run_to(&model, &stream)?;
    assert!(report.ratio() > 4.0);
    assert_eq!(std::fs::read(whole)?, std::fs::read(&stream)?);

    // A step that looks at the whole model says so before any work.
    let error =
        Pipeline::new().prune(0.1).then(Equalize).run_to(&model, folder.path().join("none")).unwrap_err();
    assert!(matches!(&error, Error::Plan { step, why: Refusal::NotStreamable, .. } if step == "equalize"));
    assert!(!folder.path().join("none").exists());
    Ok(())
}

#[test]
fn a_mask_that_is_dropped_without_a_plan_is_caught() -> Test {
    let model: Model = mlp(&[8, 16, 3], 0)?;
    let forgetful = Forgetful { planned: false };
    assert!(Pipeline::new().then(forgetful).run(&model).is_ok(), "there is no mask to drop");

    let error = Pipeline::new().prune(0.1).then(forgetful).run(&model).unwrap_err();
    let Error::Weight { weight, fault: Fault::Unplanned { step, what } } = &error else { panic!("{error}") };
    assert_eq!((weight.as_str(), step.as_str()), ("fc1.weight", "forgetful"));
    assert_eq!(*what, "brought pruned entries back");

    // So is that of a model that was pruned before it came.
    let pruned = Pipeline::new().prune(0.1).run(&model)?.model;
    let nested = Pipeline::new().then(Pipeline::new().then(forgetful));
    let error = nested.run(&pruned).unwrap_err();
    assert!(matches!(error, Error::Weight { fault: Fault::Unplanned { .. }, .. }));

    // Saying so makes it right.
    let planned = Pipeline::new().prune(0.1).then(Forgetful { planned: true });
    assert!(!planned.plan(&model)?.weights()[0].form.pruned);
    assert_eq!(planned.run(&model)?.model.weight("fc1.weight").ok_or("no weight")?.sparsity(), 0.0);
    Ok(())
}

#[test]
fn settings_and_orders_are_refused_before_any_work() -> Test {
    let model: Model = mlp(&[8, 16, 3], 0)?;

    let error = Pipeline::new().prune(0.1).then_each(ClipOutliers::at(0.5)).run(&model).unwrap_err();
    assert_eq!(error.to_string(), "step 2 (clip): sigmas = 0.5: must be finite and at least 1");

    let error = Pipeline::new().quantize(8).then(Equalize).plan(&model).unwrap_err();
    assert!(matches!(&error, Error::Plan { index: 1, why: Refusal::TooLate { done: "quantized", .. }, .. }));

    let error = Pipeline::new().then(Equalize).run(lone(&[1.0, 2.0])?).unwrap_err();
    assert!(matches!(error, Error::Plan { why: Refusal::NoGraph, .. }));

    let error = Pipeline::new().then_each(ClipOutliers::at(2.0).only("conv*")).run(&model).unwrap_err();
    assert!(
        matches!(&error, Error::Plan { weight, why: Refusal::SelectsNothing, .. } if weight == "conv*"),
        "{error}"
    );
    Ok(())
}

#[test]
fn a_weight_left_alone_is_in_the_report_and_an_error_where_strict() -> Test {
    let model: Model = mlp(&[8, 16, 3], 0)?;
    let report = Pipeline::new().then_each(ClipOutliers::at(20.0)).run(&model)?.report;
    let left = &report.weight("fc1.weight").ok_or("no row")?.left;
    assert_eq!((left[0].step.as_str(), left[0].why), ("clip", LeftAlone::Already));
    let bias = &report.weight("fc1.bias").ok_or("no row")?.left;
    assert_eq!(bias[0].why, LeftAlone::NotSelected);

    let error = Pipeline::new().strict().then_each(ClipOutliers::at(20.0)).run(&model).unwrap_err();
    assert!(matches!(error, Error::Left { why: LeftAlone::Already, .. }));
    Ok(())
}
