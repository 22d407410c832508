"""Checks the last line of the example `deep_compression`, run on a small budget, against looser numbers."""

import json
import sys

line = open(sys.argv[1]).read().strip().splitlines()[-1]
assert line.startswith("RESULT "), line
result = json.loads(line[len("RESULT "):])
smaller, most = float(sys.argv[2]), float(sys.argv[3])
print(f"{result['times_smaller']:.0f} times smaller, at least {smaller:.0f}")
print(f"{result['test_error']:.2f} % wrong, at most {most:.2f}")
assert abs(result["file_bytes"] * result["times_smaller"] - 4 * result["parameters"]) < 1
sys.exit(not (result["times_smaller"] >= smaller and result["test_error"] <= most))
