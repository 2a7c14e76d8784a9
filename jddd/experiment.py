"""The main job on text: measure a teacher, distil LSD and LSD+ samplers for several NFE, compare them with the plain samplers, write the report."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from jddd import build, checkpoints, evaluate, grids, pretrain, pretrained, processes, report, runs, sampling, solvers
from jddd.data import text
from jddd.distill import lsd, segments
from jddd.distill import profile as profiles
from jddd.evaluate import Bench
from jddd.metrics import text as metrics
from jddd.pretrain import BITS
from jddd.runs import Entry
from jddd.sampling import Student


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


def measure_costs(bench: Bench, windows: np.ndarray, seed: int, most: int):
    """(function (solver, form) -> what path_kl prices students with, table of spread reveals or None): of an absorbing teacher the profile, one for
    all, else a table of segments. The spread table has a point for each half step of the longest student, `most` calls."""
    network, params = bench.teacher.network, bench.teacher.params
    options = dict(denoiser=network.denoiser, process=network.process)
    key, x_0 = jax.random.fold_in(jax.random.key(seed), 1), jnp.asarray(windows)
    if isinstance(network.process, processes.Absorbing):
        profile = jax.block_until_ready(profiles.measure(key, params, x_0, profiles.default_rates(), **options))
        key_spread = jax.random.fold_in(jax.random.key(seed), 3)
        spread = segments.measure_spread(key_spread, params, x_0[: max(32, len(x_0) // 2)], points=2 * most + 1, **options)
        return (lambda solver, form: profile), jax.block_until_ready(spread)

    @functools.cache
    def table(solver, form):
        times, coefficients = grids.uniform(32), jnp.linspace(0.8, 1.2, 3)
        return jax.block_until_ready(segments.measure(key, params, x_0[:32], times, coefficients, solver=solver, form=form, **options))

    return table, None


def distil_all(bench: Bench, windows: np.ndarray, settings: lsd.LSDConfig, sizes: ReportConfig, stages: Stages) -> Distilled:
    """Measure what steps cost on this teacher, and learn every student of the table."""
    network, params = bench.teacher.network, bench.teacher.params
    process = network.process
    options = dict(process=process, params=params, denoiser=network.denoiser)
    with stages("measure the teacher's costs"):
        measured, spread = measure_costs(bench, windows, sizes.seed, max(sizes.nfe))
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
    shape = (min(settings.batch, sizes.samples), bench.length)
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
                noise: lsd.teacher_chain(jax.random.key(sizes.seed + 2), params, shape, denoiser=network.denoiser, process=network.process, solver="euler", config=dataclasses.replace(paper, noise=noise))
                for noise in dict.fromkeys(config.noise for *_, config in papers)
            }
            for nfe in tqdm(paper_nfe, desc="distil (paper)"):
                for name, grid, config in papers:
                    student = lsd.distil(nfe, config, solver="euler", chain=chains[config.noise], **options)
                    entries.append(Entry(name, grid, student, "euler", config.form))
    return Distilled(entries, bounds, curve)


def plain_entries(nfe: int) -> list[Entry]:
    uniform, cosine = sampling.plain(grids.uniform(nfe)), sampling.plain(grids.cosine(nfe))
    return [Entry("Euler", "uniform", uniform, "euler"), Entry("Tweedie", "uniform", uniform), Entry("Tweedie", "cosine", cosine)]


def ladder(confidence: tuple[float, float], nfe: int) -> jax.Array:
    return jnp.linspace(confidence[0], confidence[1], nfe)


def tune(bench: Bench, entry: Entry, target: float, sizes: ReportConfig) -> tuple[Entry, list[dict]]:
    """Reveal-order confidence and token temperature per step under an entropy constraint: each candidate's temperature is set so that its samples
    have 4-gram entropy `target`, and the candidate whose samples the TEACHER finds most likely (its NELBO) is taken; the judge has no say."""
    trials = []
    for confidence in sizes.confidences:
        student = entry.student.replace(confidences=ladder(confidence, entry.nfe))
        candidate = entry._replace(student=student, reveal="confident")
        temperature, miss = evaluate.match_entropy(bench, candidate, target, sizes.match_samples)
        candidate = evaluate.with_temperature(candidate, temperature)
        samples = evaluate.generate(bench, candidate, sizes.match_samples, timed=False).samples
        bits, error = pretrain.bits_per_symbol(jax.random.key(bench.seed), bench.teacher.params, samples.astype(np.int32), bench.teacher.network, repeats=2)
        trials.append({"confidence": list(confidence), "temperature": temperature, "entropy_miss": miss, "teacher_bits": bits, "error": error, "entry": candidate})
    allowed = [t for t in trials if abs(t["entropy_miss"]) < 0.02] or trials
    best = min(allowed, key=lambda t: t["teacher_bits"])
    return best["entry"], [{k: v for k, v in t.items() if k != "entry"} for t in trials]


def judge_order(bench: Bench, held_out: np.ndarray, teacher: np.ndarray, few: np.ndarray, few_name: str) -> list[dict]:
    """Judge bits of held-out text, teacher samples, few-step samples, held-out text with its words shuffled, and letters drawn uniformly."""
    tokenizer = bench.teacher.network.tokenizer
    generator = np.random.default_rng(bench.seed)
    shuffled = []
    for line in held_out:
        words = tokenizer.decode(line).split(" ")
        generator.shuffle(words)
        shuffled.append(np.resize(tokenizer.encode(" ".join(words)), bench.length))
    noise = generator.integers(0, tokenizer.size, held_out.shape)
    named = {"held-out text": held_out, "teacher samples": teacher, few_name: few, "held-out text, words shuffled": np.stack(shuffled), "random letters": noise}
    return [{"text": name, "judge_bits": float(evaluate.judged(bench, np.asarray(x, np.int32)).mean()), "entropy_1": metrics.entropy(metrics.ngrams(x, 1)), "entropy_4": metrics.entropy(metrics.ngrams(x, 4))} for name, x in named.items()]


def claims(rows: list[dict], sizes: ReportConfig) -> list[dict]:
    """The claim at each claim_nfe: judge bits at equal entropy (within 2 %) of the reference, plain Euler at twice the calls."""
    found = []
    for nfe in sizes.claim_nfe:
        reference = next((r for r in rows if r["sampler"] == "Euler" and r["nfe"] == 2 * nfe), None)
        for r in rows:
            if reference and r["nfe"] == nfe:
                gap = r["entropy_4"] / reference["entropy_4"] - 1
                difference = r["judge_bits"] - reference["judge_bits"]
                error = math.hypot(r["judge_bits_error"], reference["judge_bits_error"])
                comparison = {"sampler": r["sampler"], "grid": r["grid"], "nfe": nfe, "against": f"Euler, NFE {2 * nfe}", "judge_bits": r["judge_bits"], "reference_bits": reference["judge_bits"]}
                found.append(comparison | {"entropy_1": r["entropy_1"], "entropy_4": r["entropy_4"], "entropy_gap": gap, "equal_entropy": abs(gap) <= 0.02, "difference": difference, "difference_error": error, "as_good": difference <= 0})
    return found


def run(config: ConfigDict, workdir: Path) -> dict:
    """The whole experiment; returns what metrics.json holds. A run that was killed goes on where it was."""
    stages = Stages()
    data = build.section(build.DataConfig, config.data, "data")
    settings = build.section(lsd.LSDConfig, config.distill, "distill")
    sizes = build.section(ReportConfig, config.report, "report")
    with stages("load the teacher, the judge and the text"):
        teacher, judge = pretrained.load(config.teacher), pretrained.load(config.judge)
        network = teacher.network
        if network.process is None or judge.network.process is not None:
            raise ValueError(f"config fields teacher, judge are {config.teacher!r}, {config.judge!r}; allowed: a denoiser and an autoregressive judge")
        if network.tokenizer != judge.network.tokenizer:
            raise ValueError("config fields teacher and judge have different symbols; allowed: networks of one tokenizer")
        shape = teacher.description["data"]
        data = dataclasses.replace(data, length=network.length, tokenizer=shape["tokenizer"])
        tokenizer = text.tokenizer(data.tokenizer, data.unknown)
        train, test = (build.corpus(data, tokenizer, split) for split in ("train", "test"))
        windows = train.windows(sizes.profile_windows)
        windows = windows[: len(windows) // 32 * 32]
        if not len(windows):
            raise ValueError(f"config field report.profile_windows is {sizes.profile_windows} and the text has {len(train.windows())} windows; allowed: at least 32 of both")
        digests = {name: checkpoints.digest(net.params) for name, net in (("teacher", teacher), ("judge", judge))}
        runs.record(workdir, config, digests | {"text": checkpoints.digest({"train": train.symbols, "test": test.symbols})})
        vocabulary = frozenset(network.tokenizer.decode(train.symbols).split(" "))
        bench = Bench(teacher, judge, vocabulary, sizes.samples, sizes.batch, sizes.seed, sizes.precision, sizes.bootstrap, workdir / "samples")
        evaluate.warm(bench)
    distilled = distil_all(bench, windows, settings, sizes, stages)

    rows, samples = [], {}

    def add(entries, title):
        for entry in tqdm(entries, desc=title):
            line, drawn = evaluate.row(bench, entry)
            rows.append(line)
            samples[entry.name] = drawn
            everything.append(entry)

    everything: list[Entry] = []
    teacher_entry = Entry("Teacher", "uniform", sampling.plain(grids.uniform(sizes.teacher_steps)))
    table = []
    for nfe in sizes.nfe:
        table += [*plain_entries(nfe), *(e for e in distilled.entries if e.nfe == nfe)]
        if nfe in sizes.extra_nfe and isinstance(network.process, processes.Absorbing):  # what spreading alone does, before anything is learned
            table.append(Entry("Tweedie, spread", "uniform", sampling.plain(grids.uniform(nfe)), reveal="spread"))
    with stages("sample and score the teacher"):
        add([teacher_entry], "teacher")
    with stages("sample and score the table"):
        add(table, "table")
    # Temperatures are searched on noise of their own: the samples that are scored had no part in the choice.
    search = bench._replace(seed=sizes.seed + 1000, count=sizes.match_samples)
    entropy = lambda entry: evaluate.entropy_4(search, entry, sizes.match_samples)
    with stages("match entropies by temperature"):
        matched, tuned, trials = [], [], []
        for nfe in tqdm(sizes.nfe, desc="match entropies"):
            euler = Entry("Euler", "uniform", sampling.plain(grids.uniform(nfe)), "euler")
            plus = next((e for e in distilled.entries if e.sampler == "LSD+ (Tweedie)" and e.nfe == nfe), None)
            if plus is None:
                continue
            temperature, _ = evaluate.match_entropy(search, euler, entropy(plus), sizes.match_samples)
            matched.append(evaluate.with_temperature(euler, temperature, "Euler, T matched to LSD+"))
            if nfe in sizes.claim_nfe:
                target = entropy(Entry("Euler", "uniform", sampling.plain(grids.uniform(2 * nfe)), "euler"))
                cosine = Entry("Tweedie", "cosine", sampling.plain(grids.cosine(nfe)))
                spread = [(e, e.sampler) for e in distilled.entries if e.reveal == "spread" and e.nfe == nfe]
                for entry, name in ((euler, "Euler"), (cosine, "Tweedie"), (plus, "LSD+ (Tweedie)"), *spread):
                    temperature, _ = evaluate.match_entropy(search, entry, target, sizes.match_samples)
                    matched.append(evaluate.with_temperature(entry, temperature, f"{name}, T matched to Euler {2 * nfe}"))
                if not isinstance(network.process, processes.Absorbing):
                    continue
                entry, tried = tune(search, plus, target, sizes)
                tuned.append(entry._replace(sampler=f"LSD+ tuned order and T, matched to Euler {2 * nfe}"))
                trials += [{"nfe": nfe, **t} for t in tried]
    with stages("sample and score the matched rows"):
        add([*matched, *tuned], "matched")
    curve_nfe = sizes.claim_nfe[0] if sizes.claim_nfe else sizes.nfe[0]
    with stages("quality against entropy"):
        bases = [e for e in everything if e.nfe == curve_nfe and e.sampler in ("Euler", "LSD+ (Tweedie)", "LSD+ spread (Tweedie)")]
        add([evaluate.with_temperature(e, t, f"{e.sampler}, T = {t}") for e in bases for t in sizes.temperatures], "temperatures")
    with stages("check the judge's order"):
        few = next(e for e in everything if e.sampler == "Euler" and e.nfe == curve_nfe)
        order = judge_order(bench, test.windows(sizes.samples), samples[teacher_entry.name], samples[few.name], f"Euler samples, NFE {curve_nfe}")

    distil_seconds = stages.seconds["measure the teacher's costs"] + stages.seconds["distil: path KL"]
    result = {
        "name": config.name,
        "rows": rows,
        "bounds": distilled.bounds,
        "profile": distilled.profile,
        "claims": claims(rows, sizes),
        "tuning": trials,
        "judge_order": order,
        "distillation": {"all_students_seconds": distil_seconds, "one_teacher_run_seconds": rows[0]["seconds"], "ratio": distil_seconds / rows[0]["seconds"]},
        "networks": {name: net.description["metrics"] for name, net in (("teacher", teacher), ("judge", judge))},
        "config": json.loads(config.to_json()),
        "versions": report.versions(),
        "seconds": stages.seconds,
    }
    with stages("write the report"):
        runs.save_entries(workdir / "students.json", everything)
        texts = {name: [network.tokenizer.decode(s) for s in drawn[:3]] for name, drawn in samples.items()}
        texts |= {"held-out": [network.tokenizer.decode(s) for s in test.windows(3)]}
        report.write(workdir / "report.html", result, everything, texts)
    (workdir / "metrics.json").write_text(json.dumps(result, indent=1) + "\n")
    print(report.summary(result))
    return {"report": str(workdir / "report.html"), "seconds": round(sum(stages.seconds.values()), 1)}
