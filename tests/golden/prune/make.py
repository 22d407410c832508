"""Masks by torch.nn.utils.prune and numpy -> data.safetensors. A mask is 1 where an entry is kept."""

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch.nn.utils import prune

rng = np.random.default_rng(2)
out = {}


def distinct(shape):
    """Values whose magnitudes all differ: no ties."""
    n = int(np.prod(shape))
    w = (rng.permutation(n) + 1) * rng.choice([-1.0, 1.0], n) / n
    return w.reshape(shape).astype(np.float32)


def module(w):
    m = torch.nn.Module()
    m.weight = torch.nn.Parameter(torch.from_numpy(w.copy()))
    return m


def mask(m):
    return m.weight_mask.numpy().astype(np.uint8)


matrix, kernel = distinct((10, 32)), distinct((4, 8, 3, 3)) * np.float32(1.5)
out["matrix"], out["kernel"] = matrix, kernel
for amount in [0.0, 0.3, 0.5, 0.9, 1.0]:
    for name, w in [("matrix", matrix), ("kernel", kernel)]:
        m = module(w)
        prune.l1_unstructured(m, "weight", amount)
        out[f"{name}.l1.{amount}"] = mask(m)
    a, b = module(matrix), module(kernel)
    prune.global_unstructured([(a, "weight"), (b, "weight")], prune.L1Unstructured, amount=amount)
    out[f"matrix.global.{amount}"], out[f"kernel.global.{amount}"] = mask(a), mask(b)
for amount in [0.25, 0.5]:
    for name, w in [("matrix", matrix), ("kernel", kernel)]:
        m = module(w)
        prune.ln_structured(m, "weight", amount, n=2, dim=0)
        out[f"{name}.rows.{amount}"] = mask(m)

# torch takes Python's round (half to even) of amount * n: 2 of 5.
five = distinct((1, 5))
m = module(five)
prune.l1_unstructured(m, "weight", 0.5)
out["five"], out["five.l1.0.5"] = five, mask(m)


def n_of_m(w, n, m):
    """The n largest of every m neighbours along axis 1; of equals, the last stay."""
    moved = np.moveaxis(w, 1, -1)
    groups = np.abs(moved).reshape(-1, m)
    order = np.argsort(groups, axis=1, kind="stable")
    keep = np.zeros_like(groups, np.uint8)
    np.put_along_axis(keep, order[:, m - n :], 1, axis=1)
    return np.ascontiguousarray(np.moveaxis(keep.reshape(moved.shape), -1, 1))


for n, m in [(2, 4), (1, 4), (4, 8), (1, 2)]:
    out[f"matrix.{n}:{m}"], out[f"kernel.{n}:{m}"] = n_of_m(matrix, n, m), n_of_m(kernel, n, m)

# Ties: the first of equals go first, in a stable sort by magnitude.
ties = rng.integers(-3, 4, (12, 16)).astype(np.float32)
ties[ties == 0] = 2
out["ties"] = ties
order = np.argsort(np.abs(ties).reshape(-1), kind="stable")
for amount in [0.1, 0.45, 0.8]:
    keep = np.ones(ties.size, np.uint8)
    keep[order[: round(amount * ties.size)]] = 0
    out[f"ties.l1.{amount}"] = keep.reshape(ties.shape)
out["ties.2:4"] = n_of_m(ties, 2, 4)

save_file(out, Path(__file__).with_name("data.safetensors"))
