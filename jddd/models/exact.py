"""Exact denoisers: p(x_0 | x_t) in closed form where the law of the data is known, for the absorbing and the uniform process.

Three laws, each a pytree that takes the place of a network's parameters: `Joint` (any law on V^L configurations, up to a few thousand),
`MarkovChain` (any length, by forward-backward) and `Mixture` (of product laws). `denoiser(law, process)` is a drop-in `jddd.types.Denoiser`.

A posterior must exist off the data's support too, where few-step samplers go: laws are positive everywhere. `smooth` mixes a law with the uniform
one; the experiments state the share they use.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jddd.types import Denoiser, PRNGKey


def smooth(p: Float[Array, "*b v"], share: float) -> Float[Array, "*b v"]:
    """(1 - share) p + share / V along the last axis. Raises ValueError for a share outside [0, 1]."""
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; allowed: 0 to 1")
    return (1 - share) * p + share / p.shape[-1]


class Joint(NamedTuple):
    """log_p: log-probability of every configuration, a tensor with one axis of V a site."""

    log_p: Float[Array, "..."]

    @property
    def configurations(self) -> np.ndarray:
        """All of them, (V^L, L), in the order of log_p.ravel()."""
        return np.stack(np.unravel_index(np.arange(self.log_p.size), self.log_p.shape), -1)

    def sample(self, key: PRNGKey, count: int) -> Int[Array, "n l"]:
        return jnp.asarray(self.configurations, jnp.int32)[jax.random.categorical(key, self.log_p.ravel(), shape=(count,))]

    def log_likelihood(self, x: Int[Array, "n l"]) -> Float[Array, "n"]:
        """log p(x) in nats, a row."""
        return self.log_p[tuple(jnp.moveaxis(x, -1, 0))]

    def posterior(self, evidence: Float[Array, "b l v"]) -> Float[Array, "b l v"]:
        """p(x_0 = y at each site | evidence), from log-evidence: one softmax over configurations between two matrix products."""
        ones = jax.nn.one_hot(self.configurations, self.log_p.shape[0], dtype=evidence.dtype).reshape(self.log_p.size, -1)
        flat = evidence.reshape(len(evidence), -1)
        weight = jax.nn.softmax(jnp.matmul(flat, ones.T, precision="highest") + self.log_p.ravel(), -1)
        return jnp.matmul(weight, ones, precision="highest").reshape(evidence.shape)


class MarkovChain(NamedTuple):
    """first (V,): probabilities of x^1; next (V, V): of x^{i+1} = column given x^i = row."""

    first: Float[Array, "v"]
    next: Float[Array, "v v"]

    def sample(self, key: PRNGKey, count: int, length: int) -> Int[Array, "n l"]:
        key_first, key_rest = jax.random.split(key)
        start = jax.random.categorical(key_first, jnp.log(self.first), shape=(count,))
        step = lambda x, key: (jax.random.categorical(key, jnp.log(self.next[x])),) * 2
        rest = jax.lax.scan(step, start, jax.random.split(key_rest, length - 1))[1]
        return jnp.concatenate([start[None], rest]).T.astype(jnp.int32)

    def log_likelihood(self, x: Int[Array, "n l"]) -> Float[Array, "n"]:
        """log p(x) in nats, a row."""
        return jnp.log(self.first[x[:, 0]]) + jnp.log(self.next[x[:, :-1], x[:, 1:]]).sum(-1)

    def posterior(self, evidence: Float[Array, "b l v"]) -> Float[Array, "b l v"]:
        """p(x_0 = y at each site | evidence) by forward-backward, both directions in one scan of L - 1 steps; messages are normalised."""
        likelihood = jnp.exp(evidence - evidence.max(-1, keepdims=True))
        both = jnp.stack([likelihood, likelihood[:, ::-1]])  # (2, B, L, V)
        matrix = jnp.stack([self.next, self.next.T])

        def step(message, here):
            message = jnp.einsum("kbv,kvw->kbw", message * here, matrix, precision="highest")
            message = message / message.sum(-1, keepdims=True)
            return message, message

        start = jnp.broadcast_to(jnp.stack([self.first, jnp.ones_like(self.first)])[:, None], (2, len(evidence), evidence.shape[-1]))
        _, messages = jax.lax.scan(step, start, jnp.moveaxis(both, 2, 0)[:-1])
        messages = jnp.concatenate([start[None], messages])  # (L, 2, B, V)
        joint = jnp.moveaxis(messages[:, 0] * messages[::-1, 1], 0, 1) * likelihood
        return joint / joint.sum(-1, keepdims=True)


class Mixture(NamedTuple):
    """weights (K,) of K product laws with factors (K, L, V)."""

    weights: Float[Array, "k"]
    factors: Float[Array, "k l v"]

    def sample(self, key: PRNGKey, count: int) -> Int[Array, "n l"]:
        key_part, key_site = jax.random.split(key)
        part = jax.random.categorical(key_part, jnp.log(self.weights), shape=(count,))
        return jax.random.categorical(key_site, jnp.log(self.factors[part])).astype(jnp.int32)

    def log_likelihood(self, x: Int[Array, "n l"]) -> Float[Array, "n"]:
        """log p(x) in nats, a row."""
        sites = jnp.take_along_axis(jnp.log(self.factors)[None], x[:, None, :, None], -1)[..., 0]
        return jax.nn.logsumexp(jnp.log(self.weights) + sites.sum(-1), -1)

    def posterior(self, evidence: Float[Array, "b l v"]) -> Float[Array, "b l v"]:
        """p(x_0 = y at each site | evidence): the components' posteriors, weighted by how well each explains the evidence."""
        joint = evidence[:, None] + jnp.log(self.factors)
        mass = jax.nn.logsumexp(joint, -1)  # (B, K, L)
        weight = jax.nn.softmax(jnp.log(self.weights) + mass.sum(-1), -1)
        return jnp.einsum("bk,bklv->blv", weight, jnp.exp(joint - mass[..., None]), precision="highest")


Law = Joint | MarkovChain | Mixture


@functools.lru_cache(maxsize=256)
def denoiser(process) -> Denoiser:
    """The exact denoiser of a process, one object for each, so that what is compiled for it serves again; its params are a Law. Probabilities that
    underflow, and zeros, become the smallest positive float, so that their logarithms are finite."""

    def features(law: Law, x_t: Int[Array, "b l"], t) -> Float[Array, "b l v"]:
        t = jnp.asarray(t)
        times = jnp.broadcast_to(t if t.ndim == 0 else t[:, None], x_t.shape)
        p = law.posterior(process.log_evidence(x_t, times))
        return jnp.log(jnp.maximum(p, jnp.finfo(p.dtype).tiny))

    return Denoiser(features, lambda law, hidden: hidden)


def all_equal(symbols: int, length: int, share: float = 1e-6) -> Joint:
    """All sites hold one symbol, uniformly drawn; mixed with `share` of the uniform law: the hardest data for product samplers (Hayakawa et al. 2025)."""
    p = np.zeros((symbols,) * length)
    p[(np.arange(symbols),) * length] = 1 / symbols
    return Joint(jnp.log(smooth(jnp.asarray(p).reshape(-1), share)).reshape(p.shape))


def countdown(symbols: int = 32, share: float = 1e-3) -> MarkovChain:
    """Countdown (Park et al. 2024): from a uniform start each value is one less than the one before, and after 0 comes a uniform value again;
    rows mixed with `share` of the uniform law."""
    rows = np.eye(symbols, k=-1)
    rows[0] = 1 / symbols
    return MarkovChain(jnp.full(symbols, 1 / symbols), smooth(jnp.asarray(rows), share))
