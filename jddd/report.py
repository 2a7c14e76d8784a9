"""The page a run leaves: tables, plots, learned numbers and samples in one self-contained HTML file.

python -m jddd.report runs/lsd_text     prints a finished run's tables as Markdown
"""

from __future__ import annotations

import base64
import html
import importlib.metadata
import io
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from jddd.runs import Entry

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1150px; margin: 2em auto; padding: 0 1em; color: #1d2733 }
table { border-collapse: collapse; margin: .6em 0 1.4em; font-size: 13px } th, td { padding: .25em .7em; text-align: right; border-bottom: 1px solid #dfe5ec }
th { background: #f2f5f9; position: sticky; top: 0 } td:first-child, th:first-child, td:nth-child(2), th:nth-child(2) { text-align: left }
pre, .text { font: 12.5px/1.45 ui-monospace, monospace; background: #f7f9fb; padding: .6em; white-space: pre-wrap } img { max-width: 100% }
h2 { margin-top: 1.8em } small, .note { color: #5a6877 } tr.learned td { background: #eef6ff }
"""
COLUMNS = {
    "sampler": "sampler", "grid": "grid", "nfe": "NFE", "judge_bits": "judge bits/char", "entropy_1": "unigram entropy (bits)", "entropy_4": "4-gram entropy (bits)",
    "words": "words known", "distinct_4": "distinct 4-grams", "temperature": "T", "seconds": "seconds", "ratio_to_network_calls": "time / NFE calls",
}  # fmt: skip


def versions() -> dict[str, str]:
    names = ("jddd", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets")
    facts = {name: importlib.metadata.version(name) for name in names}
    return facts | {"python": platform.python_version(), "machine": platform.machine(), "device": jax.devices()[0].device_kind, "date": time.strftime("%Y-%m-%d")}


def _cell(value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"
    return html.escape(str(value))


def table(rows: Sequence[dict], columns: dict[str, str] | None = None) -> str:
    """An HTML table; a figure with an interval shows it in small print."""
    columns = columns or {k: k.replace("_", " ") for k in rows[0]}
    lines = []
    for row in rows:
        cells = []
        for key in columns:
            text = _cell(row.get(key, ""))
            if f"{key}_interval" in row:
                low, high = row[f"{key}_interval"]
                text += f" <small>{low:.3f} to {high:.3f}</small>"
            cells.append(f"<td>{text}</td>")
        lines.append(f"<tr{' class=learned' if str(row.get('sampler', '')).startswith('LSD') else ''}>{''.join(cells)}</tr>")
    return f"<table><tr>{''.join(f'<th>{c}</th>' for c in columns.values())}</tr>{''.join(lines)}</table>"


def _image(figure, file: Path) -> str:
    """The figure as an inline picture; it is also written to `file`."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(buffer.getvalue())
    return f'<img alt="plot" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def figures(result: dict, entries: Sequence[Entry]) -> dict:
    """The plots, by name, as matplotlib figures."""
    from matplotlib.figure import Figure

    rows = result["rows"]
    series: dict[str, list[dict]] = {}
    for row in rows:
        series.setdefault(f"{row['sampler']}, {row['grid']}", []).append(row)
    made = {}

    figure = Figure(figsize=(11, 4.2))
    left, right = figure.subplots(1, 2)
    for name, points in series.items():
        points = sorted(points, key=lambda r: r["nfe"])
        if len(points) > 1 and " T = " not in name:
            x = [p["nfe"] for p in points]
            middle = np.array([p["judge_bits"] for p in points])
            band = np.abs(np.array([p["judge_bits_interval"] for p in points]).T - middle)
            left.errorbar(x, middle, yerr=band, marker="o", capsize=2, label=name)
            right.plot(x, [p["entropy_4"] for p in points], marker="o", label=name)
    teacher = rows[0]
    left.axhline(teacher["judge_bits"], color="black", ls="--", label=f"teacher, NFE {teacher['nfe']}")
    right.axhline(teacher["entropy_4"], color="black", ls="--")
    for axis, title in ((left, "judge bits a character (lower: likelier)"), (right, "4-gram entropy, bits (higher: more diverse)")):
        axis.set_xscale("log", base=2)
        axis.set(xlabel="NFE", title=title)
    left.legend(fontsize=7)
    made["quality against NFE"] = figure

    figure = Figure(figsize=(7, 4.6))
    axis = figure.subplots()
    for name, points in series.items():
        for p in points:
            axis.annotate(str(p["nfe"]), (p["entropy_4"], p["judge_bits"]), fontsize=6, xytext=(3, 3), textcoords="offset points")
        axis.plot([p["entropy_4"] for p in points], [p["judge_bits"] for p in points], "o", ms=4, label=name)
    for text in result["judge_order"][:1]:
        axis.plot(text["entropy_4"], text["judge_bits"], "k*", ms=11, label=text["text"])
    axis.set(xlabel="4-gram entropy of the samples, bits", ylabel="judge bits a character", title="quality against entropy: lower right is better")
    axis.legend(fontsize=6, bbox_to_anchor=(1.01, 1), loc="upper left")
    made["quality against entropy"] = figure

    figure = Figure(figsize=(11, 4))
    left, right = figure.subplots(1, 2)
    if profile := result["profile"]:
        left.plot(profile["rates"], profile["bits"], marker=".")
        left.set(xlabel="mask rate m", ylabel="bits a masked character", title=f"CE(m); its integral, the NELBO: {profile['nelbo_bits']:.3f} bits")
    for name in [k for k in result["bounds"][0] if k != "nfe"]:
        points = [(b["nfe"], b[name]) for b in result["bounds"] if name in b]
        right.plot(*zip(*points), marker="o", label=name)
    right.set_xscale("log", base=2)
    right.set_yscale("log")
    right.set(xlabel="NFE", title="path KL over the NELBO, bits a character")
    right.legend(fontsize=7)
    made["cost profile and what a schedule can gain"] = figure

    learned = [e for e in entries if e.sampler.startswith("LSD") and "T " not in e.sampler]
    figure = Figure(figsize=(11, 4.2))
    left, right = figure.subplots(1, 2)
    for e in learned:
        position = np.arange(e.nfe + 1) / e.nfe
        left.plot(position, np.asarray(e.student.times), marker=".", label=f"{e.sampler}, NFE {e.nfe}")
        right.plot(position[:-1], np.asarray(e.student.coefficients), marker=".")
    left.plot([0, 1], [1, 0], "k:")
    left.set(xlabel="step / M", title="times")
    right.set(xlabel="step / M", title="coefficients")
    left.legend(fontsize=6)
    made["learned times and coefficients"] = figure
    return made


def write(path: Path, result: dict, entries: Sequence[Entry], texts: dict[str, list[str]]) -> None:
    """The report as one HTML file, replaced in one move; its plots also as files in plots/ beside it."""
    part = []
    add = part.append
    distillation, networks = result["distillation"], result["networks"]
    add(f"<h1>{html.escape(result['name'])}</h1>")
    for name, facts in networks.items():
        add(f"<p class=note>{name}: {facts['parameters']:,} parameters, {facts['measure']} {facts['test_bits_per_symbol']:.3f} ± {facts['standard_error']:.3f} bits a character on held-out text.</p>")
    add(
        f"<p>All students were distilled in {distillation['all_students_seconds']:.1f} s, compilation included; one teacher sampling run of this batch took "
        f"{distillation['one_teacher_run_seconds']:.1f} s (ratio {distillation['ratio']:.2f}). Default objective: path KL with the coefficient on the score; the others stand beside it.</p>"
    )
    add("<h2>Samplers</h2>" + table(result["rows"], COLUMNS))
    add("<p class=note>Intervals: 95 %, bootstrap over samples. Judge bits fall when samples are merely sharper, so read them beside the entropies; compare entropies at equal sample counts only.</p>")
    plots = figures(result, entries)
    for name, figure in plots.items():
        add(f"<h2>{name[0].upper() + name[1:]}</h2>" + _image(figure, path.parent / "plots" / f"{name.replace(' ', '-')}.png"))
    add("<h2>What a schedule can gain on this teacher</h2><p class=note>Path KL over its limit for many steps, bits a character. The dynamic programme is exact: no schedule does better.</p>")
    columns = {key: key for bound in result["bounds"] for key in bound}
    add(table(result["bounds"], columns))
    if result["claims"]:
        add("<h2>The claim: at equal entropy, half the calls</h2><p class=note>Equal entropy: 4-gram entropy within 2 %.</p>" + table(result["claims"]))
    if result["tuning"]:
        add("<h2>Tuning reveal order and temperature under the entropy constraint</h2>" + table(result["tuning"]))
    add("<h2>Does the judge order texts as it should?</h2>" + table(result["judge_order"]))
    add("<h2>Learned numbers</h2>")
    for e in entries:
        if e.sampler.startswith("LSD"):
            listed = {k: [round(float(x), 4) for x in np.asarray(v)] for k, v in vars(e.student).items()}
            add(f"<details><summary>{html.escape(e.sampler)}, NFE {e.nfe}</summary><pre>{html.escape(json.dumps(listed, indent=1))}</pre></details>")
    add("<h2>Samples</h2>")
    for name, lines in texts.items():
        add(f"<h3>{html.escape(name)}</h3>" + "".join(f"<div class=text>{html.escape(line)}</div>" for line in lines))
    add("<h2>Time</h2>" + table([{"stage": k, "seconds": v} for k, v in result["seconds"].items()]))
    add(f"<h2>Config, seeds and versions</h2><pre>{html.escape(json.dumps({'config': result['config'], 'versions': result['versions']}, indent=1))}</pre>")
    page = f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(result['name'])}</title><style>{STYLE}</style>{''.join(part)}</html>"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(page)
    temporary.replace(path)


def summary(result: dict) -> str:
    """The table as text, for the terminal."""
    keys = ("judge_bits", "entropy_1", "entropy_4", "words", "seconds")
    head = f"{'sampler':48}{'grid':10}{'NFE':>5}" + "".join(f"{k:>12}" for k in keys)
    lines = [f"{r['sampler']:48}{r['grid']:10}{r['nfe']:>5}" + "".join(f"{r[k]:>12.3f}" for k in keys) for r in result["rows"]]
    d = result["distillation"]
    tail = f"all students distilled in {d['all_students_seconds']:.1f} s; one teacher run of this batch: {d['one_teacher_run_seconds']:.1f} s"
    return "\n".join([head, *lines, tail])


def markdown(rows: Sequence[dict]) -> str:
    """The table as Markdown, the judge's figure with its interval."""
    lines = ["| sampler | grid | NFE | judge bits/char | unigram entropy | 4-gram entropy | words known | distinct 4-grams | time / NFE calls |", "|---|---|---|---|---|---|---|---|---|"]
    for r in rows:
        low, high = r["judge_bits_interval"]
        figures = f"{r['judge_bits']:.3f} ({low:.3f} to {high:.3f}) | {r['entropy_1']:.3f} | {r['entropy_4']:.3f} | {r['words']:.3f} | {r['distinct_4']:.3f} | {r['ratio_to_network_calls']:.2f}"
        lines.append(f"| {r['sampler']} | {r['grid']} | {r['nfe']} | {figures} |")
    return "\n".join(lines)


def by_nfe(rows: Sequence[dict]) -> str:
    """One line a sampler, one column an NFE: judge bits (4-gram entropy), as Markdown."""
    calls = sorted({r["nfe"] for r in rows})
    lines = [f"| judge bits/char (4-gram entropy, bits) | {' | '.join(f'NFE {n}' for n in calls)} |", "|---" * (len(calls) + 1) + "|"]
    for name in dict.fromkeys((r["sampler"], r["grid"]) for r in rows):
        cells = {r["nfe"]: f"{r['judge_bits']:.3f} ({r['entropy_4']:.2f})" for r in rows if (r["sampler"], r["grid"]) == name}
        lines.append(f"| {name[0]}, {name[1]} | {' | '.join(cells.get(n, '') for n in calls)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    import sys

    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "metrics.json").is_file():
        sys.exit("usage: python -m jddd.report RUN, the folder of a finished run (with metrics.json)")
    found = json.loads((Path(sys.argv[1]) / "metrics.json").read_text())["rows"]
    print(by_nfe(found), markdown(found), sep="\n\n")
