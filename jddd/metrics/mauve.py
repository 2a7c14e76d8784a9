"""MAUVE (Pillutla et al. 2021): how near two sets of texts are, from a judge's features, as the area under a curve of two divergences."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Mauve(NamedTuple):
    """mauve in [0, 1], 1 for equal histograms; p, q: shares of the clusters (clusters,); curve (points + 2, 2); dimensions that were left of the features;
    samples: how many of each. Compare figures of equal samples, clusters and judge only: fewer clusters see less, and a set against itself, split in two,
    stays below 1."""

    mauve: float
    p: np.ndarray
    q: np.ndarray
    curve: np.ndarray
    dimensions: int
    samples: tuple[int, int]


def _kl(a: np.ndarray, b: np.ndarray) -> float:
    """KL(a || b) in nats; 0 log 0 = 0."""
    some = a > 0
    return float((a[some] * np.log(a[some] / b[some])).sum())


def divergence_curve(p: np.ndarray, q: np.ndarray, *, scaling: float = 5.0, points: int = 25) -> np.ndarray:
    """(exp(-c KL(q || r)), exp(-c KL(p || r))) for mixtures r = w p + (1 - w) q, w from 1 to 0, between the ends (0, 1) and (1, 0): (points + 2, 2)."""
    weights = np.linspace(1 - 1e-6, 1e-6, points)
    mixtures = [w * p + (1 - w) * q for w in weights]
    inner = [[np.exp(-scaling * _kl(q, r)), np.exp(-scaling * _kl(p, r))] for r in mixtures]
    return np.array([[0.0, 1.0], *inner, [1.0, 0.0]])


def area(curve: np.ndarray) -> float:
    """The area under the curve by the trapezoidal rule, the mean over both axes as variable of integration.

    For disjoint p and q the curve is ((1 - w)^c, w^c), whose area is c B(c, c + 1) = 1 / 252 at c = 5: the least MAUVE there is."""
    x, y = curve.T
    return float((np.trapezoid(y, x) + np.trapezoid(x[::-1], y[::-1])) / 2)


def score(p: np.ndarray, q: np.ndarray, *, scaling: float = 5.0, points: int = 25) -> float:
    """MAUVE of two histograms (clusters,), of counts or shares. Raises ValueError where they are not two distributions on the same clusters."""
    p, q = np.asarray(p, float), np.asarray(q, float)
    if p.shape != q.shape or p.ndim != 1 or min(p.min(), q.min()) < 0 or not p.sum() * q.sum() > 0:
        raise ValueError(f"histograms have shapes {p.shape}, {q.shape}; allowed: two of the same clusters, none of them negative or empty")
    return area(divergence_curve(p / p.sum(), q / q.sum(), scaling=scaling, points=points))


def principal(x: np.ndarray, explained: float) -> np.ndarray:
    """Rows (N, d), centred, on as few principal axes as explain a share of their variance, (N, k)."""
    centred = x - x.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    shares = np.cumsum(s**2) / max((s**2).sum(), np.finfo(float).tiny)
    count = int(np.searchsorted(shares, explained - 1e-12)) + 1  # all of them at 1, whatever the sum rounds to
    return (u * s)[:, :count]


def mauve(p_features: np.ndarray, q_features: np.ndarray, *, clusters: int = 0, explained: float = 0.9, scaling: float = 5.0, points: int = 25, seed: int = 0, restarts: int = 5) -> Mauve:
    """MAUVE of two sets of features (N, d), (M, d) (jddd.judges.features): rows of length 1, principal axes, k-means on both sets together, histograms.

    clusters: 0 for a tenth of the smaller set, 2 at least; explained: share of the variance that the principal axes keep; restarts: of k-means, best of.
    The paper has 5,000 texts a side and 500 clusters. Raises ValueError for fewer rows than clusters and where scikit-learn is missing."""
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise ValueError("MAUVE quantises by k-means, which needs the package scikit-learn: pip install 'jddd[judges]'") from error
    sizes = len(p_features), len(q_features)
    clusters = clusters or max(2, round(min(sizes) / 10))
    if min(sizes) < 1 or sum(sizes) < clusters or not 0 < explained <= 1:
        raise ValueError(f"MAUVE of {sizes} rows in {clusters} clusters, explained {explained}; allowed: as many rows as clusters, explained above 0, 1 at most")
    both = np.concatenate([p_features, q_features]).astype(np.float64)
    reduced = principal(both / np.maximum(np.linalg.norm(both, axis=1, keepdims=True), np.finfo(float).tiny), explained)
    labels = KMeans(clusters, n_init=restarts, max_iter=500, random_state=seed).fit_predict(reduced)
    p, q = (np.bincount(part, minlength=clusters) / len(part) for part in (labels[: sizes[0]], labels[sizes[0] :]))
    curve = divergence_curve(p, q, scaling=scaling, points=points)
    return Mauve(area(curve), p, q, curve, reduced.shape[1], sizes)
