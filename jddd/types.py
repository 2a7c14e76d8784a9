"""Shapes and the few contracts everything else is written against.

B batch, L length, V data symbols, S states of the process (V, or V + 1 with a mask), M steps of a sampler, H hidden width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
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
    mixture: features takes a latent (B,) in [0, 1) as well, and the denoiser is the mean over uniform latents of products of sites (Di4C). Samplers draw
    one latent a sample and step; jddd.distill.mixtures.marginal gives the ordinary denoiser of its sites' marginals.
    """

    features: Callable[..., Any]
    head: Callable[[Params, Any], Any]
    mixture: bool = False

    def __call__(self, params: Params, x_t, t, *latent):
        """log p(x_0 | x_t) (B, L, V) at every position, of a mixture given its latent (B,)."""
        return self.head(params, self.features(params, x_t, t, *latent))


class BoundDenoiser(NamedTuple):
    """A denoiser with its parameters: what a sampler sees."""

    features: Callable[..., Any]
    head: Callable[[Any], Any]
    mixture: bool = False

    def __call__(self, x_t, t, *latent):
        return self.head(self.features(x_t, t, *latent))

    def at(self, latent) -> BoundDenoiser:
        """The product that a mixture is at a latent, (B,) or one for all rows."""
        return BoundDenoiser(lambda x_t, t: self.features(x_t, t, jnp.broadcast_to(latent, x_t.shape[:1])), self.head)


def bind(denoiser: Denoiser, params: Params) -> BoundDenoiser:
    """The denoiser as a function of (x_t, t); params stay an argument of the jitted caller."""
    return BoundDenoiser(lambda *inputs: denoiser.features(params, *inputs), lambda hidden: denoiser.head(params, hidden), denoiser.mixture)
