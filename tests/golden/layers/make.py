"""Outputs of torch layers and of two small networks -> data.safetensors.

Inputs and weights are float32; CASE.y32 is computed in float32, CASE.y64 in float64 from the same numbers.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

torch.manual_seed(5)
torch.set_num_threads(1)
out = {}


def case(name, module, x):
    """Weights as NAME.WEIGHT, input NAME.x, outputs NAME.y32 and NAME.y64."""
    module = module.eval()
    for key, value in module.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            # state_dict holds references, and .double() below changes the parameters.
            out[f"{name}.{key}"] = value.detach().clone()
    with torch.no_grad():
        out[f"{name}.x"] = x.clone()
        out[f"{name}.y32"] = module(x).clone().contiguous()
        out[f"{name}.y64"] = module.double()(x.double()).contiguous()


def norm(module):
    with torch.no_grad():
        module.weight.uniform_(-1.5, 1.5)
        module.bias.normal_()
        if hasattr(module, "running_mean"):
            module.running_mean.normal_()
            module.running_var.uniform_(0.2, 3)
    return module


class Named(nn.Module):
    """One layer under the name that the graph of the test uses."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


images = torch.randn(2, 4, 9, 8)
case("linear", Named(nn.Linear(7, 5)), torch.randn(3, 7))
case("linear_3d", Named(nn.Linear(7, 5, bias=False)), torch.randn(2, 3, 7))
case("conv", Named(nn.Conv2d(4, 6, 3)), images)
case("conv_strided", Named(nn.Conv2d(4, 6, (3, 2), stride=(2, 3), padding=(1, 2))), images)
case("conv_grouped", Named(nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False)), images)
case("conv_depthwise", Named(nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=4)), images)
case("conv_pointwise", Named(nn.Conv2d(4, 3, 1)), images)
case("batch_norm", Named(norm(nn.BatchNorm2d(4))), images)
case("batch_norm_flat", Named(norm(nn.BatchNorm1d(7))), torch.randn(5, 7))
case("layer_norm", Named(norm(nn.LayerNorm(8))), torch.randn(3, 2, 8) * 3 + 1)
wide = torch.cat([torch.linspace(-12, 12, 97), torch.tensor([-0.0, 0.0, 1e-6, -1e-6, 50.0, -50.0, 1e-20])])[None]
for name, layer in {
    "relu": nn.ReLU(),
    "gelu": nn.GELU(),
    "silu": nn.SiLU(),
    "tanh": nn.Tanh(),
    "sigmoid": nn.Sigmoid(),
}.items():
    case(name, layer, wide)
case("max_pool", nn.MaxPool2d(2), images)
case("max_pool_padded", nn.MaxPool2d((3, 2), stride=(2, 1), padding=(1, 1)), images - 5)
case("average_pool", nn.AvgPool2d(2), images)
case("average_pool_padded", nn.AvgPool2d((3, 2), stride=(2, 1), padding=(1, 1)), images)
case("global_average_pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), images)
case("flatten", nn.Flatten(), images)


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 5, padding=2), nn.Conv2d(4, 6, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(6 * 2 * 2, 16), nn.Linear(16, 12), nn.Linear(12, 10)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.conv1(x).relu(), 2)
        x = nn.functional.max_pool2d(self.conv2(x).relu(), 2)
        return self.fc3(self.fc2(self.fc1(x.flatten(1)).relu()).relu())


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, 4, 3, padding=1, bias=False), norm(nn.BatchNorm2d(4))
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1, bias=False), norm(nn.BatchNorm2d(4))
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), norm(nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        x = self.bn0(self.stem(x)).relu()
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return self.head((x + y).relu().mean((2, 3)))


case("lenet", LeNet(), torch.randn(3, 1, 16, 16))
case("residual", Residual(), torch.randn(2, 3, 7, 6))

save_file(out, Path(__file__).with_name("data.safetensors"))
