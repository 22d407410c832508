//! [`Op`]: what one node of a graph computes, and the settings of its builders.

use serde::{Deserialize, Serialize};

/// What a node computes. Sizes that the shape of a weight says already are not repeated here.
///
/// Activations are `[n, ..]`, `n` samples; feature maps are `[n, channels, height, width]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Op {
    /// `y = x W^T + b` over the last axis: `[n, .., in]` to `[n, .., out]`.
    Linear {
        /// Name of the weight, `[out, in]`.
        weight: String,
        /// Name of the bias, `[out]`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bias: Option<String>,
    },
    /// Cross-correlation with zero padding, as `torch.nn.Conv2d`: `[n, in, h, w]` to `[n, out, oh, ow]`,
    /// `oh = (h + 2 padding - kh) / stride + 1`, rounded down.
    Conv2d {
        /// Name of the weight, `[out, in / groups, kh, kw]`.
        weight: String,
        /// Name of the bias, `[out]`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bias: Option<String>,
        /// Steps along height and width, at least 1.
        stride: [usize; 2],
        /// Zeros on each side of height and width, at most the kernel's size.
        padding: [usize; 2],
        /// Groups of channels that do not see each other; divides in and out channels.
        groups: usize,
    },
    /// `y = weight (x - mean) / sqrt(variance + epsilon) + bias` for each channel (axis 1).
    ///
    /// Inference uses the running statistics. Training uses those of the batch, with the biased variance
    /// (arXiv 1502.03167).
    BatchNorm {
        /// Name of the scale, `[channels]`.
        weight: String,
        /// Name of the shift, `[channels]`.
        bias: String,
        /// Name of the running mean, `[channels]`.
        mean: String,
        /// Name of the running variance, `[channels]`.
        variance: String,
        /// Added to the variance; at least 0 (PyTorch: 1e-5).
        epsilon: f64,
    },
    /// As batch norm, but with mean and biased variance of the last axis of each sample (arXiv 1607.06450).
    LayerNorm {
        /// Name of the scale, `[features]`.
        weight: String,
        /// Name of the shift, `[features]`.
        bias: String,
        /// Added to the variance; at least 0 (PyTorch: 1e-5).
        epsilon: f64,
    },
    /// `max(x, 0)`.
    Relu,
    /// `x * Phi(x)` with the normal distribution function: the exact form, not the tanh approximation
    /// (arXiv 1606.08415).
    Gelu,
    /// `x * sigmoid(x)`, also called swish (arXiv 1702.03118).
    Silu,
    /// Hyperbolic tangent.
    Tanh,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// Largest value of each window. Padding never wins.
    MaxPool {
        /// Height and width of the window.
        size: [usize; 2],
        /// Steps along height and width, at least 1.
        stride: [usize; 2],
        /// Cells added on each side, at most half the window.
        padding: [usize; 2],
    },
    /// Mean of each window. Padding counts as zeros, so that every window is divided by its full size
    /// (`count_include_pad`, the default of PyTorch).
    AveragePool {
        /// Height and width of the window.
        size: [usize; 2],
        /// Steps along height and width, at least 1.
        stride: [usize; 2],
        /// Zeros added on each side, at most half the window.
        padding: [usize; 2],
    },
    /// Mean over height and width: `[n, c, h, w]` to `[n, c]` (no axes of length 1 are left).
    GlobalAveragePool,
    /// `[n, ..]` to `[n, product of the rest]`.
    Flatten,
    /// Training: sets each value to 0 with this probability and divides the others by one minus it.
    /// Inference: nothing.
    Dropout {
        /// Probability of dropping a value, in `0..1`.
        probability: f64,
    },
    /// Sum of two outputs of the same shape.
    Add,
}

/// What a weight is for in its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// Matrix of a linear layer.
    Linear,
    /// Kernel of a convolution.
    Conv2d,
    /// Added to each output of a linear layer or a convolution.
    Bias,
    /// Scale of a normalization.
    Scale,
    /// Shift of a normalization.
    Shift,
    /// Running mean of a batch norm: measured, not trained.
    Mean,
    /// Running variance of a batch norm: measured, not trained.
    Variance,
}

impl Op {
    /// Names of the weights it uses and what each is for, in a fixed order.
    pub fn weights(&self) -> Vec<(&str, Role)> {
        match self {
            Self::Linear { weight, bias } => named(weight, Role::Linear, bias.as_deref()),
            Self::Conv2d { weight, bias, .. } => named(weight, Role::Conv2d, bias.as_deref()),
            Self::BatchNorm { weight, bias, mean, variance, .. } => {
                vec![
                    (weight, Role::Scale),
                    (bias, Role::Shift),
                    (mean, Role::Mean),
                    (variance, Role::Variance),
                ]
            }
            Self::LayerNorm { weight, bias, .. } => vec![(weight, Role::Scale), (bias, Role::Shift)],
            _ => Vec::new(),
        }
    }

    /// Name of the operation, as in a file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Linear { .. } => "linear",
            Self::Conv2d { .. } => "conv2d",
            Self::BatchNorm { .. } => "batch_norm",
            Self::LayerNorm { .. } => "layer_norm",
            Self::Relu => "relu",
            Self::Gelu => "gelu",
            Self::Silu => "silu",
            Self::Tanh => "tanh",
            Self::Sigmoid => "sigmoid",
            Self::MaxPool { .. } => "max_pool",
            Self::AveragePool { .. } => "average_pool",
            Self::GlobalAveragePool => "global_average_pool",
            Self::Flatten => "flatten",
            Self::Dropout { .. } => "dropout",
            Self::Add => "add",
        }
    }

    /// Number of inputs: two for [`Op::Add`], else one.
    pub fn arity(&self) -> usize {
        if matches!(self, Self::Add) { 2 } else { 1 }
    }
}

fn named<'a>(weight: &'a str, role: Role, bias: Option<&'a str>) -> Vec<(&'a str, Role)> {
    std::iter::once((weight, role)).chain(bias.map(|b| (b, Role::Bias))).collect()
}

/// Settings of a convolution for [`Graph::conv2d`](super::Graph::conv2d).
///
/// | setting | default | allowed |
/// | --- | --- | --- |
/// | `stride` | 1 | 1..=65535 |
/// | `padding` | 0 | at most the kernel's size |
/// | `groups` | 1 | divides in and out channels |
/// | `bias` | yes | |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d {
    pub(super) stride: [usize; 2],
    pub(super) padding: [usize; 2],
    pub(super) groups: usize,
    pub(super) bias: bool,
}

impl Default for Conv2d {
    fn default() -> Self {
        Self { stride: [1, 1], padding: [0, 0], groups: 1, bias: true }
    }
}

impl Conv2d {
    /// Steps along both axes.
    pub fn stride(self, stride: usize) -> Self {
        self.strides([stride, stride])
    }

    /// Steps along height and width.
    pub fn strides(mut self, stride: [usize; 2]) -> Self {
        self.stride = stride;
        self
    }

    /// Zeros on each side of both axes.
    pub fn padding(self, padding: usize) -> Self {
        self.paddings([padding, padding])
    }

    /// Zeros on each side of height and of width.
    pub fn paddings(mut self, padding: [usize; 2]) -> Self {
        self.padding = padding;
        self
    }

    /// Groups of channels that do not see each other; as many as channels for a depthwise convolution.
    pub fn groups(mut self, groups: usize) -> Self {
        self.groups = groups;
        self
    }

    /// No bias.
    pub fn without_bias(mut self) -> Self {
        self.bias = false;
        self
    }
}

/// Settings of a pooling layer: `Pool::new(2)` is a window of 2 x 2 that moves by 2, without padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    pub(super) size: [usize; 2],
    pub(super) stride: [usize; 2],
    pub(super) padding: [usize; 2],
}

impl Pool {
    /// A square window that moves by its own size.
    pub fn new(size: usize) -> Self {
        Self { size: [size, size], stride: [size, size], padding: [0, 0] }
    }

    /// Steps along both axes.
    pub fn stride(mut self, stride: usize) -> Self {
        self.stride = [stride, stride];
        self
    }

    /// Cells added on each side of both axes, at most half the window.
    pub fn padding(mut self, padding: usize) -> Self {
        self.padding = [padding, padding];
        self
    }
}

impl From<usize> for Pool {
    fn from(size: usize) -> Self {
        Self::new(size)
    }
}
