//! A pipeline from outside: progress, cancelling, the dry run, recipes, the report.

use bantam::distill::FineTuner;
use bantam::{
    AffineQuantizer, BoxError, Error, LowRankFactorizer, MagnitudePruner, Model, Pipeline, Progress, Recipe,
    Refusal,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use stranger::{Blobs, ClipOutliers, Equalize, mlp};

type Test = Result<(), BoxError>;

#[test]
fn progress_names_every_step_and_comes_to_its_end() -> Test {
    let seen = Mutex::new(Vec::new());
    let note = |p: &Progress<'_>| {
        assert!(p.done <= p.of && p.index < p.steps);
        seen.lock().unwrap().push((p.index, p.step.to_owned(), p.done, p.of));
    };
    let model: Model = mlp(&[8, 16, 16, 3], 0)?;
    Pipeline::new().on_progress(note).prune(0.1).then(Equalize).quantize(8).run(&model)?;

    let seen = seen.into_inner()?;
    for (index, step) in ["prune", "equalize", "quantize"].into_iter().enumerate() {
        let mut of_step = seen.iter().filter(|(i, name, ..)| (*i, name.as_str()) == (index, step));
        assert!(of_step.any(|(.., done, of)| done == of), "{step}: {seen:?}");
    }
    Ok(())
}

#[test]
fn another_thread_cancels() -> Test {
    let (model, data) =
        (mlp::<f32>(&[8, 16, 3], 0)?, Blobs { samples: 64, features: 8, classes: 3, seed: 0 });
    let stop = Arc::new(AtomicBool::new(false));
    let (started, first) = mpsc::sync_channel(1);
    std::thread::scope(|scope| {
        let flag = Arc::clone(&stop);
        scope.spawn(move || first.recv().map(|()| flag.store(true, Ordering::Relaxed)));
        let error = Pipeline::new()
            .cancel_when(Arc::clone(&stop))
            .on_progress(move |_| started.try_send(()).unwrap_or_default())
            .finetune(FineTuner::new(&data).epochs(100_000_000)) // forever, as far as a test is concerned
            .run(&model)
            .unwrap_err();
        assert!(matches!(error, Error::Cancelled), "{error}");
    });
    Ok(())
}

#[test]
fn the_dry_run_says_what_will_be() -> Test {
    let model: Model = mlp(&[32, 64, 4], 0)?;
    let pipeline = Pipeline::new()
        .factorize(LowRankFactorizer::rank(4).only("fc1.weight"))
        .prune(MagnitudePruner::sparsity(0.5))
        .quantize(8);
    let outline = pipeline.plan(&model)?;
    let forms: Vec<String> =
        outline.weights().iter().map(|w| format!("{} {}", w.info.name, w.form)).collect();
    assert_eq!(
        forms,
        [
            "fc1.weight factored+pruned+quantized",
            "fc1.bias dense",
            "fc2.weight pruned+quantized",
            "fc2.bias dense"
        ]
    );
    assert_eq!(outline.weights()[0].matrices, [Some([64, 4]), Some([4, 32])]);

    let error = Pipeline::new().prune(0.1).factorize(4).plan(&model).unwrap_err();
    assert!(matches!(error, Error::Plan { index: 1, why: Refusal::TooLate { .. }, .. }), "{error}");
    Ok(())
}

#[test]
fn recipes_go_round_in_both_languages() -> Test {
    let inner = Pipeline::new().prune(MagnitudePruner::n_of_m(2, 4).except("head.*"));
    let pipeline = Pipeline::new()
        .factorize(LowRankFactorizer::energy(0.9).only("fc1.*"))
        .then(inner)
        .quantize(AffineQuantizer::bits(4).group(32).asymmetric());
    let recipe = pipeline.recipe()?;
    assert_eq!(Recipe::from_toml(&recipe.to_toml()?)?, recipe);
    assert_eq!(Recipe::from_json(&recipe.to_json())?, recipe);

    // By hand, and it does the same.
    let text = "
        [[steps]]
        prune = { sparsity = 0.5 }
        [[steps]]
        quantize = { bits = 4, per_channel = true }";
    let by_hand: Pipeline = Recipe::from_toml(text)?.into();
    let by_code = Pipeline::new()
        .prune(MagnitudePruner::sparsity(0.5))
        .quantize(AffineQuantizer::bits(4).per_channel());
    let model: Model = mlp(&[16, 16, 4], 0)?;
    assert_eq!(by_hand.run(&model)?.model, by_code.run(&model)?.model);

    let error = Recipe::from_toml("[[steps]]\nquantise = { bits = 4 }").unwrap_err().to_string();
    assert!(error.contains("unknown variant `quantise`") && error.contains("line 2"), "{error}");
    let error = Pipeline::new().prune(0.1).then_each(ClipOutliers::at(2.0)).recipe().unwrap_err();
    assert!(matches!(&error, Error::Plan { index: 1, step, .. } if step == "clip"), "{error}");
    Ok(())
}

#[test]
fn the_report_is_json() -> Test {
    let model: Model = mlp(&[16, 32, 4], 0)?;
    let mut small = Pipeline::new().then_each(ClipOutliers::at(1.5)).quantize(8).run(&model)?;
    small.measure(&model)?;
    let json: serde_json::Value = serde_json::from_str(&small.report.to_json())?;
    assert_eq!(json["steps"][0]["name"], "clip");
    assert_eq!(json["weights"][0]["name"], "fc1.weight");
    assert_eq!(json["weights"][0]["form"], "quantized");
    assert!(json["weights"][0]["error"]["relative"].as_f64().ok_or("no error")? > 0.0);
    assert_eq!(json["weights"][1]["error"]["sqnr"], serde_json::Value::Null, "an untouched bias: infinite");
    assert_eq!(json["bytes_before"], model.stored_bytes());
    assert_eq!(json["bytes_after"], small.model.stored_bytes());
    assert_eq!(serde_json::to_value(&small.report)?, json);
    assert!(small.report.to_string().contains("fc1.weight"));
    Ok(())
}
