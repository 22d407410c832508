"""Codes, scales and zero points by onnxruntime and PyTorch -> data.safetensors.

Keys: TENSOR, TENSOR.ort.SCHEME.{scale,zero,codes,decoded}, TENSOR.torch.SCHEME.{codes,decoded}.
Zero points and codes are signed where the system's are. Blocks are in row-major order.
"""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnxruntime.quantization.quant_utils import compute_scale_zp_blocked, quantize_data
from safetensors.numpy import save_file

T = onnx.TensorProto
GROUP = 8
rng = np.random.default_rng(1)
out = {}


def bantam_grid(values, bits, symmetric):
    """Scale and unsigned zero point as src/quantize/grid.rs defines them."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    if symmetric:
        wanted, zero = max(-low, high) / (2 ** (bits - 1) - 1), 2 ** (bits - 1)
    else:
        wanted, zero = high / (2**bits - 1) - low / (2**bits - 1), None
    scale = np.float32(1.0 if wanted == 0 else max(wanted, 2.0**-149))
    if zero is None:
        zero = int(np.clip(np.round(-low / float(scale)), 0, 2**bits - 1))
    return scale, zero


def blocks(w, scheme):
    rows = w.reshape(w.shape[0], -1)
    if "channel" in scheme:
        return list(rows)
    if "group" in scheme:
        return list(rows.reshape(-1, GROUP))
    return [rows.reshape(-1)]


def ort(name, w, scheme, kind, symmetric):
    scales, zeros, codes = [], [], []
    for block in blocks(w, scheme):
        zero, scale, q = quantize_data(block, kind, symmetric)
        scales.append(scale)
        zeros.append(int(zero))
        codes.append(np.asarray(q).astype(np.int16).reshape(-1))
    scales = np.array(scales, np.float32)
    if "group" in scheme:
        zp, blocked = compute_scale_zp_blocked(w.reshape(w.shape[0], -1), kind, 1, GROUP, symmetric)
        # It divides in float32, quantize_data in float64.
        assert np.allclose(blocked.reshape(-1), scales, rtol=2e-7)
        assert np.array_equal(zp.astype(np.int16).reshape(-1), zeros)
    q, z = np.stack(codes), np.array(zeros, np.int16)
    out[f"{name}.ort.{scheme}.scale"] = scales
    out[f"{name}.ort.{scheme}.zero"] = z
    out[f"{name}.ort.{scheme}.codes"] = q
    # DequantizeLinear: (q - zero) * scale, in the type of the scale.
    decoded = (q.astype(np.float32) - z[:, None].astype(np.float32)) * scales[:, None]
    out[f"{name}.ort.{scheme}.decoded"] = decoded.reshape(w.shape)


def quantize_torch(name, w, scheme, symmetric):
    """torch.quantize_per_tensor / per_channel with bantam's scale and zero point."""
    x = torch.from_numpy(w)
    grids = [bantam_grid(b, 8, symmetric) for b in blocks(w, scheme)]
    dtype, shift = (torch.qint8, 128) if symmetric else (torch.quint8, 0)
    if "channel" in scheme:
        scales = torch.tensor([float(s) for s, _ in grids], dtype=torch.float64)
        q = torch.quantize_per_channel(x, scales, torch.tensor([z - shift for _, z in grids]), 0, dtype)
    else:
        [(scale, zero)] = grids
        q = torch.quantize_per_tensor(x, float(scale), zero - shift, dtype)
    out[f"{name}.torch.{scheme}.codes"] = q.int_repr().numpy().astype(np.int16)
    out[f"{name}.torch.{scheme}.decoded"] = q.dequantize().numpy()


def fake_quantize(name, w, bits, symmetric):
    """torch.fake_quantize_per_tensor_affine with bantam's scale, zero point and codes."""
    scale, zero = bantam_grid(w, bits, symmetric)
    top = 2 ** (bits - 1) - 1
    low, high, zero = (-top, top, 0) if symmetric else (0, 2**bits - 1, zero)
    y = torch.fake_quantize_per_tensor_affine(torch.from_numpy(w), float(scale), zero, low, high)
    out[f"{name}.fake.{'sym' if symmetric else 'asym'}{bits}.decoded"] = y.numpy()


def near_halves(symmetric):
    """The float32 next to each half step of an 8-bit grid, and its neighbours."""
    scale = np.float32(0.013)
    ends = [-127 * float(scale), 127 * float(scale)] if symmetric else [-100 * float(scale), 155 * float(scale)]
    grid = bantam_grid(np.array(ends, np.float32), 8, symmetric)[0]
    half = np.array([(k + 0.5) * float(grid) for k in range(-99, 127)], np.float32)
    values = np.concatenate([half, np.nextafter(half, np.float32(9)), np.nextafter(half, np.float32(-9))])
    values = np.concatenate([np.array(ends, np.float32), values])
    return values[: len(values) // 8 * 8].reshape(8, -1)


# All ties: the scale is 1/128 exactly and values are multiples of 1/256.
ties = (np.arange(-256, 255, dtype=np.float32) / 256)[: 8 * 63]
ties_asym = np.concatenate([ties, np.float32([127 / 128] * 8)]).reshape(8, 64)
ties_sym = (np.arange(-254, 255, dtype=np.float32) / 256)[: 8 * 63]
ties_sym = np.concatenate([ties_sym, np.float32([127 / 128] * 8)]).reshape(8, 64)

tensors = {
    "normal": rng.normal(0, 0.1, (6, 32)).astype(np.float32),
    "skewed": rng.uniform(-0.3, 2, (6, 32)).astype(np.float32),
    "positive": rng.uniform(0.5, 3, (6, 32)).astype(np.float32),
    "negative": rng.uniform(-3, -0.5, (6, 32)).astype(np.float32),
    "kernel": rng.normal(0, 1, (4, 2, 2, 2)).astype(np.float32),
    "huge": (rng.uniform(-1, 1, (4, 16)) * 3.4e38).astype(np.float32),
    "zeros": np.zeros((4, 16), np.float32),
    "denormal": (rng.uniform(-1, 1, (4, 16)) * 1e-40).astype(np.float32),
    "ties_asym": ties_asym,
    "ties_sym": ties_sym,
    "near_halves_asym": near_halves(False),
    "near_halves_sym": near_halves(True),
}
for name, w in tensors.items():
    out[name] = w
    for scheme in ["u8.tensor", "u8.channel"]:
        ort(name, w, scheme, T.UINT8, False)
        if name != "denormal":
            quantize_torch(name, w, scheme, False)
    for scheme in ["s8.tensor", "s8.channel"]:
        ort(name, w, scheme, T.INT8, True)
        if name != "denormal":
            quantize_torch(name, w, scheme, True)
for name in ["normal", "skewed", "positive"]:
    w = tensors[name]
    for scheme in ["u4.tensor", "u4.group"]:
        ort(name, w, scheme, T.UINT4, False)
    for scheme in ["s4.tensor", "s4.group"]:
        ort(name, w, scheme, T.INT4, True)
    for bits in range(2, 9):
        fake_quantize(name, w, bits, False)
        fake_quantize(name, w, bits, True)

save_file(out, Path(__file__).with_name("data.safetensors"))
