//! Codebooks, read back from a saved file without bantam, and how good they are.

use crate::cases::*;
use crate::common::Read;
use crate::quantize::{form_of, unpack};
use bantam::{
    CodebookInit, CodebookQuantizer, Error, Fault, Float, MagnitudePruner, Model, Pipeline, Refusal, Tensor,
    Weight, WeightCompressor,
};
use proptest::prelude::*;

/// Kept entries up to which a search is exact.
const EXACT: usize = 1 << 16;

/// The root of the sum of squared differences, with the largest entry as the unit; and that of the entries.
fn error<T: Float>(a: &Tensor<T>, b: &Tensor<T>) -> (f64, f64) {
    let unit = a.iter().fold(T::min_positive_value().widen(), |m, x| m.max(x.widen().abs()));
    let (mut sum, mut size) = (0.0, 0.0);
    for (x, y) in a.iter().zip(b.iter()) {
        let (x, y) = (x.widen() / unit, y.widen() / unit);
        sum += (x - y) * (x - y);
        size += x * x;
    }
    (sum.sqrt(), size.sqrt())
}

/// What rounding of the table, and the bins of a histogram, may make of an error.
fn slack<T: Float>(kept: usize) -> f64 {
    let bins = if size_of::<T>() == 4 { 2.0 / 512.0 } else { 2.0 / 256.0 };
    8.0 * T::epsilon().widen() + if kept > EXACT { bins } else { 0.0 }
}

fn pruned<T: Float>(case: &Case, sparsity: Option<f64>) -> Model<T> {
    let before = Model::from(case.tensor::<T>());
    match sparsity {
        Some(s) => Pipeline::default().prune(MagnitudePruner::sparsity(s)).run(before).unwrap().model,
        None => before,
    }
}

fn lone<T: Float>(model: &Model<T>) -> &Weight<T> {
    model.weight("weight").unwrap()
}

fn table_and_codes<T: Float>(case: &Case, step: &CodebookQuantizer, sparsity: Option<f64>) {
    let before = pruned::<T>(case, sparsity);
    let Some(after) = if_it_fits(Pipeline::default().codebook(step.clone()).run(&before)) else { return };
    let weight = lone(&after.model);
    let Some(values) = weight.form().codebook else {
        return assert!(!after.report.weights[0].left.is_empty());
    };
    assert!(after.report.weights[0].form.ends_with(&format!("codebook {values}")));
    let file = Read::new(&after.model.to_bytes().unwrap());
    let form = form_of(&file).unwrap();
    assert_eq!(form["leaf"]["codebook"]["values"].as_u64(), Some(values as u64));
    let size = size_of::<T>();
    let table: Vec<f64> = file.get("weight.codebook").unwrap()[..values * size]
        .chunks(size)
        .map(|b| match size {
            4 => f64::from(f32::from_le_bytes(b.try_into().unwrap())),
            _ => f64::from_le_bytes(b.try_into().unwrap()),
        })
        .collect();
    assert!(table.windows(2).all(|pair| pair[0] < pair[1]) && table.iter().all(|x| x.is_finite()));
    let bits = (1..=8).find(|b| values <= 1 << b).unwrap();
    let kept = weight.leaves()[0].kept();
    let codes = unpack(file.get("weight.codes").unwrap(), bits, kept);
    assert!(codes.iter().all(|code| (*code as usize) < values), "a code lies beyond the table");
    let (x, y) = (lone(&before).to_dense().unwrap(), weight.to_dense().unwrap());
    assert!(x.iter().zip(y.iter()).all(|(x, y)| *x != T::zero() || *y == T::zero()));
    if kept == x.len() {
        assert!(codes.iter().zip(y.iter()).all(|(code, y)| table[*code as usize] == y.widen()));
    } else {
        // What is kept and not 0 is there in order.
        let mut codes = codes.iter().map(|code| table[*code as usize]);
        let entries: Vec<f64> = y.iter().map(|y| y.widen()).filter(|y| *y != 0.0).collect();
        assert!(entries.iter().all(|y| codes.any(|x| x == *y)));
    }
}

/// Errors of what several steps make of one weight; `None` where one of them leaves it alone.
fn errors<T: Float>(before: &Model<T>, steps: &[CodebookQuantizer]) -> Option<(Vec<f64>, f64)> {
    let dense = lone(before).to_dense().unwrap();
    let mut size = 0.0;
    let found: Option<Vec<f64>> = steps
        .iter()
        .map(|step| {
            let after = if_it_fits(Pipeline::default().codebook(step.clone()).run(before))?;
            lone(&after.model).form().codebook?;
            let (error, of) = error(&dense, &lone(&after.model).to_dense().unwrap());
            size = of;
            Some(error)
        })
        .collect();
    Some((found?, size))
}

fn no_worse<T: Float>(case: &Case, sparsity: Option<f64>, values: usize, init: CodebookInit) {
    let before = pruned::<T>(case, sparsity);
    let of = |n| CodebookQuantizer::values(n).init(init);
    let all = [of(values).iterations(0), of(values), of(values).optimal(), of(values + 1).optimal()];
    let Some((found, size)) = errors(&before, &all) else { return };
    let slack = slack::<T>(lone(&before).leaves()[0].kept()) * size;
    for pair in found.windows(2) {
        assert!(pair[1] <= pair[0] + slack, "{found:?} with {slack}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn statement_2_codes_are_places_in_the_table_and_zeros_stay(
        case in any_case(), step in codebook(), sparsity in prop::option::weighted(0.3, fraction()), double in any::<bool>(),
    ) {
        if double { table_and_codes::<f64>(&case, &step, sparsity) } else { table_and_codes::<f32>(&case, &step, sparsity) }
    }

    #[test]
    fn lloyd_beats_its_start_the_optimum_beats_lloyd_and_more_values_are_never_worse(
        case in any_case(), sparsity in prop::option::weighted(0.3, fraction()), values in 2_usize..40,
        init in prop_oneof![Just(CodebookInit::Linear), Just(CodebookInit::Density), any::<u64>().prop_map(|seed| CodebookInit::PlusPlus { seed })],
        double in any::<bool>(),
    ) {
        if double { no_worse::<f64>(&case, sparsity, values, init) } else { no_worse::<f32>(&case, sparsity, values, init) }
    }

    #[test]
    fn a_table_that_holds_every_value_loses_nothing(raw in prop::collection::vec(-8_i8..8, 400..800)) {
        let tensor = Tensor::new(&[1, raw.len()], raw.iter().map(|x| f32::from(*x) * 0.3).collect()).unwrap();
        for step in [CodebookQuantizer::bits(4), CodebookQuantizer::values(100).optimal()] {
            prop_assert_eq!(step.apply(tensor.clone()).unwrap().to_dense().unwrap(), tensor.clone());
        }
    }
}

#[test]
fn a_table_larger_than_what_is_kept_is_an_error_that_names_the_weight() {
    let tensor = |n: usize| Tensor::new(&[4, n], (0..4 * n).map(|i| i as f32 + 1.0).collect()).unwrap();
    // Before any work, by the shape.
    let error = Pipeline::new().codebook(64).run(tensor(15)).unwrap_err();
    assert!(matches!(&error, Error::Plan { weight, .. } if weight == "weight"));
    assert_eq!(
        error.to_string(),
        "step 1 (codebook) on `weight`: a codebook of 64 values for 60 kept entries: use fewer values or bits"
    );
    // By what pruning has left.
    let steps = || Pipeline::new().prune(MagnitudePruner::sparsity(0.9)).codebook(CodebookQuantizer::bits(5));
    let error = steps().run(tensor(50)).unwrap_err();
    assert!(
        matches!(
            &error,
            Error::Weight { fault: Fault::Refused(Refusal::CodebookTooLarge { values: 32, kept: 20 }), .. }
        ),
        "{error}"
    );
    assert_eq!(
        error.to_string(),
        "weight `weight`: a codebook of 32 values for 20 kept entries: use fewer values or bits"
    );
    assert!(steps().run(tensor(400)).is_ok());
}

#[test]
fn a_codebook_runs_on_floats_alone() {
    use bantam::{Activations, AffineQuantizer};
    let values: Vec<f32> = (0..4096).map(|i| (i as f32 * 0.7).sin()).collect();
    let tensor = Tensor::new(&[64, 64], values).unwrap();
    let weight = CodebookQuantizer::bits(4).apply(tensor.clone()).unwrap();
    let x = Tensor::new(&[1, 64], vec![1.0; 64]).unwrap();
    let error = weight.matmul_with(&x, Activations::Int8).unwrap_err().to_string();
    assert!(error.contains("codebook"), "{error}");
    let coded = Weight::from(tensor).with_activations(Activations::Int8);
    let error = CodebookQuantizer::bits(4).apply(coded.clone()).unwrap_err().to_string();
    assert!(error.contains("use quantize instead"), "{error}");
    assert!(AffineQuantizer::bits(4).apply(coded).is_ok());
}

#[test]
fn a_recipe_says_all_settings() {
    let steps = [
        CodebookQuantizer::bits(4),
        CodebookQuantizer::values(17).init(CodebookInit::Density).iterations(7).only("fc*").except("fc2*"),
        CodebookQuantizer::values(256)
            .init(CodebookInit::PlusPlus { seed: 9 })
            .optimal()
            .kind(bantam::Kind::Conv),
    ];
    let pipeline = steps.iter().fold(Pipeline::new(), |p, step| p.codebook(step.clone()));
    let recipe = pipeline.recipe().unwrap();
    assert_eq!(bantam::Recipe::from_json(&recipe.to_json()).unwrap(), recipe);
    #[cfg(feature = "toml")]
    assert_eq!(bantam::Recipe::from_toml(&recipe.to_toml().unwrap()).unwrap(), recipe);
    for bad in [r#"{}"#, r#"{"bits":4,"values":16}"#, r#"{"bits":4,"init":"random"}"#, r#"{"bitz":4}"#] {
        let text = format!(r#"{{"steps":[{{"codebook":{bad}}}]}}"#);
        assert!(bantam::Recipe::from_json(&text).is_err(), "{bad}");
    }
}
