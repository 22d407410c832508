"""Checks the quickstart's table against what the project promises."""

import json
import sys

rows = {row["recipe"]: row for row in json.load(open(sys.argv[1]))}
original = rows["original"]
failures = []


def check(what, holds):
    print("ok  " if holds else "FAIL", what)
    if not holds:
        failures.append(what)


def within(name, points):
    loss = 100 * (original["accuracy"] - rows[name]["accuracy"])
    check(f"{name}: {loss:.2f} points lost, at most {points}", loss <= points + 1e-9)


check(f"original: {100 * original['accuracy']:.2f} %, at least 98.2", original["accuracy"] >= 0.982)
within("prune to 90 %, fine-tune", 0.2)
within("quantize(8)", 0.2)
within("8-bit weights and activations, in integers", 0.2)
within("4 bits per channel", 0.2)
share = rows["quantize(8)"]["bytes"] / original["bytes"]
check(f"quantize(8): {share:.3f} of the bytes, at most 0.27", share <= 0.27)
student, alone = "student 784-64-32-10, distilled", "the same student without a teacher"
better = 100 * (rows[student]["accuracy"] - rows[alone]["accuracy"])
check(f"{student}: {better:.2f} points better than alone", better > 0)
within("low rank by energy, fine-tune U and V", 0.3)
smaller = rows["low rank by energy, fine-tune U and V"]["times_smaller"]
check(f"low rank by energy: {smaller:.1f} times smaller, at least 3", smaller >= 3)
smaller = rows["prune(0.1)"]["times_smaller"]
check(f"prune(0.1): {smaller:.1f} times smaller, at least 5", smaller >= 5)
all_four = "all four: factorize, prune, distil, quantize"
within(all_four, 0.3)
smaller = rows[all_four]["times_smaller"]
check(f"{all_four}: {smaller:.1f} times smaller, at least 25", smaller >= 25)
sys.exit(bool(failures))
