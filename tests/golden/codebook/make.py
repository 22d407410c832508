"""k-means of numbers by scikit-learn, from the linear start -> data.safetensors."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from sklearn.cluster import KMeans

rng = np.random.default_rng(5)
tensors = {
    "normal": rng.normal(size=(40, 100)),
    # Without a gap at 0, so that no cluster of the linear start is empty.
    "clumps": np.concatenate([rng.normal(-2, 0.4, 1500), rng.normal(0.5, 0.6, 2000), rng.uniform(-3, 3, 500)]),
}
out = dict(tensors)
for name, x in tensors.items():
    column = x.reshape(-1, 1)
    for k in [2, 4, 16, 32]:
        start = np.linspace(x.min(), x.max(), k).reshape(-1, 1)
        for iterations in [1, 10, 300]:
            means = KMeans(k, init=start, n_init=1, max_iter=iterations, tol=0, algorithm="lloyd").fit(column)
            key = f"{name}.{k}.{iterations}"
            out[f"{key}.inertia"] = np.array([means.inertia_])
            out[f"{key}.centres"] = np.sort(means.cluster_centers_[:, 0])

save_file(out, Path(__file__).with_name("data.safetensors"))
