"""Learning every student of a table: what steps cost on the teacher, the path-KL students of all NFE, and the paper's objectives beside them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jddd import grids, processes, sampling, solvers
from jddd.distill import lsd, segments
from jddd.distill import profile as profiles
from jddd.pretrain import BITS, rows_at_once
from jddd.runs import Entry
from jddd.sampling import Student
from jddd.types import Denoiser, Params
from jddd.writers import Stages


class Distilled(NamedTuple):
    entries: list[Entry]
    bounds: list[dict]  # per NFE: excess over the NELBO of uniform, cosine, dynamic programme and each student, bits a symbol
    profile: dict  # the measured curve, for the report; empty for a process without a mask
    costs: profiles.Profile | segments.Table  # what was measured


def finite(measured):
    """What was measured, or a ValueError where a network's outputs were not finite: nothing can be learned from such costs."""
    name = "cross_entropy" if isinstance(measured, profiles.Profile) else "cost"
    values = np.asarray(getattr(measured, name))
    if not np.isfinite(values).all():
        where = measured.rates if name == "cross_entropy" else measured.times
        raise ValueError(f"the teacher's measured costs are {values[~np.isfinite(values)][0]} at {np.asarray(where)[np.argwhere(~np.isfinite(values))[0][0]]:.4f}; allowed: a network whose log-probabilities are finite on its data")
    return measured


def measure_costs(windows: np.ndarray, seed: int, most: int, *, denoiser: Denoiser, process, params: Params, rates: jax.Array | None = None):
    """(function (solver, form) -> what path_kl prices students with, table of spread reveals or None): of an absorbing teacher the profile, one for
    all, or, of a mixture, the table of its joint reveals; else a table of segments. Tables of reveals have a point for each half step of the longest
    student, `most` calls, and those of a product 65 at least."""
    options = dict(denoiser=denoiser, process=process)
    key, x_0 = jax.random.fold_in(jax.random.key(seed), 1), jnp.asarray(windows)
    if isinstance(process, processes.Absorbing):
        key_spread, points = jax.random.fold_in(jax.random.key(seed), 3), max(33 if denoiser.mixture else 65, 2 * most + 1)
        batch = min(32, rows_at_once(process.states, x_0.shape[1]))
        spread = segments.measure_reveals(key_spread, params, x_0[: max(32, len(x_0) // 64 * 32)], points=points, batch=batch, **options)
        if denoiser.mixture:
            measured = segments.measure_reveals(key, params, x_0, reveal="independent", points=points, batch=batch, **options)
        else:
            measured = profiles.measure(key, params, x_0, profiles.default_rates() if rates is None else rates, **options)
        return jax.block_until_ready(((lambda solver, form: finite(measured)), finite(spread)))

    @functools.cache
    def table(solver, form):
        times, coefficients = grids.uniform(32), jnp.linspace(0.8, 1.2, 3)
        rows = min(32, rows_at_once(process.states, x_0.shape[1]))
        keys = [jax.random.fold_in(key, i) if i else key for i in range(0, 32, rows)]
        parts = [segments.measure(k, params, x_0[i * rows : i * rows + rows], times, coefficients, solver=solver, form=form, **options) for i, k in enumerate(keys)]
        return finite(parts[0]._replace(cost=sum(part.cost for part in parts) / len(parts)))

    return table, None


def distil_all(
    windows: np.ndarray,
    settings: lsd.LSDConfig,
    stages: Stages,
    *,
    nfe: Sequence[int],
    extra_nfe: Sequence[int] = (),
    rows: int = 16,
    seed: int = 0,
    denoiser: Denoiser,
    process,
    params: Params,
    rates: jax.Array | None = None,
) -> Distilled:
    """Measure what steps cost on a teacher, with windows (N, L) of its data, N a multiple of 32, and learn every student of the table.

    nfe: network calls of the students; extra_nfe: those of nfe at which the log-score form and the papers' objectives are learned too; rows: of the
    papers' chains; rates: mask rates an absorbing teacher's profile is measured at, by default profiles.default_rates()."""
    options = dict(denoiser=denoiser, process=process, params=params)
    with stages("measure the teacher's costs"):
        measured, spread = measure_costs(windows, seed, max(nfe), rates=rates, **options)
        spread_cost = (jax.jit(segments.path_cost), spread)
        reference = measured("tweedie", "score")
    if isinstance(reference, profiles.Profile):
        constant = float(profiles.nelbo(reference))
        first = float(1 - process.schedule.alpha(1.0))  # a schedule with eps > 0 starts a little below all masks
        optimum = lambda n: profiles.optimal_rates(reference, n, first)[1]
        curve = {"rates": np.asarray(reference.rates).tolist(), "bits": (np.asarray(reference.cross_entropy) * BITS).tolist(), "nelbo_bits": constant * BITS}
    else:
        constant = float(segments.path_cost(sampling.plain(reference.times), reference))
        optimum = lambda n: segments.optimal_times(reference, n)[1]
        curve = {}
    # A table of segments sees no curvature within a cell: students of more steps than half its cells are not learned from it.
    resolved = lambda n: isinstance(reference, profiles.Profile) or 2 * n < len(reference.times)

    @functools.cache
    def cost(solver, form):
        price, data = lsd.path_cost(measured(solver, form), process=process, solver=solver, form=form)
        return jax.jit(price), data

    def excess(student: Student, price_and_data) -> float:
        price, data = price_and_data
        return (float(price(student, data)) - constant) * BITS

    @functools.cache
    def learn(n, config, solver):
        return lsd.distil(n, config, solver=solver, cost=cost(solver, config.form), **options)

    entries, bounds = [], []
    best = dataclasses.replace(settings, objective="path_kl", form="score", learn_times=True)
    variants = [
        ("LSD", "uniform", "euler", dataclasses.replace(best, learn_times=False), nfe),
        ("LSD+ (Euler)", "learned", "euler", best, nfe),
        ("LSD+ (Tweedie)", "learned", "tweedie", best, nfe),
        ("LSD+ log-score (Tweedie)", "learned", "tweedie", dataclasses.replace(best, form="log_score"), extra_nfe),
    ]
    with stages("distil: path KL"):
        for n in tqdm(nfe, desc="distil (path KL)"):
            uniform, cosine = sampling.plain(grids.uniform(n)), sampling.plain(grids.cosine(n))
            plain = cost("tweedie", "score")
            if not resolved(n):
                continue
            bound = {"nfe": n, "uniform": excess(uniform, plain), "cosine": excess(cosine, plain), "dynamic programme": (optimum(n) - constant) * BITS}
            for name, grid, solver, config, where in variants:
                if n in where:
                    same = solvers.canonical(solver, process)
                    entry = Entry(name, grid, learn(n, config, same), solver, config.form)
                    entries.append(entry)
                    bound[name] = excess(entry.student, cost(same, config.form))
            if spread:
                entry = Entry("LSD+ spread (Tweedie)", "learned", lsd.distil(n, best, solver="tweedie", cost=spread_cost, **options), reveal="spread")
                entries.append(entry)
                bound |= {"uniform, spread": excess(uniform, spread_cost), entry.sampler: excess(entry.student, spread_cost)}
                bound["dynamic programme, spread"] = (segments.optimal_times(spread, n)[1] - constant) * BITS
            bounds.append(bound)
    paper = dataclasses.replace(settings, objective="paper", noise="independent", learn_times=True)
    paper_nfe = nfe if settings.objective == "paper" else extra_nfe
    shape = (rows, windows.shape[1])
    papers = [
        ("LSD paper Eq. 6 (Euler)", "uniform", dataclasses.replace(paper, learn_times=False)),
        ("LSD+ paper Eq. 8 (Euler)", "learned", paper),
    ]
    noise = "coupled" if settings.noise == "independent" else settings.noise  # the user's own choice takes the place of the coupled row
    if noise != "coupled" or (isinstance(process, processes.Absorbing) and settings.form == "score"):  # what coupled noise has a meaning for
        papers.append((f"LSD+ paper Eq. 8, {noise} (Euler)", "learned", dataclasses.replace(paper, noise=noise)))
    if paper_nfe:
        with stages("distil: the paper's objectives"):
            chains = {
                noise: lsd.teacher_chain(jax.random.key(seed + 2), params, shape, denoiser=denoiser, process=process, solver="euler", config=dataclasses.replace(paper, noise=noise))
                for noise in dict.fromkeys(config.noise for *_, config in papers)
            }
            for n in tqdm(paper_nfe, desc="distil (paper)"):
                for name, grid, config in papers:
                    student = lsd.distil(n, config, solver="euler", chain=chains[config.noise], **options)
                    entries.append(Entry(name, grid, student, "euler", config.form))
    return Distilled(entries, bounds, curve, reference)
