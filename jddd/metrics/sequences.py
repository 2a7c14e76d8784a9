"""What holds for samples of any symbols: n-gram entropies, distinct n-grams, and the intervals of any figure."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def ngrams(samples: np.ndarray, n: int) -> np.ndarray:
    """Identity of every n-gram of samples (N, L) within a row, (N, L - n + 1), numbered 0, 1, ... in no particular order."""
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(samples, np.int64), n, axis=1)
    base = int(samples.max()) + 1
    if base**n < 2**62:
        flat = (windows * base ** np.arange(n)).sum(-1)
    else:
        flat = np.unique(windows.reshape(-1, n), axis=0, return_inverse=True)[1].reshape(windows.shape[:2])
    return np.unique(flat, return_inverse=True)[1].reshape(windows.shape[:2])


def entropy(identities: np.ndarray) -> float:
    """Entropy in bits of the empirical distribution of n-gram identities (any shape), pooled; biased low by about (K - 1) / (2 n ln 2),
    so compare equal sample counts only."""
    counts = np.bincount(np.ravel(identities))
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log2(p)).sum())


def distinct(identities: np.ndarray) -> float:
    """Distinct n-grams over all n-grams."""
    return len(np.unique(identities)) / identities.size


def bootstrap(statistic: Callable[[np.ndarray], float], rows: int, *, seed: int = 0, repeats: int = 200, level: float = 0.95) -> tuple[float, float]:
    """Interval of statistic(index (rows,)) over resampled rows."""
    generator = np.random.default_rng(seed)
    values = [statistic(generator.integers(0, rows, rows)) for _ in range(repeats)]
    return tuple(float(v) for v in np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2]))


def jackknife(statistic: Callable[[np.ndarray], float], rows: int, blocks: int = 16) -> tuple[float, float]:
    """95 % interval of a plug-in statistic by leaving out one of `blocks` blocks of rows at a time."""
    blocks = min(blocks, rows)
    groups = np.array_split(np.arange(rows), blocks)
    full = statistic(np.arange(rows))
    values = np.array([statistic(np.setdiff1d(np.arange(rows), group)) for group in groups])
    error = float(np.sqrt((blocks - 1) / blocks * ((values - values.mean()) ** 2).sum()))
    return full - 1.96 * error, full + 1.96 * error
