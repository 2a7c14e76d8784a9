"""The report of a run on text: its columns, its plots and its page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from jddd import report
from jddd.runs import Entry

COLUMNS = {
    "sampler": "sampler", "grid": "grid", "nfe": "NFE", "judge_bits": "judge bits a symbol", "entropy_1": "unigram entropy, bits", "entropy_4": "4-gram entropy, bits",
    "words": "words known", "distinct_4": "distinct 4-grams", "temperature": "T", "seconds": "seconds", "ratio_to_network_calls": "time / NFE calls",
}  # fmt: skip
JUDGED = {"generative_perplexity": "generative perplexity, a token of the judge", "token_entropy": "token entropy, nats"}  # what a published judge has besides
HEADLINE = ["judge_bits", "entropy_4"]


def columns(published: bool) -> dict[str, str]:
    """The columns of a table; published: with the figures of a published judge (jddd.metrics.generative), perplexity and entropy side by side, and its bits a
    character, as its symbols are not the sampler's; jddd's own judge reads the same."""
    first, rest = list(COLUMNS.items())[:3], list(COLUMNS.items())[4:]
    return dict([*first, *JUDGED.items(), ("judge_bits", "judge bits a character"), *rest]) if published else COLUMNS


def panels(published: bool) -> dict[str, str]:
    """What is plotted against NFE: fields and titles."""
    return {"judge_bits": f"{columns(published)['judge_bits']} (lower: likelier)", "entropy_4": "4-gram entropy, bits (higher: more diverse)"}


def _quality_entropy(result: dict) -> Figure:
    figure = Figure(figsize=(7, 4.6))
    axis = figure.subplots()
    for name, points in report.series(result["rows"]).items():
        for p in points:
            axis.annotate(str(p["nfe"]), (p["entropy_4"], p["judge_bits"]), fontsize=6, xytext=(3, 3), textcoords="offset points")
        axis.plot([p["entropy_4"] for p in points], [p["judge_bits"] for p in points], "o", ms=4, label=name)
    for text in result["judge_order"][:1]:
        axis.plot(text["entropy_4"], text["judge_bits"], "k*", ms=11, label=text["text"])
    axis.set(xlabel="4-gram entropy of the samples, bits", ylabel=result["columns"]["judge_bits"], title="quality against entropy: lower right is better")
    axis.legend(fontsize=6, bbox_to_anchor=(1.01, 1), loc="upper left")
    return figure


def _costs(result: dict) -> Figure:
    figure = Figure(figsize=(11, 4))
    left, right = figure.subplots(1, 2)
    if profile := result["profile"]:
        left.plot(profile["rates"], profile["bits"], marker=".")
        left.set(xlabel="mask rate m", ylabel="bits a masked symbol", title=f"CE(m); its integral, the NELBO: {profile['nelbo_bits']:.3f} bits")
    for name in [k for k in result["bounds"][0] if k != "nfe"]:
        points = [(b["nfe"], b[name]) for b in result["bounds"] if name in b]
        right.plot(*zip(*points), marker="o", label=name)
    right.set_xscale("log", base=2)
    right.set_yscale("log")
    right.set(xlabel="NFE", title="path KL over the NELBO, bits a symbol")
    right.legend(fontsize=7)
    return figure


def figures(result: dict, entries: Sequence[Entry]) -> dict[str, Figure]:
    """The plots, by name."""
    return {
        "quality against NFE": report.against_nfe(result["rows"], panels(bool(result.get("protocol")))),
        "quality against entropy": _quality_entropy(result),
        "cost profile and what a schedule can gain": _costs(result),
        "learned times and coefficients": report.learned_numbers(entries),
    }


def _about(name: str, facts: dict) -> str:
    """A line on a network: what its training measured, which published checkpoints come without."""
    if {"parameters", "measure", "test_bits_per_symbol", "standard_error"} <= facts.keys():
        return f"{name}: {facts['parameters']:,} parameters, {facts['measure']} {facts['test_bits_per_symbol']:.3f} ± {facts['standard_error']:.3f} bits a symbol on held-out text."
    measured = ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in facts.items() if isinstance(value, (int, float)))
    return f"{name}: {measured or 'came without figures of its training'}."


def write(path: Path, result: dict, entries: Sequence[Entry], texts: dict[str, list[str]]) -> None:
    """The page of a result (what metrics.json holds); its plots also as files in plots/ beside it."""
    distillation = result["distillation"]
    parts = [report.note(_about(name, facts)) for name, facts in result["networks"].items()]
    parts += [
        f"<p>All students were distilled in {distillation['all_students_seconds']:.1f} s, compilation included; one teacher sampling run of this batch took "
        f"{distillation['one_teacher_run_seconds']:.1f} s (ratio {distillation['ratio']:.2f}). Default objective: path KL with the coefficient on the score; the others stand beside it.</p>",
        report.section("Samplers", report.table(result["rows"], result["columns"])),
        report.note(
            "Intervals: 95 %, bootstrap over samples. Judge bits fall when samples are merely sharper, so read them beside the entropies; compare entropies at equal sample counts only."
            + (f" Generative perplexity: {result['protocol']}. Token entropy: of the sampler's symbols within a sample, mean over samples." if result.get("protocol") else "")
        ),
        report.plots(figures(result, entries), path.parent / "plots"),
    ]
    about = report.note("Path KL over its limit for many steps, bits a symbol. The dynamic programme is exact: no schedule does better.")
    parts.append(report.section("What a schedule can gain on this teacher", about, report.table(result["bounds"], {key: key for bound in result["bounds"] for key in bound})))
    if result["claims"]:
        parts.append(report.section("The claim: at equal entropy, half the calls", report.note("Equal entropy: 4-gram entropy within 2 %."), report.table(result["claims"])))
    if result["tuning"]:
        parts.append(report.section("Tuning reveal order and temperature under the entropy constraint", report.table(result["tuning"])))
    parts.append(report.section("Does the judge order texts as it should?", report.table(result["judge_order"])))
    report.page(path, result["name"], [*parts, report.learned(entries), report.samples(texts), report.origin(result)])


def summary(result: dict) -> str:
    """The table as text, for the terminal, and how long learning took."""
    d = result["distillation"]
    tail = f"all students distilled in {d['all_students_seconds']:.1f} s; one teacher run of this batch: {d['one_teacher_run_seconds']:.1f} s"
    return report.summary(result["rows"], ("judge_bits", "entropy_1", "entropy_4", "words", "seconds")) + "\n" + tail
