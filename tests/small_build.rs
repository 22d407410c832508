//! What every build does, the one without features included: compress without factorizing, open, inspect
//! and run. What a build cannot do, it says, with the name of the feature.

use bantam::nn::{Examples, Graph, Input};
use bantam::{
    Activations, AffineQuantizer, Error, Fault, FineTuner, Layout, LowRankFactorizer, MagnitudePruner, Model,
    Pipeline, Recipe, Result, Tensor,
};

fn wave(shape: &[usize]) -> Tensor<f32> {
    let n = shape.iter().product();
    Tensor::new(shape, (0..n).map(|i| (i as f32 * 0.7).sin()).collect()).unwrap()
}

fn network() -> Model {
    let shapes: [(&str, &[usize]); 4] =
        [("fc1.weight", &[16, 32]), ("fc1.bias", &[16]), ("fc2.weight", &[4, 16]), ("fc2.bias", &[4])];
    let model = Model::from_tensors(shapes.map(|(name, shape)| (name, wave(shape)))).unwrap();
    model.with_graph(Graph::new().linear("fc1").relu().linear("fc2")).unwrap()
}

fn compressed() -> Model {
    let quantizer = AffineQuantizer::bits(8).per_channel().activations(Activations::Int8);
    Pipeline::new().prune(MagnitudePruner::sparsity(0.5)).quantize(quantizer).run(network()).unwrap().model
}

/// The value where the feature is on, the error that names it where it is off.
fn needs<V>(feature: &str, is_on: bool, result: Result<V>) -> Option<V> {
    match result {
        Ok(value) => {
            assert!(is_on, "works without `{feature}`");
            Some(value)
        }
        Err(Error::Unsupported { feature: named, .. })
        | Err(Error::Weight { fault: Fault::Unsupported { feature: named, .. }, .. }) => {
            assert!(!is_on && named == feature, "asks for `{named}`");
            None
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_compressed_model_opens_is_inspected_and_runs() {
    let model = compressed();
    let input = Input::Values(wave(&[5, 32]));
    let logits = model.network().unwrap().forward(&input).unwrap();
    let exact = network().network().unwrap().forward(&input).unwrap();
    assert_ne!(logits, exact, "it does run on codes");
    for layout in [Layout::Open, Layout::Archive] {
        let again = Model::from_bytes(model.to_bytes_with(layout).unwrap()).unwrap();
        assert_eq!(again, model);
        assert_eq!(again.network().unwrap().forward(&input).unwrap(), logits);
        let weight = again.weight("fc1.weight").unwrap();
        assert_eq!((weight.sparsity(), weight.form().to_string()), (0.5, "pruned+quantized".to_owned()));
        assert!(weight.stored_bytes() < 16 * 32);
    }
}

#[test]
fn a_model_opens_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.safetensors");
    let model = compressed();
    std::fs::write(&path, model.to_bytes().unwrap()).unwrap();
    assert_eq!(Model::open(&path).unwrap(), model);

    let saved = folder.path().join("saved.safetensors");
    if needs("files", cfg!(feature = "files"), model.save(&saved)).is_some() {
        assert_eq!(std::fs::read(&saved).unwrap(), std::fs::read(&path).unwrap());
    } else {
        assert!(!saved.exists());
    }
}

#[test]
fn what_is_off_says_so() {
    let factored = Pipeline::new().factorize(LowRankFactorizer::rank(2)).run(network());
    if let Some(factored) = needs("faer", cfg!(feature = "faer"), factored) {
        assert_eq!(factored.model.weight("fc1.weight").unwrap().rank(), Some(2));
    }
    let data = Examples::new(wave(&[8, 32]), vec![0, 1, 2, 3, 0, 1, 2, 3]).unwrap();
    let trained = Pipeline::new().finetune(FineTuner::new(&data)).run(network());
    if let Some(trained) = needs("train", cfg!(feature = "train"), trained) {
        assert_ne!(trained.model.weight("fc1.weight"), network().weight("fc1.weight"));
    }
    let toml = Recipe::from_toml("[[steps]]\nprune = { sparsity = 0.5 }");
    needs("toml", cfg!(feature = "toml"), toml);
    let json = r#"{ "steps": [{ "prune": { "sparsity": 0.5 } }] }"#;
    assert_eq!(Recipe::from_json(json).unwrap().steps.len(), 1);
}
