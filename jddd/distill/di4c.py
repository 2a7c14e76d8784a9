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

The losses are pure functions of a jddd.distill.mixtures.Mixture; `task` is what jddd.train.fit trains a network on.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jddd import losses
from jddd.absorbing import spread_thresholds
from jddd.distill import mixtures
from jddd.distill.mixtures import Mixture
from jddd.processes import Absorbing
from jddd.train import Task
from jddd.types import Denoiser, Params, PRNGKey, Time

SHAPES = ("sigmoid", "linear", "constant")


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


# ------------------------------------------------------------------------------------------------------------------------------- training on them
@dataclasses.dataclass(frozen=True)
class Di4CConfig:
    """latents: M, of the student and of the consistency target; stratified: one in each M-th of [0, 1); teacher_latents: those the marginals of a teacher
    that is a mixture are taken over. near: the distillation zone is t < near, and a batch (of a microbatch) lies there with probability near_share;
    start_share: the part of the other rows that is at t = 1, where sampling begins (ours: uniform times hardly see it). gap_low, gap_high: t - u is
    log-uniform between them, and at most t / 2. shape, scale, boost: see Weights. together: one network call for all latents, not one after
    another. target: whose marginals pay the consistency loss's control variate back, 'drawn': those of the M targets (the paper's), 'teacher': the
    teacher's at x_t (ours), the same in expectation where student and teacher agree, without the noise of an M-sample mean, the largest at 100 sites."""

    latents: int = 16
    stratified: bool = False
    teacher_latents: int = 16
    near: float = 0.02
    near_share: float = 0.3
    start_share: float = 0.0
    target: str = "drawn"
    gap_low: float = 1 / 1024
    gap_high: float = 1 / 1024
    shape: str = "sigmoid"
    scale: float = 0.1
    boost: float = 1.0
    step_low: float = 0.0
    step_high: float = 0.0
    reveal: str = "independent"
    consistency: float = 1.0
    control_variate: bool = True
    together: bool = True

    def __post_init__(self):
        most = 1 if self.control_variate else float("inf")  # with it the marginal loss, of weight 1, must pay the datapoint's control variate back
        for field, low, high in (("step_low", 0, 1), ("step_high", self.step_low, 1), ("consistency", 0, 1), ("near", 0, 1), ("near_share", 0, 1), ("start_share", 0, 1), ("gap_low", 1e-9, 1), ("gap_high", self.gap_low, 1), ("scale", 0, most), ("boost", 0, float("inf"))):
            if not low <= getattr(self, field) <= high:
                raise ValueError(f"config field distill.{field} is {getattr(self, field)}; allowed: {low} to {high}")
        if min(self.latents, self.teacher_latents) < 1:
            raise ValueError(f"config fields distill.latents and distill.teacher_latents are {self.latents}, {self.teacher_latents}; allowed: 1 or more")
        if (self.step_low == 0) != (self.step_high == 0):
            raise ValueError(f"config fields distill.step_low and distill.step_high are {self.step_low}, {self.step_high}; allowed: both 0, or both above 0")
        if self.near == 0 and self.near_share > 0:
            raise ValueError(f"config field distill.near_share is {self.near_share} and distill.near 0; allowed: 0, as that zone is empty")
        if self.target not in ("drawn", "teacher"):
            raise ValueError(f"config field distill.target is {self.target!r}; allowed: drawn, teacher")
        if self.reveal not in ("independent", "spread") or (self.reveal == "spread" and not self.step_low):
            raise ValueError(f"config field distill.reveal is {self.reveal!r}; allowed: 'independent', or with distill.step_low above 0 'spread'")
        self.weights  # refuses an unknown shape

    @property
    def weights(self) -> Weights:
        return Weights(self.shape, self.scale, self.near, self.boost)


def draw_latents(key: PRNGKey, count: int, batch: int, stratified: bool) -> Float[Array, "m b"]:
    """`count` latents in [0, 1) for each of `batch` rows: independent, or one in each of `count` equal parts."""
    u = jax.random.uniform(key, (count, batch))
    return (jnp.arange(count)[:, None] + u) / count if stratified else u


def log_uniform(key: PRNGKey, low: float, high: float, shape: tuple[int, ...]) -> Float[Array, "*b"]:
    """Draws whose logarithm is uniform between those of low and high."""
    return jnp.exp(jax.random.uniform(key, shape, minval=jnp.log(low), maxval=jnp.log(high)))


def step_of(key: PRNGKey, x_0: Int[Array, "b d"], t: Time, length: Time, process: Absorbing, reveal: str = "independent") -> tuple[Int[Array, "b d"], Bool[Array, "b d"]]:
    """(x_t, the sites that a step from t of a length, at most t, reveals) of a masked row: both by one threshold a site, as in jddd.sampling. t and length
    are scalars or one a row; reveal: 'independent' or 'spread'."""
    thresholds = spread_thresholds(key, x_0.shape) if reveal == "spread" else jax.random.uniform(key, x_0.shape)
    rate = lambda time: jnp.broadcast_to(1 - process.schedule.alpha(time), x_0.shape[:1])[:, None]
    masked = thresholds < rate(t)
    return jnp.where(masked, process.mask_id, x_0), masked & (thresholds >= rate(jnp.maximum(t - length, 0.0)))


def task(teacher: Denoiser, student: Denoiser, process, config: Di4CConfig) -> Task:
    """The training of a student, a mixture, from a teacher's parameters (`frozen`) and data x_0 (B, L). A batch lies in one zone as a whole, so that only
    one of distillation and consistency is computed. Its init is for the trainer's `initial`: a student starts from its teacher.

    Network calls on B rows with M latents: in the far zone 1 of the teacher, M of the student for targets and M with gradient; a teacher that is a
    mixture makes M + teacher_latents. Raises ValueError for a student that is no mixture."""
    if not student.mixture:
        raise ValueError("the student of Di4C is no mixture; allowed: a network with model.latent=True")
    if config.step_low and not isinstance(process, Absorbing):
        raise ValueError(f"config field distill.step_low is {config.step_low} with {type(process).__name__}; allowed: 0, or an absorbing process, whose steps reveal sites")
    m = config.latents
    known = lambda log_p, x, counted=None: mixtures.with_known(log_p, x, process, counted)

    def at_state(params, inputs, latent):
        return known(student(params, *inputs[:2], latent), inputs[0], inputs[2])

    def at_teacher(frozen, inputs, latent):
        return known(teacher(frozen, *inputs, latent), inputs[0])

    def at_target(params, time, each):
        return known(student(params, each[0], time, each[1]), each[0])

    def teacher_steps(key, frozen, log_teacher, x_t, t, u):
        """x_u (M, B, L), each one ancestral step of the teacher from x_t."""

        def one(key):
            key_latent, key_symbol, key_bridge = jax.random.split(key, 3)
            log_p = known(teacher(frozen, x_t, t, jax.random.uniform(key_latent, t.shape)), x_t) if teacher.mixture else log_teacher
            x_0 = jax.random.categorical(key_symbol, log_p, mode="high").astype(x_t.dtype)
            return process.bridge(key_bridge, x_0, x_t, t, u)

        keys = jax.random.split(key, m)
        return jax.vmap(one)(keys) if config.together else jax.lax.map(one, keys)

    def loss(params, key, x_0, frozen):
        key_zone, key_time, key_start, key_noise, key_gap, key_latent, key_other, key_marginal, key_teacher, key_target = jax.random.split(key, 10)
        rows = len(x_0)
        is_near = jax.random.uniform(key_zone) < config.near_share
        low, high = jnp.where(is_near, 0.0, config.near), jnp.where(is_near, config.near, 1.0)
        t = low + (high - low) * losses.stratified_times(key_time, rows, low=1e-3)
        t = jnp.where(~is_near & (jax.random.uniform(key_start, (rows,)) < config.start_share), 1.0, t)
        if config.step_low:
            length = log_uniform(jax.random.fold_in(key_noise, 1), config.step_low, config.step_high, t.shape)
            x_t, counted = step_of(key_noise, x_0, t, jnp.where(is_near, 1.0, length), process, config.reveal)
        else:
            x_t = process.corrupt(key_noise, x_0, t)
            counted = process.noised(x_t)
        latents = draw_latents(key_latent, m, rows, config.stratified)
        if teacher.mixture:
            of_teacher = draw_latents(key_marginal, config.teacher_latents, rows, stratified=True)
            log_teacher = mixtures.log_mean_over_latents(frozen, (x_t, t), of_teacher, apply=at_teacher)
        else:
            log_teacher = known(teacher(frozen, x_t, t), x_t)
        log_teacher = jax.lax.stop_gradient(log_teacher)
        inputs, log_aim = (x_t, t, counted), known(log_teacher, x_t, counted)
        options = dict(apply=at_state, together=config.together)

        def near_zone(params):
            found = mixtures.visit(params, inputs, latents, x_0[:, None], **options)
            return terms(found, log_aim, None, control_variate=config.control_variate)._replace(consistency=jnp.zeros(rows))

        def far_zone(params):
            if not config.consistency:
                found = mixtures.visit(params, inputs, latents, x_0[:, None], mean_log=False, **options)
                return terms(found, log_aim, None, control_variate=config.control_variate)._replace(distillation=jnp.zeros(rows), consistency=jnp.zeros(rows))
            u = t - jnp.minimum(log_uniform(key_gap, config.gap_low, config.gap_high, t.shape), t / 2)
            targets = teacher_steps(key_teacher, frozen, log_teacher, x_t, t, u), draw_latents(key_other, m, rows, config.stratified)
            log_target, drawn = mixtures.draw(key_target, params, u, targets, apply=at_target, together=config.together)
            log_target = log_aim if config.target == "teacher" else known(log_target, x_t, counted)
            found = mixtures.visit(params, inputs, latents, jnp.concatenate([x_0[:, None], drawn], 1), mean_log=False, **options)
            parts = terms(found, log_aim, log_target, control_variate=config.control_variate)._replace(distillation=jnp.zeros(rows))
            return parts._replace(consistency=config.consistency * parts.consistency)

        parts = jax.lax.cond(is_near, near_zone, far_zone, params)
        return total(parts, t, weights=config.weights).mean(), {name: value.mean() for name, value in parts._asdict().items()}

    return Task(lambda key: (), loss)


@functools.partial(jax.jit, static_argnames=("student", "process", "reveal", "count"))
def gain(key: PRNGKey, params: Params, x_0: Int[Array, "b l"], t: Time, *, student: Denoiser, process, step: Time | None = None, reveal: str = "independent", count: int = 64) -> Float[Array, "b"]:
    """log mean_j prod_d p_j,d(x_0) - sum_d log mean_j p_j,d(x_0) in nats at a noising x_t of each row: how much likelier the data are by the student's
    correlations than by its marginals, over the noised sites that a step of length `step` reveals, independently or spread (None: all). `count` fixed latents, one after another;
    0 for a product, at most (D - 1) log(count) for D counted sites."""
    x_t = process.corrupt(key, x_0, t)
    x_t, counted = (x_t, process.noised(x_t)) if step is None else step_of(key, x_0, t, step, process, reveal)
    apply = lambda params, inputs, latent: mixtures.with_known(student(params, *inputs[:2], latent), inputs[0], process, inputs[2])
    found = mixtures.over_latents(params, (x_t, t, counted), mixtures.latents_of(count, len(x_0)), x_0[:, None], apply=apply, mean_log=False)
    return -datapoint(found)[:, 0]
