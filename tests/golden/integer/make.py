"""Integer products by onnxruntime -> data.safetensors.

x [n, in] is coded by DynamicQuantizeLinear a row at a time; w [out, in] by quantize_data. The accumulators
are those of MatMulInteger, on unsigned codes of both: its signed kernel saturates on CPUs without VNNI.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper
from onnxruntime import InferenceSession
from onnxruntime.quantization.quant_utils import quantize_data
from safetensors.numpy import save_file

GROUP = 8
rng = np.random.default_rng(4)
out = {}


def session(nodes, inputs, outputs):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value(n, t, None) for n, t in inputs], [value(n, t, None) for n, t in outputs]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


dynamic = session(
    [helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"])],
    [("x", T.FLOAT)],
    [("q", T.UINT8), ("scale", T.FLOAT), ("zero", T.UINT8)],
)
static = session(
    [helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"])],
    [("x", T.FLOAT), ("scale", T.FLOAT), ("zero", T.UINT8)],
    [("q", T.UINT8)],
)
product = session(
    [helper.make_node("MatMulInteger", ["a", "b", "az", "bz"], ["y"])],
    [("a", T.UINT8), ("b", T.UINT8), ("az", T.UINT8), ("bz", T.UINT8)],
    [("y", T.INT32)],
)
convolution = session(
    [helper.make_node("ConvInteger", ["a", "b", "az", "bz"], ["y"], pads=[1, 1, 1, 1], strides=[2, 2])],
    [("a", T.UINT8), ("b", T.UINT8), ("az", T.UINT8), ("bz", T.UINT8)],
    [("y", T.INT32)],
)


def coded_rows(x):
    rows = [dynamic.run(None, {"x": row[None]}) for row in x]
    for row, (q, scale, zero) in zip(x, rows):
        # The formula of the ONNX standard.
        low, high = min(row.min(), 0), max(row.max(), 0)
        assert np.isclose(scale, (high - low) / 255 if high > low else 1, rtol=1e-6)
        assert zero == np.clip(np.round(-low / scale), 0, 255)
        assert np.array_equal(q[0], np.clip(np.round(row / scale) + zero, 0, 255))
    return [q for q, _, _ in rows], [s for _, s, _ in rows], [z for _, _, z in rows]


def accumulate(codes, zeros, qw, zw):
    """[n, out] for unsigned weight codes qw [out, k] with zero points zw [out]."""
    y = np.concatenate(
        [product.run(None, {"a": q, "b": np.ascontiguousarray(qw.T), "az": np.array(z, np.uint8), "bz": zw})[0] for q, z in zip(codes, zeros)]
    )
    a = np.concatenate([q.astype(np.int64) - int(z) for q, z in zip(codes, zeros)])
    assert np.array_equal(y, a @ (qw.astype(np.int64) - zw.astype(np.int64)[:, None]).T)
    return y


def unsigned(block, symmetric):
    zero, scale, q = quantize_data(block, T.INT8 if symmetric else T.UINT8, symmetric)
    shift = 128 if symmetric else 0
    return (np.asarray(q).astype(np.int16) + shift).astype(np.uint8), np.uint8(int(zero) + shift), np.float32(scale)


x = rng.normal(0.3, 1, (5, 48)).astype(np.float32)
x[1] = np.abs(x[1])
x[2] = -np.abs(x[2])
x[3] = 0
w = rng.normal(0, 0.2, (7, 48)).astype(np.float32)
out["x"], out["w"] = x, w
codes, scales, zeros = coded_rows(x)
out["x.scale"] = np.array(scales, np.float32)

for name, symmetric in [("s8", True), ("u8", False)]:
    q, z, s = unsigned(w, symmetric)
    out[f"{name}.tensor.sums"] = accumulate(codes, zeros, q, np.full(7, z, np.uint8))
    out[f"{name}.tensor.scale"] = np.array([s])
    rows = [unsigned(row, symmetric) for row in w]
    q, z = np.stack([r[0] for r in rows]), np.array([r[1] for r in rows])
    out[f"{name}.channel.sums"] = accumulate(codes, zeros, q, z)
    out[f"{name}.channel.scale"] = np.array([r[2] for r in rows])
    # [groups, n, out] sums and [groups, out] scales.
    sums, group_scales = [], []
    for first in range(0, 48, GROUP):
        rows = [unsigned(row[first : first + GROUP], symmetric) for row in w]
        q, z = np.stack([r[0] for r in rows]), np.array([r[1] for r in rows])
        part = [np.ascontiguousarray(c[:, first : first + GROUP]) for c in codes]
        sums.append(accumulate(part, zeros, q, z))
        group_scales.append([r[2] for r in rows])
    out[f"{name}.group.sums"] = np.stack(sums)
    out[f"{name}.group.scale"] = np.array(group_scales, np.float32)

# A fixed range: values outside are clipped.
low, high = -1.0, 1.5
scale, zero = np.float32((high - low) / 255), np.uint8(102)
assert zero == np.round(-low / scale)
fixed = [static.run(None, {"x": row[None], "scale": np.array(scale), "zero": np.array(zero)})[0] for row in x]
q, z, s = unsigned(w, True)
out["static.range"] = np.array([low, high])
out["static.sums"] = accumulate(fixed, [zero] * len(x), q, np.full(7, z, np.uint8))
out["static.scale"] = np.array([float(scale) * float(s)])

# A convolution, stride 2 and padding 1, each image with its own range.
images = rng.normal(0.2, 1, (3, 2, 6, 6)).astype(np.float32)
kernel = rng.normal(0, 0.2, (4, 2, 3, 3)).astype(np.float32)
q, z, s = unsigned(kernel, True)
out["conv.x"], out["conv.weight"], out["conv.scale"] = images, kernel, np.array([s])
sums, image_scales = [], []
for image in images:
    a, scale, az = dynamic.run(None, {"x": image[None]})
    y = convolution.run(None, {"a": a, "b": q, "az": np.array(az), "bz": np.array(z)})[0]
    # Padding is the zero point, as ours is: a true zero.
    padded = np.pad(a.astype(np.int64) - int(az), [(0, 0), (0, 0), (1, 1), (1, 1)])
    k = q.astype(np.int64) - int(z)
    exact = np.array(
        [[[(padded[0, :, i : i + 3, j : j + 3] * k[o]).sum() for j in (0, 2, 4)] for i in (0, 2, 4)] for o in range(4)]
    )
    assert np.array_equal(y[0], exact)
    sums.append(y[0])
    image_scales.append(scale)
out["conv.sums"], out["conv.x.scale"] = np.stack(sums), np.array(image_scales, np.float32)

save_file(out, Path(__file__).with_name("data.safetensors"))
