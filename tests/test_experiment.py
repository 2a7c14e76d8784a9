"""The main job at smoke size, end to end in its own process: what it writes, that it goes on after a kill, and that its result can be used."""

import json
import math
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import jddd
from jddd import experiment, sample
from jddd.evaluate import with_temperature

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "jddd.main", "--config=configs/lsd_text.py:smoke"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A smoke run, killed with SIGKILL as soon as three rows are sampled, then run again to its end."""
    workdir = tmp_path_factory.mktemp("runs") / "smoke"
    command = [*COMMAND, f"--workdir={workdir}"]
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while first.poll() is None and len(list(workdir.glob("samples/*[!p].npz"))) < 3:
        time.sleep(0.2)
    assert first.poll() is None, "the run ended before it could be killed"
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = {f: f.stat().st_mtime_ns for f in workdir.glob("samples/*.npz") if not f.name.endswith(".tmp.npz")}
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr[-3000:]
    assert kept and all(f.stat().st_mtime_ns == then for f, then in kept.items())  # sampled rows were not drawn again
    return workdir, second


def test_metrics_hold_every_row_and_figure(run):
    """Rows for each sampler and NFE; wherever there is a judge's figure its entropies stand beside it."""
    metrics = json.loads((run[0] / "metrics.json").read_text())
    assert set(metrics) >= {"columns", "headline", "rows", "config", "versions", "seconds", "bounds", "claims", "judge_order", "distillation"}
    names = {(r["sampler"], r["nfe"]) for r in metrics["rows"]}
    for nfe in (4, 8):
        for sampler in ("Euler", "Tweedie", "LSD", "LSD+ (Euler)", "LSD+ (Tweedie)", "Euler, T matched to LSD+"):
            assert (sampler, nfe) in names
    assert ("Teacher", 16) in names
    for r in metrics["rows"]:
        for figure in ("judge_bits", "entropy_1", "entropy_4", "words", "distinct_4", "seconds", "ratio_to_network_calls"):
            assert math.isfinite(r[figure]), (r["sampler"], figure)
        low, high = r["judge_bits_interval"]
        assert low <= r["judge_bits"] <= high and 0 < r["entropy_1"] <= math.log2(27) and r["entropy_4"] <= math.log2(8 * 125) + 1e-9
    assert all(seconds >= 0 for seconds in metrics["seconds"].values())
    for bound in metrics["bounds"]:
        # 1 %: the agreement asked of gradient and dynamic programme; here in excess, with 60 steps of Adam, so a little more is left.
        assert bound["dynamic programme"] <= bound["uniform"] + 1e-6
        assert bound["LSD+ (Tweedie)"] <= bound["uniform"] + 1e-6


def test_report_is_one_self_contained_page(run):
    page = (run[0] / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=.?https?:", page)
    for part in ("Samplers", "Quality against NFE", "Quality against entropy", "Learned numbers", "Samples", "Config, seeds and versions"):
        assert part.lower() in page.lower()


def test_a_finished_run_samples_in_two_lines(run):
    texts = jddd.load(run[0]).sample("LSD+", nfe=8, count=3, prefix="in the beginning ")
    assert len(texts) == 3 and all(t.startswith("in the beginning ") and len(t) == 128 for t in texts)
    assert all(set(t) <= set(" abcdefghijklmnopqrstuvwxyz") for t in texts)
    again = jddd.load(run[0]).sample("LSD+", nfe=8, count=3, prefix="in the beginning ")
    assert texts == again  # a seed is a sample


def test_command_line_fills_a_template(run, capsys):
    sample.main([f"--run={run[0]}", "--sampler=Euler", "--nfe=4", "--count=2", "--template=the lord ____ unto moses"])
    lines = capsys.readouterr().out.strip("\n").split("\n")
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("the lord ") and line[13:25] == " unto moses "[:12].ljust(12)[:12] or line[13:24] == " unto moses"
        assert "_" not in line


def test_bad_requests_of_a_run(run, tmp_path):
    loaded = jddd.load(run[0])
    with pytest.raises(ValueError, match="no sampler 'Heun'"):
        loaded.sample("Heun")
    for request, field in (
        (dict(count=0), "count is 0"), (dict(count=-1), "count is -1"), (dict(length=-5), "length is -5"), (dict(prefix="in ", template="in the ____"), "prefix is 'in ' and template 'in the ____'"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=field):
            loaded.sample("LSD+", nfe=8, **request)
    with pytest.raises(SystemExit, match="error: count is -1"):
        sample.main([f"--run={run[0]}", "--count=-1"])
    with pytest.raises(ValueError, match="at most the length 8"):
        loaded.sample("LSD+", nfe=8, length=8, prefix="much too long a prefix")
    with pytest.raises(ValueError, match="students.json does not exist"):
        jddd.load(tmp_path)
    (tmp_path / "students.json").write_text('[{"sampler": 1')
    with pytest.raises(ValueError, match="students.json is damaged"):
        jddd.load(tmp_path)
    other = subprocess.run([*COMMAND, f"--workdir={run[0]}", "--config.report.seed=5"], cwd=ROOT, capture_output=True, text=True)
    assert other.returncode != 0 and "another config" in other.stderr and "Traceback" not in other.stderr


def test_claims_compare_at_equal_entropy_only():
    """A row within 2 % of the reference's entropy counts as equal; a sharper one does not, whatever its judge bits."""
    row = lambda sampler, nfe, bits, entropy: {"sampler": sampler, "grid": "", "nfe": nfe, "judge_bits": bits, "judge_bits_interval": [bits, bits], "judge_bits_error": 0.01, "entropy_1": 4.0, "entropy_4": entropy}
    rows = [row("Euler", 16, 2.5, 11.0), row("LSD+", 8, 2.4, 11.1), row("sharp", 8, 1.0, 9.0)]
    found = {c["sampler"]: c for c in experiment.claims(rows, experiment.ReportConfig())}
    assert found["LSD+"]["equal_entropy"] and found["LSD+"]["as_good"]
    assert not found["sharp"]["equal_entropy"]


def test_temperature_multiplies_every_step(run):
    entry = jddd.load(run[0]).entry("LSD+ tuned", 4)
    hot = with_temperature(entry, 2.0)
    np.testing.assert_allclose(hot.student.temperatures, 2 * np.asarray(entry.student.temperatures), rtol=1e-6)
