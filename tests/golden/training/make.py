"""Losses with gradients and steps of optimizers by torch, in float64 -> data.safetensors."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

torch.manual_seed(7)
torch.set_default_dtype(torch.float64)
out = {}

logits, teacher = torch.randn(6, 5) * 3, torch.randn(6, 5) * 3
labels = torch.randint(5, (6,))
soft = torch.randn(6, 5).softmax(1)
out |= {"logits": logits, "teacher": teacher, "labels": labels, "soft": soft}


def loss(name, f):
    z = logits.clone().requires_grad_()
    value = f(z)
    value.backward()
    out[f"{name}.loss"], out[f"{name}.gradient"] = value.detach(), z.grad


def kl(z, t):
    return F.kl_div((z / t).log_softmax(1), (teacher / t).softmax(1), reduction="batchmean")


loss("cross_entropy", lambda z: F.cross_entropy(z, labels))
loss("soft_cross_entropy", lambda z: F.cross_entropy(z, soft))
loss("mse", lambda z: F.mse_loss(z, teacher))
for t in [1.0, 2.0, 4.0]:
    loss(f"kl.{t}", lambda z: kl(z, t))
loss("distillation", lambda z: 0.3 * F.cross_entropy(z, labels) + 0.7 * 16 * kl(z, 4.0))

STEPS = 20
x = torch.randn(8, 4)
y = torch.randint(3, (8,))
torch.manual_seed(8)
start = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
out |= {"mlp.x": x, "mlp.labels": y}
names = {"0": "fc1", "2": "fc2"}


def parameters(model):
    return {f"{names[k[0]]}{k[1:]}": v.detach().clone() for k, v in model.state_dict().items()}


out |= {f"mlp.{k}": v for k, v in parameters(start).items()}
optim = torch.optim
optimizers = {
    "sgd": lambda p: optim.SGD(p, 0.1),
    "sgd_decay": lambda p: optim.SGD(p, 0.1, weight_decay=0.05),
    "momentum": lambda p: optim.SGD(p, 0.05, momentum=0.9),
    "nesterov": lambda p: optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: optim.Adam(p, 0.02),
    "adam_decay": lambda p: optim.Adam(p, 0.02, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.05),
    "adam_w": lambda p: optim.AdamW(p, 0.02),
    "adam_w_decay": lambda p: optim.AdamW(p, 0.02, weight_decay=0.3),
}
for name, make in optimizers.items():
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    model.load_state_dict(start.state_dict())
    optimizer = make(model.parameters())
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        value = F.cross_entropy(model(x), y)
        value.backward()
        optimizer.step()
        losses.append(value.detach())
    out[f"{name}.losses"] = torch.stack(losses)
    out |= {f"{name}.{k}": v for k, v in parameters(model).items()}

# Three steps in training mode of a network whose layers behave otherwise there: batch norm and its running
# statistics.
images, classes = torch.randn(6, 2, 5, 5), torch.randint(3, (6,))
conv = nn.Sequential(
    nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False),
    nn.BatchNorm2d(4),
    nn.GELU(),
    nn.MaxPool2d(2, stride=1),
    nn.Flatten(),
    nn.LayerNorm(16),
    nn.Linear(16, 3),
)
names = {"0": "conv", "1": "bn", "5": "ln", "6": "fc"}


def state(model):
    return {k: v for k, v in parameters(model).items() if "num_batches" not in k}


out |= {"cnn.x": images, "cnn.labels": classes} | {f"cnn.{k}": v for k, v in state(conv).items()}
optimizer = optim.SGD(conv.parameters(), 0.1)
losses = []
for step in range(3):
    optimizer.zero_grad()
    value = F.cross_entropy(conv(images), classes)
    value.backward()
    if step == 0:
        out |= {
            f"cnn.gradient.{names[k[0]]}{k[1:]}": p.grad.clone() for k, p in conv.named_parameters()
        }
    optimizer.step()
    losses.append(value.detach())
out["cnn.losses"] = torch.stack(losses)
out |= {f"cnn.after.{k}": v for k, v in state(conv).items()}

save_file({k: v.contiguous() for k, v in out.items()}, Path(__file__).with_name("data.safetensors"))
