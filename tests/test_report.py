"""Rows, students and pages of an experiment that is not about text: a teacher of independent sites, figures and columns of its own."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from jddd import evaluate, grids, processes, report, sampling, students, text_report, writers
from jddd.distill.lsd import LSDConfig
from jddd.runs import Entry
from jddd.types import Denoiser

ROOT = Path(__file__).parent.parent
P = np.array([0.5, 0.25, 0.125, 0.125])  # of every site: 1.75 bits
DENOISER = Denoiser(lambda params, x, t: jnp.broadcast_to(params, (*x.shape, len(P))), lambda params, hidden: jax.nn.log_softmax(hidden, -1))
TEACHER = dict(denoiser=DENOISER, process=processes.Absorbing(len(P)), params=jnp.log(P).astype(jnp.float32))
COLUMNS = {"sampler": "sampler", "grid": "grid", "nfe": "NFE", "share": "share of 0"}


@pytest.fixture
def bench(tmp_path):
    """256 samples of 64 symbols, scored by their share of the symbol 0. Types are not checked: compiling ahead of time, jax puts its own ArgInfo where
    Student has arrays."""
    jaxtyping.config.update("jaxtyping_disable", True)
    score = lambda samples: {"share": float((samples == 0).mean()), "share_interval": [0.0, 1.0]}
    yield evaluate.Bench(**TEACHER, length=64, count=256, batch=64, seed=0, precision="high", cache=tmp_path / "samples", score=score)
    jaxtyping.config.update("jaxtyping_disable", False)


def rows_of(bench, *nfe):
    entries = [Entry("Euler", "uniform", sampling.plain(grids.uniform(n)), "euler") for n in nfe]
    return entries, [evaluate.row(bench, e)[0] for e in entries]


def test_a_row_holds_the_figures_of_its_score(bench):
    """16,384 draws of P: the share of 0 is 1/2 within 5 standard errors of 0.004. Asked again, the kept samples are scored, not drawn."""
    entry = Entry("Tweedie", "uniform", sampling.plain(grids.uniform(4)))
    row, samples = evaluate.row(bench, entry)
    assert samples.shape == (256, 64) and samples.dtype == np.uint16 and samples.max() < len(P)
    assert abs(row["share"] - 0.5) < 0.02 and (row["sampler"], row["nfe"], row["samples"]) == ("Tweedie", 4, 256) and row["ratio_to_network_calls"] > 0
    (kept,) = bench.cache.iterdir()
    then = kept.stat().st_mtime_ns
    again, same = evaluate.row(bench._replace(score=lambda samples: {"other": 1.0}), entry._replace(sampler="another name"))
    assert kept.stat().st_mtime_ns == then and again["other"] == 1.0 and "share" not in again
    np.testing.assert_array_equal(samples, same)
    evaluate.row(bench, entry._replace(solver="euler"))  # another name of the same law
    assert len(list(bench.cache.iterdir())) == 1
    evaluate.row(bench, entry._replace(student=entry.student.replace(bounds=entry.student.bounds + 1)))  # any other number is another law
    assert len(list(bench.cache.iterdir())) == 2


def test_temperature_is_found_by_entropy(bench):
    """Independent sites at temperature T draw from P^(1/T) normalised, so the temperature that gives the 4-gram entropy at 0.8 is 0.8."""
    entry = Entry("Tweedie", "uniform", sampling.plain(grids.uniform(4)))
    target = evaluate.entropy_4(bench, evaluate.with_temperature(entry, 0.8), 256)
    sharp = P ** (1 / 0.8) / (P ** (1 / 0.8)).sum()
    assert target == pytest.approx(-4 * (sharp * np.log2(sharp)).sum(), abs=0.05)  # 15,616 4-grams of 256: a bias of 0.01, a standard error of 0.02
    temperature, miss = evaluate.match_entropy(bench, entry, target, 256)
    assert temperature == pytest.approx(0.8, abs=0.01) and abs(miss) < 0.003


def test_students_are_learned_without_text():
    """Every path-KL student of a teacher and windows of its data. Independent sites cost the same in any order: no schedule gains anything."""
    windows = np.random.default_rng(0).choice(len(P), size=(64, 16), p=P).astype(np.int32)
    learned = students.distil_all(windows, LSDConfig(steps=20), writers.Stages(), nfe=(4,), **TEACHER)
    assert {(e.sampler, e.nfe) for e in learned.entries} == {(s, 4) for s in ("LSD", "LSD+ (Euler)", "LSD+ (Tweedie)", "LSD+ spread (Tweedie)")}
    assert learned.profile["nelbo_bits"] == pytest.approx(1.75, abs=0.15)  # 64 windows of 16 symbols: a standard error of 0.03 and the same of which sites are masked
    for bound in learned.bounds:
        assert abs(bound["uniform"] - bound["dynamic programme"]) < 0.1


def test_a_page_of_other_columns(bench, tmp_path):
    """One file, its picture inside and beside it, with the figures of the experiment and what its samplers learned."""
    entries, rows = rows_of(bench, 2, 4)
    entries.append(entries[0]._replace(sampler="LSD+ <i>"))
    result = {"seconds": {"all": 1.0}, "config": {"seed": 0}, "versions": report.versions()}
    figures = {"share against NFE": report.against_nfe(rows, {"share": "share of 0"}), "learned": report.learned_numbers(entries)}
    body = [report.section("samplers", report.table(rows, COLUMNS), report.note("a note")), report.plots(figures, tmp_path / "plots")]
    report.page(tmp_path / "report.html", "a <b> run", [*body, report.learned(entries), report.samples({"held-out": ["0 1 2"]}), report.origin(result)])
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and {p.name for p in (tmp_path / "plots").iterdir()} == {"share-against-NFE.png", "learned.png"}
    assert "<b>" not in page and "<i>" not in page and "<h1>a &lt;b&gt; run</h1>" in page and "LSD+ &lt;i&gt;, NFE 2" in page
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["Samplers", "Share against NFE", "Learned", "Learned numbers", "Samples", "Time", "Config, seeds and versions"]
    assert f"<td>{rows[0]['share']:.3f} <small>0.000 to 1.000</small></td>" in page and not list(tmp_path.glob("*.tmp"))


def printed(folder, result):
    (folder / "metrics.json").write_text(json.dumps(result))
    done = subprocess.run([sys.executable, "-m", "jddd.report", str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_command_prints_the_columns_that_a_run_names(bench, tmp_path):
    """metrics.json says which columns there are and which is the headline; a run that does not is one on text."""
    _, rows = rows_of(bench, 2, 4)
    a, b = (f"{r['share']:.3f}" for r in rows)
    assert printed(tmp_path, {"rows": rows, "columns": COLUMNS, "headline": ["share"]}).splitlines() == [
        *("| share of 0 | NFE 2 | NFE 4 |", "|---|---|---|", f"| Euler, uniform | {a} | {b} |", ""),
        *("| sampler | grid | NFE | share of 0 |", "|---|---|---|---|", f"| Euler | uniform | 2 | {a} (0.000 to 1.000) |", f"| Euler | uniform | 4 | {b} (0.000 to 1.000) |"),
    ]
    text = [{key: 1.0 for key in text_report.COLUMNS} | {"sampler": "Euler", "grid": "uniform", "nfe": 2}]
    assert printed(tmp_path, {"rows": text}).splitlines()[:3] == ["| judge bits a symbol (4-gram entropy, bits) | NFE 2 |", "|---|---|", "| Euler, uniform | 1.000 (1.00) |"]
