"""Learning every student of a table: what steps cost on the teacher, the path-KL students of all NFE, and the paper's objectives beside them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jddd import grids, processes, sampling, solvers
from jddd.distill import lsd, segments
from jddd.distill import profile as profiles
from jddd.pretrain import BITS
from jddd.runs import Entry
from jddd.sampling import Student
from jddd.types import Denoiser, Params


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """nfe: network calls of the table; extra_nfe: those at which the other objectives and forms are shown too; claim_nfe: where equal-entropy
    comparisons are made, against twice as many calls; match_samples: samples a step of a temperature search; confidences: reveal-order strengths to
    try, as (first step, last step) pairs; temperatures: of the quality-against-entropy plot."""

    nfe: tuple = (4, 8, 16, 32, 64)
    extra_nfe: tuple = (8,)
    claim_nfe: tuple = (8,)
    samples: int = 64
    batch: int = 64
    teacher_steps: int = 256
    seed: int = 0
    precision: str = "high"
    profile_windows: int = 64
    match_samples: int = 64
    bootstrap: int = 200
    confidences: tuple = ((0.0, 0.0), (1.0, 1.0), (3.0, 3.0), (0.0, 3.0), (3.0, 0.0))
    temperatures: tuple = (0.7, 0.8, 0.9)

    def __post_init__(self):
        for field in ("nfe", "extra_nfe", "claim_nfe"):
            values = getattr(self, field)
            if not all(isinstance(v, int) and v >= 1 for v in values) or (field == "nfe" and not values):
                raise ValueError(f"config field report.{field} is {values}; allowed: whole numbers of 1 or more")
        for field, wanted in (("extra_nfe", self.extra_nfe), ("claim_nfe", (*self.claim_nfe, *(2 * v for v in self.claim_nfe)))):
            if not set(wanted) <= set(self.nfe):
                raise ValueError(f"config field report.{field} is {getattr(self, field)}; allowed: members of report.nfe, {self.nfe} (claim_nfe: with twice as many, too)")
        if self.match_samples > self.samples:
            object.__setattr__(self, "match_samples", self.samples)


class Stages:
    """Seconds by stage, in the order they ran, each announced on stderr."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str):
        print(f"[{name}]", file=sys.stderr, flush=True)
        begin = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin


class Distilled(NamedTuple):
    entries: list[Entry]
    bounds: list[dict]  # per NFE: excess over the NELBO of uniform, cosine, dynamic programme and each student, bits a symbol
    profile: dict  # the measured curve, for the report; empty for a process without a mask
    costs: profiles.Profile | segments.Table  # what was measured


def measure_costs(windows: np.ndarray, seed: int, most: int, *, denoiser: Denoiser, process, params: Params, rates: jax.Array | None = None):
    """(function (solver, form) -> what path_kl prices students with, table of spread reveals or None): of an absorbing teacher the profile, one for
    all, else a table of segments. The spread table has a point for each half step of the longest student, `most` calls, and 65 at least."""
    options = dict(denoiser=denoiser, process=process)
    key, x_0 = jax.random.fold_in(jax.random.key(seed), 1), jnp.asarray(windows)
    if isinstance(process, processes.Absorbing):
        profile = jax.block_until_ready(profiles.measure(key, params, x_0, profiles.default_rates() if rates is None else rates, **options))
        key_spread = jax.random.fold_in(jax.random.key(seed), 3)
        spread = segments.measure_spread(key_spread, params, x_0[: max(32, len(x_0) // 2)], points=max(65, 2 * most + 1), **options)
        return (lambda solver, form: profile), jax.block_until_ready(spread)

    @functools.cache
    def table(solver, form):
        times, coefficients = grids.uniform(32), jnp.linspace(0.8, 1.2, 3)
        return jax.block_until_ready(segments.measure(key, params, x_0[:32], times, coefficients, solver=solver, form=form, **options))

    return table, None


def distil_all(windows: np.ndarray, settings: lsd.LSDConfig, sizes: ReportConfig, stages: Stages, *, denoiser: Denoiser, process, params: Params, rates: jax.Array | None = None) -> Distilled:
    """Measure what steps cost on a teacher, with windows (N, L) of its data, N a multiple of 32, and learn every student of the table.

    rates: mask rates an absorbing teacher's profile is measured at, by default profiles.default_rates()."""
    options = dict(denoiser=denoiser, process=process, params=params)
    with stages("measure the teacher's costs"):
        measured, spread = measure_costs(windows, sizes.seed, max(sizes.nfe), rates=rates, **options)
        spread_cost = (jax.jit(segments.path_cost), spread)
        reference = measured("tweedie", "score")
    if isinstance(reference, profiles.Profile):
        constant = float(profiles.nelbo(reference))
        first = float(1 - process.schedule.alpha(1.0))  # a schedule with eps > 0 starts a little below all masks
        optimum = lambda nfe: profiles.optimal_rates(reference, nfe, first)[1]
        curve = {"rates": np.asarray(reference.rates).tolist(), "bits": (np.asarray(reference.cross_entropy) * BITS).tolist(), "nelbo_bits": constant * BITS}
    else:
        constant = float(segments.path_cost(sampling.plain(reference.times), reference))
        optimum = lambda nfe: segments.optimal_times(reference, nfe)[1]
        curve = {}
    # A table of segments sees no curvature within a cell: students of more steps than half its cells are not learned from it.
    resolved = lambda nfe: isinstance(reference, profiles.Profile) or 2 * nfe < len(reference.times)

    @functools.cache
    def cost(solver, form):
        price, data = lsd.path_cost(measured(solver, form), process=process, solver=solver, form=form)
        return jax.jit(price), data

    def excess(student: Student, price_and_data) -> float:
        price, data = price_and_data
        return (float(price(student, data)) - constant) * BITS

    @functools.cache
    def learn(nfe, config, solver):
        return lsd.distil(nfe, config, solver=solver, cost=cost(solver, config.form), **options)

    entries, bounds = [], []
    best = dataclasses.replace(settings, objective="path_kl", form="score", learn_times=True)
    variants = [
        ("LSD", "uniform", "euler", dataclasses.replace(best, learn_times=False), sizes.nfe),
        ("LSD+ (Euler)", "learned", "euler", best, sizes.nfe),
        ("LSD+ (Tweedie)", "learned", "tweedie", best, sizes.nfe),
        ("LSD+ log-score (Tweedie)", "learned", "tweedie", dataclasses.replace(best, form="log_score"), sizes.extra_nfe),
    ]
    with stages("distil: path KL"):
        for nfe in tqdm(sizes.nfe, desc="distil (path KL)"):
            uniform, cosine = sampling.plain(grids.uniform(nfe)), sampling.plain(grids.cosine(nfe))
            plain = cost("tweedie", "score")
            if not resolved(nfe):
                continue
            bound = {"nfe": nfe, "uniform": excess(uniform, plain), "cosine": excess(cosine, plain), "dynamic programme": (optimum(nfe) - constant) * BITS}
            for name, grid, solver, config, where in variants:
                if nfe in where:
                    same = solvers.canonical(solver, process)
                    entry = Entry(name, grid, learn(nfe, config, same), solver, config.form)
                    entries.append(entry)
                    bound[name] = excess(entry.student, cost(same, config.form))
            if spread:
                entry = Entry("LSD+ spread (Tweedie)", "learned", lsd.distil(nfe, best, solver="tweedie", cost=spread_cost, **options), reveal="spread")
                entries.append(entry)
                bound |= {"uniform, spread": excess(uniform, spread_cost), entry.sampler: excess(entry.student, spread_cost)}
                bound["dynamic programme, spread"] = (segments.optimal_times(spread, nfe)[1] - constant) * BITS
            bounds.append(bound)
    paper = dataclasses.replace(settings, objective="paper", noise="independent", learn_times=True)
    paper_nfe = sizes.nfe if settings.objective == "paper" else sizes.extra_nfe
    shape = (min(settings.batch, sizes.samples), windows.shape[1])
    papers = [
        ("LSD paper Eq. 6 (Euler)", "uniform", dataclasses.replace(paper, learn_times=False)),
        ("LSD+ paper Eq. 8 (Euler)", "learned", paper),
        ("LSD+ paper Eq. 8, coupled (Euler)", "learned", dataclasses.replace(paper, noise="coupled")),
    ]
    if settings.noise != "independent":  # the user's own choice takes the place of the coupled row
        papers[-1] = (f"LSD+ paper Eq. 8, {settings.noise} (Euler)", "learned", dataclasses.replace(paper, noise=settings.noise))
    if papers[-1][2].noise == "coupled" and not (isinstance(process, processes.Absorbing) and settings.form == "score"):
        papers.pop()  # coupled noise has a meaning for the absorbing process and form 'score' only
    if paper_nfe:
        with stages("distil: the paper's objectives"):
            chains = {
                noise: lsd.teacher_chain(jax.random.key(sizes.seed + 2), params, shape, denoiser=denoiser, process=process, solver="euler", config=dataclasses.replace(paper, noise=noise))
                for noise in dict.fromkeys(config.noise for *_, config in papers)
            }
            for nfe in tqdm(paper_nfe, desc="distil (paper)"):
                for name, grid, config in papers:
                    student = lsd.distil(nfe, config, solver="euler", chain=chains[config.noise], **options)
                    entries.append(Entry(name, grid, student, "euler", config.form))
    return Distilled(entries, bounds, curve, reference)
