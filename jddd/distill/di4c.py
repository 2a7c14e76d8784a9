"""Di4C (Hayakawa et al. 2025, arXiv 2410.08709): the losses that teach a student correlations between sites.

The student is a mixture of products, p(x_0 | x_t) = E_lambda prod_d p_d(x_0^d | x_t, lambda), lambda drawn once a step and given to the network. With M
draws lambda_j, p_j = p(. | x_t, lambda_j) and m = mean_j p_j site by site, a row costs, in nats (summed over its D sites):

* distillation: mean_j sum_d KL(teacher_d || p_j,d), near t = 0, where a product is right;
* consistency: -log mean_j prod_d p_j,d at draws of the student one teacher step nearer to the data, elsewhere;
* datapoint: the same at the data x_0 that x_t was noised from, weight alpha_t;
* marginal: sum_d KL(teacher_d || m_d).

Control variate: from the log of the mixture at a point that of the product of its marginals is subtracted, and its expectation comes back as a KL, of
the draws' own marginals for consistency, as the marginal loss for datapoint. Gradients flow through everything of the student at x_t, the subtracted
marginals too, and through no target (sony/di4c).

A network gives log p (B, D, S) for one latent a row. `mixture` takes all M at once; `over_latents` visits them one after another and never holds
(B, M, D, S), forwards or backwards. Log-probabilities are finite (impossible is processes.NEVER) and hold what x_t says already: see `with_known`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jddd.types import Params, PRNGKey, Time

SHAPES = ("sigmoid", "linear", "constant")


# -------------------------------------------------------------------------------------------------------------------------------- the mixture
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


def with_known(log_p: Float[Array, "b d v"], x_t: Int[Array, "b d"], process) -> Float[Array, "b d v"]:
    """log p(x_0 | x_t) with what x_t shows put in: a clean site of a masked process keeps its symbol, so it costs nothing and has no gradient."""
    return jnp.where(process.noised(x_t)[..., None], log_p, process.log_evidence(x_t, 1.0).astype(log_p.dtype))


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


# --------------------------------------------------------------------------------------------------------------------------------- the losses
def kl(log_target: Float[Array, "*b d s"], log_p: Float[Array, "*b d s"]) -> Float[Array, "*b"]:
    """sum_d KL(target_d || p_d) in nats; no gradient to the target."""
    log_target = jax.lax.stop_gradient(log_target)
    return (jnp.exp(log_target) * (log_target - log_p)).sum((-2, -1))


def distillation(log_teacher: Float[Array, "b d s"], student: Mixture) -> Float[Array, "b"]:
    """mean_j sum_d KL(teacher_d || p_j,d): linear in log p_j, hence the KL to mean_j log p_j. With a state x_t a latent it is kl(...).mean(1)."""
    return kl(log_teacher, student.mean_log)


def marginal(log_teacher: Float[Array, "b d s"], student: Mixture) -> Float[Array, "b"]:
    """sum_d KL(teacher_d || mean_j p_j,d)."""
    return kl(log_teacher, student.log_mean)


def datapoint(student: Mixture, *, control_variate: bool = True) -> Float[Array, "b n"]:
    """-log mean_j prod_d p_j,d of each point in nats; with the control variate less the same of the product of marginals: negative where the student's
    correlations make the point likelier. The difference is taken site by site, before sums of a thousand logarithms lose its digits in float32."""
    each = student.log_points
    if control_variate:
        each = each - student.log_mean_points[:, :, None]
    return jnp.log(each.shape[2]) - jax.nn.logsumexp(each.sum(-1), -1)


def consistency(student: Mixture, log_target: Float[Array, "b d s"], *, control_variate: bool = True) -> Float[Array, "b"]:
    """The mean over the student's points, draws of the target, of `datapoint`; with the control variate plus sum_d KL(target_d || mean_j p_j,d).

    log_target: log mean_i of the products the draws are from. The two forms differ by a constant of the student in expectation (the sum of the
    target's marginal entropies); without the control variate the target is not used."""
    cost = datapoint(student, control_variate=control_variate).mean(1)
    return cost + kl(log_target, student.log_mean) if control_variate else cost


class Terms(NamedTuple):
    """The parts of the loss of each row, unweighted, in nats. None: not computed, as no row of the batch lies in that zone."""

    distillation: Float[Array, "b"] | None
    consistency: Float[Array, "b"] | None
    datapoint: Float[Array, "b"]
    marginal: Float[Array, "b"]


def terms(student: Mixture, log_teacher: Float[Array, "b d s"], log_target: Float[Array, "b d s"] | None, *, control_variate: bool = True) -> Terms:
    """All parts from the student at x_t, whose points are the data x_0 first, then the draws of the consistency target.

    Without the control variate the marginal loss is 0, as in the reference: it is what pays the datapoint's control variate back. A student without
    mean_log gives no distillation, log_target None no consistency: a batch in one zone needs not pay for the other. Where distillation has states of
    its own (CIFAR-10) use terms(...)._replace(distillation=kl(...).mean(1))."""
    near = None if student.mean_log is None else distillation(log_teacher, student)
    far = None if log_target is None else consistency(student.at(slice(1, None)), log_target, control_variate=control_variate)
    data = datapoint(student.at(slice(0, 1)), control_variate=control_variate)[:, 0]
    return Terms(near, far, data, marginal(log_teacher, student) if control_variate else jnp.zeros_like(data))


@dataclasses.dataclass(frozen=True)
class Weights:
    """The weights of the total, functions of t.

    shape, scale: alpha_t = scale * (sigmoid(20 (t - 1/2)), t, or 1). near: rows with t < near pay boost * distillation, the others consistency; None:
    every row pays both, the reference's way where distillation has times of its own. Defaults are the CIFAR-10 setting's."""

    shape: str = "sigmoid"
    scale: float = 1.0
    near: float | None = None
    boost: float = 1.0

    def __post_init__(self):
        if self.shape not in SHAPES:
            raise ValueError(f"distill.shape is {self.shape!r}; allowed: {', '.join(SHAPES)}")

    def alpha(self, t: Time) -> Float[Array, "*b"]:
        """alpha_t, the weight of the datapoint loss."""
        t = jnp.asarray(t)
        return self.scale * {"sigmoid": jax.nn.sigmoid(20 * (t - 0.5)), "linear": t, "constant": jnp.ones_like(t)}[self.shape]


# The three settings of the released code. MaskGIT's t is 1 - r, r being the argument of its mask schedule (1 is data).
CIFAR10 = Weights()  # distillation at t in [.01, .02], apart from the batch's own times
IMAGENET = Weights(scale=0.1, near=0.05, boost=1 / 0.05)
OPENWEBTEXT = Weights(scale=0.1, near=0.02)  # a batch has one t, which is drawn below 0.02 with probability 0.3


def total(parts: Terms, t: Float[Array, "b"], *, weights: Weights) -> Float[Array, "b"]:
    """Each row's loss, nats: distillation or consistency by the zone of t, plus alpha_t * datapoint, plus marginal. The references take the mean over rows.

    If one of distillation and consistency was not computed, every row pays the other. ValueError: neither was, or one is missing where all pay both."""
    near, far = parts.distillation, parts.consistency
    if (near is None and far is None) or (weights.near is None and (near is None or far is None)):
        raise ValueError(f"parts have distillation: {near is not None}, consistency: {far is not None}; allowed: both, or with weights.near one of them")
    near = None if near is None else weights.boost * near
    if weights.near is None:
        zone = near + far
    elif near is None or far is None:
        zone = far if near is None else near
    else:
        zone = jnp.where(t < weights.near, near, far)
    return zone + weights.alpha(t) * parts.datapoint + parts.marginal
