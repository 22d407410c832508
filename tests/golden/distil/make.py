"""Attention transfer, and distillation with hints and a falling temperature, by torch in float64."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

torch.manual_seed(17)
torch.set_default_dtype(torch.float64)
out = {}


def attention(x):
    # As in the program of arXiv 1612.03928.
    return F.normalize(x.pow(2).mean(1).view(x.size(0), -1))


def attention_loss(x, y):
    return (attention(x) - attention(y)).pow(2).sum(1).mean()


x, y = torch.randn(3, 4, 5, 6, requires_grad=True), torch.randn(3, 2, 5, 6)
loss = attention_loss(x, y)
loss.backward()
out |= {"attention.x": x.detach(), "attention.y": y, "attention.loss": loss.detach(), "attention.gradient": x.grad}


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(2, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 4, 3)
        self.fc = nn.Linear(36, 3)

    def forward(self, x):
        first = self.conv1(x)
        second = self.conv2(first.relu())
        return self.fc(second.tanh().flatten(1)), first, second


STEPS = 4
student, teacher = Net(3), Net(5)
images, labels = torch.randn(6, 2, 5, 5), torch.randint(3, (6,))
out |= {"x": images, "labels": labels}
out |= {f"student.{k}": v.detach().clone() for k, v in student.state_dict().items()}
out |= {f"teacher.{k}": v.detach().clone() for k, v in teacher.state_dict().items()}
optimizer = torch.optim.SGD(student.parameters(), 0.1, momentum=0.9)
with torch.no_grad():
    wanted, first_wanted, second_wanted = teacher(images)
losses = []
for step in range(STEPS):
    share = step / (STEPS - 1)
    t, weight = 6.0 * (1 - share) + 2.0 * share, 1.5 * (1 - share)
    optimizer.zero_grad()
    logits, first, second = student(images)
    kl = F.kl_div((logits / t).log_softmax(1), (wanted / t).softmax(1), reduction="batchmean")
    loss = 0.3 * F.cross_entropy(logits, labels) + 0.7 * t * t * kl
    loss = loss + weight * F.mse_loss(second, second_wanted) + 2.0 * attention_loss(first, first_wanted)
    loss.backward()
    optimizer.step()
    losses.append(loss.detach())
out["losses"] = torch.stack(losses)
out |= {f"after.{k}": v.detach().clone() for k, v in student.state_dict().items()}

save_file({k: v.contiguous() for k, v in out.items()}, Path(__file__).with_name("data.safetensors"))
