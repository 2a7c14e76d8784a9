"""Sampling and scoring the rows of a table: each row is an Entry, its samples are kept on disk, so a killed evaluation goes on where it was."""

from __future__ import annotations

import functools
import hashlib
import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jddd import checkpoints, sampling, solvers
from jddd.metrics import sequences
from jddd.runs import Entry
from jddd.types import Denoiser, Params


class Bench(NamedTuple):
    """What rows are measured with: a teacher, `count` samples of `length` symbols in batches of `batch`, and their figures.

    cache: the folder where the samples of rows are kept, under names that tell networks and laws apart.
    score: samples (N, L) -> the figures of their row."""

    denoiser: Denoiser
    process: Any
    params: Params
    length: int
    count: int
    batch: int
    seed: int
    precision: str
    cache: Path
    score: Callable[[np.ndarray], dict]


class Generated(NamedTuple):
    """samples (N, L); seconds of sampling, compilation excluded; ratio: seconds over NFE network calls timed right beside it."""

    samples: np.ndarray
    seconds: float
    ratio: float


def generate(bench: Bench, entry: Entry, count: int = 0, timed: bool = True) -> Generated:
    """Draw `count` (default bench.count) samples. Batch i of a seed uses the same key whatever the entry: rows share their noise. Raises ValueError for an
    entry that sampling.check refuses."""
    count = count or bench.count
    shape = (min(bench.batch, count), bench.length)
    sampling.check(entry.student, process=bench.process, solver=entry.solver, form=entry.form, precision=bench.precision, reveal=entry.reveal, length=bench.length)
    options = dict(solver=entry.solver, form=entry.form, reveal=entry.reveal, precision=bench.precision)
    run = sampling.sampler(bench.denoiser, bench.process, shape, **options)
    key = jax.random.key(bench.seed)
    if (run, entry.nfe) not in _COMPILED:
        _COMPILED[run, entry.nfe] = run.lower(key, bench.params, entry.student).compile()
    compiled = _COMPILED[run, entry.nfe]
    samples, seconds, calls = [], 0.0, []
    floor = _network_call(bench.denoiser, shape) if timed else None
    if floor:
        jax.block_until_ready(floor(bench.params))  # compiled before it is timed
    for i in tqdm(range(-(-count // shape[0])), desc=f"{entry.sampler}, NFE {entry.nfe}", leave=False, disable=not timed):
        if floor:  # a network call at the same shape, timed in turn with the sampler: the machine's noise falls on both
            begin = time.perf_counter()
            jax.block_until_ready(floor(bench.params))
            calls.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        samples.append(np.asarray(compiled(jax.random.fold_in(key, i), bench.params, entry.student)))
        seconds += time.perf_counter() - begin
    ratio = seconds / (entry.nfe * sum(calls)) if floor else float("nan")
    return Generated(np.concatenate(samples)[:count].astype(np.uint16 if bench.process.symbols < 2**16 else np.uint32), seconds, ratio)


_COMPILED: dict[Any, Any] = {}  # executables, so that compilation can be kept out of the times


@functools.cache
def _network_call(denoiser: Denoiser, shape: tuple[int, int]) -> Callable:
    """One network call (trunk and head everywhere) at a shape: the unit the sampler's time is compared with."""
    latent = (jnp.zeros(shape[:1]),) if denoiser.mixture else ()
    return jax.jit(lambda params: denoiser(params, jnp.zeros(shape, jnp.int32), jnp.ones(()), *latent).sum())


def entropy_4(bench: Bench, entry: Entry, count: int) -> float:
    """4-gram entropy in bits of `count` samples of the entry."""
    return sequences.entropy(sequences.ngrams(generate(bench, entry, count, timed=False).samples, 4))


def with_temperature(entry: Entry, temperature: float, sampler: str = "", grid: str = "") -> Entry:
    """The entry with every step's temperature multiplied."""
    student = entry.student.replace(temperatures=entry.student.temperatures * temperature)
    return entry._replace(student=student, sampler=sampler or entry.sampler, grid=grid or entry.grid)


def match_entropy(bench: Bench, entry: Entry, target: float, count: int, *, tolerance: float = 0.003, most: int = 5) -> tuple[float, float]:
    """(temperature, relative miss): the factor at which `count` samples of the entry have 4-gram entropy `target` (bits, of as many samples).

    Secant search on common noise; ends within `tolerance` or after `most` evaluations, with the best seen."""
    points = [(1.0, entropy_4(bench, entry, count))]
    while abs(points[-1][1] / target - 1) > tolerance and len(points) < most:
        if len(points) == 1:
            guess = 1.0 + 1.5 * (target / points[0][1] - 1)
        else:
            (a, ea), (b, eb) = points[-2:]
            guess = b + (target - eb) * (b - a) / (eb - ea) if eb != ea else b
        guess = float(np.clip(guess, 0.5, 1.5))
        if any(guess == p for p, _ in points):
            break
        points.append((guess, entropy_4(bench, with_temperature(entry, guess), count)))
    temperature, reached = min(points, key=lambda p: abs(p[1] / target - 1))
    return temperature, reached / target - 1


def row(bench: Bench, entry: Entry) -> tuple[dict, np.ndarray]:
    """(the row of metrics.json, its samples). Samples are kept in bench.cache under their law (network, numbers, solver, form, reveal, seed, count), so that a
    run that was killed reads them back, and two names of one law (see solvers.canonical) share one set of samples."""
    solver = solvers.canonical(entry.solver, bench.process)
    law = json.dumps([solver, entry.form, entry.reveal, bench.seed, bench.count, bench.batch, bench.precision, bench.length, *map(checkpoints.digest, (bench.params, entry.student))])
    file = bench.cache / f"{hashlib.sha256(law.encode()).hexdigest()[:24]}.npz"
    try:
        saved = np.load(file)
        drawn = Generated(saved["samples"], float(saved["seconds"]), float(saved["ratio"]))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):  # not there, or cut short by a kill
        drawn = generate(bench, entry)
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(".tmp.npz")
        np.savez(temporary, **drawn._asdict())
        temporary.replace(file)
    facts = {"sampler": entry.sampler, "grid": entry.grid, "nfe": entry.nfe, "solver": entry.solver, "form": entry.form, "reveal": entry.reveal, "samples": bench.count}
    facts |= {"temperature": float(entry.student.temperatures[0]), "confidence": float(entry.student.confidences[0])}
    return facts | bench.score(drawn.samples) | {"seconds": drawn.seconds, "ratio_to_network_calls": drawn.ratio}, drawn.samples
