"""The results as markdown."""

import importlib.metadata
import os
import platform
import re
import statistics
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
LIBRARIES = ("torch", "onnxruntime", "numpy", "scipy", "scikit-learn", "gguf")
CRATES = ("candle-core", "faer", "gemm", "rten-gemm", "tract-linalg")

EXPLANATION = """Milliseconds, the median over the rounds (and the least and the most). In each round ours, the
limit and every peer run in turn on the same data, each for about 0.3 s. `step` is the work as users call it;
`kernel` its inner loops on slices, in memory that is mapped and used again, and the goals are for the kernel
where there is one. The limit is the time that the bytes and the operations of the work take at the rates
measured in that round. `others` is how many cores other processes used meanwhile: above 0.2, distrust the spread
and look at ratios."""

HEAD = """| work | step, ms | kernel, ms | step / kernel | share of the limit, ms | faster than the best peer | peers, ms | others |
| --- | --- | --- | --- | --- | --- | --- | --- |"""

SCALING = """## How time grows with size

The step, in milliseconds, and float32 values read or written in GB/s (those of the weight, once). The peer is the
fastest of the row's, on as many threads; above 1 GB none runs, since their copies do not fit into memory."""

SCALING_HEAD = """| work | float32 | threads | step, ms | GB/s | best peer, ms | faster |
| --- | --- | --- | --- | --- | --- | --- |"""


def number(x):
    return f"{x:.3g}" if x < 100 else f"{x:.0f}"


def spread(rounds):
    times = [r["ms"] for r in rounds if "ms" in r]
    if not times:
        return rounds[0].get("error", "failed").replace("|", "/")
    middle = number(statistics.median(times))
    return middle if len(times) == 1 else f"{middle} ({number(min(times))}..{number(max(times))})"


def middle(rounds):
    times = [r["ms"] for r in rounds if "ms" in r]
    return statistics.median(times) if times else None


def best_peer(found):
    """Name and time of the fastest, if one ran."""
    times = {who: middle(r) for who, r in found.items() if who not in ("ours", "kernel", "limit")}
    return min(((who, t) for who, t in times.items() if t), key=lambda pair: pair[1], default=None)


def cells(*texts):
    return "| " + " | ".join(texts) + " |"


def row(result):
    """One line of the table."""
    if "error" in result:
        return cells(result["row"], result["error"], "", "", "", "", "", "")
    found = dict(result["found"])
    best = best_peer(found)
    ours, limit, kernel = found.pop("ours"), found.pop("limit"), found.pop("kernel", None)
    step, bound = middle(ours), middle(limit)

    def of_both(text):
        """For the kernel, and in brackets for the step; where there is no kernel, for the step."""
        return f"{text(middle(kernel))} (step {text(step)})" if kernel else text(step)

    return cells(
        result["row"],
        spread(ours),
        spread(kernel) if kernel else "",
        f"{step / middle(kernel):.2f}" if kernel else "",
        f"{of_both(lambda t: f'{100 * bound / t:.0f} %')} of {spread(limit)}",
        of_both(lambda t: f"{best[1] / t:.2f}x") if best else "",
        "; ".join(f"{who} {spread(rounds)}" for who, rounds in found.items()),
        f"{result['others']:.1f}",
    )


def scaling_row(result):
    """One line of the table of sizes."""
    work = result["row"].rsplit(", ", 1)[0]
    megabytes = 4 * result["side"] ** 2 / 2**20
    size = f"{megabytes:.0f} MB" if megabytes < 1024 else f"{megabytes / 1024:.0f} GB"
    if "error" in result:
        return cells(work, size, str(result["threads"]), result["error"], "", "", "")
    ours, best = result["found"]["ours"], best_peer(result["found"])
    return cells(
        work,
        size,
        str(result["threads"]),
        spread(ours),
        number(4 * result["side"] ** 2 / middle(ours) / 1e6),
        f"{best[0]} {number(best[1])}" if best else "",
        f"{best[1] / middle(ours):.2f}x" if best else "",
    )


def output(command):
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=HERE, check=False).stdout.strip()
    except OSError:
        return ""


def version(library):
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def locked():
    """Names and versions of the crates."""
    with open(os.path.join(HERE, "crates", "Cargo.lock"), encoding="utf-8") as file:
        versions = dict(re.findall(r'name = "(.*)"\nversion = "(.*)"', file.read()))
    return [f"{name} {versions[name]}" for name in CRATES]


def machine(options):
    cpu = {}
    for text in output(["lscpu"]).splitlines():
        name, _, value = text.partition(":")
        cpu[name.strip()] = value.strip()
    with open("/proc/meminfo", encoding="utf-8") as file:
        memory = int(file.readline().split()[1]) / 2**20
    versions = {name: version(name) for name in LIBRARIES}
    libraries = [f"{name} {v}" for name, v in {"Python": platform.python_version(), **versions}.items() if v]
    libraries += locked() if options.crates else []
    flags = [f for f in ("avx2", "avx512f", "avx512_vnni", "avx_vnni") if f in cpu.get("Flags", "").split()]
    return "\n".join(
        [
            f"- {cpu.get('Model name', platform.processor())}, family {cpu.get('CPU family', '?')} model"
            f" {cpu.get('Model', '?')} ({', '.join(flags) or platform.machine()}), {os.cpu_count()} cores,"
            f" L3 {cpu.get('L3 cache', '?')}, {memory:.0f} GiB, Linux {platform.release()}",
            f"- {output(['rustc', '--version'])}; bantam at {output(['git', 'describe', '--always', '--dirty'])}",
            f"- {', '.join(libraries)}",
            f"- {options.threads} threads, {options.rounds} rounds, memory {options.memory},"
            f" load average at the start {os.getloadavg()[0]:.1f}",
            *(["- AVX2 alone in bantam, torch (not fbgemm), ONNX Runtime and numpy"] if options.cpu == "avx2" else []),
        ]
    )


def page(results):
    """All of a file of results."""
    parts = [f"# bantam and its peers, {results['date']}", results["machine"]]
    if results["rows"]:
        parts += [EXPLANATION, "\n".join([HEAD, *map(row, results["rows"])])]
    if results["scaling"]:
        parts += [SCALING, "\n".join([SCALING_HEAD, *map(scaling_row, results["scaling"])])]
    return "\n\n".join(parts) + "\n"
