"""What samples of text are worth: n-gram entropies, spelled words, distinct n-grams, a judge's code length, with bootstrap intervals."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jddd import losses
from jddd.types import Denoiser


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


def whole_words(text: str) -> list[str]:
    """The words of a sample that are not cut by its ends."""
    return text.split(" ")[1:-1]


def spelled(texts: list[str], vocabulary: frozenset[str]) -> np.ndarray:
    """Share of each sample's whole words that occur in the training text, (N,); nan for a sample with none."""
    shares = []
    for text in texts:
        words = [word for word in whole_words(text) if word]
        shares.append(np.mean([word in vocabulary for word in words]) if words else np.nan)
    return np.array(shares)


@functools.partial(jax.jit, static_argnames=("denoiser", "start_id"))
def _code_length(params, x, *, denoiser, start_id):
    return losses.autoregressive(params, x, denoiser=denoiser, start_id=start_id).mean(-1) / jnp.log(2.0)


def judge_bits(params, samples: np.ndarray, *, denoiser: Denoiser, start_id: int, length: int, batch: int = 64) -> np.ndarray:
    """Code length of each sample in bits a symbol under the causal judge, (N,). Samples longer than the judge's window are scored in pieces."""
    pieces = [samples[:, i : i + length] for i in range(0, samples.shape[1], length)]
    total = np.zeros(len(samples))
    for piece in pieces:
        padded = np.pad(piece, ((0, -len(piece) % batch), (0, 0)))
        bits = [_code_length(params, jnp.asarray(padded[i : i + batch], jnp.int32), denoiser=denoiser, start_id=start_id) for i in range(0, len(padded), batch)]
        total += np.concatenate(bits)[: len(samples)] * piece.shape[1]
    return total / samples.shape[1]


def bootstrap(statistic: Callable[[np.ndarray], float], rows: int, *, seed: int = 0, repeats: int = 200, level: float = 0.95) -> tuple[float, float]:
    """Interval of statistic(index (rows,)) over resampled rows."""
    generator = np.random.default_rng(seed)
    values = [statistic(generator.integers(0, rows, rows)) for _ in range(repeats)]
    return tuple(float(v) for v in np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2]))


def score(samples: np.ndarray, bits: np.ndarray, texts: list[str], vocabulary: frozenset[str], *, repeats: int = 200) -> dict[str, float | list[float]]:
    """All figures of samples (N, L) with the judge's bits (N,): judge_bits and, beside it, entropy_1 and entropy_4 in bits, words, distinct_4;
    judge_bits_error, its standard error; intervals (95 %) under the
    same names with '_interval'."""
    one, four, words = ngrams(samples, 1), ngrams(samples, 4), spelled(texts, vocabulary)
    statistics = {
        "judge_bits": lambda index: float(bits[index].mean()),
        "entropy_1": lambda index: entropy(one[index]),
        "entropy_4": lambda index: entropy(four[index]),
        "words": lambda index: float(np.nanmean(words[index])) if np.isfinite(words[index]).any() else float("nan"),
        "distinct_4": lambda index: distinct(four[index]),
    }
    everything = np.arange(len(samples))
    result: dict = {"judge_bits_error": float(bits.std(ddof=1) / np.sqrt(len(bits))) if len(bits) > 1 else float("nan")}
    for name, statistic in statistics.items():
        result[name] = statistic(everything)
        if name in ("judge_bits", "words"):
            result[f"{name}_interval"] = bootstrap(statistic, len(samples), repeats=repeats)
    # A resample repeats rows, which lowers a plug-in entropy; the jackknife over blocks of rows does not.
    for name in ("entropy_1", "entropy_4"):
        result[f"{name}_interval"] = jackknife(statistics[name], len(samples))
    return result


def jackknife(statistic: Callable[[np.ndarray], float], rows: int, blocks: int = 16) -> tuple[float, float]:
    """95 % interval of a plug-in statistic by leaving out one of `blocks` blocks of rows at a time."""
    blocks = min(blocks, rows)
    groups = np.array_split(np.arange(rows), blocks)
    full = statistic(np.arange(rows))
    values = np.array([statistic(np.setdiff1d(np.arange(rows), group)) for group in groups])
    error = float(np.sqrt((blocks - 1) / blocks * ((values - values.mean()) ** 2).sum()))
    return full - 1.96 * error, full + 1.96 * error
