"""Network students end to end at toy size: a teacher of molecules, rounds of Di4C and SDTT, the comparison, each by the command line; a kill in between."""

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import jddd
from jddd import pretrained

pytest.importorskip("rdkit")
ROOT = Path(__file__).parent.parent
LINES = [f"{a}{b}{c}" for a in ("C", "CC", "N", "O", "CO") for b in ("CC", "C(C)C", "c1ccccc1", "C1CC1") for c in ("O", "N", "F", "CC", "Cl")]


def command(config, workdir, *more):
    return [sys.executable, "-m", "jddd.main", f"--config=configs/{config}", f"--workdir={workdir}", *more]


def finish(arguments):
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A teacher, two rounds of Di4C (the first killed with SIGKILL after its first checkpoint) and two of SDTT; a small file of molecules for all."""
    root = tmp_path_factory.mktemp("students")
    (root / "mine.smi").write_text("\n".join(LINES * 10))
    data = [f"--config.data.path={root / 'mine.smi'}", f"--config.data.cache={root / 'cache'}"]
    finish(command("teacher_molecules.py:smoke", root / "teacher", *data))
    teacher = [*data, f"--config.teacher={root / 'teacher' / 'model'}"]
    arguments = command("di4c_molecules.py:smoke", root / "di4c", *teacher)
    first = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while first.poll() is None and not (root / "di4c/round_1/checkpoints/3").is_dir():
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    finish(arguments)
    sizes = ["--config.train.steps=4", "--config.train.batch=4", "--config.train.microbatches=1", "--config.rounds=2"]
    finish(command("di4c_molecules.py:sdtt", root / "sdtt", *teacher, *sizes))
    students = [f"--config.students.Di4C={root / 'di4c/round_1'}", f"--config.students.Di4C_twice={root / 'di4c/round_2'}", f"--config.students.SDTT={root / 'sdtt/round_2'}"]
    finish(command("di4c_molecules.py:smoke_table", root / "table", *teacher, *students))
    return root


def test_students_are_networks(folder):
    """Each round leaves a network that loads: Di4C's are mixtures that have moved from their teacher, SDTT's are products; rounds differ."""
    first, second, product = (pretrained.load(folder / name) for name in ("di4c/round_1", "di4c/round_2", "sdtt/round_2"))
    assert first.network.denoiser.mixture and second.network.denoiser.mixture and not product.network.denoiser.mixture
    gates = np.asarray(first.params["block_0"]["latent_gate"])
    assert (gates != 0).all() and (np.asarray(second.params["block_0"]["latent_gate"]) != gates).all()
    for student, method in ((first, "di4c"), (product, "sdtt")):
        assert student.description["method"] == method and math.isfinite(student.description["metrics"]["test_bits"])
    assert product.description["distill"]["step"] == 2 / 256  # the second round's


def test_a_killed_round_goes_on_as_if_it_had_not(folder):
    """The weights are those of a run that was not killed, bit for bit."""
    more = [f"--config.data.path={folder / 'mine.smi'}", f"--config.data.cache={folder / 'cache'}", f"--config.teacher={folder / 'teacher/model'}", "--config.rounds=1"]
    finish(command("di4c_molecules.py:smoke", folder / "whole", *more))
    assert (folder / "whole/round_1.safetensors").read_bytes() == (folder / "di4c/round_1.safetensors").read_bytes()


def test_the_table_has_all_samplers(folder):
    """Teacher and students at each NFE, plain, LSD+ and hybrid; validity beside entropies; the share of the gap; a page with the plots."""
    metrics = json.loads((folder / "table/metrics.json").read_text())
    names = {(row["sampler"], row["nfe"]) for row in metrics["rows"]}
    for nfe in (2, 4):
        for name in ("Teacher", "Di4C", "Di4C twice", "SDTT", "Teacher, LSD+", "Di4C, LSD+", "Di4C twice, LSD+ spread", "Di4C, hybrid"):
            assert (name, nfe) in names
    for row in metrics["rows"]:
        assert 0 <= row["validity"] <= 1 and 0 < row["entropy_1"] <= math.log2(27) and row["entropy_4"] > 0
    assert {row["sampler"] for row in metrics["gaps"]} == {name for name, nfe in names} and "share of the gap closed" in metrics["gaps"][0]
    assert metrics["held_out"]["validity"] == 1
    page = (folder / "table/report.html").read_text()
    assert "<svg" in page and "Gaps closed" in page and "Di4C twice, LSD+ spread" in page


def test_a_student_is_sampled_by_name(folder):
    """jddd.load finds the student's own network behind a row of the table; rows of one network differ from another's."""
    run = jddd.load(folder / "table")
    di4c, teacher = (run.sample(name, nfe=4, count=8) for name in ("Di4C, LSD+", "Teacher, LSD+"))
    assert len(di4c) == 8 and all(isinstance(text, str) for text in di4c) and di4c != teacher


BAD = [
    (["--config.rounds=0"], "rounds is 0"),
    (["--config.method=lsd"], "method is 'lsd'"),
    (["--config.distill.near_share=2.0"], "distill.near_share is 2.0"),
    (["--config.teacher=judge_text"], "teacher is 'judge_text'"),
    (["--config.teacher=nowhere"], "'nowhere' does not exist"),
]


@pytest.mark.parametrize("arguments,message", BAD, ids=[message for _, message in BAD])
def test_bad_configs_are_one_line(tmp_path, arguments, message):
    done = subprocess.run(command("di4c_molecules.py:smoke", tmp_path / "run", "--config.teacher=teacher_text", *arguments), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and message in done.stderr and done.stderr.strip().splitlines()[-1].startswith("error:")
    assert not (tmp_path / "run/config.json").exists()
