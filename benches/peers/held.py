"""What leaves out all instructions after AVX2, so that one machine shows what others take.

ONNX Runtime has no setting for that: a copy of it is changed, where it asks the CPU. The Rust crates and fbgemm (in
torch) ask for themselves.
"""

import importlib.util
import os
import shutil

VARIABLES = {
    "BANTAM_CPU": "avx2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR",
    "OPENBLAS_CORETYPE": "Haswell",
}

# xgetbv; mov eax, eax; shl rdx, 32; or rdx, rax; not rax: which registers the system saves, as MLAS asks for it.
ASKED = bytes.fromhex("0f01d0 89c0 48c1e220 4809c2 48f7d0")
# xgetbv; and eax, 7; mov edx, eax; nop; not rax: none but those of AVX.
ANSWERED = bytes.fromhex("0f01d0 83e007 89c2 0f1f4000 48f7d0")
# cpuid; test al, 16; je: AVX-VNNI. The test of 0 always jumps.
VNNI, NO_VNNI = bytes.fromhex("0fa2 a810 74"), bytes.fromhex("0fa2 a800 74")
# How far after the one the other is asked for.
NEAR = 2048


def onnxruntime(folder):
    """A folder with a copy of ONNX Runtime that uses AVX2 alone, made if it is not there; an error says why not."""
    package = os.path.dirname(importlib.util.find_spec("onnxruntime").origin)
    with open(os.path.join(package, "__init__.py"), encoding="utf-8") as file:
        version = file.read().split('__version__ = "')[1].split('"')[0]
    place = os.path.join(folder, f"onnxruntime-{version}-avx2")
    if os.path.isdir(place):
        return place
    made = f"{place}.new"
    shutil.rmtree(made, ignore_errors=True)
    shutil.copytree(package, os.path.join(made, "onnxruntime"))
    capi = os.path.join(made, "onnxruntime", "capi")
    (library,) = [name for name in os.listdir(capi) if name.startswith("onnxruntime_pybind11_state.")]
    with open(os.path.join(capi, library), "r+b") as file:
        code = file.read()
        at = code.find(ASKED)
        vnni = code.find(VNNI, at, at + NEAR)
        if code.count(ASKED) != 1 or vnni < 0:
            raise ValueError(f"ONNX Runtime {version} asks the CPU in another way: it cannot be held to AVX2")
        for at, answer in ((at, ANSWERED), (vnni, NO_VNNI)):
            file.seek(at)
            file.write(answer)
    os.rename(made, place)
    return place
