"""Network students beside their teacher: every sampler of a table at every NFE, with how much of the teacher's gap to its own long run each closes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from jddd import build, checkpoints, domains, evaluate, grids, pretrained, processes, remasking, report, runs, sampling, solvers
from jddd.distill import lsd, mixtures, segments
from jddd.evaluate import Bench
from jddd.pretrain import BITS
from jddd.runs import Entry
from jddd.students import distil_all
from jddd.types import Denoiser, Params, PRNGKey
from jddd.writers import Stages


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """config.students names the networks, '_' shown as a space. nfe: network calls of the table; teacher_steps: of the long run; remask, remask_at,
    remask_temperature: eta, share of clean sites and temperature of a second long run, ReMDM-loop with 0.7 of its steps in the loop (jddd.remasking; eta 0:
    none); match: plain and LSD+ spread rows also at the temperature at which their 4-gram entropy is the long run's, as far as one is found; hybrid: the share
    of the steps that a hybrid sampler gives to the teacher, its last ones; cost_windows: of data that LSD+ measures costs on, a
    multiple of 32 (0: no LSD+ rows)."""

    nfe: tuple = (2, 4, 8, 16)
    teacher_steps: int = 256
    samples: int = 512
    batch: int = 64
    remask: float = 0.0
    remask_at: float = 0.95
    remask_temperature: float = 1.0
    match: bool = False
    hybrid: float = 0.5
    cost_windows: int = 64
    bootstrap: int = 200
    seed: int = 0
    precision: str = "high"

    def __post_init__(self):
        if not self.nfe or not all(isinstance(v, int) and v >= 1 for v in self.nfe):
            raise ValueError(f"config field report.nfe is {self.nfe}; allowed: whole numbers of 1 or more")
        if not 0 <= self.remask <= 1:
            raise ValueError(f"config field report.remask is {self.remask}; allowed: 0 to 1")
        if not self.remask_temperature > 0:
            raise ValueError(f"config field report.remask_temperature is {self.remask_temperature}; allowed: above 0")
        if not 0 <= self.hybrid < 1:
            raise ValueError(f"config field report.hybrid is {self.hybrid}; allowed: 0 or more, below 1")
        if self.cost_windows < 0 or self.cost_windows % 32:
            raise ValueError(f"config field report.cost_windows is {self.cost_windows}; allowed: a multiple of 32")
        if self.samples < 2:
            raise ValueError(f"config field report.samples is {self.samples}; allowed: 2 or more")
        if self.precision not in solvers.PRECISIONS:
            raise ValueError(f"config field report.precision is {self.precision!r}; allowed: {', '.join(solvers.PRECISIONS)}")


def hybrid_bench(bench: Bench, student: pretrained.Pretrained, teacher: pretrained.Pretrained, entry: Entry, share: float) -> Bench | None:
    """The bench whose denoiser is the student's but in the last round(share M) steps the teacher's; None where that leaves one of them no step."""
    last = round(share * entry.student.count)
    if not 0 < last < entry.student.count:
        return None
    times = entry.student.times
    switch = 0.5 * (times[-last - 1] + times[-last - 2])  # between two steps' times, so that rounding does not matter
    denoiser = mixtures.hybrid(student.network.denoiser, teacher.network.denoiser)
    return bench._replace(denoiser=denoiser, params=(student.params, teacher.params, jnp.asarray(switch)))


def gaps(rows: list[dict], field: str) -> list[dict]:
    """For each row but the first, the teacher's long run: the share of the gap in `field` between the teacher's plain sampler at as many
    calls and the long run that it closes, with the interval of the row's own figure (nan where plain sampler and long run are not told apart), and its
    entropies and (of molecules) uniqueness over the long run's."""
    found, long, interval = [], rows[0], f"{field}_interval"
    for row in rows[1:]:
        plain = next(r for r in rows if r["sampler"] == "Teacher" and r["grid"] == "uniform" and r["nfe"] == row["nfe"])
        over = {f"{k} over the teacher's": row[k] / long[k] for k in ("entropy_1", "entropy_4", "uniqueness") if long.get(k)}
        gap = long[field] - plain[field]
        apart = max(plain[interval][0], long[interval][0]) > min(plain[interval][1], long[interval][1])
        shares = [(value - plain[field]) / gap if apart else float("nan") for value in (row[field], *row[interval])]
        facts = {"sampler": row["sampler"], "grid": row["grid"], "nfe": row["nfe"], field: row[field], "closed": shares[0], "closed_interval": sorted(shares[1:])}
        found.append(facts | over)
    return found


def teacher_runs(sizes: CompareConfig, process) -> list[Entry]:
    """The teacher's long runs: plain, and by ReMDM-loop where report.remask is above 0. Raises ValueError for a process without a mask and for a loop that
    leaves a part without a step."""
    found = [Entry("Teacher", "uniform", sampling.plain(grids.uniform(sizes.teacher_steps)))]
    if sizes.remask:
        if not isinstance(process, processes.Absorbing):
            raise ValueError(f"config field report.remask is {sizes.remask} with {type(process).__name__}; allowed: 0, or a teacher of the absorbing process")
        times, shares = remasking.loop(sizes.teacher_steps, process, at=sizes.remask_at, eta=sizes.remask, first=0.2, middle=0.7)
        found.append(Entry("Teacher, ReMDM", "loop", sampling.plain(times, sizes.remask_temperature).replace(remasks=shares)))
    return found


def at_entropy(bench: Bench, entry: Entry, target: float) -> Entry:
    """The entry, named as such, at the temperature at which its samples come closest to a 4-gram entropy in bits."""
    temperature, _ = evaluate.match_entropy(bench._replace(seed=bench.seed + 1000), entry, target, bench.count, tolerance=0.005, most=3)  # on other noise than the row's
    return evaluate.with_temperature(entry, temperature, f"{entry.sampler}, equal entropy")


def code_lengths(key: PRNGKey, params: Params, windows: np.ndarray, *, denoiser: Denoiser, process: processes.Absorbing, nfe: Sequence[int], batch: int = 32) -> list[dict]:
    """For each NFE what windows (N, L) cost, in bits a sequence, under an absorbing network's samplers of as many even steps, of independent and of spread
    reveals: the mean of -log2 of the joint probability of what each step reveals, given what is there. A bound on -log2 p(data) (the T-step NELBO of Sahoo et al. 2024, of a
    mixture with the joint probability over 16 latents), so what a network that is to be sampled in few steps should lower. N is a multiple of batch; NFE * N / batch
    network calls a figure, of a mixture 16 times as many; one key gives networks the same noise."""

    def bits(n: int, reveal: str) -> float:
        table = segments.measure_reveals(key, params, jnp.asarray(windows), denoiser=denoiser, process=process, reveal=reveal, points=n + 1, batch=batch)
        return float(segments.path_cost(sampling.plain(table.times), table)) * windows.shape[1] * BITS

    return [{"nfe": n, "independent": bits(n, "independent"), "spread": bits(n, "spread")} for n in nfe]


def run(config: ConfigDict, workdir: Path) -> dict:
    """The whole comparison; returns what metrics.json holds, without its tables. A run that was killed goes on where it was."""
    stages, workdir = Stages(), Path(workdir)
    data = build.section(build.DataConfig, config.data, "data")
    settings = build.section(lsd.LSDConfig, config.distill, "distill")
    sizes = build.section(CompareConfig, config.report, "report")
    with stages("load the networks and the data"):
        teacher, data = pretrained.with_data(pretrained.load(config.teacher), data)
        paths = {name.replace("_", " "): path for name, path in dict(config.students).items() if path}
        students = {name: pretrained.with_data(pretrained.load(path), data)[0] for name, path in paths.items()}
        network = teacher.network
        if network.process is None:
            raise ValueError(f"config field teacher is {config.teacher!r}, an autoregressive network; allowed: a denoiser")
        if "data" in students or "teacher" in map(str.lower, students):
            raise ValueError(f"config.students has {list(students)}; allowed: names other than 'teacher' and 'data'")
        if settings.objective != "path_kl":
            raise ValueError(f"config field distill.objective is {settings.objective!r}; allowed: 'path_kl'")
        for name, student in students.items():
            if student.network.dit.width != network.dit.width:
                raise ValueError(f"config field students.{name.replace(' ', '_')} is {paths[name]!r}, of width {student.network.dit.width}; allowed: the teacher's, {network.dit.width} (hybrid samplers switch between them)")
            if (student.network.process, student.network.tokenizer, student.network.length) != (network.process, network.tokenizer, network.length):
                raise ValueError(f"config field students.{name.replace(' ', '_')} is {paths[name]!r}, a network of another process, tokenizer or length than the teacher's; allowed: its students")
        corpora = {split: build.corpus(data, network.tokenizer, split) for split in ("train", "test")}
        if sizes.cost_windows:
            for split in ("train", "test"):
                if len(corpora[split].windows(sizes.cost_windows)) < sizes.cost_windows:
                    raise ValueError(f"config field report.cost_windows is {sizes.cost_windows} and the {split} split has {len(corpora[split].windows(sizes.cost_windows))} rows of {network.length} symbols; allowed: at most as many, or 0 for no LSD+ rows")
            if mixed := [name for name, found in students.items() if found.network.denoiser.mixture and not isinstance(network.process, processes.Absorbing)]:
                raise ValueError(f"config field report.cost_windows is {sizes.cost_windows} with {mixed[0]!r}, a mixture of {type(network.process).__name__}, whose steps have no table of costs; allowed: 0")
        long_runs = teacher_runs(sizes, network.process)
        domain = domains.of(network, data.tokenizer.partition(":")[0], corpora, judge=config.get("judge", ""), samples=sizes.samples, repeats=sizes.bootstrap)
        digests = {name: checkpoints.digest(found.params) for name, found in {"teacher": teacher, **students}.items()}
        runs.record(workdir, config, digests | {"data": checkpoints.digest({split: c.symbols for split, c in corpora.items()})})
    rows, entries, samples, learned, codes = [], [], {}, {}, []

    def bench_of(found: pretrained.Pretrained) -> Bench:
        common = dict(length=network.length, count=sizes.samples, batch=min(sizes.batch, sizes.samples), seed=sizes.seed, precision=sizes.precision, score=domain.score)
        return Bench(denoiser=found.network.denoiser, process=network.process, params=found.params, cache=workdir / "samples", **common)

    def add(bench: Bench, entry: Entry) -> None:
        row, drawn = evaluate.row(bench, entry)
        rows.append(row)
        samples[f"{entry.sampler}, {entry.grid}, NFE {entry.nfe}"] = drawn

    networks = {"Teacher": teacher, **students}
    benches = {name: bench_of(found) for name, found in networks.items()}
    if sizes.cost_windows:
        windows = corpora["train"].windows(sizes.cost_windows)
        for name, bench in benches.items():
            found = distil_all(windows, settings, stages, nfe=sizes.nfe, seed=sizes.seed, denoiser=bench.denoiser, process=bench.process, params=bench.params)
            learned[name] = [e for e in found.entries if e.sampler in ("LSD+ (Tweedie)", "LSD+ spread (Tweedie)")]
        if isinstance(network.process, processes.Absorbing):
            held_out = corpora["test"].windows(len(windows))
            with stages("measure the code length of held-out data"):
                for name, bench in benches.items():
                    found = code_lengths(jax.random.key(sizes.seed), bench.params, held_out, denoiser=bench.denoiser, process=network.process, nfe=sizes.nfe)
                    codes += [{"network": name} | row for row in found]
    with stages("sample and score the teacher's long run"):
        for entry in long_runs:
            add(benches["Teacher"], entry)
    with stages("sample and score the table"):
        for nfe in tqdm(sizes.nfe, desc="table"):
            uniform, cosine = sampling.plain(grids.uniform(nfe)), sampling.plain(grids.cosine(nfe))
            for name, bench in benches.items():
                path = "" if name == "Teacher" else str(paths[name])
                plain = Entry(name, "uniform", uniform, network=path)
                here = [plain, *([Entry(name, "cosine", cosine)] if name == "Teacher" else [])]
                here += [e._replace(sampler=f"{name}, {e.sampler.removesuffix(' (Tweedie)')}", network=path) for e in learned.get(name, ()) if e.nfe == nfe]
                if sizes.match:
                    here += [at_entropy(bench, entry, rows[0]["entropy_4"]) for entry in here if entry is plain or entry.reveal == "spread"]
                for entry in here:
                    add(bench, entry)
                    entries.append(entry)
                if name != "Teacher" and (mixed := hybrid_bench(bench, networks[name], teacher, plain, sizes.hybrid)):
                    add(mixed, plain._replace(sampler=f"{name}, hybrid"))
    with stages("score held-out data"):
        real = {"data": "held-out", "samples": len(domain.held_out)} | domain.score(domain.held_out)
    field = domain.headline[0]
    result = {
        "name": config.name, "columns": domain.columns, "headline": domain.headline, "note": domain.note, "rows": rows, "gaps": gaps(rows, field), "code_lengths": codes, "held_out": real,
        "networks": {name: found.description["metrics"] for name, found in networks.items()}, "config": json.loads(config.to_json()), "versions": report.versions(), "seconds": stages.seconds,
    }  # fmt: skip
    with stages("write the report"):
        runs.save_entries(workdir / "students.json", entries)
        write(workdir / "report.html", result, entries, domain, samples)
    (workdir / "metrics.json").write_text(json.dumps(result, indent=1) + "\n")
    print(report.summary(rows, (*domain.headline, *(k for k in ("uniqueness", "entropy_1") if k in rows[0]), "seconds")))
    return {"report": str(workdir / "report.html"), "seconds": round(sum(stages.seconds.values()), 1)}


def write(path: Path, result: dict, entries: list[Entry], domain: domains.Domain, samples: dict[str, Any]) -> None:
    """The page of a result; its plots also as files in plots/ beside it."""
    networks = [{"network": name} | {k: v for k, v in facts.items() if isinstance(v, (int, float, str))} for name, facts in result["networks"].items()]
    keys = {k: k.replace("_", " ") for row in networks for k in row}
    few = min(r["nfe"] for r in result["rows"])
    shown = {"held-out data": domain.held_out} | {name: drawn for name, drawn in samples.items() if name.endswith(f"NFE {few}") or name.startswith("Teacher, uniform") or "hybrid" in name}
    parts = [
        report.note(domain.note),
        report.section("Samplers", report.table(result["rows"], domain.columns)),
        report.section("Gaps closed", report.note("Of the gap between the teacher's plain sampler and its long run; entropies and uniqueness over the long run's."), report.table(result["gaps"], {k: k.replace("_", " ") for k in result["gaps"][0] if k != "closed_interval"})),
        report.section("Code length of held-out data", report.note("Bits a sequence under a network's samplers of even steps, of independent and of spread reveals: a bound on -log2 p(data). All networks see the same noise."), report.table(result["code_lengths"])) if result["code_lengths"] else "",
        report.section("Held-out data", report.table([result["held_out"]])),
        report.plots({"quality against NFE": report.against_nfe(result["rows"], domain.panels)}, path.parent / "plots"),
        report.section("Networks", report.table(networks, keys)),
        report.learned(entries),
        domain.show(shown),
        report.origin(result),
    ]
    report.page(path, result["name"], parts)
