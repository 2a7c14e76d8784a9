"""Mixtures of products over sites, p(x_0 | x_t) = E_lambda prod_d p_d(x_0^d | x_t, lambda): what Di4C's losses need of one, and other denoisers made of one.

A network gives log p (B, D, S) for one latent a row. `mixture` takes all M at once; `over_latents` visits them one after another and never holds
(B, M, D, S), forwards or backwards. Log-probabilities are finite (impossible is processes.NEVER) and hold what x_t says already: see `with_known`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jddd.types import Denoiser, Params, PRNGKey


class Mixture(NamedTuple):
    """What the losses need of M products p_j at one x_t: log_mean is log mean_j p_j,d, mean_log is mean_j log p_j,d (only the distillation loss
    uses it; None if it was not asked for), and at N points x, log_points is log p_j,d(x^d) and log_mean_points log mean_j p_j,d(x^d)."""

    log_mean: Float[Array, "b d s"]
    mean_log: Float[Array, "b d s"] | None
    log_points: Float[Array, "b n m d"]
    log_mean_points: Float[Array, "b n d"]

    def at(self, points: slice) -> Mixture:
        """The same mixture with some of its points."""
        return self._replace(log_points=self.log_points[:, points], log_mean_points=self.log_mean_points[:, points])


def _gather(log_p, points):
    """log p (B, D, S) at points (B, N, D) -> (B, N, D)."""
    return jnp.take_along_axis(log_p, points.swapaxes(1, 2), -1).swapaxes(1, 2)


def with_known(log_p: Float[Array, "b d v"], x_t: Int[Array, "b d"], process, counted: Bool[Array, "b d"] | None = None) -> Float[Array, "b d v"]:
    """log p(x_0 | x_t) with what x_t shows put in: a clean site of a masked process keeps its symbol, so it costs nothing and has no gradient.

    counted: the noised sites that are to cost anything, by default all; the others of a masked process have 0 for every symbol."""
    counted = process.noised(x_t) if counted is None else counted
    return jnp.where(counted[..., None], log_p, process.log_evidence(x_t, 1.0).astype(log_p.dtype))


def mixture(log_p: Float[Array, "b m d s"], points: Int[Array, "b n d"]) -> Mixture:
    """The mixture of M products given all at once."""
    log_mean = jax.nn.logsumexp(log_p, 1) - jnp.log(log_p.shape[1])
    return Mixture(log_mean, log_p.mean(1), jax.vmap(_gather, (1, None), 2)(log_p, points), _gather(log_mean, points))


def _count(latents):
    return jax.tree.leaves(latents)[0].shape[0]


# A scan that JAX differentiates would keep one (B, D, S) a latent for its carry. The derivative of log mean_j p_j needs only the final value and p_j,
# which the backward pass computes again: 2 M forward and M backward calls, and two arrays (B, D, S).
@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _visit(apply, mean_log, params, inputs, latents, points):
    shape = jax.eval_shape(apply, params, inputs, jax.tree.map(lambda leaf: leaf[0], latents))
    total, count = jnp.zeros(shape.shape, shape.dtype), _count(latents)

    def one(carry, latent):
        log_sum, log_total = carry
        log_p = apply(params, inputs, latent)
        return (jnp.logaddexp(log_sum, log_p), log_total + log_p if mean_log else None), _gather(log_p, points)

    (log_sum, log_total), log_points = jax.lax.scan(one, (jnp.full_like(total, -jnp.inf), total if mean_log else None), latents)
    return log_sum - jnp.log(count), log_total / count if mean_log else None, log_points


def _visit_forward(apply, mean_log, params, inputs, latents, points):
    out = _visit(apply, mean_log, params, inputs, latents, points)
    return out, (params, inputs, latents, points, out[0])


def _visit_backward(apply, mean_log, kept, cotangents):
    params, inputs, latents, points, log_mean = kept
    to_log_mean, to_mean_log, to_points = cotangents
    count = _count(latents)

    def one(total, each):
        latent, to_point = each

        def call(params):
            log_p = apply(params, inputs, latent)
            return log_p, _gather(log_p, points)

        (log_p, _), pull = jax.vjp(call, params)
        to_log_p = to_log_mean * jnp.exp(log_p - log_mean) / count
        if mean_log:
            to_log_p = to_log_p + to_mean_log / count
        return jax.tree.map(jnp.add, total, pull((to_log_p, to_point))[0]), None

    return jax.lax.scan(one, jax.tree.map(jnp.zeros_like, params), (latents, to_points))[0], None, None, None


_visit.defvjp(_visit_forward, _visit_backward)


def over_latents(params: Params, inputs: PyTree, latents: PyTree, points: Int[Array, "b n d"], *, apply: Callable, mean_log: bool = True) -> Mixture:
    """The mixture of apply(params, inputs, latent) -> log p (B, D, S) over latents, any pytree of arrays (M, ...), without holding (B, M, D, S).

    Differentiable (in reverse) in params alone, which hold floats. apply is one and the same function at every call and takes every array as an
    argument: x_t, t and conditions are `inputs`, and a key for dropout is part of `latents`, since each latent's call is made again by the gradient."""
    log_mean, mean, log_points = _visit(apply, mean_log, params, inputs, latents, points)
    return Mixture(log_mean, mean, jnp.moveaxis(log_points, 0, 2), _gather(log_mean, points))


def log_mean_over_latents(params: Params, inputs: PyTree, latents: PyTree, *, apply: Callable) -> Float[Array, "b d s"]:
    """log mean_j p_j alone, as of `over_latents`: the targets of a teacher that is itself a mixture (iterated Di4C)."""
    nowhere = jax.eval_shape(apply, params, inputs, jax.tree.map(lambda leaf: leaf[0], latents))
    return over_latents(params, inputs, latents, jnp.zeros((nowhere.shape[0], 0, nowhere.shape[1]), jnp.int32), apply=apply, mean_log=False).log_mean


def draw_over_latents(key: PRNGKey, params: Params, inputs: PyTree, latents: PyTree, *, apply: Callable) -> tuple[Float[Array, "b d s"], Int[Array, "b m d"]]:
    """The consistency loss's targets without gradient: (log mean_i p_i, one draw x_0^(i) of each product p_i), p_i = apply(params, inputs, latent i).

    latents hold the state x_u^(i), one teacher step from x_t, beside lambda'_i: arrays (M, B, D) and (M, B). Memory as of `over_latents`."""
    frozen = jax.lax.stop_gradient(params)

    def one(log_sum, each):
        key, latent = each
        log_p = apply(frozen, inputs, latent)
        return jnp.logaddexp(log_sum, log_p), jax.random.categorical(key, log_p, mode="high").astype(jnp.int32)

    shape = jax.eval_shape(apply, params, inputs, jax.tree.map(lambda leaf: leaf[0], latents))
    count = _count(latents)
    log_sum, drawn = jax.lax.scan(one, jnp.full(shape.shape, -jnp.inf, shape.dtype), (jax.random.split(key, count), latents))
    return log_sum - jnp.log(count), drawn.swapaxes(0, 1)


def visit(params: Params, inputs: PyTree, latents: PyTree, points: Int[Array, "b n d"], *, apply: Callable, together: bool, mean_log: bool = True) -> Mixture:
    """The mixture by `over_latents`, or with together=True by one call for all latents, which is faster and holds (B, M, D, S) and all activations."""
    if not together:
        return over_latents(params, inputs, latents, points, apply=apply, mean_log=mean_log)
    found = mixture(jnp.moveaxis(jax.vmap(lambda latent: apply(params, inputs, latent))(latents), 0, 1), points)
    return found if mean_log else found._replace(mean_log=None)


def draw(key: PRNGKey, params: Params, inputs: PyTree, latents: PyTree, *, apply: Callable, together: bool) -> tuple[Float[Array, "b d s"], Int[Array, "b m d"]]:
    """What `draw_over_latents` gives, from the same keys; together=True as in `visit`."""
    if not together:
        return draw_over_latents(key, params, inputs, latents, apply=apply)
    log_p = jax.lax.stop_gradient(jax.vmap(lambda latent: apply(params, inputs, latent))(latents))
    drawn = jax.vmap(lambda key, log_p: jax.random.categorical(key, log_p, mode="high"))(jax.random.split(key, _count(latents)), log_p)
    return jax.nn.logsumexp(log_p, 0) - jnp.log(_count(latents)), drawn.astype(jnp.int32).swapaxes(0, 1)


# ------------------------------------------------------------------------------------------------------------------------- denoisers made of one
def latents_of(count: int, batch: int) -> Float[Array, "m b"]:
    """One latent in each of `count` equal parts of [0, 1), at places that differ from row to row (golden ratio): fixed, yet no function of lambda that
    oscillates faster than `count` is seen at one phase only, as means over many rows need."""
    return (jnp.arange(count)[:, None] + jnp.mod(0.5 + jnp.arange(batch) * ((5**0.5 - 1) / 2), 1.0)) / count


@functools.lru_cache(maxsize=32)
def marginal(denoiser: Denoiser, count: int = 16) -> Denoiser:
    """The ordinary denoiser of a mixture's marginals, log mean_j p_j site by site at `count` fixed latents (`latents_of`); `count` network calls each.

    It is what the NELBO of a mixture needs: an infinitesimal step reveals one site at most. A denoiser that is no mixture is returned as it is."""
    if not denoiser.mixture:
        return denoiser

    def features(params, x_t, t):
        return jax.vmap(lambda latent: denoiser.features(params, x_t, t, latent), out_axes=2)(latents_of(count, x_t.shape[0]))

    def head(params, hidden):  # (..., M, H): the latents' axis is the first that sites do not share
        log_p = jax.vmap(lambda each: denoiser.head(params, each), in_axes=-2, out_axes=0)(hidden)
        return jax.nn.logsumexp(log_p, 0) - jnp.log(count)

    return Denoiser(features, head)


@functools.lru_cache(maxsize=32)
def quantised(denoiser: Denoiser, count: int) -> Denoiser:
    """The mixture with `count` distinct latents, the midpoints of equal parts of [0, 1): a mixture of so many products."""
    return denoiser._replace(features=lambda params, x_t, t, latent: denoiser.features(params, x_t, t, (jnp.floor(latent * count) + 0.5) / count))


@functools.lru_cache(maxsize=32)
def hybrid(first: Denoiser, last: Denoiser) -> Denoiser:
    """`first` above a time, `last` below and at it (Di4C's hybrid sampling: the student's steps first, the teacher's last); params are (params of first,
    params of last, that time), times scalars. Both networks' trunks have one width."""
    use = lambda denoiser, inputs, latent: denoiser.features(*inputs, *(latent if denoiser.mixture else ()))

    def features(params, x_t, t, *latent):
        early = jnp.asarray(t) > params[2]
        hidden = jax.lax.cond(early, lambda: use(first, (params[0], x_t, t), latent), lambda: use(last, (params[1], x_t, t), latent))
        return hidden, jnp.broadcast_to(early, x_t.shape)

    def head(params, hidden):
        return jax.lax.cond(hidden[1].any(), lambda: first.head(params[0], hidden[0]), lambda: last.head(params[1], hidden[0]))

    return Denoiser(features, head, first.mixture or last.mixture)
