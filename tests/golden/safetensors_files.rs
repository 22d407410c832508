//! Files by the Python package safetensors.

use crate::support::{Arrays, dense, path};
use bantam::Model;
use safetensors::Dtype;

#[test]
fn a_file_from_python_opens_with_the_same_values() {
    let file = path("safetensors", "model.safetensors");
    let values = Arrays::open(&path("safetensors", "values.safetensors"));
    let model = Model::<f64>::open_as(&file).unwrap();
    let names: Vec<&str> = model.weights().map(|(name, _)| name).collect();
    assert_eq!(names.len(), values.file().names().len());
    for name in names {
        let weight = model.weight(name).unwrap();
        assert_eq!(weight.shape(), values.shape(name), "{name}");
        let bits = |x: &[f64]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&dense(weight)), bits(&values.numbers(name)), "{name}");
    }
    // In single precision each is the nearest number.
    let single = Model::open(&file).unwrap();
    for (name, weight) in single.weights() {
        let expected: Vec<f32> = values.numbers(name).iter().map(|x| *x as f32).collect();
        assert_eq!(weight.to_dense().unwrap().as_slice(), expected, "{name}");
    }
    assert_eq!(model.metadata()["note"], "Grüße");
    assert_eq!(model.len(), 10);
}

#[test]
fn it_is_saved_with_the_same_bytes_in_every_tensor() {
    let file = path("safetensors", "model.safetensors");
    let (before, after) = (Arrays::open(&file), Arrays::saved(&Model::open(&file).unwrap()));
    let (a, b) = (before.file(), after.file());
    assert_eq!(a.len(), b.len());
    for (name, tensor) in a.iter() {
        let other = b.tensor(name).unwrap();
        assert_eq!((tensor.dtype(), tensor.shape()), (other.dtype(), other.shape()), "{name}");
        assert_eq!(tensor.data(), other.data(), "{name}");
    }
    assert_eq!(b.tensor("steps").unwrap().dtype(), Dtype::I64);
    assert_eq!(b.tensor("flags").unwrap().data(), [1, 0, 1]);
    assert_eq!(b.tensor("bytes").unwrap().data(), [0, 1, 2, 3, 4]);
}
