"""ReMDM's schedules: how much of each step draws x_s afresh, so that clean sites can be masked, or jump, again (Wang et al. 2025).

A step's law is (1 - share) q(x_s | x_t) + share * (a draw of x_0 noised to s); the share is 1 - kappa of the psi-samplers of Duo (Sahoo et al.
2026), which hold for every process; for the absorbing one share = sigma / (1 - alpha_s) with ReMDM's remasking probability sigma.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from jddd.types import Coefficients, Times

SCHEDULES = ("none", "all", "share", "constant", "capped", "rescaled")


def shares(times: Times, process, schedule: str, eta: float = 0.0) -> Coefficients:
    """Shares (M,) for the steps of a grid of M + 1 times: a student's `remasks`.

    none: 0, plain sampling; all: 1, each step noises a fresh draw of x_0; share: eta itself. With sigma_max = min(1, (1 - alpha_s) / alpha_t):
    constant: sigma = eta; capped: min(eta, sigma_max); rescaled: eta sigma_max (ReMDM sections 4.1 and 4.2); kept within [0, 1], and 0 in the last step,
    which ends in clean data. Raises ValueError for an unknown schedule or eta outside [0, 1]."""
    if schedule not in SCHEDULES:
        raise ValueError(f"remasking schedule is {schedule!r}; allowed: {', '.join(SCHEDULES)}")
    if not 0 <= eta <= 1:
        raise ValueError(f"remasking eta is {eta}; allowed: 0 to 1")
    alpha_t, alpha_s = process.schedule.alpha(times[:-1]), process.schedule.alpha(times[1:])
    most = jnp.minimum(1.0, (1 - alpha_s) / alpha_t)
    if schedule in ("none", "all", "share"):
        return jnp.full_like(alpha_s, {"none": 0.0, "all": 1.0, "share": eta}[schedule]).at[-1].set(0.0)
    sigma = {"constant": jnp.full_like(most, eta), "capped": jnp.minimum(eta, most), "rescaled": eta * most}[schedule]
    return jnp.clip(sigma / (1 - alpha_s), 0.0, 1.0).at[-1].set(0.0)


def loop(steps: int, process, *, at: float, first: float = 0.25, middle: float = 0.5, eta: float = 0.02) -> tuple[Times, Coefficients]:
    """(times (M + 1,), shares (M,)) of ReMDM-loop: down to the time at which a share `at` of the sites is clean in the first part of the steps, there
    for the middle part, remasking at the constant sigma = eta, then on to clean data. first, middle: parts of the steps."""
    if not (0 < at < 1 and 0 < first and 0 <= middle and first + middle < 1):
        raise ValueError(f"remasking loop at, first, middle are {at}, {first}, {middle}; allowed: at in (0, 1), parts above 0 with a sum below 1")
    begin, end = round(first * steps), round((first + middle) * steps)
    hold = process.schedule.inverse(jnp.asarray(at))
    # Times must fall: a resting time falls by a millionth a step, which no alpha notices.
    rest = hold - 1e-6 * jnp.arange(end - begin + 1)
    times = jnp.concatenate([jnp.linspace(1.0, hold, begin + 1)[:-1], rest, jnp.linspace(rest[-1], 0.0, steps - end + 1)[1:]])
    steps_here = jnp.arange(steps)
    resting: Float[Array, "steps"] = (steps_here >= begin) & (steps_here < end)
    return times, jnp.where(resting, shares(times, process, "constant", eta), 0.0)
