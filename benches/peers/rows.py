"""What both Python files of peers and the comparison share: the rows, their data, and the list of peers.

A peer is a function of the row that returns what to call, and optionally what to do before each call, outside
the clock. Imports are inside, so that a row loads only the libraries it needs, and ours alone needs none.
"""

import json
import os

ROWS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "rows.json")
PEERS = {}


def load():
    """All rows; one with several batches is one for each of them."""
    with open(ROWS, encoding="utf-8") as file:
        for row in json.load(file):
            for batch in row.get("batches") or [None]:
                name = row["name"] if batch is None else f"{row['name']}, batch {batch}"
                yield {**row, "name": name, "batch": batch}


def peer(name):
    def register(make):
        PEERS[name] = make
        return make

    return register


class Work:
    """A row with its data and its number of threads."""

    def __init__(self, row, folder, threads):
        self.row, self.folder, self.threads = row, folder, threads
        self.batch = row["batch"] or 1
        self.rows, self.cols = row.get("shape", [1, 1])
        self.copies = row.get("copies", 1)

    def normal(self, *shape):
        """Values of a normal distribution, the same as on our side."""
        import numpy as np

        n = 1
        for length in shape:
            n *= length
        return np.fromfile(os.path.join(self.folder, f"normal-{n}.f32"), np.float32).reshape(shape)

    def values(self):
        """The matrices, [copies, rows, cols]."""
        return self.normal(self.copies, self.rows, self.cols)

    def matrix(self):
        return self.values()[0]

    def input(self):
        """Of a product or of a network."""
        return self.normal(self.batch, *self.row.get("input", [self.cols]))

    def torch(self):
        import torch

        torch.set_num_threads(self.threads)
        return torch


def session(model, threads):
    """An ONNX model, ready to run: one session a row, since several disturb each other with spinning threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
