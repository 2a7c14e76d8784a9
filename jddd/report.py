"""The page a run leaves, for all experiments: the parts of one self-contained HTML file, and the tables of metrics.json as text and as Markdown.

python -m jddd.report runs/lsd_text     prints a finished run's tables as Markdown

Rows are those of jddd.evaluate.row: sampler, grid, nfe and the figures of the experiment, with FIELD_interval beside a FIELD that has one. metrics.json
holds them as 'rows', with 'columns' (field -> title, in order) and 'headline': the field a sampler is judged by and the one to read beside it.
"""

from __future__ import annotations

import base64
import html
import importlib.metadata
import io
import json
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure

from jddd.runs import Entry
from jddd.writers import write_whole

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1150px; margin: 2em auto; padding: 0 1em; color: #1d2733 }
table { border-collapse: collapse; margin: .6em 0 1.4em; font-size: 13px } th, td { padding: .25em .7em; text-align: right; border-bottom: 1px solid #dfe5ec }
th { background: #f2f5f9; position: sticky; top: 0 } td:first-child, th:first-child, td:nth-child(2), th:nth-child(2) { text-align: left }
pre, .text { font: 12.5px/1.45 ui-monospace, monospace; background: #f7f9fb; padding: .6em; white-space: pre-wrap } img { max-width: 100% }
h2 { margin-top: 1.8em } small, .note { color: #5a6877 } tr.learned td { background: #eef6ff }
"""
LEARNED = "LSD"  # in the names of samplers with learned numbers


def versions() -> dict[str, str]:
    names = ("jddd", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets")
    facts = {name: importlib.metadata.version(name) for name in names}
    return facts | {"python": platform.python_version(), "machine": platform.machine(), "device": jax.devices()[0].device_kind, "date": time.strftime("%Y-%m-%d")}


# ------------------------------------------------------------------------------------------------------------------------------------- parts of HTML
def _cell(value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"
    return str(value)


def _interval(row: dict, field: str, form: str) -> str:
    """The field's interval in a form with two places, nothing where it has none."""
    return form.format(*(f"{x:.3f}" for x in row[f"{field}_interval"])) if f"{field}_interval" in row else ""


def table(rows: Sequence[dict], columns: dict[str, str] | None = None) -> str:
    """An HTML table; a figure with an interval shows it in small print."""
    columns = columns or {k: k.replace("_", " ") for k in rows[0]}
    lines = []
    for row in rows:
        cells = "".join(f"<td>{html.escape(_cell(row.get(key, '')))}{_interval(row, key, ' <small>{} to {}</small>')}</td>" for key in columns)
        lines.append(f"<tr{' class=learned' if LEARNED in str(row.get('sampler', '')) else ''}>{cells}</tr>")
    return f"<table><tr>{''.join(f'<th>{c}</th>' for c in columns.values())}</tr>{''.join(lines)}</table>"


def note(text: str) -> str:
    return f"<p class=note>{text}</p>"


def section(title: str, *parts: str) -> str:
    """A heading and the HTML under it."""
    return f"<h2>{title[0].upper() + title[1:]}</h2>{''.join(parts)}"


def image(figure: Figure, file: Path) -> str:
    """The figure as an inline picture; it is also written to `file`."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(buffer.getvalue())
    return f'<img alt="plot" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def plots(figures: dict[str, Figure], folder: Path) -> str:
    """A section for each figure, under its name; each is also a file of the folder."""
    return "".join(section(name, image(figure, folder / f"{name.replace(' ', '-')}.png")) for name, figure in figures.items())


def learned(entries: Sequence[Entry]) -> str:
    """The section with the numbers of every learned sampler, folded."""
    folded = []
    for e in entries:
        if LEARNED in e.sampler:
            listed = {k: [round(float(x), 4) for x in np.asarray(v)] for k, v in vars(e.student).items()}
            folded.append(f"<details><summary>{html.escape(e.sampler)}, NFE {e.nfe}</summary><pre>{html.escape(json.dumps(listed, indent=1))}</pre></details>")
    return section("Learned numbers", *folded)


def samples(texts: dict[str, list[str]]) -> str:
    """The section of samples, as text, by the name of what they are."""
    return section("Samples", *(f"<h3>{html.escape(name)}</h3>" + "".join(f"<div class=text>{html.escape(line)}</div>" for line in lines) for name, lines in texts.items()))


def origin(result: dict) -> str:
    """The sections that say how the run was made: seconds by stage; config, seeds and versions."""
    made = html.escape(json.dumps({"config": result["config"], "versions": result["versions"]}, indent=1))
    return section("Time", table([{"stage": k, "seconds": v} for k, v in result["seconds"].items()])) + section("Config, seeds and versions", f"<pre>{made}</pre>")


def page(path: Path, title: str, parts: Sequence[str]) -> None:
    """Write the parts under the title as one HTML file, replaced in one move."""
    title = html.escape(title)
    write_whole(path, f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style><h1>{title}</h1>{''.join(parts)}</html>")


# ------------------------------------------------------------------------------------------------------------------------------------------- figures
def series(rows: Sequence[dict]) -> dict[str, list[dict]]:
    """Rows by sampler and grid, each by NFE."""
    found: dict[str, list[dict]] = {}
    for row in rows:
        found.setdefault(f"{row['sampler']}, {row['grid']}", []).append(row)
    return {name: sorted(points, key=lambda r: r["nfe"]) for name, points in found.items()}


def against_nfe(rows: Sequence[dict], panels: dict[str, str]) -> Figure:
    """One panel a field (field -> title), a line for each sampler with more than one NFE; the first panel has intervals and the legend. The first row,
    the teacher, is a dashed line."""
    figure = Figure(figsize=(5.5 * len(panels), 4.2))
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (field, title) in zip(axes, panels.items()):
        for name, points in series(rows).items():
            if len(points) > 1 and " T = " not in name:  # the rows of one NFE at several temperatures are no line here
                middle = np.array([p[field] for p in points])
                band = np.abs(np.array([p[f"{field}_interval"] for p in points]).T - middle) if axis is axes[0] else None
                axis.errorbar([p["nfe"] for p in points], middle, yerr=band, marker="o", capsize=2, label=name)
        axis.axhline(rows[0][field], color="black", ls="--", label=f"teacher, NFE {rows[0]['nfe']}")
        axis.set_xscale("log", base=2)
        calls = [r["nfe"] for r in rows[1:]] or [1]
        axis.set(xlabel="NFE", title=title, xlim=(min(calls) / 1.2, max(calls) * 1.2))  # set, for a figure may be nan in every row
    axes[0].legend(fontsize=7)
    return figure


def learned_numbers(entries: Sequence[Entry]) -> Figure:
    """Times and coefficients of the learned samplers, those at a temperature of their own left out."""
    figure = Figure(figsize=(11, 4.2))
    left, right = figure.subplots(1, 2)
    for e in entries:
        if LEARNED in e.sampler and "T " not in e.sampler:
            position = np.arange(e.student.count + 1) / e.student.count
            left.plot(position, np.asarray(e.student.times), marker=".", label=f"{e.sampler}, NFE {e.nfe}")
            right.plot(position[:-1], np.asarray(e.student.coefficients), marker=".")
    left.plot([0, 1], [1, 0], "k:")
    left.set(xlabel="step / M", title="times")
    right.set(xlabel="step / M", title="coefficients")
    left.legend(fontsize=6)
    return figure


# ---------------------------------------------------------------------------------------------------------------------------------- tables as text
def summary(rows: Sequence[dict], fields: Sequence[str]) -> str:
    """The table as text, for the terminal."""
    head = f"{'sampler':48}{'grid':10}{'NFE':>5}" + "".join(f"{k:>12}" for k in fields)
    return "\n".join([head, *(f"{r['sampler']:48}{r['grid']:10}{r['nfe']:>5}" + "".join(f"{r[k]:>12.3f}" for k in fields) for r in rows)])


def markdown(rows: Sequence[dict], columns: dict[str, str], headline: Sequence[str]) -> str:
    """The table as Markdown, the first headline figure with its interval."""
    lines = [f"| {' | '.join(columns.values())} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(_cell(r.get(k, '')) + (_interval(r, k, ' ({} to {})') if k == headline[0] else '') for k in columns)} |" for r in rows]
    return "\n".join(lines)


def by_nfe(rows: Sequence[dict], columns: dict[str, str], headline: Sequence[str]) -> str:
    """One line a sampler, one column an NFE, as Markdown: the first headline figure, in brackets the second, if there is one."""
    calls = sorted({r["nfe"] for r in rows})
    joined = lambda first, rest: f"{first} ({rest[0]})" if rest else first
    title = joined(columns[headline[0]], [columns[k] for k in headline[1:]])
    lines = [f"| {title} | {' | '.join(f'NFE {n}' for n in calls)} |", "|---" * (len(calls) + 1) + "|"]
    for name, points in series(rows).items():
        cells = {r["nfe"]: joined(f"{r[headline[0]]:.3f}", [f"{r[k]:.2f}" for k in headline[1:]]) for r in points}
        lines.append(f"| {name} | {' | '.join(cells.get(n, '') for n in calls)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    from jddd import text_report  # runs made before metrics.json named its columns are runs on text

    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "metrics.json").is_file():
        sys.exit("usage: python -m jddd.report RUN, the folder of a finished run (with metrics.json)")
    found = json.loads((Path(sys.argv[1]) / "metrics.json").read_text())
    shown = found.get("columns", text_report.COLUMNS), found.get("headline", text_report.HEADLINE)
    print(by_nfe(found["rows"], *shown), markdown(found["rows"], *shown), sep="\n\n")
