"""The processes that are compared, and what else the machine is doing meanwhile."""

import json
import os
import subprocess

import held

# Memory that is freed stays mapped, for both sides: fresh memory costs more than most of the work.
MAPPED = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=34359738368:glibc.malloc.arena_max=1"
TICKS = os.sysconf("SC_CLK_TCK")


class Side:
    """A process that answers each line with a line of JSON."""

    def __init__(self, command, variables, log):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=log, env=variables, text=True
        )

    def ask(self, line):
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # The answer says so.
        return self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{os.path.basename(self.process.args[0])} ended: see log.txt")
        return json.loads(line)

    def seconds(self):
        """CPU time it has used."""
        with open(f"/proc/{self.process.pid}/stat", encoding="utf-8") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.communicate()


def busy():
    """CPU time that everyone on this machine has used."""
    with open("/proc/stat", encoding="utf-8") as file:
        user, nice, system, _, _, irq, softirq = map(int, file.readline().split()[1:8])
    return (user + nice + system + irq + softirq) / TICKS


def environment(options, threads):
    variables = dict(os.environ)
    variables.pop("BANTAM_CPU", None)
    if options.cpu == "avx2":
        variables.update(held.VARIABLES)
        if not options.ours_only:
            variables["PYTHONPATH"] = held.onnxruntime(options.dir)
    for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "RAYON"):
        variables[f"{name}_NUM_THREADS"] = str(threads)
    if options.memory == "mapped":
        variables["GLIBC_TUNABLES"] = MAPPED
    return variables
