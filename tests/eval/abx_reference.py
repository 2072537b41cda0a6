"""Slow, obvious versions of what `gslm.eval` computes for ABX, and small made-up items."""

from __future__ import annotations

from collections import defaultdict
from itertools import groupby

import numpy as np

from gslm.eval.abx_items import Items


def warped(distances):
    """Cost of the cheapest path through a table (n, m), over its number of cells."""
    distances = np.asarray(distances, np.float32)
    n, m = distances.shape
    cost = np.full((n + 1, m + 1), np.inf, np.float32)
    cost[0, 0] = 0
    for i in range(n):
        for j in range(m):
            cost[i + 1, j + 1] = distances[i, j] + min(cost[i, j], cost[i, j + 1], cost[i + 1, j])
    steps, i, j = 1, n, m
    while (i, j) != (1, 1):
        diagonal, left, up = cost[i - 1, j - 1], cost[i, j - 1], cost[i - 1, j]
        if diagonal <= left and diagonal <= up:
            i, j = i - 1, j - 1
        elif left <= up:
            j -= 1
        else:
            i -= 1
        steps += 1
    return np.float32(cost[n, m]) / np.float32(steps)


def edited(a, b):
    """Levenshtein distance of two sequences without repetitions, over the longer one's length."""
    a, b = ([key for key, _ in groupby(list(units))] for units in (a, b))
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        above, row = row, [i]
        for j, y in enumerate(b, start=1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return np.float32(row[-1]) / np.float32(max(len(a), len(b)))


def angular(x, y):
    x, y = x.astype(np.float64), y.astype(np.float64)
    lengths = np.linalg.norm(x, axis=1)[:, None], np.linalg.norm(y, axis=1)
    cosine = x @ y.T / np.maximum(lengths[0] * lengths[1], 1e-30)
    # Frames of zeros are opposite to all others.
    silent = lengths[0] == 0, lengths[1] == 0
    cosine[silent[0] | silent[1]] = -1
    cosine[silent[0] & silent[1]] = 1
    return np.arccos(np.clip(cosine, -1, 1)) / np.pi


def euclidean(x, y):
    return np.sqrt(((x.astype(np.float64)[:, None] - y.astype(np.float64)) ** 2).sum(-1))


def kl(x, y):
    x, y = x.astype(np.float64)[:, None], y.astype(np.float64)
    ratio = np.log((x + 1e-6) / (y + 1e-6))
    return 0.5 * ((x - y) * ratio).sum(-1)


def one_hot(x, y):
    return x[:, None] != y


FRAME_TABLES = {"angular": angular, "cosine": angular, "euclidean": euclidean, "kl": kl,
                "one-hot": one_hot}  # fmt: skip


def token_distance(name, x, y):
    """Distance of two tokens' frames, x first."""
    return edited(x, y) if name == "edit" else warped(FRAME_TABLES[name](x, y))


def token_distances(name, tokens):
    """Distance of each token as X, in rows, to each other, (n, n); NaN where one has no frames."""
    return np.array(
        [[token_distance(name, x, y) if len(x) and len(y) else np.nan for y in tokens]
         for x in tokens]
    )  # fmt: skip


def cell_errors(labels, far, task):
    """Mean error and size of each cell, by (ON of X, ON of B, BY, ACROSS of A, ACROSS of X).

    labels: a dictionary an item; far: distances (n, n). All triplets, one after another.
    """
    on = [row[task.on] for row in labels]
    by = [tuple(row[name] for name in task.by) for row in labels]
    across = [tuple(row[name] for name in task.across) for row in labels]
    present = [i for i in range(len(labels)) if not np.isnan(far[i, i])]
    cells = defaultdict(list)
    for x in present:
        for a in present:
            if a == x or on[a] != on[x] or by[a] != by[x]:
                continue
            if any(p == q for p, q in zip(across[a], across[x], strict=True)):
                continue
            for b in present:
                if on[b] != on[x] and by[b] == by[x] and across[b] == across[a]:
                    error = (far[x, b] < far[x, a]) + 0.5 * (far[x, b] == far[x, a])
                    cells[on[x], on[b], by[x], across[a], across[x]].append(error)
    return {key: (float(np.mean(errors)), len(errors)) for key, errors in cells.items()}


def averaged(cells, task):
    """Error of each pair of ON, averaged step by step.

    First over contexts, which are BY but for the speaker, and over ACROSS of X; then over
    speakers; then over what else ACROSS of A names, one after another.
    """
    rates = {}
    for (on, other, by, across, x), (rate, _) in cells.items():
        names = zip(task.by + task.across, by + across, strict=True)
        rates[on, other, (*names, ("x", x))] = rate
    contexts = {name for name in task.by if name != "speaker"}
    for level in (contexts | {"x"}, {"speaker"}, *({name} for name in task.across)):
        groups = defaultdict(list)
        for (on, other, labels), rate in rates.items():
            left = tuple((name, value) for name, value in labels if name not in level)
            groups[on, other, left].append(rate)
        rates = {key: float(np.mean(found)) for key, found in groups.items()}
    assert all(left == () for _, _, left in rates)
    return {(on, other): rate for (on, other, _), rate in rates.items()}


def make_items(n, random, n_phones=3, n_contexts=2, n_speakers=3, n_files=2, longest=0.15):
    """Random tokens of at most `longest` seconds in files of 4 seconds."""
    onsets = np.round(random.uniform(0, 3.8, n), 4)
    columns = {
        "phone": random.integers(0, n_phones, n),
        "prev-phone": random.integers(0, n_contexts, n),
        "next-phone": np.zeros(n, int),
        "speaker": random.integers(0, n_speakers, n),
    }
    return Items(
        "made.item",
        np.array([f"f{i}" for i in random.integers(0, n_files, n)]),
        onsets,
        np.round(onsets + random.uniform(0.0, longest, n), 4),
        {name: np.array([f"{name[0]}{value}" for value in column])
         for name, column in columns.items()},
        np.arange(2, n + 2),
    )  # fmt: skip


def rows_of(items):
    """Labels of each item, as a dictionary."""
    names = list(items.columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*items.columns.values(), strict=True)]
