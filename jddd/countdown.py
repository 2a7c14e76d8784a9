"""Countdown, end to end: every solver and every schedule with the exact denoiser, and with one trained by score entropy; table, plots and page."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from tqdm import tqdm

from jddd import build, checkpoints, evaluate, grids, pretrained, processes, remasking, report, runs, sampling, solvers
from jddd.data import countdown
from jddd.distill import jys, lsd
from jddd.distill import profile as profiles
from jddd.evaluate import Bench
from jddd.metrics import countdown as metrics
from jddd.models import exact
from jddd.runs import Entry
from jddd.students import distil_all
from jddd.writers import Stages

COLUMNS = {
    "sampler": "sampler", "grid": "grid", "nfe": "NFE", "violation_rate": "violations a site", "violation_rate_jys": "as JYS counts", "restart_distance": "restart distance",
    "restart_floor": "(of uniform draws)", "entropy_1": "unigram entropy, bits", "entropy_4": "4-gram entropy, bits", "code_bits": "bits a symbol", "pair_distance": "pair distance",
    "run_length": "run length", "samples": "samples", "seconds": "seconds",
}  # fmt: skip
HEADLINE = ["violation_rate", "restart_distance"]


@dataclasses.dataclass(frozen=True)
class CountdownConfig:
    """nfe: network calls of the table; solver_nfe, solver_samples: those at which all solvers are shown, and with how many samples; paper_nfe: those of the papers' own LSD objectives;
    share: smoothing of the chain; windows: sequences the costs are measured on; reference_samples: of the exact simulation (L calls a sample);
    trained_nfe, trained_samples: of the trained teacher's rows."""

    symbols: int = 32
    length: int = 256
    share: float = 1e-3
    nfe: tuple = (4, 8, 16, 32, 64)
    solver_nfe: tuple = (8, 16)
    paper_nfe: tuple = ()
    samples: int = 320
    solver_samples: int = 192
    reference_samples: int = 64
    trained_nfe: tuple = (8,)
    trained_samples: int = 64
    batch: int = 64
    windows: int = 256
    bootstrap: int = 200
    seed: int = 0
    precision: str = "high"

    def __post_init__(self):
        for field, least, of in (("nfe", 1, ()), ("solver_nfe", 2, self.nfe), ("paper_nfe", 1, self.nfe), ("trained_nfe", 1, ())):
            values = getattr(self, field)
            if not all(isinstance(v, int) and v >= least and v & (v - 1) == 0 for v in values) or (of and not set(values) <= set(of)) or (field == "nfe" and not values):
                raise ValueError(f"config field report.{field} is {values}; allowed: powers of two (JYS halves its steps) from {least} on{f', members of report.nfe {of}' if of else ''}")
        for field, least, reason in (("symbols", 2, ""), ("length", max(4, *self.solver_nfe), ", for 4-grams and a site a step of report.solver_nfe")):
            if getattr(self, field) < least:
                raise ValueError(f"config field report.{field} is {getattr(self, field)}; allowed: {least} or more{reason}")
        if self.precision not in solvers.PRECISIONS:
            raise ValueError(f"config field report.precision is {self.precision!r}; allowed: {', '.join(solvers.PRECISIONS)}")
        if self.windows < 32 or self.windows % 32:
            raise ValueError(f"config field report.windows is {self.windows}; allowed: a multiple of 32")
        if not 0 < self.share < 1:
            raise ValueError(f"config field report.share is {self.share}; allowed: above 0 (off the data's support the exact denoiser needs it), below 1")


def steep_rates(count: int = 64) -> jax.Array:
    """Mask rates for a curve that is steep near 1: even up to 0.9, four times as dense above."""
    low = jnp.linspace(0.0, 0.9, count).at[0].set(1 / 256)
    return jnp.concatenate([low, jnp.linspace(0.9, 1.0, count // 2 + 1)[1:]])


def dp_times(profile: profiles.Profile, nfe: int, process) -> jax.Array:
    """The exact optimum of the measured profile as times."""
    rates = profiles.optimal_rates(profile, nfe, float(1 - process.schedule.alpha(1.0)))[0]
    return process.schedule.inverse(1 - jnp.asarray(rates)).at[0].set(1.0).at[-1].set(0.0)


def times_of_counts(counts: np.ndarray, process) -> jax.Array:
    """Times at which reveal 'counted' has revealed exactly `counts` (M + 1,) of L sites, from 0 to L: at t = 1 nothing is revealed, whatever alpha(1)."""
    masked = (1 - process.schedule.alpha(1.0)) * (1 - jnp.asarray(counts) / counts[-1])
    return jnp.minimum(process.schedule.inverse(1 - masked), 1.0).at[0].set(1.0).at[-1].set(0.0)


def entropy_bound(bench: Bench, nfe: int, halvings: int = 8) -> float:
    """The smallest bound (nats, on a log scale from 1e-4 to 1e3) at which entropy-bounded unmasking leaves the last of `nfe` steps at most 1 / nfe of the sites."""
    shape = (bench.batch, bench.length)
    run = sampling.sampler(bench.denoiser, bench.process, shape, reveal="entropy_bounded", trajectory=True, precision=bench.precision)
    plain, low, high = sampling.plain(grids.uniform(nfe)), -4.0, 3.0
    for _ in range(halvings if nfe > 1 else 0):
        middle = 0.5 * (low + high)
        _, states = run(jax.random.key(bench.seed + 1), bench.params, plain.replace(bounds=jnp.full(nfe, 10.0**middle)))
        enough = float(bench.process.noised(states[-2]).mean()) <= 1 / nfe
        low, high = (low, middle) if enough else (middle, high)
    return 10.0**high


def plain_schedules(nfe: int, profile: profiles.Profile, process) -> list[Entry]:
    """One solver, the schedules with nothing learned by gradient."""
    options = (("uniform", grids.uniform(nfe)), ("cosine", grids.cosine(nfe)), ("dynamic programme", dp_times(profile, nfe, process)))
    return [Entry("Tweedie (= Euler)", name, sampling.plain(times)) for name, times in options]


def other_solvers(bench: Bench, nfe: int, profile: profiles.Profile, counts: np.ndarray) -> list[Entry]:
    """All other solvers at `nfe` calls; those of two calls a step take one call less (2 M - 1)."""
    process = bench.process
    uniform, best = grids.uniform(nfe), dp_times(profile, nfe, process)
    half = sampling.plain(grids.uniform(nfe // 2))
    bound = entropy_bound(bench, nfe)
    remask = lambda name, eta: sampling.plain(uniform).replace(remasks=remasking.shares(uniform, process, name, eta))
    found = [
        Entry("Tau-leaping", "uniform", sampling.plain(uniform), "tau_leaping"),
        Entry("Predictor-corrector", "uniform", half, "predictor_corrector"),
        Entry("Theta-RK-2", "uniform", half, "theta_rk2"),
        Entry("Theta-trapezoidal", "uniform", half, "theta_trapezoidal"),
        Entry("ReMDM, capped 0.05", "uniform", remask("capped", 0.05)),
        Entry("ReMDM, rescaled 0.1", "uniform", remask("rescaled", 0.1)),
        Entry("k-Gillespie", "uniform", sampling.plain(uniform), reveal="counted"),
        Entry("k-Gillespie", "JYS", sampling.plain(times_of_counts(counts, process)), reveal="counted"),
        Entry("k-Gillespie", "dynamic programme", sampling.plain(best), reveal="counted"),
        Entry("MaskGIT order", "cosine", sampling.maskgit(grids.cosine(nfe)), reveal="counted"),
        Entry(f"Entropy-bounded, {bound:.2g} nats", "adaptive", sampling.plain(uniform).replace(bounds=jnp.full(nfe, bound)), reveal="entropy_bounded"),
        Entry("Tweedie, spread", "uniform", sampling.plain(uniform), reveal="spread"),
    ]
    if nfe >= 8:
        times, shares = remasking.loop(nfe, process, at=0.8, eta=0.05)
        found.append(Entry("ReMDM, loop", "loop", sampling.plain(times).replace(remasks=shares)))
    return found


def figures(result: dict, entries: list[Entry]) -> dict[str, Figure]:
    panels = {"violation_rate": "violations a site", "restart_distance": "restart distance from uniform", "entropy_4": "4-gram entropy, bits"}
    table = [r for r in result["rows"] if not r["sampler"].startswith("Trained")]
    quality = report.against_nfe(table, panels)
    quality.axes[0].set_yscale("log")
    profile = Figure(figsize=(6, 4))
    axis = profile.subplots()
    for name, curve in result["profiles"].items():
        axis.plot(curve["rates"], curve["bits"], marker=".", label=f"{name}: NELBO {curve['nelbo_bits']:.3f} bits a symbol")
    axis.set(xlabel="mask rate m", ylabel="bits a masked site", title="CE(m): steep near 1, where a schedule gains")
    axis.legend()
    return {"quality against NFE": quality, "cost profile": profile, "learned times and coefficients": report.learned_numbers(entries)}


def load_trained(name: str, sizes: CountdownConfig, process) -> pretrained.Pretrained:
    """The trained teacher. Raises ValueError where there is none, where it is of other data, or where no row is asked of it."""
    trained = pretrained.load(name)
    network = trained.network
    if network.process != process or network.length != sizes.length:
        raise ValueError(f"config field trained is {name!r}, a network of {network.length} sites and {network.process}; allowed: {sizes.length} sites and {process}, or '' for none")
    if not sizes.trained_nfe:
        raise ValueError(f"config field report.trained_nfe is () with trained {name!r}; allowed: one number or more, or trained '' for none")
    return trained


def run(config: ConfigDict, workdir: Path) -> dict:
    """The whole experiment; returns what metrics.json holds, without its tables. A run that was killed goes on where it was."""
    stages = Stages()
    settings = build.section(lsd.LSDConfig, config.distill, "distill")
    sizes = build.section(CountdownConfig, config.report, "report")
    noise = build.section(build.ProcessConfig, config.process, "process")
    process = build.process(noise, sizes.symbols)
    if not isinstance(process, processes.Absorbing):
        raise ValueError(f"config field process.name is {noise.name!r}; allowed: 'absorbing'")
    if noise.schedule != "linear" or not noise.eps > 0:
        raise ValueError(f"config fields process.schedule, process.eps are {noise.schedule!r}, {noise.eps}; allowed: 'linear', whose grids these are, and eps above 0 (solvers of two calls need alpha(1) > 0)")
    trained = load_trained(config.trained, sizes, process) if config.trained else None
    runs.record(workdir, config, {"trained": checkpoints.digest(trained.params)} if trained else {})
    chain = exact.countdown(sizes.symbols, sizes.share)
    windows = countdown.Countdown(sizes.symbols, sizes.length).windows(sizes.windows)
    score = functools.partial(metrics.score, chain=chain, repeats=sizes.bootstrap)
    common = dict(length=sizes.length, batch=sizes.batch, seed=sizes.seed, precision=sizes.precision, score=score)
    bench = Bench(denoiser=exact.denoiser(process), process=process, params=chain, count=sizes.samples, cache=workdir / "samples", **common)
    teacher = dict(denoiser=bench.denoiser, process=process, params=chain)
    rows, entries, curves = [], [], {}

    def add(bench, entries_here, title):
        for entry in tqdm(entries_here, desc=title):
            rows.append(evaluate.row(bench, entry)[0])
            entries.append(entry)

    def learn(teacher, x_0, nfe, paper_nfe, settings):
        """(profile, students of a teacher)."""
        options = dict(nfe=nfe, extra_nfe=paper_nfe, rows=min(settings.batch, sizes.samples), seed=sizes.seed, rates=steep_rates())
        distilled = distil_all(x_0, settings, stages, **options, **teacher)
        return distilled.costs, distilled, [e for e in distilled.entries if e.sampler != "LSD+ (Euler)"]  # its law is that of LSD+ (Tweedie)

    profile, distilled, students = learn(teacher, windows, sizes.nfe, sizes.paper_nfe, settings)
    curves["exact denoiser"] = distilled.profile
    with stages("optimise: Jump Your Steps"):
        key, x_0 = jax.random.key(sizes.seed + 3), jnp.asarray(windows[:32])
        most, most_counts = max(sizes.nfe), max(sizes.solver_nfe, default=1)  # it halves every step: the finest grid holds all the coarser ones
        finest = jys.optimise_times(key, chain, x_0, most, denoiser=bench.denoiser, process=process)
        by_jys = [Entry("Tweedie (= Euler)", "JYS", sampling.plain(finest[:: most // nfe])) for nfe in sizes.nfe]
        finest = jys.optimise_counts(key, chain, x_0, most_counts, denoiser=bench.denoiser, process=process)
        counts = {nfe: finest[:: most_counts // nfe] for nfe in sizes.solver_nfe}
    with stages("sample: the exact simulation"):
        add(bench._replace(count=sizes.reference_samples), [Entry("First hitting (exact)", "none", sampling.plain(grids.uniform(sizes.length)), reveal="first_hitting")], "exact")
    with stages("sample: schedules"):
        for nfe, entry in zip(sizes.nfe, by_jys):
            add(bench, [*plain_schedules(nfe, profile, process), entry, *(e for e in students if e.nfe == nfe)], f"schedules, NFE {nfe}")
    with stages("sample: solvers"):
        for nfe in sizes.solver_nfe:
            add(bench._replace(count=sizes.solver_samples), other_solvers(bench, nfe, profile, counts[nfe]), f"solvers, NFE {nfe}")
    networks = {}
    if trained:
        own = dict(denoiser=trained.network.denoiser, process=process, params=trained.params)
        networks["trained by score entropy"] = trained.description["metrics"]
        own_profile, own_distilled, own_students = learn(own, windows[:32], sizes.trained_nfe, (), settings)
        curves["trained by score entropy"] = own_distilled.profile
        with stages("sample: the trained teacher"):
            trained_bench = bench._replace(**own, count=sizes.trained_samples)
            for nfe in sizes.trained_nfe:
                here = [*plain_schedules(nfe, own_profile, process), *(e for e in own_students if e.nfe == nfe)]
                add(trained_bench, [e._replace(sampler=f"Trained: {e.sampler}") for e in here], f"trained, NFE {nfe}")
    best = {str(r["nfe"]): r["violation_rate"] for r in rows if r["sampler"] == "LSD+ (Tweedie)"}
    result = {
        "name": config.name, "columns": COLUMNS, "headline": HEADLINE, "rows": rows, "violation_rate": best, "bounds": distilled.bounds, "profiles": curves,
        "networks": networks, "config": json.loads(config.to_json()), "versions": report.versions(), "seconds": stages.seconds,
    }  # fmt: skip
    with stages("write the report"):
        runs.save_entries(workdir / "students.json", entries)
        write(workdir / "report.html", result, entries, countdown.Countdown(sizes.symbols, sizes.length, "test").windows(2))
    (workdir / "metrics.json").write_text(json.dumps(result, indent=1) + "\n")
    print(report.summary(rows, ("violation_rate", "restart_distance", "entropy_1", "entropy_4", "code_bits", "seconds")))
    return {"report": str(workdir / "report.html"), "violation_rate": best, "seconds": round(sum(stages.seconds.values()), 1)}


def write(path: Path, result: dict, entries: list[Entry], data: np.ndarray) -> None:
    """The page of a result; its plots also as files in plots/ beside it."""
    parts = [
        report.note(
            "Data: each value is one less than the one before, after 0 comes a uniform value. A violation is a value above 0 followed by anything but one less, over all sites; "
            "JYS counts only every second site of a run. Restart distance: total variation between the values after a 0 and the uniform law, beside what as many truly uniform "
            "draws show. Bits a symbol: code length of the samples under the (smoothed) chain; read it, as any likelihood, beside the entropies."
        ),
        report.section("Samplers", report.table(result["rows"], COLUMNS)),
        report.plots(figures(result, entries), path.parent / "plots"),
        report.section("What a schedule can gain", report.note("Path KL over its limit for many steps, bits a symbol; the dynamic programme is exact."), report.table(result["bounds"], {k: k for b in result["bounds"] for k in b})),
        report.learned(entries),
        report.samples({"data": [" ".join(map(str, row)) for row in data]}),
        report.origin(result),
    ]
    report.page(path, result["name"], parts)
