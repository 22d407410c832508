"""Their side: one process a row, which runs a round of the peer named on each line of standard input.

The peers of weights are here, those of networks in `networks.py`, and those in Rust in `crates`.
"""

import argparse
import json
import os
import statistics
import sys
import time

import numpy as np

import networks  # noqa: F401: registers its peers
from rows import PEERS, Work, load, peer, session

ROUND = 0.3


# Pruning.


@peer("torch masked")
def _(work):
    torch = work.torch()
    source = torch.from_numpy(work.matrix())
    weight, threshold = source.clone(), work.row["steps"][0]["prune"]["threshold"]
    return lambda: weight.mul_(weight.abs() >= threshold), lambda: weight.copy_(source)


@peer("torch hardshrink")
def _(work):
    torch = work.torch()
    weight, threshold = torch.from_numpy(work.matrix()), work.row["steps"][0]["prune"]["threshold"]
    out = torch.zeros_like(weight)
    return lambda: torch.ops.aten.hardshrink.out(weight, threshold, out=out)


@peer("numpy masked")
def _(work):
    source = work.matrix()
    weight, threshold = source.copy(), np.float32(work.row["steps"][0]["prune"]["threshold"])
    return (
        lambda: np.multiply(weight, np.abs(weight) >= threshold, out=weight),
        lambda: np.copyto(weight, source),
    )


def _linears(work):
    torch = work.torch()

    def make(values):
        layer = torch.nn.Linear(work.cols, work.rows, bias=False, device="meta")
        layer.weight = torch.nn.Parameter(torch.from_numpy(values).clone())
        return layer

    return [make(values) for values in work.values()]


@peer("torch l1_unstructured")
def _(work):
    import torch.nn.utils.prune as prune

    layer = []
    return (
        lambda: prune.l1_unstructured(layer[0], "weight", amount=0.9),
        lambda: layer.__setitem__(slice(None), _linears(work)),
    )


@peer("torch global_unstructured")
def _(work):
    import torch.nn.utils.prune as prune

    layers = []
    return (
        lambda: prune.global_unstructured(
            [(layer, "weight") for layer in layers], pruning_method=prune.L1Unstructured, amount=0.9
        ),
        lambda: layers.__setitem__(slice(None), _linears(work)),
    )


@peer("numpy partition")
def _(work):
    """Finds the threshold; prunes nothing."""
    values = work.values().reshape(-1)
    at = int(0.9 * values.size)
    return lambda: np.partition(np.abs(values), at)[at]


@peer("torch 2:4")
def _(work):
    torch = work.torch()
    weight = torch.from_numpy(work.matrix())

    def call():
        groups = weight.reshape(-1, 4)
        kept = groups.abs().topk(2, dim=-1).indices
        mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, kept, True)
        return (groups * mask).reshape(weight.shape)

    return call


@peer("numpy 2:4")
def _(work):
    weight = work.matrix()

    def call():
        groups = weight.reshape(-1, 4)
        dropped = np.argpartition(np.abs(groups), 2, axis=1)[:, :2]
        out = groups.copy()
        np.put_along_axis(out, dropped, 0, axis=1)
        return out

    return call


# Quantizing.


@peer("torch per tensor")
def _(work):
    torch = work.torch()
    weight = torch.from_numpy(work.matrix())

    def call():
        low, high = torch.aminmax(weight)
        low, high = min(float(low), 0.0), max(float(high), 0.0)
        scale = (high - low) / 255
        return torch.quantize_per_tensor(weight, scale, round(-low / scale), torch.quint8)

    return call


@peer("torch per channel")
def _(work):
    torch = work.torch()
    weight = torch.from_numpy(work.matrix())
    zeros = torch.zeros(work.rows, dtype=torch.long)

    def call():
        scale = weight.abs().amax(dim=1) / 127
        return torch.quantize_per_channel(weight, scale.double(), zeros, 0, torch.qint8)

    return call


@peer("torch group 128")
def _(work):
    torch = work.torch()
    weight = torch.from_numpy(work.matrix())

    def call():
        groups = weight.view(-1, 128)
        low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
        scale = (high - low).clamp(min=1e-6) / 15
        zero = (-low / scale).round().clamp(0, 15)
        codes = ((groups / scale).round() + zero).clamp(0, 15).to(torch.uint8).view(weight.shape)
        return codes[:, 0::2] | (codes[:, 1::2] << 4), scale, zero

    return call


@peer("torch dequantize")
def _(work):
    torch = work.torch()
    weight = torch.from_numpy(work.matrix())
    codes = torch.quantize_per_tensor(weight, float(weight.abs().max()) / 127, 128, torch.quint8)
    return codes.dequantize


def _gguf(kind):
    def make(work):
        from gguf import GGMLQuantizationType, quants

        weight = work.matrix()
        return lambda: quants.quantize(weight, GGMLQuantizationType[kind])

    return make


for _kind in ("Q8_0", "Q4_0", "Q4_1"):
    peer(f"gguf {_kind}")(_gguf(_kind))


@peer("gguf dequantize Q8_0")
def _(work):
    from gguf import GGMLQuantizationType, quants

    codes = quants.quantize(work.matrix(), GGMLQuantizationType.Q8_0)
    return lambda: quants.dequantize(codes, GGMLQuantizationType.Q8_0)


@peer("sklearn KMeans")
def _(work):
    """From the same start, for as many iterations."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    values = work.matrix().reshape(-1, 1)
    step = work.row["steps"][0]["codebook"]
    start = np.linspace(values.min(), values.max(), step["values"], dtype=np.float32).reshape(-1, 1)
    means = KMeans(
        step["values"], init=start, n_init=1, max_iter=step["iterations"], tol=0, algorithm="lloyd"
    )

    def call():
        with threadpool_limits(work.threads):
            return means.fit(values)

    return call


# Decomposing.


@peer("torch svd")
def _(work):
    torch = work.torch()
    matrix = torch.from_numpy(work.matrix())
    return lambda: torch.linalg.svd(matrix, full_matrices=False)


@peer("scipy svd")
def _(work):
    import scipy.linalg

    matrix = work.matrix()
    return lambda: scipy.linalg.svd(matrix, full_matrices=False, check_finite=False)


def _lowrank(iterations):
    def make(work):
        torch = work.torch()
        matrix, rank = torch.from_numpy(work.matrix()), work.row["rank"]
        return lambda: torch.svd_lowrank(matrix, q=rank, niter=iterations)

    return make


for _iterations in (2, 4):
    peer(f"torch svd_lowrank niter {_iterations}")(_lowrank(_iterations))


@peer("sklearn randomized_svd")
def _(work):
    from sklearn.utils.extmath import randomized_svd

    matrix, rank = work.matrix(), work.row["rank"]
    return lambda: randomized_svd(matrix, rank, n_iter=4, random_state=0)


# Running. Each call runs all weights once.


def _in_turn(layers, x, torch):
    def call():
        with torch.inference_mode():
            for layer in layers:
                layer(x)

    return call


@peer("torch linear")
def _(work):
    torch = work.torch()
    return _in_turn(_linears(work), torch.from_numpy(work.input()), torch)


@peer("torch dynamic int8")
def _(work):
    torch = work.torch()
    from torch.ao.quantization import quantize_dynamic

    torch.backends.quantized.engine = "x86"
    layers = [
        quantize_dynamic(torch.nn.Sequential(layer), {torch.nn.Linear}, dtype=torch.qint8)
        for layer in _linears(work)
    ]
    return _in_turn(layers, torch.from_numpy(work.input()), torch)


@peer("torch int4pack bf16")
def _(work):
    torch = work.torch()
    x = torch.from_numpy(work.input()).to(torch.bfloat16)
    codes = torch.randint(0, 15, (work.rows, work.cols), dtype=torch.int32)
    packed = [torch._convert_weight_to_int4pack_for_cpu(codes.roll(i, 0), 2) for i in range(work.copies)]
    scales = torch.rand(work.cols // 128, work.rows, 2).to(torch.bfloat16)
    return _in_turn(
        [lambda x, w=w: torch._weight_int4pack_mm_for_cpu(x, w, 128, scales) for w in packed], x, torch
    )


def _pruned(work):
    """The same entries stay as on our side: the largest of each matrix."""
    for values in work.values():
        at = round(work.row["sparsity"] * values.size)
        size = np.abs(values)
        threshold = np.partition(size.reshape(-1), at)[at]
        yield np.where(size >= threshold, values, 0)


@peer("torch CSR")
def _(work):
    torch = work.torch()
    x = torch.from_numpy(np.ascontiguousarray(work.input().T))

    def compressed(values):
        dense = torch.from_numpy(values).to_sparse_csr()
        parts = dense.crow_indices().int(), dense.col_indices().int(), dense.values()
        return torch.sparse_csr_tensor(*parts, dense.shape)

    weights = [compressed(values) for values in _pruned(work)]
    return _in_turn([lambda x, w=w: torch.sparse.mm(w, x) for w in weights], x, torch)


@peer("scipy CSR")
def _(work):
    import scipy.sparse

    x = np.ascontiguousarray(work.input().T)
    weights = [scipy.sparse.csr_matrix(values) for values in _pruned(work)]
    return lambda: [weight @ x for weight in weights]


def _onnx(work, op, weights, domain="", attributes=None, extra=None, x=None):
    """All weights in one session: several sessions would disturb each other with spinning threads."""
    import onnx.helper
    import onnx.numpy_helper

    x = work.input() if x is None else x
    extra = extra or {}
    nodes = [
        onnx.helper.make_node(op, ["x", f"w{i}", *extra], [f"y{i}"], domain=domain, **(attributes or {}))
        for i in range(work.copies)
    ]
    tensors = {f"w{i}": weight for i, weight in enumerate(weights)} | extra
    shape = [work.batch, work.cols]
    types = onnx.TensorProto
    input_type = types.FLOAT if x.dtype == np.float32 else types.UINT8
    output_type = types.INT32 if op == "MatMulInteger" else types.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", input_type, shape)],
        [
            onnx.helper.make_tensor_value_info(f"y{i}", output_type, [work.batch, work.rows])
            for i in range(work.copies)
        ],
        [onnx.numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    ort = session(model, work.threads)
    return lambda: ort.run(None, {"x": x})


@peer("ort MatMul")
def _(work):
    # A message of protocol buffers ends at 2 GB.
    return _onnx(work, "MatMul", [np.ascontiguousarray(w.T) for w in work.values()])


def _int8(work):
    scales, codes = [], []
    for values in work.values():
        scale = np.abs(values).max(axis=1) / 127
        scales.append(scale.astype(np.float32))
        codes.append(np.ascontiguousarray(np.rint(values / scale[:, None]).astype(np.int8).T))
    return scales, codes


@peer("ort DynamicQuantizeMatMul")
def _(work):
    scales, codes = _int8(work)
    extra = {"scale": scales[0], "zero": np.zeros(work.rows, np.int8)}
    return _onnx(work, "DynamicQuantizeMatMul", codes, "com.microsoft", None, extra)


@peer("ort MatMulInteger")
def _(work):
    """Integer input, integer output: without coding the input and without scales."""
    x = np.clip(work.input() * 32 + 128, 0, 255).astype(np.uint8)
    return _onnx(work, "MatMulInteger", _int8(work)[1], x=x)


def _nbits(level):
    def make(work):
        rng = np.random.default_rng(0)
        groups = work.cols // 128
        codes = [rng.integers(0, 255, (work.rows, groups, 64), dtype=np.uint8) for _ in range(work.copies)]
        extra = {"scale": np.full(work.rows * groups, 0.01, np.float32)}
        attributes = dict(K=work.cols, N=work.rows, bits=4, block_size=128, accuracy_level=level)
        return _onnx(work, "MatMulNBits", codes, "com.microsoft", attributes, extra)

    return make


for _level in (0, 4):
    peer(f"ort MatMulNBits level {_level}")(_nbits(_level))


def run_round(call, before, unit, slow):
    if not slow:
        # It may map memory.
        if before:
            before()
        call()
    times, begin = [], time.perf_counter()
    while not times or time.perf_counter() - begin < ROUND:
        if before:
            before()
        start = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - start)
        del result
    return {"ms": statistics.median(times) * 1e3 / unit, "calls": len(times)}


def main():
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("row")
    parse.add_argument("--data", required=True, help="folder of the values, which our side has made")
    parse.add_argument("--threads", type=int, required=True)
    parse.add_argument("--side", type=int, help="matrices of N x N instead")
    options = parse.parse_args()
    row = next(row for row in load() if row["name"] == options.row)
    if options.side:
        row["shape"] = [options.side, options.side]
    work = Work(row, options.data, options.threads)
    # What is printed by a library must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    made = {}
    for line in sys.stdin:
        who = line.strip()
        try:
            if who not in made:
                parts = PEERS[who](work)
                call, before = parts if isinstance(parts, tuple) else (parts, None)
                made[who] = call, before
            unit = work.copies if row.get("measure") == "matmul" else 1
            answer = {"who": who, **run_round(*made[who], unit, row.get("slow"))}
        except Exception as error:  # noqa: BLE001: a peer that fails is a line in the table
            answer = {"who": who, "error": f"{type(error).__name__}: {error}"[:200]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
