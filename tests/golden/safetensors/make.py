"""A file by the Python package safetensors, and what it holds in float64 -> model.safetensors, values.safetensors."""

from pathlib import Path

import torch
from safetensors.torch import save_file

torch.manual_seed(6)
special = torch.tensor([0.0, -0.0, 1.0, -2.5, 65504.0, 6e-8, 3e-5, 1 / 3, float("inf"), -float("inf")])
half, brain = special.half(), torch.cat([special.bfloat16(), torch.tensor([3e38, 1e-40]).bfloat16()])
single = torch.cat([special, torch.tensor([3.4028235e38, 1e-45, 1.17e-38])])
double = torch.cat([single.double(), torch.tensor([1e300, 5e-324, 0.1], dtype=torch.float64)])
model = {
    "f16": half,
    "bf16": brain,
    "f32": single,
    "f64": double,
    "matrix.weight": torch.randn(3, 5).half(),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 4),
    "steps": torch.tensor([0, -1, 2**62], dtype=torch.int64),
    "flags": torch.tensor([True, False, True]),
    "bytes": torch.arange(5, dtype=torch.uint8),
}
save_file(model, Path(__file__).with_name("model.safetensors"), metadata={"note": "Grüße"})
floats = {k: v.double() for k, v in model.items() if v.is_floating_point()}
save_file(floats, Path(__file__).with_name("values.safetensors"))
