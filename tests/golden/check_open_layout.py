"""Decodes a compressed model in the open layout with numpy alone, and compares with what bantam decodes.

    cargo test --test golden open_layout      # writes the two files to target/tmp
    python tests/golden/check_open_layout.py [FILE DENSE]

Written from the documentation of the layout (src/weight/parts.rs, src/weight/storage.rs), so it doubles as
a reader to start from.
"""

import json
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
from safetensors import safe_open


def unpack(packed, bits, count):
    """Code i is bits i * bits .. of a little-endian stream, least significant bit first."""
    stream = np.unpackbits(packed, bitorder="little")[: count * bits].reshape(count, bits)
    return (stream.astype(np.int64) << np.arange(bits)).sum(1)


def fold(shape):
    rows = shape[0] if len(shape) > 1 else 1
    return rows, int(np.prod(shape)) // max(rows, 1)


def read_mask(get, name, form, rows, cols):
    """True where an entry is kept; None where zeros among the values say it."""
    [(kind, form)] = form.items()
    if kind == "zeros":
        return None
    if kind == "bitmask":
        mask = np.unpackbits(get(f"{name}.mask"), bitorder="little")[: rows * cols].astype(bool)
        return mask.reshape(rows, cols)
    mask = np.zeros((rows, cols), bool)
    if kind == "csr":
        offsets, indices = get(f"{name}.row_offsets")[: rows + 1], get(f"{name}.indices")
        for r in range(rows):
            mask[r, indices[offsets[r] : offsets[r + 1]]] = True
        return mask
    assert kind == "nm"
    n, m, stride = form["n"], form["m"], form["stride"]
    # Combinations in the order of the combinatorial number system: by their largest place first.
    table = sorted(combinations(range(m), n), key=lambda places: places[::-1])
    bits = (len(table) - 1).bit_length()
    ranks = unpack(get(f"{name}.pattern"), bits, rows * cols // m)
    groups = mask.reshape(-1, m, stride)
    for i, rank in enumerate(ranks):
        groups[i // stride, list(table[rank]), i % stride] = True
    return mask


def leaf(get, name, form, shape):
    rows, cols = fold(shape)
    mask = read_mask(get, name, form["mask"], rows, cols) if "mask" in form else None
    places = np.flatnonzero(mask) if mask is not None else np.arange(rows * cols)
    if "float" in form:
        values = get(name).reshape(-1) if mask is None else get(f"{name}.values")[: len(places)]
    elif "codebook" in form:
        count = form["codebook"]["values"]
        bits = max(1, (count - 1).bit_length())
        values = get(f"{name}.codebook")[:count][unpack(get(f"{name}.codes"), bits, len(places))]
    else:
        affine = form["affine"]
        bits, granularity = affine["bits"], affine["granularity"]
        block = {"tensor": rows * cols, "channel": cols}.get(granularity if isinstance(granularity, str) else "")
        block = block or granularity["group"]["size"]
        blocks = rows * cols // block
        scale = get(f"{name}.scale")[:blocks]
        if affine["symmetric"]:
            zero = np.full(blocks, 2 ** (bits - 1))
        else:
            zero = unpack(get(f"{name}.zero_point"), bits, blocks)
        codes = unpack(get(f"{name}.codes"), bits, len(places))
        values = (codes - zero[places // block]).astype(scale.dtype) * scale[places // block]
    dense = np.zeros(rows * cols, values.dtype)
    dense[places] = values
    return dense.reshape(shape)


def weight(get, name, form, exact):
    shape = form["shape"]
    if "leaf" in form:
        return leaf(get, name, form["leaf"], shape)
    exact[0] = False
    if "product" in form:
        u, v = form["product"]
        u, v = weight(get, f"{name}.u", u, exact), weight(get, f"{name}.v", v, exact)
        return (u.astype(np.float64) @ v.astype(np.float64)).reshape(shape)
    return sum(weight(get, f"{name}.{i}", term, exact) for i, term in enumerate(form["sum"]))


def main():
    target = Path(__file__).parents[2] / "target" / "tmp"
    files = sys.argv[1:] or [target / "open_layout.safetensors", target / "open_layout_dense.safetensors"]
    with safe_open(files[0], "numpy") as file, safe_open(files[1], "numpy") as dense:
        description = json.loads(file.metadata()["bantam"])
        assert description["version"] == 1
        used, forms, worst = set(), set(), 0.0

        def get(name):
            used.add(name)
            return file.get_tensor(name)

        for entry in description["entries"]:
            name, form, exact = entry["name"], entry.get("form"), [True]
            decoded = weight(get, name, form, exact) if form else get(name)
            expected = dense.get_tensor(name)
            forms |= set(form.get("leaf", {}).get("mask", {})) if form else set()
            assert decoded.shape == expected.shape, name
            if exact[0]:
                # The same numbers, bit for bit (a zero is a zero).
                assert np.array_equal(decoded, expected), name
            else:
                # A product is a sum of rounded terms.
                error = np.abs(decoded - expected).max() / np.abs(expected).max()
                assert error < 1e-6, (name, error)
                worst = max(worst, error)
        assert used == set(file.keys()), set(file.keys()) - used
        assert forms == {"bitmask", "csr", "nm", "zeros"}, forms
        print(f"{len(description['entries'])} weights from {len(used)} arrays: all equal")
        print(f"products within {worst:.1e} of the largest entry")


main()
