//! Training steps (forward, loss, backward, Adam) at batch 128; the throughput is in samples.

use bantam::nn::{Conv2d, Graph, Input, Optimizer, Outputs, cross_entropy};
use bantam::{MagnitudePruner, Model, Pipeline, Result, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const BATCH: usize = 128;

fn perceptron() -> Result<Model> {
    let graph = Graph::new().flatten().linear("fc1").relu().linear("fc2").relu().linear("fc3");
    let shapes: &[(&str, &[usize])] = &[
        ("fc1.weight", &[300, 784]),
        ("fc1.bias", &[300]),
        ("fc2.weight", &[100, 300]),
        ("fc2.bias", &[100]),
        ("fc3.weight", &[10, 100]),
        ("fc3.bias", &[10]),
    ];
    Model::initialized(graph, shapes, 1)
}

fn convolutional() -> Result<Model> {
    let graph = Graph::new().conv2d("conv1", Conv2d::default().padding(2)).relu().max_pool(2);
    let graph = graph.conv2d("conv2", Conv2d::default()).relu().max_pool(2).flatten();
    let graph = graph.linear("fc1").relu().linear("fc2").relu().linear("fc3");
    let shapes: &[(&str, &[usize])] = &[
        ("conv1.weight", &[6, 1, 5, 5]),
        ("conv1.bias", &[6]),
        ("conv2.weight", &[16, 6, 5, 5]),
        ("conv2.bias", &[16]),
        ("fc1.weight", &[120, 400]),
        ("fc1.bias", &[120]),
        ("fc2.weight", &[84, 120]),
        ("fc2.bias", &[84]),
        ("fc3.weight", &[10, 84]),
        ("fc3.bias", &[10]),
    ];
    Model::initialized(graph, shapes, 1)
}

fn pruned() -> Result<Model> {
    Ok(Pipeline::new().prune(MagnitudePruner::sparsity(0.9)).run(perceptron()?)?.model)
}

fn steps(c: &mut Criterion) -> Result<()> {
    let mut group = c.benchmark_group("train");
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut state = 1_u32;
    let pixels = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    });
    let input = Input::Values(Tensor::new(&[BATCH, 1, 28, 28], pixels.take(BATCH * 784).collect())?);
    let labels: Vec<u32> = (0..BATCH as u32).map(|i| i % 10).collect();
    for (name, model) in [
        ("LeNet-300-100", perceptron()?),
        ("LeNet-300-100, 90 % pruned", pruned()?),
        ("LeNet-5", convolutional()?),
    ] {
        let mut student = model.network()?.trainable(Optimizer::adam().into())?;
        let mut step = || -> Result<()> {
            let out = student.forward(&input, &[])?;
            let (_, logits) = cross_entropy(&out.logits, &labels)?;
            student.backward(&Outputs { logits, taps: vec![] })?;
            student.step(1e-3)
        };
        step()?;
        group.bench_function(BenchmarkId::new(name, format!("batch {BATCH}")), |b| {
            b.iter(|| step().expect("the step before went well"));
        });
    }
    group.finish();
    Ok(())
}

fn train(c: &mut Criterion) {
    steps(c).expect("the networks fit the input");
}

criterion_group!(benches, train);
criterion_main!(benches);
