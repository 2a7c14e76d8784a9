"""Noise schedules: alpha(t), the probability that a site is still clean at time t, falling from about 1 at t = 0 to about 0 at t = 1."""

from __future__ import annotations

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jddd.types import Time


@runtime_checkable
class Schedule(Protocol):
    def alpha(self, t: Time) -> Float[Array, "..."]: ...
    def inverse(self, alpha: Float[Array, "..."]) -> Float[Array, "..."]: ...


@dataclasses.dataclass(frozen=True)
class Linear:
    """alpha = 1 - (1 - eps) t. With eps = 1e-3 this is SEDD's and MDLM's 'loglinear' noise (Lou et al. 2024); eps = 0 ends in pure noise."""

    eps: float = 0.0

    def alpha(self, t):
        return 1 - (1 - self.eps) * t

    def inverse(self, alpha):
        return (1 - alpha) / (1 - self.eps)


@dataclasses.dataclass(frozen=True)
class Geometric:
    """-log alpha = sigma_min^(1 - t) sigma_max^t (Lou et al. 2024)."""

    sigma_min: float = 1e-3
    sigma_max: float = 20.0

    def alpha(self, t):
        return jnp.exp(-(self.sigma_min ** (1 - t)) * self.sigma_max**t)

    def inverse(self, alpha):
        return jnp.log(-jnp.log(alpha) / self.sigma_min) / jnp.log(self.sigma_max / self.sigma_min)


@dataclasses.dataclass(frozen=True)
class Cosine:
    """alpha = 1 - cos(pi / 2 (1 - t)): MaskGIT's schedule (Chang et al. 2022)."""

    def alpha(self, t):
        return 1 - jnp.cos(jnp.pi / 2 * (1 - t))

    def inverse(self, alpha):
        return 1 - jnp.arccos(jnp.clip(1 - alpha, 0, 1)) * 2 / jnp.pi


def slope(schedule: Schedule, t: Time) -> Float[Array, "*b"]:
    """d alpha / dt, negative."""
    return jnp.vectorize(jax.grad(schedule.alpha))(jnp.asarray(t, jnp.result_type(float)))


def noise_rate(schedule: Schedule, t: Time) -> Float[Array, "*b"]:
    """d(total noise) / dt = -alpha' / alpha, positive."""
    return -slope(schedule, t) / schedule.alpha(t)


def total_noise(schedule: Schedule, t: Time) -> Float[Array, "*b"]:
    """sigma-bar(t) = -log alpha(t) (SEDD's total noise)."""
    return -jnp.log(schedule.alpha(t))
