"""ReMDM's schedules: how much of each step draws x_s afresh, so that clean sites can be masked, or jump, again (Wang et al. 2025).

A step's law is (1 - share) q(x_s | x_t) + share * (a draw of x_0 noised to s); the share is 1 - kappa of the psi-samplers of Duo (Sahoo et al.
2026), which hold for every process; for the absorbing one share = sigma / (1 - alpha_s) with ReMDM's remasking probability sigma, and may exceed 1.
"""

from __future__ import annotations

import jax.numpy as jnp

from jddd import processes
from jddd.types import Coefficients, Times

SCHEDULES = ("none", "all", "share", "capped", "rescaled")


def _sigma_max(times: Times, process) -> Coefficients:
    """ReMDM's largest sigma, min(1, (1 - alpha_s) / alpha_t), as shares (M,): a clean site is masked, or a masked one revealed, for sure."""
    alpha = process.schedule.alpha(jnp.asarray(times))
    return jnp.minimum(1 / (1 - alpha[1:]), 1 / alpha[:-1])


def largest(times: Times, process) -> Coefficients:
    """The largest shares (M,) that leave no chance of a step outside [0, 1]: 1, and more for the absorbing process."""
    return _sigma_max(times, process) if isinstance(process, processes.Absorbing) else jnp.ones(len(times) - 1)


def shares(times: Times, process, schedule: str, eta: float = 0.0) -> Coefficients:
    """Shares (M,) for the steps of a grid of M + 1 times: a student's `remasks`.

    none: 0, plain sampling; all: 1, each step noises a fresh draw of x_0; share: eta itself. With sigma_max = min(1, (1 - alpha_s) / alpha_t):
    capped: sigma = min(eta, sigma_max); rescaled: eta sigma_max (ReMDM sections 4.1 and 4.2); at most `largest`, and 0 in the last step, which ends in
    clean data. Raises ValueError for an unknown schedule or eta outside [0, 1]."""
    if schedule not in SCHEDULES:
        raise ValueError(f"remasking schedule is {schedule!r}; allowed: {', '.join(SCHEDULES)}")
    if not 0 <= eta <= 1:
        raise ValueError(f"remasking eta is {eta}; allowed: 0 to 1")
    most = _sigma_max(times, process)
    found = {"none": 0.0, "all": 1.0, "share": eta, "capped": jnp.minimum(eta / (1 - process.schedule.alpha(times[1:])), most), "rescaled": eta * most}[schedule]
    return jnp.minimum(found, largest(times, process)).at[-1].set(0.0)


def loop(steps: int, process, *, at: float, first: float = 0.25, middle: float = 0.5, eta: float = 0.02) -> tuple[Times, Coefficients]:
    """(times (M + 1,), shares (M,)) of ReMDM-loop: down to the time at which a share `at` of the sites is clean in the first part of the steps, there
    for the middle part, remasking at sigma = eta (capped), then on to clean data. first, middle: parts of the steps.

    Raises ValueError where a part has no step (but the middle one, which may have none) or no time above 0 is left for the last."""
    begin, end = round(first * steps), round((first + middle) * steps)
    # Times must fall: a resting time falls by a millionth a step, which no alpha notices.
    rest = process.schedule.inverse(jnp.asarray(at)) - 1e-6 * jnp.arange(max(end - begin, 0) + 1)
    if not (1 <= begin <= end < steps and 0 < at < 1 and 0 < rest[-1] and rest[0] < 1):
        raise ValueError(
            f"remasking loop steps, at, first, middle are {steps}, {at}, {first}, {middle}; allowed: one step or more before and after the middle part, "
            "at in (0, 1) at a time below 1 and a millionth a resting step above 0"
        )
    times = jnp.concatenate([jnp.linspace(1.0, rest[0], begin + 1)[:-1], rest, jnp.linspace(rest[-1], 0.0, steps - end + 1)[1:]])
    resting = (jnp.arange(steps) >= begin) & (jnp.arange(steps) < end)
    return times, jnp.where(resting, shares(times, process, "capped", eta), 0.0)
