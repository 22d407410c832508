"""Ours and theirs in turn, and the table. Started by `run`; see README.md."""

import argparse
import datetime
import fnmatch
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time

import peers

HERE = os.path.dirname(os.path.abspath(__file__))
LIBRARIES = ("torch", "onnxruntime", "numpy", "scipy", "scikit-learn", "gguf")
# Memory that is freed stays mapped, for both sides: fresh memory costs more than most of the work.
MAPPED = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=34359738368:glibc.malloc.arena_max=1"
# Threads of a library that spin for a while after their work are given the time to stop.
PAUSE = 0.15
TICKS = os.sysconf("SC_CLK_TCK")


class Side:
    """A process that answers each line with lines of JSON."""

    def __init__(self, command, environment, log):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=log, env=environment, text=True
        )

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args[0]} ended")
        return json.loads(line)

    def seconds(self):
        """CPU time it has used."""
        with open(f"/proc/{self.process.pid}/stat", encoding="utf-8") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def busy():
    """CPU time that everyone on this machine has used."""
    with open("/proc/stat", encoding="utf-8") as file:
        user, nice, system, _, _, irq, softirq = map(int, file.readline().split()[1:8])
    return (user + nice + system + irq + softirq) / TICKS


def environment(threads, memory):
    variables = dict(os.environ)
    for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "RAYON"):
        variables[f"{name}_NUM_THREADS"] = str(threads)
    if memory == "mapped":
        variables["GLIBC_TUNABLES"] = MAPPED
    return variables


def measure(row, options):
    """All rounds of a row: what was measured, by who."""
    variables = environment(options.threads, options.memory)
    data = os.path.join(options.dir, "data")
    os.makedirs(data, exist_ok=True)
    log = open(os.path.join(options.dir, "log.txt"), "a", encoding="utf-8")
    ours = Side([options.ours, "--row", row["name"], "--data", data, "--serve"], variables, log)
    ours.answer()
    script = os.path.join(HERE, "peers.py")
    theirs = Side([sys.executable, script, row["name"], data, str(options.threads)], variables, log)
    found = {}

    def note(answer):
        found.setdefault(answer["who"], []).append(answer)

    def ask_theirs(name):
        theirs.ask(name)
        return theirs.answer()

    names = [] if options.ours_only else list(row["peers"])
    # Before the first round everyone has done the work for a while: the first calls map memory.
    ours.ask("round")
    while not ours.answer().get("end"):
        pass
    for name in names:
        if not row.get("slow"):
            ask_theirs(name)
    start, before = time.time(), busy() - ours.seconds() - theirs.seconds()
    for i in range(options.rounds):
        ours.ask("round")
        while not (answer := ours.answer()).get("end"):
            note(answer)
        for name in names:
            # The slow ones once.
            if row.get("slow") and i > 0:
                continue
            if "error" in (found.get(name) or [{}])[-1]:
                continue
            time.sleep(PAUSE)
            note(ask_theirs(name))
        time.sleep(PAUSE)
    others = (busy() - ours.seconds() - theirs.seconds() - before) / (time.time() - start)
    ours.close()
    theirs.close()
    log.close()
    return {"row": row["name"], "found": found, "others": others, "load": os.getloadavg()[0]}


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


def line(result):
    """One line of the table."""
    found = dict(result["found"])
    ours, limit = found.pop("ours"), found.pop("limit")
    times = {who: middle(rounds) for who, rounds in found.items()}
    ran = {who: t for who, t in times.items() if t}
    best = min(ran.values(), default=None)
    cells = [
        result["row"],
        spread(ours),
        f"{100 * middle(limit) / middle(ours):.0f} % of {spread(limit)}",
        f"{best / middle(ours):.2f}x" if best else "",
        "; ".join(f"{who} {spread(rounds)}" for who, rounds in found.items()),
        f"{result['others']:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


HEAD = """| work | ours, ms | share of the limit, ms | faster than the best peer | peers, ms | others |
| --- | --- | --- | --- | --- | --- |"""


def output(command):
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=HERE, check=False).stdout.strip()
    except OSError:
        return ""


def machine(options):
    cpu = {}
    for text in output(["lscpu"]).splitlines():
        name, _, value = text.partition(":")
        cpu[name.strip()] = value.strip()
    with open("/proc/meminfo", encoding="utf-8") as file:
        memory = int(file.readline().split()[1]) / 2**20
    versions = [platform.python_version(), *(importlib.metadata.version(name) for name in LIBRARIES)]
    libraries = ", ".join(f"{n} {v}" for n, v in zip(("Python", *LIBRARIES), versions))
    flags = [f for f in ("avx2", "avx512f", "avx512_vnni", "avx_vnni") if f in cpu.get("Flags", "").split()]
    return "\n".join(
        [
            f"- {cpu.get('Model name', platform.processor())}, family {cpu.get('CPU family', '?')} model"
            f" {cpu.get('Model', '?')} ({', '.join(flags) or platform.machine()}), {os.cpu_count()} cores,"
            f" L3 {cpu.get('L3 cache', '?')}, {memory:.0f} GiB, Linux {platform.release()}",
            f"- {output(['rustc', '--version'])}; bantam at {output(['git', 'describe', '--always', '--dirty'])}",
            f"- {libraries}",
            f"- {options.threads} threads, {options.rounds} rounds, memory {options.memory},"
            f" load average at the start {os.getloadavg()[0]:.1f}",
        ]
    )


EXPLANATION = """Milliseconds, the median over the rounds (and the least and the most). In each round ours, the
limit and every peer run in turn on the same data, each for about 0.3 s. The limit is the time that the bytes and
the operations of the work take at the rates measured in that round. `others` is how many cores other processes
used meanwhile: above 0.2, distrust the spread and look at ratios."""


def main():
    parse = argparse.ArgumentParser(prog="benches/peers/run", description=__doc__)
    parse.add_argument("--dir", required=True, help="folder for the environment and the data")
    parse.add_argument("--ours", required=True, help=argparse.SUPPRESS)
    parse.add_argument("--rows", action="append", help="only rows whose name matches; may be repeated")
    parse.add_argument("--rounds", type=int, default=5)
    parse.add_argument("--threads", type=int, default=os.cpu_count())
    parse.add_argument("--memory", choices=["mapped", "fresh"], default="mapped")
    parse.add_argument("--ours-only", action="store_true", help="no peers: ours and the limit")
    parse.add_argument("--out", help="a markdown file; `dated` is benches/results/DATE.md")
    options = parse.parse_args()
    wanted = [
        row
        for row in peers.rows()
        if not options.rows or any(fnmatch.fnmatch(row["name"], pattern) for pattern in options.rows)
    ]
    if not wanted:
        parse.error("no such row; there are:\n" + "\n".join(row["name"] for row in peers.rows()))
    today = datetime.date.today().isoformat()
    parts = [f"# bantam and its peers, {today}", machine(options), EXPLANATION, HEAD]
    print("\n\n".join(parts), flush=True)
    with open(os.path.join(options.dir, "rounds.jsonl"), "a", encoding="utf-8") as log:
        for row in wanted:
            try:
                result = measure(row, options)
            except RuntimeError as error:
                parts.append(f"| {row['name']} | {error} | | | | |")
            else:
                log.write(json.dumps({"date": today, **result}) + "\n")
                log.flush()
                parts.append(line(result))
            print(parts[-1], flush=True)
    if options.out:
        path = options.out
        if path == "dated":
            path = os.path.join(HERE, "..", "results", f"{today}.md")
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        head, table = parts[:3], parts[3:]
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n\n".join(head) + "\n\n" + "\n".join(table) + "\n")


if __name__ == "__main__":
    main()
