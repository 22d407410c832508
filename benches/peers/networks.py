"""The peers of networks: float32 and int8, whole networks and single operators; and of training them.

Weights are those of our side: normal values divided by the root of the number of inputs; biases are zero.
"""

import os
import tempfile

import numpy as np

from rows import peer, session


def _layers(work, of="layers"):
    """Each layer as its kind, its settings, and its weight where it has one."""
    channels, height, width = work.row["input"]
    for layer in work.row[of]:
        kind, setting = next(iter(layer.items())) if isinstance(layer, dict) else (layer, None)
        weight = None
        if kind == "conv":
            out, size, grown = setting["channels"], setting["size"], 2 * setting["padding"] + 1
            weight = work.normal(out, channels, size, size)
            channels, height, width = out, height + grown - size, width + grown - size
        elif kind == "linear":
            weight = work.normal(setting, channels * height * width)
            channels, height, width = setting, 1, 1
        elif kind == "pool":
            height, width = height // 2, width // 2
        if weight is not None:
            weight = weight / np.float32(np.sqrt(weight[0].size))
        yield kind, setting, weight


def _sequential(work, of="layers"):
    torch = work.torch()
    layers, flat = [], False

    def filled(layer, weight):
        layer.weight.data = torch.from_numpy(weight)
        layer.bias.data.zero_()
        return layer

    for kind, setting, weight in _layers(work, of):
        if kind == "conv":
            out, into, size, _ = weight.shape
            layers.append(filled(torch.nn.Conv2d(into, out, size, padding=setting["padding"]), weight))
        elif kind == "linear":
            if not flat:
                layers.append(torch.nn.Flatten())
            flat = True
            layers.append(filled(torch.nn.Linear(weight.shape[1], weight.shape[0]), weight))
        else:
            layers.append(torch.nn.MaxPool2d(2) if kind == "pool" else torch.nn.ReLU())
    return torch.nn.Sequential(*layers)


@peer("torch network")
def _(work):
    torch = work.torch()
    network, x = _sequential(work).eval(), torch.from_numpy(work.input())

    def call():
        with torch.inference_mode():
            return network(x)

    return call


def _training(work, **settings):
    """Steps of training on one batch, with the loss and the rate of our side."""
    torch = work.torch()
    from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

    student, x = _sequential(work), torch.from_numpy(work.input())
    teacher = _sequential(work, "teacher").eval() if "teacher" in work.row else None
    labels = torch.arange(work.batch) % 10
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-5, **settings)

    def call():
        optimizer.zero_grad(set_to_none=True)
        logits = student(x)
        loss = cross_entropy(logits, labels)
        if teacher:
            with torch.no_grad():
                wanted = softmax(teacher(x) / 4, 1)
            loss = 0.9 * 16 * kl_div(log_softmax(logits / 4, 1), wanted, reduction="batchmean") + 0.1 * loss
        loss.backward()
        optimizer.step()

    return call


@peer("torch training")
def _(work):
    return _training(work)


@peer("torch training fused Adam")
def _(work):
    return _training(work, fused=True)


def _model(nodes, tensors, x_type, y_type, shape):
    import onnx.helper
    import onnx.numpy_helper

    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", x_type, shape)],
        [onnx.helper.make_tensor_value_info("y", y_type, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 21)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _float(work):
    """The network as an ONNX model."""
    import onnx.helper

    nodes, tensors, last, flat = [], {}, "x", False

    def then(op, name, extra=(), **attributes):
        nonlocal last
        nodes.append(onnx.helper.make_node(op, [last, *extra], [name], name=name, **attributes))
        last = name

    for i, (kind, setting, weight) in enumerate(_layers(work)):
        extra = (f"w{i}", f"b{i}")
        if weight is not None:
            tensors[extra[0]], tensors[extra[1]] = weight, np.zeros(len(weight), np.float32)
        if kind == "conv":
            then("Conv", f"l{i}", extra, pads=[setting["padding"]] * 4, kernel_shape=weight.shape[2:])
        elif kind == "linear":
            if not flat:
                then("Flatten", f"f{i}")
            flat = True
            then("Gemm", f"l{i}", extra, transB=1)
        elif kind == "pool":
            then("MaxPool", f"l{i}", kernel_shape=[2, 2], strides=[2, 2])
        else:
            then("Relu", f"l{i}")
    nodes[-1].output[0] = "y"
    return _model(nodes, tensors, onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT, work.input().shape)


def _running(model, x, work):
    ort = session(model, work.threads)
    return lambda: ort.run(None, {"x": x})


@peer("ort network")
def _(work):
    return _running(_float(work), work.input(), work)


def _quantized(work, quantize):
    """What `quantize(from, to)` makes of the model: ONNX Runtime's quantizers work on files."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, name) for name in ("float.onnx", "int8.onnx")]
        onnx.save(_float(work), paths[0])
        quantize(*paths)
        return onnx.load(paths[1])


@peer("ort dynamic int8 network")
def _(work):
    """`quantize_dynamic`, as users get it: inputs of layers are coded as they come, as on our side.

    Leaves out: a scale for each channel, which it does not make; weights have one a tensor.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    def quantize(before, after):
        types = ["Conv", "Gemm", "MatMul"]
        quantize_dynamic(before, after, weight_type=QuantType.QInt8, op_types_to_quantize=types)

    return _running(_quantized(work, quantize), work.input(), work)


@peer("ort static int8 network")
def _(work):
    """`quantize_static`: float input and output, integers (`QLinearConv`, `QGemm`) from layer to layer.

    Leaves out: finding the ranges of the layers' inputs, which were measured before on the same input.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = iter([{"x": work.input()}])

        def get_next(self):
            return next(self.left, None)

    def quantize(before, after):
        types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        quantize_static(before, after, Reader(), QuantFormat.QOperator, per_channel=True, **types)

    return _running(_quantized(work, quantize), work.input(), work)


def _codes(work):
    """The input as unsigned integers, and the kernel of the only layer as signed ones with a scale a channel."""
    ((_, setting, weight),) = _layers(work)
    x = np.clip(work.input() * 32 + 128, 0, 255).astype(np.uint8)
    scale = (np.abs(weight).max(axis=(1, 2, 3)) / 127).astype(np.float32)
    codes = np.rint(weight / scale[:, None, None, None]).astype(np.int8)
    return x, codes, scale, [setting["padding"]] * 4


@peer("ort ConvInteger")
def _(work):
    """Integers in, 32-bit integers out.

    Leaves out: coding the input, scaling the output, and the bias.
    """
    import onnx.helper

    x, codes, _, pads = _codes(work)
    tensors = {"w": codes, "xz": np.array(128, np.uint8)}
    node = onnx.helper.make_node("ConvInteger", ["x", *tensors], ["y"], pads=pads)
    types = onnx.TensorProto
    return _running(_model([node], tensors, types.UINT8, types.INT32, x.shape), x, work)


@peer("ort QLinearConv")
def _(work):
    """Integers in, 8-bit integers out, with a scale a channel.

    Leaves out: coding the input, decoding the output, the ranges of both, and the bias.
    """
    import onnx.helper

    x, codes, scale, pads = _codes(work)
    tensors = {
        "xs": np.array(1 / 32, np.float32),
        "xz": np.array(128, np.uint8),
        "w": codes,
        "ws": scale,
        "wz": np.zeros(len(codes), np.int8),
        "ys": np.array(1 / 32, np.float32),
        "yz": np.array(128, np.uint8),
    }
    node = onnx.helper.make_node("QLinearConv", ["x", *tensors], ["y"], pads=pads)
    types = onnx.TensorProto
    return _running(_model([node], tensors, types.UINT8, types.UINT8, x.shape), x, work)
