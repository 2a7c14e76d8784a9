"""Countdown: its data, its metrics against Jump Your Steps' own numbers, and the whole experiment at small size."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jddd import build, countdown, grids, processes, runs, sampling, schedules
from jddd.data.countdown import Countdown, Numbers
from jddd.distill import jys
from jddd.metrics import countdown as metrics
from jddd.models import exact

ROOT = Path(__file__).parents[1]


def test_violations_golden(golden):
    """The strict rule, and JYS's rule with its unchecked sites, per sequence and per site (shares of 40: exact in float64 but for one rounding)."""
    case = golden("metrics")
    x = case["count_x"]
    np.testing.assert_allclose(metrics.violations(x).mean(1), case["count_strict_err"], atol=1e-15)
    np.testing.assert_allclose(metrics.jys_violations(x).mean(1), case["count_err"], atol=1e-15)
    np.testing.assert_allclose(metrics.jys_violations(x).mean(), case["count_err_mean"], atol=1e-15)
    assert (metrics.jys_violations(x) == ~case["count_flags"]).all()


def test_figures_of_known_samples():
    """By hand: 3 2 1 0 2 1 0 1 breaks nothing and has three runs; 3 1 0 0 breaks one site of four; restarts at one value are 1 - 1/V away."""
    x = np.array([[3, 2, 1, 0, 2, 1, 0, 1]])
    assert not metrics.violations(x).any() and metrics.restarts(x).tolist() == [2, 1] and metrics.run_length(x) == 8 / 3
    assert metrics.violations(np.array([[3, 1, 0, 0]])).tolist() == [[False, True, False, False]]
    assert metrics.uniform_distance(np.full(50, 2), 4) == 0.75 and metrics.uniform_distance(np.arange(4), 4) == 0
    floor = np.mean([metrics.uniform_distance(np.random.default_rng(i).integers(0, 8, 4000), 8) for i in range(50)])
    np.testing.assert_allclose(metrics.uniform_distance_floor(4000, 8), floor, rtol=0.1)  # normal approximation, 50 repeats


def test_data_follow_their_chain():
    """No violation, uniform starts and restarts; a batch is a pure function of seed and step; the scores of real data are those of data."""
    data = Countdown(16, 64)
    x = data.windows(2000)
    assert x.shape == (2000, 64) and not metrics.violations(x).any()
    for values in (x[:, 0], metrics.restarts(x)):
        assert metrics.uniform_distance(values, 16) < 2 * metrics.uniform_distance_floor(len(values), 16)
    assert (data.batch(3, 4, 1) == data.batch(3, 4, 1)).all() and (data.batch(3, 4, 1) != data.batch(4, 4, 1)).any()
    assert (x != Countdown(16, 64, "test").windows(2000)).any()
    found = metrics.score(x, exact.countdown(16), repeats=10)
    assert found["violation_rate"] == 0 and found["pair_distance"] < 0.01
    # The chain's entropy rate over 64 symbols: 4 bits where a run of 1 to 16 begins, chance[i] by renewal, and what smoothing took of the sure moves.
    chance = [1.0]
    for i in range(1, 64):
        chance.append(sum(chance[max(0, i - 16) : i]) / 16)
    starts = np.mean(chance)
    np.testing.assert_allclose(found["code_bits"], 4 * starts - np.log2(1 - 1e-3 * 15 / 16) * (1 - starts), rtol=0.02)  # 5 standard errors of 2000 windows


def test_numbers_are_a_tokenizer():
    symbols = Numbers(12)
    assert symbols.encode("3 2 11").tolist() == [3, 2, 11] and symbols.decode(np.array([3, 2, 11])) == "3 2 11"
    for bad in ("3 two", "12", "-1"):
        with pytest.raises(ValueError, match="text"):
            symbols.encode(bad)
    for bad in (dict(tokenizer="numbers:many"), dict(tokenizer="numbers:1")):
        with pytest.raises(ValueError, match="data.tokenizer"):
            build.tokenizer(build.section(build.DataConfig, bad, "data"))
    with pytest.raises(ValueError, match="data.name and data.tokenizer"):
        build.corpus(build.section(build.DataConfig, {"name": "countdown"}, "data"), build.tokenizer(build.DataConfig()), "train")


@pytest.mark.parametrize("counts", [[0, 1, 5, 6, 16], [0, 1, 2, 3, 511, 700, 1021, 1022, 1024]])
@pytest.mark.parametrize("schedule", [schedules.Linear(1e-3), schedules.Cosine()])
def test_counts_become_times(counts, schedule, key):
    """k-Gillespie with the times of given counts reveals exactly those, whatever the schedule and alpha(1); of 1024 sites too."""
    process, length = processes.Absorbing(4, schedule), counts[-1]
    student = sampling.plain(countdown.times_of_counts(np.array(counts), process))
    sampling.check(student, process=process, solver="tweedie", form="score", reveal="counted")
    run = sampling.sampler(exact.denoiser(process), process, (2, length), reveal="counted", trajectory=True)
    _, states = run(key, exact.countdown(4), student)
    assert [np.asarray((s != 4).sum(-1)).tolist() for s in states] == [[k] * 2 for k in counts[1:]]


def test_every_schedule_beats_the_uniform_grid(key):
    """32 values, 64 sites, exact denoiser, NFE 8: cosine, dynamic programme and JYS violate less than the uniform grid, by more than 3 standard errors."""
    process = processes.Absorbing(32, schedules.Linear(1e-3))
    chain, denoiser, x_0 = exact.countdown(), exact.denoiser(process), jnp.asarray(Countdown(32, 64).windows(64))
    profile = countdown.profiles.measure(key, chain, x_0, countdown.steep_rates(), denoiser=denoiser, process=process)
    grid = {"uniform": grids.uniform(8), "cosine": grids.cosine(8), "dp": countdown.dp_times(profile, 8, process), "jys": jys.optimise_times(key, chain, x_0[:32], 8, denoiser=denoiser, process=process)}
    run = sampling.sampler(denoiser, process, (512, 64))
    broken = {name: metrics.violations(np.asarray(run(key, chain, sampling.plain(times)))).mean(1) for name, times in grid.items()}
    for name in ("cosine", "dp", "jys"):
        difference = broken["uniform"] - broken[name]
        assert difference.mean() > 3 * difference.std() / np.sqrt(len(difference))


BAD = [dict(nfe=(4, 6)), dict(nfe=()), dict(solver_nfe=(128,)), dict(solver_nfe=(1,), nfe=(1, 2)), dict(paper_nfe=(2,)), dict(windows=33), dict(windows=-32), dict(share=0.0), dict(share=1.0)]
BAD += [dict(precision="double"), dict(length=3), dict(length=8), dict(symbols=1), *(dict([(f"{name}samples", n)]) for name in ("", "solver_", "reference_", "trained_") for n in (0, -1))]


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match=f"report.{next(iter(bad))}"):
        build.section(countdown.CountdownConfig, bad, "report")


@pytest.mark.parametrize(
    ("flags", "field"),
    [
        ({"process.schedule": "cosine"}, "process.schedule"),
        ({"process.schedule": "geometric"}, "process.schedule"),
        ({"process.eps": 0.0}, "process.eps"),
        ({"process.name": "uniform"}, "process.name"),
        ({"trained": "nobody"}, "'nobody' does not exist"),
        ({"trained": "teacher_countdown"}, "trained is 'teacher_countdown', a network of 256 sites"),
        ({"report.precision": "double"}, "report.precision"),
    ],
)
def test_a_refused_run_leaves_nothing(flags, field, tmp_path):
    """What no run can use is refused before the folder is taken: the same folder serves once it is put right."""
    config = runpy.run_path(str(ROOT / "configs/lsd_countdown.py"))["get_config"]("smoke")
    config.update_from_flattened_dict(flags)
    with pytest.raises(ValueError, match=field):
        countdown.run(config, tmp_path)
    assert not list(tmp_path.iterdir())


def main(*arguments, **environment):
    command = [sys.executable, "-m", "jddd.main", "--config=configs/lsd_countdown.py:smoke", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment})


def test_the_experiment_at_small_size(tmp_path):
    """The command makes a page, plots and metrics.json; asked again it draws nothing anew; its Markdown is printed by jddd.report; bad flags are named."""
    done = main(f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "metrics.json").read_text())
    rows = {(r["sampler"], r["grid"], r["nfe"]): r for r in result["rows"]}
    assert len(rows) == len(result["rows"]) >= 25
    assert all(0 <= r["violation_rate"] <= 1 and 0 < r["entropy_1"] <= 3 for r in rows.values())
    assert result["violation_rate"] == {str(n): rows["LSD+ (Tweedie)", "learned", n]["violation_rate"] for n in (4, 8)}
    assert rows["First hitting (exact)", "none", 32]["violation_rate"] < 0.02 < rows["Tweedie (= Euler)", "uniform", 4]["violation_rate"]
    page = (tmp_path / "report.html").read_text()
    assert all(name in page for name in ("Theta-trapezoidal", "Entropy-bounded", "ReMDM", "JYS", "data:image/png"))
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "samples").iterdir()}
    assert main(f"--workdir={tmp_path}").returncode == 0
    assert before == {file.name: file.stat().st_mtime_ns for file in (tmp_path / "samples").iterdir()}
    printed = subprocess.run([sys.executable, "-m", "jddd.report", str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert "| violations a site" in printed.stdout
    with pytest.raises(ValueError, match="experiment 'countdown'"):
        runs.load(tmp_path)
    refused = main(f"--workdir={tmp_path / 'other'}", "--config.report.nfe=(4,6)")
    assert refused.returncode != 0 and "report.nfe" in refused.stderr and "Traceback" not in refused.stderr
