"""The model of the archives -> model.safetensors, by numpy alone.

`version1.safetensors`, `version2.safetensors` and `open.safetensors` were written by the versions of bantam that wrote them, with
`bantam compress model.safetensors --sparsity 0.6 --quantize 3 --asymmetric --only 'fc1*'` and `--layout archive`
or `open`; they cannot be made again. `version3.safetensors` is what this version writes.
"""

import json
import struct
from pathlib import Path

import numpy as np

random = np.random.default_rng(7)
arrays = {
    "fc1.weight": ("F32", random.normal(size=(12, 16)).astype(np.float32)),
    "fc1.bias": ("F32", random.normal(size=12).astype(np.float32)),
    "fc2.weight": ("F16", random.normal(size=(5, 12)).astype(np.float16)),
    "steps": ("I64", np.array([1, -2, 3], np.int64)),
}
header, data = {"__metadata__": {"note": "first"}}, b""
for name, (dtype, array) in arrays.items():
    offsets = [len(data), len(data) + array.nbytes]
    header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": offsets}
    data += array.tobytes()
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
Path(__file__).with_name("model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
