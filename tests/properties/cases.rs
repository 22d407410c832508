//! Awkward tensors, and all steps with all their settings.

use crate::common::Random;
use bantam::{
    AffineQuantizer, CodebookInit, CodebookQuantizer, Compressor, Float, LowRankFactorizer, MagnitudePruner,
    Model, Pipeline, Range, Tensor,
};
use proptest::prelude::*;

/// A tensor by its looks; values follow from the seed.
#[derive(Clone, Debug)]
pub struct Case {
    pub shape: Vec<usize>,
    pub look: Look,
    pub seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Look {
    Mixed,
    Constant,
    Zero,
    Denormal,
    Huge,
    /// Few different magnitudes, many of them zero: ties.
    Ties,
    Positive,
    /// Without any zero and without ties.
    Distinct,
}

impl Case {
    pub fn tensor<T: Float>(&self) -> Tensor<T> {
        let n = self.shape.iter().product();
        let mut random = Random(self.seed);
        let (tiny, huge) = (T::min_positive_value().widen(), T::max_value().widen());
        let values = (0..n).map(|i| {
            let x = random.unit();
            T::narrow(match (self.look, random.below(8)) {
                (Look::Zero, 0) => -0.0,
                (Look::Zero, _) => 0.0,
                (Look::Mixed, 0) => 0.0,
                (Look::Mixed, 1) => -0.0,
                (Look::Mixed, 2) => x * 100.0,
                (Look::Mixed, _) => x,
                (Look::Constant, _) => -1.5,
                (Look::Denormal, k) => x * tiny * if k < 6 { 0.01 } else { 2.0 },
                (Look::Huge, 0) => huge,
                (Look::Huge, 1) => -huge,
                (Look::Huge, _) => x * huge,
                (Look::Ties, k) => [0.0, -0.0, 0.5, -0.5, 0.25, -1.0, 1.0, 0.5][k],
                (Look::Positive, _) => x.abs(),
                (Look::Distinct, _) => (x + 2.0) * (1.0 + i as f64),
            })
        });
        Tensor::new(&self.shape, values.collect()).unwrap()
    }

    pub fn inputs(&self) -> usize {
        match self.shape.as_slice() {
            [] => 1,
            [n] => *n,
            [_, rest @ ..] => rest.iter().product(),
        }
    }

    pub fn rows(&self) -> usize {
        if self.shape.len() < 2 { 1 } else { self.shape[0] }
    }
}

pub fn look() -> impl Strategy<Value = Look> {
    prop_oneof![
        4 => Just(Look::Mixed),
        1 => Just(Look::Constant),
        1 => Just(Look::Zero),
        1 => Just(Look::Denormal),
        1 => Just(Look::Huge),
        2 => Just(Look::Ties),
        1 => Just(Look::Positive),
        2 => Just(Look::Distinct),
    ]
}

pub fn any_shape() -> impl Strategy<Value = Vec<usize>> {
    let inputs = || prop_oneof![2 => prop::sample::select(vec![16_usize, 32, 48]), 1 => 0_usize..40];
    prop_oneof![
        1 => Just(vec![]),
        2 => prop_oneof![Just(0), Just(1), 2_usize..300].prop_map(|n| vec![n]),
        6 => (0_usize..40, inputs()).prop_map(|(m, n)| vec![m, n]),
        1 => (1_usize..8, inputs(), 1_usize..4).prop_map(|(m, n, k)| vec![m, n, k]),
        2 => (1_usize..8, inputs(), 0_usize..4, 1_usize..4).prop_map(|(m, n, h, w)| vec![m, n, h, w]),
        1 => (200_usize..300, Just(320_usize)).prop_map(|(m, n)| vec![m, n]),
    ]
}

pub fn any_case() -> impl Strategy<Value = Case> {
    (any_shape(), look(), any::<u64>()).prop_map(|(shape, look, seed)| Case { shape, look, seed })
}

/// One step, to be printed when a case fails.
#[derive(Clone, Debug)]
pub enum AnyStep {
    Prune(MagnitudePruner),
    Quantize(AffineQuantizer),
    Codebook(CodebookQuantizer),
    Factorize(LowRankFactorizer),
}

impl AnyStep {
    pub fn add<'a, T: Float>(&self, to: Pipeline<'a, T>) -> Pipeline<'a, T>
    where
        MagnitudePruner: Compressor<T>,
    {
        match self.clone() {
            Self::Prune(step) => to.prune(step),
            Self::Quantize(step) => to.quantize(step),
            Self::Codebook(step) => to.codebook(step),
            Self::Factorize(step) => to.factorize(step),
        }
    }
}

pub fn pipeline<T: Float>(steps: &[AnyStep]) -> Pipeline<'static, T> {
    steps.iter().fold(Pipeline::default(), |p, step| step.add(p))
}

pub fn fraction() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), Just(0.5), Just(0.9), Just(1.0), 0.0_f64..=1.0]
}

pub fn pruner() -> impl Strategy<Value = MagnitudePruner> {
    prop_oneof![
        prop_oneof![Just(0.0), Just(0.5), Just(1e-40), Just(1e30), 0.0..2.0_f64]
            .prop_map(MagnitudePruner::threshold),
        fraction().prop_map(MagnitudePruner::sparsity),
        fraction().prop_map(|f| MagnitudePruner::sparsity(f).global()),
        prop::sample::select(vec![(1, 2), (2, 4), (1, 4), (3, 4), (5, 8), (4, 16)])
            .prop_map(|(n, m)| MagnitudePruner::n_of_m(n, m)),
        fraction().prop_map(MagnitudePruner::channels),
    ]
}

pub fn range() -> impl Strategy<Value = Range> {
    prop_oneof![
        3 => Just(Range::MinMax),
        1 => (50.0..=100.0_f64).prop_map(Range::Percentile),
        1 => Just(Range::LeastSquares),
    ]
}

pub fn quantizer() -> impl Strategy<Value = AffineQuantizer> {
    let granularity = prop_oneof![
        1 => Just(0_usize),
        1 => Just(1),
        2 => prop::sample::select(vec![2_usize, 4, 8, 16, 3]),
    ];
    (1_u8..=8, any::<bool>(), granularity, range()).prop_map(|(bits, symmetric, granularity, range)| {
        let q = AffineQuantizer::bits(bits).range(range);
        let q = if symmetric { q.symmetric() } else { q.asymmetric() };
        match granularity {
            0 => q.per_tensor(),
            1 => q.per_channel(),
            size => q.group(size),
        }
    })
}

pub fn codebook() -> impl Strategy<Value = CodebookQuantizer> {
    let size = prop_oneof![
        (1_u8..=8).prop_map(CodebookQuantizer::bits),
        prop_oneof![2_usize..20, 2_usize..=256].prop_map(CodebookQuantizer::values),
    ];
    let init = prop_oneof![
        Just(CodebookInit::Linear),
        Just(CodebookInit::Density),
        any::<u64>().prop_map(|seed| CodebookInit::PlusPlus { seed }),
    ];
    let iterations = prop_oneof![Just(0_usize), 1_usize..5, Just(300)];
    // The optimum of large weights takes a while.
    (size, init, iterations, prop::bool::weighted(0.1)).prop_map(|(step, init, n, optimal)| {
        let step = step.init(init).iterations(n);
        if optimal { step.optimal() } else { step }
    })
}

pub fn coder() -> impl Strategy<Value = AnyStep> {
    prop_oneof![2 => quantizer().prop_map(AnyStep::Quantize), 1 => codebook().prop_map(AnyStep::Codebook)]
}

pub fn factorizer() -> impl Strategy<Value = AnyStep> {
    let amount = prop_oneof![
        (1_usize..12).prop_map(LowRankFactorizer::rank),
        (0.01..=1.0_f64).prop_map(LowRankFactorizer::energy),
        (0.01..=1.0_f64).prop_map(LowRankFactorizer::parameters),
    ];
    (amount, prop::option::weighted(0.3, quantizer())).prop_map(|(step, residual)| match residual {
        None => AnyStep::Factorize(step),
        Some(q) => AnyStep::Factorize(step.residual(q)),
    })
}

pub fn any_step() -> impl Strategy<Value = AnyStep> {
    prop_oneof![pruner().prop_map(AnyStep::Prune), coder(), factorizer()]
}

/// Steps in any order, legal or not.
pub fn steps() -> impl Strategy<Value = Vec<AnyStep>> {
    let legal = (
        prop::option::weighted(0.5, factorizer()),
        prop::collection::vec(pruner().prop_map(AnyStep::Prune), 0..2),
        prop::option::of(coder()),
        prop::collection::vec(pruner().prop_map(AnyStep::Prune), 0..2),
    )
        .prop_map(|(f, a, q, b)| f.into_iter().chain(a).chain(q).chain(b).collect());
    prop_oneof![3 => legal, 1 => prop::collection::vec(any_step(), 0..4)]
}

/// Several weights with names, one of them a bias that no step takes.
pub fn model<T: Float>(cases: &[Case]) -> Model<T> {
    let mut tensors: Vec<(String, Tensor<T>)> =
        cases.iter().enumerate().map(|(i, c)| (format!("fc{i}.weight"), c.tensor())).collect();
    tensors.push(("fc0.bias".to_owned(), Tensor::zeros(&[5])));
    Model::from_tensors(tensors).unwrap()
}

/// The values of each leaf of each weight.
pub fn leaves<T: Float>(model: &Model<T>) -> Vec<Vec<Vec<T>>> {
    model.weights().map(|(_, w)| w.leaves().iter().map(|l| l.to_vec().unwrap()).collect()).collect()
}

/// Number of pruned entries of each leaf.
pub fn pruned<T: Float>(model: &Model<T>) -> Vec<Vec<usize>> {
    model.weights().map(|(_, w)| w.leaves().iter().map(|l| l.len() - l.kept()).collect()).collect()
}

/// Whether the refusal is one that awkward settings deserve: a group or pattern that does not divide, a codebook
/// for fewer entries.
pub fn does_not_fit(error: &bantam::Error) -> bool {
    use bantam::{Error, Fault, Refusal};
    match error {
        Error::Plan { why, .. } | Error::Weight { fault: Fault::Refused(why), .. } => {
            matches!(why, Refusal::DoesNotDivide { .. } | Refusal::CodebookTooLarge { .. })
        }
        Error::Weight { fault: Fault::Form(_), .. } => true,
        _ => false,
    }
}

/// What a run of awkward settings gave, if they fit; any other error fails the test.
pub fn if_it_fits<R>(result: bantam::Result<R>) -> Option<R> {
    match result {
        Ok(done) => Some(done),
        Err(error) if does_not_fit(&error) => None,
        Err(bantam::Error::Plan {
            why: bantam::Refusal::Already(_) | bantam::Refusal::TooLate { .. },
            ..
        }) => None,
        // The residual of a factorization of values near the largest number overflows, which is an error.
        Err(bantam::Error::Weight { fault: bantam::Fault::NotFinite { .. }, .. }) => None,
        Err(error) => panic!("{error}"),
    }
}
