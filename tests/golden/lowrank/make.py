"""Singular values, truncations and energy ranks by scipy -> data.safetensors."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from scipy.linalg import svd

rng = np.random.default_rng(3)
out = {}


def decaying(m, n, decay):
    """Random singular vectors, singular values that fall by `decay` each."""
    k = min(m, n)
    u, _ = np.linalg.qr(rng.normal(size=(m, k)))
    v, _ = np.linalg.qr(rng.normal(size=(n, k)))
    return (u * decay ** np.arange(k)) @ v.T


matrices = {
    "tall": decaying(24, 10, 0.6),
    "wide": decaying(12, 30, 0.7),
    "square": decaying(16, 16, 0.5),
    "noise": rng.normal(size=(20, 20)),
    "kernel": decaying(16, 18, 0.6).reshape(16, 2, 3, 3),
}
for name, w in matrices.items():
    matrix = w.reshape(w.shape[0], -1)
    u, s, vt = svd(matrix, full_matrices=False, lapack_driver="gesvd")
    out[name], out[f"{name}.singular"] = w, s
    out[f"{name}.rank4"] = ((u[:, :4] * s[:4]) @ vt[:4]).reshape(w.shape)
    energy = np.cumsum(s**2) / np.sum(s**2)
    for fraction in [0.5, 0.9, 0.99]:
        out[f"{name}.energy.{fraction}"] = np.array([np.searchsorted(energy, fraction) + 1])

save_file(out, Path(__file__).with_name("data.safetensors"))
