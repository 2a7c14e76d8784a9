"""SDTT (Deschenaux & Gulcehre 2024, arXiv 2410.21035): a masked student learns in one call what its teacher says over several small steps.

From x_t the teacher takes K steps of length dt; the target at a masked site is the teacher's log p(x_0 | .) at the step that revealed it, or at the last
one if none did. The student, at x_t, is pulled towards it by a divergence, the mean over masked sites. After a round the student is the next teacher.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jddd import losses
from jddd.processes import Absorbing
from jddd.train import Task
from jddd.types import BoundDenoiser, Denoiser, PRNGKey, Scalar, bind

DIVERGENCES = ("forward_kl", "reverse_kl", "mse", "total_variation", "log_l1")
TIMES = ("even", "released")


def times(start: Float[Array, "b"], *, step: float, count: int, form: str = "even", floor: float = 1e-5) -> Float[Array, "k b"]:
    """The K times the teacher is called at, for every row's t, none below floor.

    even: t, t - dt, ..., t - (K - 1) dt, so that each call is at the state's own time. released: a t + (1 - t) (t - K dt), a = 1, ..., 0 evenly, as the
    authors' code computes it: (1 - t) stands where 1 - a would, so the first time is above t and the last far below t - K dt, while states move by
    dt a step. A teacher without time conditioning sees the difference only through the steps' reveal probabilities."""
    if form not in TIMES:
        raise ValueError(f"distill.times is {form!r}; allowed: {', '.join(TIMES)}")
    if form == "even":
        return jnp.maximum(start - step * jnp.arange(count, dtype=start.dtype)[:, None], floor)
    share = jnp.linspace(1.0, 0.0, count, dtype=start.dtype)[:, None]
    return jnp.maximum(start * share + (1 - start) * (start - step * count), floor)


def follow(x: Int[Array, "b l"], log_target: Float[Array, "b l v"], log_p: Float[Array, "b l v"], drawn: Int[Array, "b l"], process: Absorbing) -> tuple[Int[Array, "b l"], Float[Array, "b l v"]]:
    """(state, target) after one teacher step that said log_p and drew `drawn` (the mask: not revealed; clean sites stay)."""
    masked = process.noised(x)
    return jnp.where(masked, drawn, x), jnp.where(masked[..., None], log_p, log_target)


def target(
    key: PRNGKey, x_t: Int[Array, "b l"], start: Float[Array, "b"], denoise: BoundDenoiser, *, process: Absorbing, step: float, count: int, form: str = "even"
) -> tuple[Int[Array, "b l"], Float[Array, "b l v"]]:
    """(the teacher's state after K steps of length dt from x_t at the rows' times, the student's target at x_t: 0 at its clean sites); K network calls."""
    mask_rate = lambda t: 1 - process.schedule.alpha(t)

    def advance(carry, inputs):
        x, log_target = carry
        key, t = inputs
        key_reveal, key_symbol = jax.random.split(key)
        log_p = denoise(x, t)
        stay = mask_rate(jnp.maximum(t - step, 0.0)) / mask_rate(t)
        symbol = jax.random.categorical(key_symbol, log_p, mode="high").astype(x.dtype)
        drawn = jnp.where(jax.random.uniform(key_reveal, x.shape) < stay[:, None], process.mask_id, symbol)
        return follow(x, log_target, log_p, drawn, process), None

    nothing = jnp.zeros((*x_t.shape, process.symbols), jnp.result_type(float))
    (x, log_target), _ = jax.lax.scan(advance, (x_t, nothing), (jax.random.split(key, count), times(start, step=step, count=count, form=form)))
    return x, jax.lax.stop_gradient(log_target)


def divergence(log_target: Float[Array, "*b v"], log_student: Float[Array, "*b v"], masked: Bool[Array, "*b"], *, kind: str = "forward_kl") -> Scalar:
    """The mean over masked sites (0 if there is none) of a divergence of two laws, without gradient to the target.

    forward_kl: KL(target || student), nats; reverse_kl: KL(student || target); mse: mean over symbols of the squared difference of LOG-probabilities;
    total_variation: half the L1 distance of probabilities; log_l1: the sum of absolute differences of log-probabilities, which the authors' code calls
    tvd. Their mse has the mask's column too, the difference of two numbers near -1e6 that no law depends on; ours has the columns it is given."""
    if kind not in DIVERGENCES:
        raise ValueError(f"distill.divergence is {kind!r}; allowed: {', '.join(DIVERGENCES)}")
    q, p = jax.lax.stop_gradient(log_target), log_student
    each = {
        "forward_kl": lambda: (jnp.exp(q) * (q - p)).sum(-1),
        "reverse_kl": lambda: (jnp.exp(p) * (p - q)).sum(-1),
        "mse": lambda: ((p - q) ** 2).mean(-1),
        "total_variation": lambda: 0.5 * jnp.abs(jnp.exp(p) - jnp.exp(q)).sum(-1),
        "log_l1": lambda: jnp.abs(p - q).sum(-1),
    }[kind]()
    return jnp.where(masked, each, 0.0).sum() / jnp.maximum(masked.sum(), 1)


@dataclasses.dataclass(frozen=True)
class SDTTConfig:
    """step: dt of the first round's teacher, doubled each round; count: K, teacher steps that one student step learns; divergence, times: see DIVERGENCES
    and `times`."""

    step: float = 1 / 1024
    count: int = 2
    divergence: str = "reverse_kl"
    times: str = "even"

    def __post_init__(self):
        if self.count < 1 or not 0 < self.step * self.count <= 1:
            raise ValueError(f"config fields distill.step and count are {self.step}, {self.count}; allowed: a step above 0, a count of 1 or more, a product of at most 1")
        for field, allowed in (("divergence", DIVERGENCES), ("times", TIMES)):
            if getattr(self, field) not in allowed:
                raise ValueError(f"config field distill.{field} is {getattr(self, field)!r}; allowed: {', '.join(allowed)}")


def task(teacher: Denoiser, student: Denoiser, process, config: SDTTConfig) -> Task:
    """The training of one round from the teacher's parameters (`frozen`) and data x_0 (B, L): K + 1 network calls on B rows, one with gradient.

    The mean over masked sites, unweighted in t. Raises ValueError for a process without masks and for mixtures."""
    if not isinstance(process, Absorbing) or teacher.mixture or student.mixture:
        raise ValueError("SDTT's process is not absorbing, or a network of it is a mixture; allowed: masked denoisers that are products")

    def loss(params, key, x_0, frozen):
        key_time, key_noise, key_target = jax.random.split(key, 3)
        t = losses.stratified_times(key_time, len(x_0))
        x_t = process.corrupt(key_noise, x_0, t)
        _, log_target = target(key_target, x_t, t, bind(teacher, frozen), process=process, step=config.step, count=config.count, form=config.times)
        value = divergence(log_target, student(params, x_t, t), process.noised(x_t), kind=config.divergence)
        return value, {config.divergence: value}

    return Task(lambda key: (), loss)
