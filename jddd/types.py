"""Shapes and the few contracts everything else is written against.

B batch, L length, V data symbols, S states of the process (V, or V + 1 with a mask), M steps of a sampler, H hidden width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, PyTree

Params = PyTree
PRNGKey = Key[Array, ""]
Times = Float[Array, "times"]  # M + 1 of them
Coefficients = Float[Array, "steps"]  # M of them
Scalar = Float[Array, ""]
Time = Float[ArrayLike, "..."] | float | int  # a scalar, or one time a row


class Denoiser(NamedTuple):
    """p(x_0 | x_t) in two halves, so that a sampler may run the second one only where a symbol is drawn.

    features(params, x_t (B, L), t) -> hidden: the network's trunk; t is a scalar or one time a row; hidden is any pytree of (B, L, ...) arrays.
    head(params, hidden (..., H)) -> log p(x_0 | x_t) (..., V), float32, normalised, the mask excluded.
    """

    features: Callable[[Params, Any, Any], Any]
    head: Callable[[Params, Any], Any]

    def __call__(self, params: Params, x_t, t):
        """log p(x_0 | x_t) (B, L, V) at every position."""
        return self.head(params, self.features(params, x_t, t))


class BoundDenoiser(NamedTuple):
    """A denoiser with its parameters: what a sampler sees."""

    features: Callable[[Any, Any], Any]
    head: Callable[[Any], Any]

    def __call__(self, x_t, t):
        return self.head(self.features(x_t, t))


def bind(denoiser: Denoiser, params: Params) -> BoundDenoiser:
    """The denoiser as a function of (x_t, t); params stay an argument of the jitted caller."""
    return BoundDenoiser(lambda x_t, t: denoiser.features(params, x_t, t), lambda hidden: denoiser.head(params, hidden))
