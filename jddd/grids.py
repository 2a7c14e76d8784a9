"""Time grids: M + 1 times from 1 down to 0. The optimal ones come from a table of costs by dynamic programming."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jddd.types import Times


def uniform(steps: int, start: float = 1.0, end: float = 0.0) -> Times:
    """Equal steps."""
    return jnp.linspace(start, end, steps + 1)


def cosine(steps: int, start: float = 1.0, end: float = 0.0) -> Times:
    """MaskGIT's grid for a linear schedule: t = cos(pi/2 * k/M), small steps first (Chang et al. 2022)."""
    shape = jnp.cos(jnp.pi / 2 * jnp.arange(steps + 1) / steps)
    return end + (start - end) * shape.at[-1].set(0.0)


def dynamic_programme(cost: np.ndarray, steps: int) -> tuple[np.ndarray, float]:
    """The cheapest path 0 = i_0 < i_1 < ... < i_M = F - 1 through a table of segment costs (F, F), cost[i, j] for i < j; exact.

    Returns (indices (M + 1,), its cost). Raises ValueError when the table has fewer than M segments. Time O(M F^2)."""
    size = len(cost)
    if not 1 <= steps < size:
        raise ValueError(f"steps is {steps}; allowed: 1 to {size - 1}, the segments of the table")
    table = np.where(np.triu(np.ones((size, size), bool), 1), cost, np.inf)
    best, back = table[0].copy(), np.zeros((steps, size), int)
    for k in range(1, steps):
        total = best[:, None] + table
        back[k] = total.argmin(0)
        best = total[back[k], np.arange(size)]
    path = [size - 1]
    for k in range(steps - 1, 0, -1):
        path.append(back[k][path[-1]])
    return np.array([0, *path[:0:-1], path[0]]), float(best[-1])
