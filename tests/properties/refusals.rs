//! Statements 10, 11 and 12: what is refused, and that it says so.

use crate::cases::*;
use bantam::{
    AffineQuantizer, CodebookQuantizer, Compressor, Error, Fault, Float, LeftAlone, Log, LowRankFactorizer,
    MagnitudePruner, Model, Pipeline, Refusal, Result, Step, Tensor, Weight,
};
use proptest::prelude::*;

/// The first step that may not follow those before it, for a weight of this shape.
fn illegal(steps: &[AnyStep], case: &Case) -> Option<usize> {
    let (mut factored, mut coded, mut pruned) = (false, false, false);
    for (i, step) in steps.iter().enumerate() {
        match step {
            AnyStep::Prune(_) => pruned = true,
            AnyStep::Quantize(_) | AnyStep::Codebook(_) if coded && !factored => return Some(i),
            AnyStep::Quantize(_) | AnyStep::Codebook(_) => coded = true,
            AnyStep::Factorize(..) if factored || coded || pruned => return Some(i),
            AnyStep::Factorize(..) => {
                // What the dry run says of a single step: it is factored unless it breaks even.
                let outline = pipeline::<f32>(&steps[i..=i]).plan(&case.tensor().into()).ok()?;
                factored = outline.weights()[0].form.factored;
                coded = outline.weights()[0].form.quantized;
            }
        }
    }
    None
}

fn with_bad_entry<T: Float>(case: &Case, at: usize, bad: T) -> (Model<T>, usize) {
    let mut tensor = case.tensor::<T>();
    let at = at % tensor.len();
    tensor.as_mut_slice()[at] = bad;
    let mut model = model::<T>(&[Case { look: Look::Distinct, ..case.clone() }]);
    model.push("bad.weight", bantam::Kind::Linear, tensor.into()).unwrap();
    (model, at)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn statement_10_nan_and_infinity_are_errors_that_name_weight_and_index(
        case in any_case(), step in any_step(), at in any::<usize>(), which in 0_usize..3, stream in any::<bool>(),
    ) {
        prop_assume!(case.shape.iter().product::<usize>() > 0);
        let (model, at) = with_bad_entry::<f32>(&case, at, [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][which]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.safetensors");
        std::fs::write(&path, b"old").unwrap();
        let steps = pipeline::<f32>(std::slice::from_ref(&step));
        let result = match stream {
            true => steps.run_to(&model, &path).map(|report| (None, report)),
            false => steps.run(&model).map(|c| (Some(c.model), c.report)),
        };
        match result {
            Err(Error::Weight { weight, fault: Fault::NotFinite { index, .. } }) => {
                prop_assert_eq!(&*weight, "bad.weight");
                prop_assert_eq!(index, at);
            }
            Err(e) => prop_assert!(does_not_fit(&e), "{}", e),
            // Not touched: it says so, and nothing was made of the value.
            Ok((_, report)) => {
                let row = report.weight("bad.weight").unwrap();
                let why = row.left.first().map(|l| l.why);
                prop_assert!(matches!(why, Some(LeftAlone::BreakEven | LeftAlone::NotAMatrix)), "{}", report);
                return Ok(());
            }
        }
        prop_assert_eq!(std::fs::read(&path).unwrap(), b"old");
        prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn statement_11_no_weight_is_skipped_silently(
        cases in prop::collection::vec(any_case(), 1..4), steps in steps(),
    ) {
        let before: Model = model(&cases);
        let Some(after) = if_it_fits(pipeline::<f32>(&steps).run(&before)) else { return Ok(()) };
        prop_assert_eq!(after.report.weights.len(), before.len());
        let left = |w: &bantam::report::WeightReport| w.left.iter().any(|l| l.why != LeftAlone::NotSelected);
        let any_left = after.report.weights.iter().any(left);
        match pipeline::<f32>(&steps).strict().run(&before) {
            Ok(_) => prop_assert!(!any_left, "{}", after.report),
            Err(Error::Left { weight, why, .. }) => {
                let row = after.report.weight(&weight).unwrap();
                prop_assert!(row.left.iter().any(|l| l.why == why));
            }
            Err(Error::Plan { why: Refusal::BreakEven { .. }, weight, .. }) => {
                let row = after.report.weight(&weight).unwrap();
                prop_assert!(row.left.iter().any(|l| matches!(l.why, LeftAlone::BreakEven | LeftAlone::Empty)));
            }
            Err(e) => prop_assert!(false, "{}", e),
        }
        // Whoever was selected and is not left alone has been worked on.
        for step in &steps {
            let Some(one) = if_it_fits(pipeline::<f32>(std::slice::from_ref(step)).run(&before)) else { continue };
            for row in one.report.weights.iter().filter(|w| w.left.is_empty() && w.name.ends_with("weight")) {
                let takes = before.entries().any(|(info, _)| *info.name == *row.name && info.kind.is_compressible());
                match step {
                    AnyStep::Quantize(_) if takes => prop_assert!(row.form.contains("quantized"), "{}", one.report),
                    AnyStep::Codebook(_) if takes => prop_assert!(row.form.contains("codebook"), "{}", one.report),
                    AnyStep::Factorize(..) if takes => prop_assert!(row.form.contains("factored"), "{}", one.report),
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn statement_12_orders_that_undo_are_refused_before_any_work(
        case in any_case(), steps in prop::collection::vec(any_step(), 1..5),
    ) {
        // A value that any work would stumble over.
        let mut tensor = case.tensor::<f32>();
        tensor.as_mut_slice().iter_mut().for_each(|x| *x = f32::NAN);
        let result = pipeline::<f32>(&steps).run(tensor);
        let refused = |e: &Error| match e {
            Error::Plan { index, step, weight, why: Refusal::TooLate { .. } | Refusal::Already(_) } => {
                assert!(["quantize", "codebook", "factorize"].contains(&&**step));
                assert_eq!(weight, "weight");
                assert!(e.to_string().contains(&format!("step {}", index + 1)), "{e}");
                Some(*index)
            }
            _ => None,
        };
        let fits = !result.as_ref().is_err_and(does_not_fit);
        if fits {
            prop_assert_eq!(result.as_ref().err().and_then(refused), illegal(&steps, &case), "{:?}", result);
        }
    }
}

#[test]
fn statement_11_strict_reaches_every_reason() {
    let lone = |shape: &[usize]| Tensor::<f32>::zeros(shape);
    let left = |p: Pipeline<'_>, t: Tensor<f32>| match p.strict().run(t) {
        Err(Error::Left { why, .. }) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(left(Pipeline::new().prune(0.1), lone(&[0, 3])), LeftAlone::Empty);
    let global = MagnitudePruner::sparsity(0.5).global();
    assert_eq!(left(Pipeline::new().prune(global), lone(&[0, 3])), LeftAlone::Empty);
    assert_eq!(left(Pipeline::new().quantize(8), lone(&[3, 0])), LeftAlone::Empty);
    assert_eq!(left(Pipeline::new().quantize(8), lone(&[1])), LeftAlone::WouldGrow);
    assert_eq!(left(Pipeline::new().factorize(1_usize), lone(&[64])), LeftAlone::NotAMatrix);
}

#[test]
fn statement_12_the_error_names_the_order_to_use() {
    let tensor = Tensor::new(&[32, 32], (0..1024).map(|i| i as f32).collect()).unwrap();
    let text = |p: Pipeline<'_>| p.run(tensor.clone()).unwrap_err().to_string();
    let pruned = text(Pipeline::new().prune(0.5).factorize(2_usize));
    assert_eq!(
        pruned,
        "step 2 (factorize) on `weight`: the weight is already pruned, which factorize would undo; put factorize before that"
    );
    assert!(text(Pipeline::new().quantize(8).factorize(2_usize)).contains("already quantized"));
    assert!(text(Pipeline::new().codebook(16).factorize(2_usize)).contains("already quantized"));
    assert!(text(Pipeline::new().codebook(16).quantize(8)).contains("step 2 (quantize) on `weight`"));
    assert!(text(Pipeline::new().quantize(8).codebook(16)).contains("step 2 (codebook) on `weight`"));
    assert!(text(Pipeline::new().quantize(8).quantize(4)).contains("step 2 (quantize) on `weight`"));
    assert!(text(Pipeline::new().factorize(2_usize).factorize(2_usize)).contains("already factored"));
    // Also across runs and files.
    let model = Pipeline::new().prune(500.0).run(tensor).unwrap().model;
    let again = Model::from_bytes(model.to_bytes().unwrap()).unwrap();
    let error = Pipeline::new().factorize(2_usize).run(again).unwrap_err().to_string();
    assert!(error.contains("already pruned"), "{error}");
}

#[test]
fn settings_are_checked_before_anything_else() {
    let tensor = || Tensor::new(&[2, 2], vec![f32::NAN; 4]).unwrap();
    let bad: Vec<Pipeline<'_>> = vec![
        Pipeline::new().prune(-0.1),
        Pipeline::new().prune(f64::NAN),
        Pipeline::new().prune(MagnitudePruner::sparsity(1.1)),
        Pipeline::new().prune(MagnitudePruner::n_of_m(4, 4)),
        Pipeline::new().prune(MagnitudePruner::n_of_m(0, 0)),
        Pipeline::new().prune(MagnitudePruner::channels(f64::INFINITY)),
        Pipeline::new().prune(MagnitudePruner::channels(0.5).global()),
        Pipeline::new().prune(MagnitudePruner::threshold(0.5).global()),
        Pipeline::new().quantize(0),
        Pipeline::new().quantize(9),
        Pipeline::new().codebook(1),
        Pipeline::new().codebook(257),
        Pipeline::new().codebook(CodebookQuantizer::bits(0)),
        Pipeline::new().codebook(CodebookQuantizer::bits(9)),
        Pipeline::new().codebook(CodebookQuantizer::bits(255)),
        Pipeline::new().quantize(AffineQuantizer::bits(8).group(0)),
        Pipeline::new().factorize(0_usize),
        Pipeline::new().factorize(LowRankFactorizer::energy(0.0)),
        Pipeline::new().factorize(LowRankFactorizer::parameters(1.5)),
        Pipeline::new().factorize(LowRankFactorizer::rank(1).residual(AffineQuantizer::bits(0))),
        Pipeline::new().factorize(LowRankFactorizer::rank(1).residual(AffineQuantizer::bits(4).only("fc*"))),
    ];
    for pipeline in bad {
        let error = pipeline.run(tensor()).unwrap_err();
        assert!(matches!(error, Error::Setting { index: 0, .. }), "{error}");
        assert!(error.to_string().contains("must be"), "{error}");
    }
}

/// A user's step that makes everything dense again.
#[derive(Debug)]
struct Densify;

impl Step for Densify {
    fn name(&self) -> &str {
        "densify"
    }
}

impl Compressor for Densify {
    fn compress(&self, model: &mut Model, _: &Log<'_>) -> Result<()> {
        let names: Vec<String> = model.weights().map(|(n, _)| n.to_owned()).collect();
        for name in names {
            let dense = model.weight(&name).unwrap().to_dense()?;
            model.set(&name, Weight::from(dense))?;
        }
        Ok(())
    }
}

#[test]
fn statement_12_a_step_that_drops_a_mask_unplanned_is_caught() {
    let tensor = Tensor::new(&[4, 4], (0..16).map(|i| i as f32).collect()).unwrap();
    let error = Pipeline::new().prune(8.0).then(Densify).run(tensor).unwrap_err();
    assert!(matches!(&error, Error::Weight { fault: Fault::Unplanned { .. }, .. }), "{error}");
    assert!(error.to_string().contains("densify"), "{error}");
}

/// A user's step that does `0` to the first weight; its plan says nothing.
struct Secretly(fn(&mut Model) -> Result<()>);

impl std::fmt::Debug for Secretly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secretly")
    }
}

impl Step for Secretly {
    fn name(&self) -> &str {
        "secretly"
    }
}

impl Compressor for Secretly {
    fn compress(&self, model: &mut Model, _: &Log<'_>) -> Result<()> {
        (self.0)(model)
    }
}

#[test]
fn what_a_step_does_beyond_its_plan_is_caught_and_named() {
    fn set(model: &mut Model, weight: Weight) -> Result<()> {
        model.set("weight", weight)
    }
    fn get(model: &Model) -> Weight {
        model.weight("weight").unwrap().clone()
    }
    use bantam::WeightCompressor;
    type Secret = fn(&mut Model) -> Result<()>;
    let densify: Secret = |m| set(m, get(m).to_dense()?.into());
    let cases: [(Pipeline<'_>, Secret, &str); 10] = [
        (Pipeline::new().prune(8.0), densify, "brought pruned entries back"),
        (Pipeline::new().quantize(8), densify, "dropped its codes"),
        (Pipeline::new().factorize(1_usize), densify, "multiplied its factors out"),
        (Pipeline::new(), |m| set(m, Tensor::zeros(&[2, 2]).into()), "changed its shape"),
        (Pipeline::new(), |m| set(m, MagnitudePruner::threshold(8.0).apply(get(m))?), "pruned it"),
        (Pipeline::new(), |m| set(m, AffineQuantizer::bits(8).apply(get(m))?), "quantized it"),
        (Pipeline::new(), |m| set(m, LowRankFactorizer::rank(1).apply(get(m))?), "factored it"),
        (
            Pipeline::new().quantize(AffineQuantizer::bits(8).activations(bantam::Activations::Int8)),
            |m| set(m, get(m).with_activations(bantam::Activations::Float)),
            "changed how its inputs are coded",
        ),
        (
            Pipeline::new(),
            |m| m.push("more", bantam::Kind::Linear, Tensor::zeros(&[1, 1]).into()),
            "added it",
        ),
        (
            Pipeline::new(),
            |m| {
                *m = Model::default();
                Ok(())
            },
            "removed it",
        ),
    ];
    for (before, secret, expected) in cases {
        let tensor = Tensor::new(&[4, 4], (0..16).map(|i| (i * i % 23) as f32).collect()).unwrap();
        let error = before.then(Secretly(secret)).run(tensor).unwrap_err();
        let Error::Weight { fault: Fault::Unplanned { step, what }, .. } = &error else { panic!("{error}") };
        assert_eq!((step.as_str(), *what), ("secretly", expected));
    }
}

#[test]
fn the_settings_of_an_inner_pipeline_hold_for_its_steps() {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    let model =
        || Model::from_tensors([("w", Tensor::zeros(&[2, 0])), ("v", Tensor::zeros(&[2, 2]))]).unwrap();
    // An empty weight is left alone.
    assert!(Pipeline::new().prune(0.1).run(model()).is_ok());
    let strict = Pipeline::new().then(Pipeline::new().strict().prune(0.1));
    assert!(matches!(strict.run(model()), Err(Error::Left { .. })));
    let outer_only = Pipeline::new().strict().then(Pipeline::new().prune(0.1));
    assert!(matches!(outer_only.run(model()), Err(Error::Left { .. })));

    let stop = std::sync::Arc::new(AtomicBool::new(true));
    let cancelled = Pipeline::new().prune(0.1).then(Pipeline::new().cancel_when(stop.clone()).quantize(8));
    assert!(matches!(cancelled.run(model()), Err(Error::Cancelled)));
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(cancelled.run_to(model(), folder.path().join("m")), Err(Error::Cancelled)));
    stop.store(false, Ordering::Relaxed);
    assert!(cancelled.run(model()).is_ok());

    let (inner, outer) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let heard = |at: &AtomicUsize| {
        at.fetch_add(1, Ordering::Relaxed);
    };
    Pipeline::new()
        .on_progress(|_| heard(&outer))
        .prune(0.1)
        .then(
            Pipeline::new()
                .on_progress(|p| {
                    assert_eq!((p.step, p.index, p.steps), ("quantize", 1, 2));
                    heard(&inner);
                })
                .quantize(8),
        )
        .run(model())
        .unwrap();
    assert_eq!((inner.into_inner(), outer.into_inner()), (2, 4));
}

#[test]
fn a_range_of_activations_that_cannot_be_opened_is_not_saved() {
    use bantam::{Activations, Layout};
    let model = |low, high| {
        let weight = Weight::from(Tensor::new(&[2, 2], vec![1.0_f32; 4]).unwrap());
        let mut model = Model::default();
        let weight = weight.with_activations(Activations::Int8Static { low, high });
        model.push("a.weight", bantam::Kind::Linear, weight).unwrap();
        model
    };
    for layout in [Layout::Open, Layout::Archive] {
        let good = model(-1.0, 0.0);
        assert_eq!(Model::from_bytes(good.to_bytes_with(layout).unwrap()).unwrap(), good);
        for (low, high) in
            [(1.0, 2.0), (-2.0, -1.0), (f64::NAN, 1.0), (-1.0, f64::NAN), (-1.0, f64::INFINITY)]
        {
            let error = model(low, high).to_bytes_with(layout).unwrap_err().to_string();
            assert!(error.contains("a.weight") && error.contains("not a range around 0"), "{error}");
        }
    }
}

#[test]
fn a_duplicate_name_is_refused_and_leaves_the_model_whole() {
    let mut model = Model::from_tensors([("a", Tensor::<f32>::zeros(&[2, 2]))]).unwrap();
    assert!(model.push("a", bantam::Kind::Linear, Tensor::zeros(&[3]).into()).is_err());
    assert_eq!(model.weight("a").unwrap().shape(), [2, 2]);
    assert_eq!(model.len(), 1);
}

/// Sets the flag, or fails, at the first weight.
#[derive(Debug)]
struct First {
    cancel: Option<std::sync::Arc<std::sync::atomic::AtomicBool>>,
    worked: std::sync::Arc<std::sync::atomic::AtomicUsize>,
    select: bantam::Select,
}

impl Step for First {
    fn name(&self) -> &str {
        "first"
    }
}

impl bantam::WeightCompressor for First {
    fn select(&self) -> &bantam::Select {
        &self.select
    }

    fn compress_weight(&self, _: &bantam::WeightInfo, weight: Weight) -> Result<bantam::Outcome, Fault> {
        use std::sync::atomic::Ordering::Relaxed;
        self.worked.fetch_add(1, Relaxed);
        match &self.cancel {
            Some(cancel) => cancel.store(true, Relaxed),
            None => return Err(Fault::Form("no")),
        }
        Ok(weight.into())
    }
}

#[test]
fn a_step_ends_at_the_first_failure_and_when_it_is_cancelled() {
    let weights = (0..1000).map(|i| (format!("fc{i:03}.weight"), Tensor::zeros(&[2, 2])));
    let model = Model::from_tensors(weights).unwrap();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    for cancel in [None, Some(stop.clone())] {
        let (cancels, worked) = (cancel.is_some(), std::sync::Arc::default());
        let first =
            First { cancel, worked: std::sync::Arc::clone(&worked), select: bantam::Select::default() };
        let result = Pipeline::new().cancel_when(stop.clone()).then_each(first).run(&model);
        match result.unwrap_err() {
            Error::Cancelled => assert!(cancels),
            Error::Weight { weight, .. } => assert_eq!(weight, "fc000.weight"),
            other => panic!("{other}"),
        }
        assert!(worked.load(std::sync::atomic::Ordering::Relaxed) < 500);
    }
}
