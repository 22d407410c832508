"""Ours and theirs in turn, the table and the figure. Started by `run`; see README.md."""

import argparse
import contextlib
import datetime
import fnmatch
import json
import os
import subprocess
import sys
import time

import rows
import table
from sides import Side, busy, environment

HERE = os.path.dirname(os.path.abspath(__file__))
# Threads of a library that spin for a while after their work are given the time to stop.
PAUSE = 0.15
# Rows and columns of matrices of 1, 16, 256, 1024 and 4096 MB.
SIDES = (512, 2048, 8192, 16384, 32768)
# Up to here the copies that peers make fit into 24 GiB beside ours.
PEERS_UP_TO = 16384


def measure(row, options, threads, side=None):
    """All rounds of a row: what was measured, by who. With a side, the step and the peers at that size."""
    variables = environment(options, threads)
    data = os.path.join(options.dir, "data")
    os.makedirs(data, exist_ok=True)
    size = ["--side", str(side)] if side else []
    small = not side or side <= PEERS_UP_TO
    alone = not small or options.ours_only
    # Values that no peer reads need no file.
    kept = ["--data", data] if small else []
    command = [options.ours, "--row", row["name"], *size, *kept, "--serve"]
    script = [sys.executable, os.path.join(HERE, "peers.py"), row["name"], *size]
    script += ["--data", data, "--threads", str(threads)]
    shape = [side, side] if side else row.get("shape", [1, 1])
    crates = [options.crates, data, *map(str, [*shape, row.get("copies", 1), row["batch"] or 0])]
    found = {}
    with open(os.path.join(options.dir, "log.txt"), "a", encoding="utf-8") as log:
        with contextlib.ExitStack() as sides:
            ours = sides.enter_context(Side(command, variables, log))
            parts = ours.answer()["parts"]
            everyone = [(ours, "ours")] if side else [(ours, part) for part in parts]
            for start, names in (script, row["peers"]), (crates, row.get("crates")):
                if names and not alone:
                    theirs = sides.enter_context(Side(start, variables, log))
                    everyone += [(theirs, name) for name in names]
            others = run(row, everyone, found, options.rounds)
    return {"row": row["name"], "found": found, "others": others, "load": os.getloadavg()[0]}


def run(row, everyone, found, rounds):
    """Fills `found`, and says how many cores other processes used."""
    ours = everyone[0][0]
    sides = {side for side, _ in everyone}
    slow = sides - {ours} if row.get("slow") else set()
    # Before the first round everyone has done the work for a while: a process that has just begun, or whose
    # neighbours are just being made, is slower for longer than one call.
    for side, name in everyone:
        if side not in slow:
            side.ask(name)
    start, before = time.time(), busy() - sum(side.seconds() for side in sides)
    for i in range(rounds):
        for side, name in everyone:
            # The slow ones once.
            if side in slow and i > 0:
                continue
            if "error" in (found.get(name) or [{}])[-1]:
                continue
            if side is not ours:
                time.sleep(PAUSE)
            found.setdefault(name, []).append(side.ask(name))
        time.sleep(PAUSE)
    used = busy() - sum(side.seconds() for side in sides) - before
    return used / (time.time() - start)


def attempt(row, options, threads, side=None):
    """As `measure`; a process that ends is a line in the table."""
    try:
        return measure(row, options, threads, side)
    except RuntimeError as error:
        return {"row": row["name"], "error": str(error)}


def keep(results, options):
    """The files so far: whoever stops a long run keeps what was measured."""
    name = options.out.removesuffix(".md")
    os.makedirs(os.path.dirname(os.path.abspath(name)), exist_ok=True)
    with open(f"{name}.md", "w", encoding="utf-8") as file:
        file.write(table.page(results))
    with open(f"{name}.json", "w", encoding="utf-8") as file:
        # A line a row.
        head = {key: value for key, value in results.items() if key not in ("rows", "scaling")}
        lists = {
            key: "[\n  " + ",\n  ".join(map(json.dumps, results[key])) + "\n ]" if results[key] else "[]"
            for key in ("rows", "scaling")
        }
        fields = [f'"{key}": {json.dumps(value)}' for key, value in head.items()]
        file.write("{" + ",\n ".join([*fields, *(f'"{key}": {text}' for key, text in lists.items())]) + "}\n")
    return name


def arguments():
    parse = argparse.ArgumentParser(prog="benches/peers/run", description=__doc__)
    parse.add_argument("--dir", required=True, help="folder for the environment and the data")
    parse.add_argument("--ours", required=True, help=argparse.SUPPRESS)
    parse.add_argument("--crates", default="", help=argparse.SUPPRESS)
    parse.add_argument("--figure", required=True, help=argparse.SUPPRESS)
    parse.add_argument("--rows", action="append", help="only rows whose name matches; may be repeated")
    parse.add_argument("--rounds", type=int, default=5)
    parse.add_argument("--threads", type=int, default=os.cpu_count())
    parse.add_argument("--memory", choices=["mapped", "fresh"], default="mapped")
    parse.add_argument(
        "--cpu",
        choices=["all", "avx2"],
        default="all",
        help="`avx2`: nothing that came after it in ours, torch, ONNX Runtime and numpy",
    )
    parse.add_argument("--ours-only", action="store_true", help="no peers: ours and the limit")
    parse.add_argument(
        "--scaling",
        choices=["also", "only"],
        nargs="?",
        const="also",
        help="a second table: sizes from 1 MB to 4 GB, on one thread and on all",
    )
    parse.add_argument("--largest", type=int, default=4096, help="of these sizes, in MB")
    parse.add_argument("--out", help="OUT.md, OUT.json, OUT.svg; `dated`: benches/results/DATE.*")
    options = parse.parse_args()
    wanted = [
        row
        for row in rows.load()
        if not options.rows or any(fnmatch.fnmatch(row["name"], pattern) for pattern in options.rows)
    ]
    if not wanted:
        parse.error("no such row; there are:\n" + "\n".join(row["name"] for row in rows.load()))
    return options, wanted


def main():
    options, wanted = arguments()
    today = datetime.date.today().isoformat()
    if options.out == "dated":
        options.out = os.path.join(HERE, "..", "results", today)
    elif not options.out:
        options.out = os.path.join(options.dir, "latest")
    results = {"date": today, "machine": table.machine(options), "rows": [], "scaling": []}
    print(table.page(results), flush=True)
    if options.scaling != "only":
        print(f"{table.EXPLANATION}\n\n{table.HEAD}", flush=True)
        for row in wanted:
            results["rows"].append(attempt(row, options, options.threads))
            print(table.row(results["rows"][-1]), flush=True)
            name = keep(results, options)
        subprocess.run([options.figure, f"{name}.json", f"{name}.svg"], check=True)
    if options.scaling:
        print(f"\n{table.SCALING}\n\n{table.SCALING_HEAD}", flush=True)
        sizes = [side for side in SIDES if 4 * side**2 <= options.largest << 20]
        threads = sorted({1, options.threads})
        for row, side, n in ((r, s, n) for r in wanted if r.get("scaling") for s in sizes for n in threads):
            results["scaling"].append({"side": side, "threads": n, **attempt(row, options, n, side)})
            print(table.scaling_row(results["scaling"][-1]), flush=True)
            keep(results, options)
    if any("error" in result for result in results["rows"] + results["scaling"]):
        sys.exit("a row has no result: see log.txt in the folder of the data")


if __name__ == "__main__":
    main()
