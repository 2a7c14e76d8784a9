"""What samples of Countdown are worth: broken rules, where counts restart, likelihood, pairs and runs."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jddd.metrics import sequences
from jddd.models.exact import MarkovChain


def violations(x: np.ndarray) -> np.ndarray:
    """Which sites (N, L) break the rule: they follow a value above 0 and are not one less. The first site cannot."""
    broken = np.zeros(x.shape, bool)
    broken[:, 1:] = (x[:, :-1] != 0) & (x[:, 1:] != x[:, :-1].astype(int) - 1)
    return broken


def jys_violations(x: np.ndarray) -> np.ndarray:
    """Which sites (N, L) Jump Your Steps counts as wrong (Park et al. 2024): after each checked site the one that follows is not checked, so within a
    run only every second one is."""
    broken, checked = violations(x), np.zeros(len(x), bool)
    for i in range(1, x.shape[1]):
        checked = (x[:, i - 1] != 0) & ~checked
        broken[:, i] &= checked
    return broken


def restarts(x: np.ndarray) -> np.ndarray:
    """The values that follow a 0, of all rows."""
    return x[:, 1:][x[:, :-1] == 0]


def uniform_distance(values: np.ndarray, size: int) -> float:
    """Total variation between the values' histogram and the uniform law; nan without values."""
    return float(0.5 * np.abs(np.bincount(values, minlength=size) / len(values) - 1 / size).sum()) if len(values) else float("nan")


def uniform_distance_floor(count: int, size: int) -> float:
    """What uniform_distance shows on average when `count` values are truly uniform (normal approximation)."""
    return float(0.5 * size * np.sqrt(2 / np.pi * (1 / size) * (1 - 1 / size) / max(count, 1)))


def pair_distance(x: np.ndarray, chain: MarkovChain) -> float:
    """Total variation between the pairs of neighbours in the samples and what the chain gives for the first of them."""
    size = len(chain.first)
    pairs = np.bincount((x[:, :-1].astype(int) * size + x[:, 1:]).ravel(), minlength=size**2).reshape(size, size)
    expected = pairs.sum(1, keepdims=True) * np.asarray(chain.next)
    return float(0.5 * np.abs(pairs - expected).sum() / pairs.sum())


def run_length(x: np.ndarray) -> float:
    """Mean length of the unbroken counts, cut ones at the ends included."""
    return float(x.size / (len(x) + violations(x).sum() + len(restarts(x))))


def score(x: np.ndarray, chain: MarkovChain, repeats: int = 200) -> dict[str, float | list[float]]:
    """All figures of samples (N, L): violation_rate (violations over N L; with its 95 % interval), violation_rate_jys, restart_distance and the
    restart_floor below which it means nothing, entropy_1 and entropy_4 in bits, code_bits (-log2 p under the chain, a symbol), pair_distance, run_length."""
    x, size = np.asarray(x, np.int32), len(chain.first)
    broken = violations(x).mean(1)
    after = restarts(x)
    rate = lambda index: float(broken[index].mean())
    return {
        "violation_rate": float(broken.mean()),
        "violation_rate_interval": sequences.bootstrap(rate, len(x), repeats=repeats),
        "violation_rate_jys": float(jys_violations(x).mean()),
        "restart_distance": uniform_distance(after, size),
        "restart_floor": uniform_distance_floor(len(after), size),
        "entropy_1": sequences.entropy(sequences.ngrams(x, 1)),
        "entropy_4": sequences.entropy(sequences.ngrams(x, 4)),
        "code_bits": float(-chain.log_likelihood(jnp.asarray(x)).mean() / x.shape[1] / np.log(2)),
        "pair_distance": pair_distance(x, chain),
        "run_length": run_length(x),
    }
