//! Networks: the layers of a row, compressed by its steps, run from the compressed form.

use crate::data;
use crate::row::{Layer, Row};
use crate::work::{Work, timed};
use bantam::nn::{Conv2d, Graph, Input};
use bantam::{BoxError, Model, Pipeline, Tensor};
use std::path::Path;

pub fn prepare(row: &Row, batch: usize, folder: Option<&Path>) -> Result<Work, BoxError> {
    let small = Pipeline::<f32>::from(&row.recipe()?).strict().run(model(row, &row.layers, folder)?)?;
    let network = small.model.network()?;
    let input = input(row, batch, folder)?;
    Ok(timed(move || Ok(network.forward(&input)?)))
}

pub fn input(row: &Row, batch: usize, folder: Option<&Path>) -> Result<Input<f32>, BoxError> {
    let [channels, height, width] = row.input;
    let values = data::values(batch * channels * height * width, folder)?;
    Ok(Input::Values(Tensor::new(&[batch, channels, height, width], values)?))
}

/// The layers, with weights that keep the size of what passes through.
pub fn model(row: &Row, layers: &[Layer], folder: Option<&Path>) -> Result<Model, BoxError> {
    let (mut graph, mut tensors) = (Graph::new(), Vec::new());
    let [mut channels, mut height, mut width] = row.input;
    for (i, layer) in layers.iter().enumerate() {
        let name = format!("layer{i}");
        let shape = match *layer {
            Layer::Conv { channels: out, size, padding } => {
                graph = graph.conv2d(&name, Conv2d::default().padding(padding));
                let shape = vec![out, channels, size, size];
                (channels, height, width) =
                    (out, height + 2 * padding + 1 - size, width + 2 * padding + 1 - size);
                shape
            }
            Layer::Linear(out) => {
                let inputs = channels * height * width;
                if height * width > 1 {
                    graph = graph.flatten();
                }
                graph = graph.linear(&name);
                (channels, height, width) = (out, 1, 1);
                vec![out, inputs]
            }
            Layer::Pool => {
                graph = graph.max_pool(2);
                (height, width) = (height / 2, width / 2);
                continue;
            }
            Layer::Relu => {
                graph = graph.relu();
                continue;
            }
        };
        let inputs: usize = shape[1..].iter().product();
        let mut values = data::values(shape[0] * inputs, folder)?;
        values.iter_mut().for_each(|x| *x /= (inputs as f32).sqrt());
        tensors.push((format!("{name}.bias"), Tensor::zeros(&shape[..1])));
        tensors.push((format!("{name}.weight"), Tensor::new(&shape, values)?));
    }
    Ok(Model::from_tensors(tensors)?.with_graph(graph)?)
}
