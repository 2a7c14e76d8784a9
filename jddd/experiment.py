"""The main job on text: measure a teacher, distil LSD and LSD+ samplers for several NFE, compare them with the plain samplers, write the report."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from jddd import build, checkpoints, domains, evaluate, grids, pretrain, pretrained, processes, report, runs, sampling, solvers, text_report
from jddd.distill import lsd
from jddd.evaluate import Bench
from jddd.metrics import sequences
from jddd.metrics.generative import JudgeScorer
from jddd.metrics.text import Scorer
from jddd.runs import Entry
from jddd.students import distil_all
from jddd.writers import Stages


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
        if self.precision not in solvers.PRECISIONS:
            raise ValueError(f"config field report.precision is {self.precision!r}; allowed: {', '.join(solvers.PRECISIONS)}")
        if self.match_samples > self.samples:
            object.__setattr__(self, "match_samples", self.samples)


def plain_entries(nfe: int) -> list[Entry]:
    """The samplers with nothing learned: Euler and Tweedie on the uniform grid, Tweedie on the cosine grid."""
    uniform, cosine = sampling.plain(grids.uniform(nfe)), sampling.plain(grids.cosine(nfe))
    return [Entry("Euler", "uniform", uniform, "euler"), Entry("Tweedie", "uniform", uniform), Entry("Tweedie", "cosine", cosine)]


def tune(bench: Bench, network: build.Network, entry: Entry, target: float, sizes: ReportConfig) -> tuple[Entry, list[dict]]:
    """Reveal-order confidence and token temperature per step under an entropy constraint: each candidate's temperature is set so that its samples
    have 4-gram entropy `target`, and the candidate whose samples the TEACHER finds most likely (its NELBO) is taken; the judge has no say."""
    trials = []
    for confidence in sizes.confidences:
        student = entry.student.replace(confidences=jnp.linspace(*confidence, entry.student.count))
        candidate = entry._replace(student=student, reveal="confident")
        temperature, miss = evaluate.match_entropy(bench, candidate, target, sizes.match_samples)
        candidate = evaluate.with_temperature(candidate, temperature)
        samples = evaluate.generate(bench, candidate, sizes.match_samples, timed=False).samples
        bits, error = pretrain.bits_per_symbol(jax.random.key(bench.seed), bench.params, samples.astype(np.int32), network, repeats=2)
        trials.append({"confidence": list(confidence), "temperature": temperature, "entropy_miss": miss, "teacher_bits": bits, "error": error, "entry": candidate})
    allowed = [t for t in trials if abs(t["entropy_miss"]) < 0.02] or trials
    best = min(allowed, key=lambda t: t["teacher_bits"])
    return best["entry"], [{k: v for k, v in t.items() if k != "entry"} for t in trials]


def judge_order(scorer: Scorer | JudgeScorer, held_out: np.ndarray, teacher: np.ndarray, few: np.ndarray, few_name: str, seed: int) -> list[dict]:
    """Judge bits of held-out text (N, L), teacher samples, few-step samples, held-out text with its words shuffled, and letters drawn uniformly."""
    tokenizer = scorer.tokenizer
    generator = np.random.default_rng(seed)
    shuffled = []
    for line in held_out:
        words = tokenizer.decode(line).split(" ")
        generator.shuffle(words)
        shuffled.append(np.resize(tokenizer.encode(" ".join(words)), len(line)))
    noise = generator.integers(0, tokenizer.size, held_out.shape)
    named = {"held-out text": held_out, "teacher samples": teacher, few_name: few, "held-out text, words shuffled": np.stack(shuffled), "random letters": noise}
    entropy = lambda x, n: sequences.entropy(sequences.ngrams(x, n))
    return [{"text": name, "judge_bits": float(np.nanmean(scorer.bits(np.asarray(x, np.int32)))), "entropy_1": entropy(x, 1), "entropy_4": entropy(x, 4)} for name, x in named.items()]


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
        teacher, data = pretrained.with_data(pretrained.load(config.teacher), data)
        network = teacher.network
        if network.denoiser.mixture:
            raise ValueError(f"config field teacher is {config.teacher!r}, a mixture; allowed: a product (configs/di4c_text.py compares mixtures, LSD+ on them too)")
        if network.process is None:
            raise ValueError(f"config field teacher is {config.teacher!r}, an autoregressive network; allowed: a denoiser")
        train, test = (build.corpus(data, network.tokenizer, split) for split in ("train", "test"))
        windows = train.windows(sizes.profile_windows)
        windows = windows[: len(windows) // 32 * 32]
        if not len(windows):
            raise ValueError(f"config field report.profile_windows is {sizes.profile_windows} and the text has {len(train.windows())} windows; allowed: at least 32 of both")
        vocabulary = frozenset(network.tokenizer.decode(train.symbols).split(" "))
        scorer = domains.scorer(network, config.judge, vocabulary, repeats=sizes.bootstrap)
        published = isinstance(scorer, JudgeScorer)
        digests = {name: checkpoints.digest(params) for name, params in (("teacher", teacher.params), ("judge", scorer.params))}
        runs.record(workdir, config, digests | {"text": checkpoints.digest({"train": train.symbols, "test": test.symbols})})
        sampled = dict(denoiser=network.denoiser, process=network.process, params=teacher.params)
        bench = Bench(**sampled, length=network.length, count=sizes.samples, batch=sizes.batch, seed=sizes.seed, precision=sizes.precision, cache=workdir / "samples", score=scorer)
    distilled = distil_all(windows, settings, stages, nfe=sizes.nfe, extra_nfe=sizes.extra_nfe, rows=min(settings.batch, sizes.samples), seed=sizes.seed, **sampled)

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
            euler, _, cosine = plain_entries(nfe)
            plus = next((e for e in distilled.entries if e.sampler == "LSD+ (Tweedie)" and e.nfe == nfe), None)
            if plus is None:
                continue
            temperature, _ = evaluate.match_entropy(search, euler, entropy(plus), sizes.match_samples)
            matched.append(evaluate.with_temperature(euler, temperature, "Euler, T matched to LSD+"))
            if nfe in sizes.claim_nfe:
                target = entropy(plain_entries(2 * nfe)[0])
                spread = [(e, e.sampler) for e in distilled.entries if e.reveal == "spread" and e.nfe == nfe]
                for entry, name in ((euler, "Euler"), (cosine, "Tweedie"), (plus, "LSD+ (Tweedie)"), *spread):
                    temperature, _ = evaluate.match_entropy(search, entry, target, sizes.match_samples)
                    matched.append(evaluate.with_temperature(entry, temperature, f"{name}, T matched to Euler {2 * nfe}"))
                if not isinstance(network.process, processes.Absorbing):
                    continue
                entry, tried = tune(search, network, plus, target, sizes)
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
        order = judge_order(scorer, test.windows(sizes.samples), samples[teacher_entry.name], samples[few.name], f"Euler samples, NFE {curve_nfe}", sizes.seed)

    networks = {"teacher": teacher} if published else {"teacher": teacher, "judge": scorer.judge}
    distil_seconds = stages.seconds["measure the teacher's costs"] + stages.seconds["distil: path KL"]
    result = {
        "name": config.name,
        "columns": text_report.columns(published),
        "headline": text_report.HEADLINE,
        "rows": rows,
        "bounds": distilled.bounds,
        "profile": distilled.profile,
        "claims": claims(rows, sizes),
        "tuning": trials,
        "judge_order": order,
        "distillation": {"all_students_seconds": distil_seconds, "one_teacher_run_seconds": rows[0]["seconds"], "ratio": distil_seconds / rows[0]["seconds"]},
        "networks": {name: net.description["metrics"] for name, net in networks.items()},
        "protocol": scorer.protocol.stated(scorer.judge) if published else "",
        "config": json.loads(config.to_json()),
        "versions": report.versions(),
        "seconds": stages.seconds,
    }
    with stages("write the report"):
        runs.save_entries(workdir / "students.json", everything)
        texts = {name: [network.tokenizer.decode(s) for s in drawn[:3]] for name, drawn in samples.items()}
        texts |= {"held-out": [network.tokenizer.decode(s) for s in test.windows(3)]}
        text_report.write(workdir / "report.html", result, everything, texts)
    (workdir / "metrics.json").write_text(json.dumps(result, indent=1) + "\n")
    print(text_report.summary(result))
    return {"report": str(workdir / "report.html"), "seconds": round(sum(stages.seconds.values()), 1)}
