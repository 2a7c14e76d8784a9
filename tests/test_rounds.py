"""Network students end to end at toy size: a teacher of molecules, rounds of Di4C and SDTT, the comparison, each by the command line; a kill in between."""

import json
import math
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import jddd
from jddd import compare, pretrained, rounds

pytest.importorskip("rdkit")
ROOT = Path(__file__).parent.parent
LINES = [f"{a}{b}{c}" for a in ("C", "CC", "N", "O", "CO") for b in ("CC", "C(C)C", "c1ccccc1", "C1CC1") for c in ("O", "N", "F", "CC", "Cl")]


def configured(file, variant, **changes):
    """The config of a file with fields changed, by dotted name."""
    config = runpy.run_path(str(ROOT / "configs" / file))["get_config"](variant)
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return config


def start(file, workdir, **changes):
    """The command line of the same, in a process of its own (with one device, where the tests have eight)."""
    flags = [f"--config.{name.replace('__', '.')}={value}" for name, value in changes.items()]
    return subprocess.Popen([sys.executable, "-m", "jddd.main", f"--config=configs/{file}", f"--workdir={workdir}", *flags], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(*arguments, **changes):
    process = start(*arguments, **changes)
    errors = process.communicate()[1]
    assert process.returncode == 0, errors[-3000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A teacher, two rounds of Di4C (the first killed with SIGKILL after its first checkpoint) and two of SDTT; a small file of molecules for all."""
    root = tmp_path_factory.mktemp("students")
    (root / "mine.smi").write_text("\n".join(LINES * 10))
    data = dict(data__path=str(root / "mine.smi"), data__cache=str(root / "cache"))
    finish("teacher_molecules.py:smoke", root / "teacher", **data)
    teacher = data | {"teacher": str(root / "teacher" / "model")}
    killed = start("di4c_molecules.py:smoke", root / "di4c", **teacher)
    while killed.poll() is None and not (root / "di4c/round_1/checkpoints/3").is_dir():
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL and (root / "di4c/round_1/checkpoints/3").is_dir()
    assert not (root / "di4c/round_2.json").exists(), "the run ended before it could be killed"
    finish("di4c_molecules.py:smoke", root / "di4c", **teacher)
    finish("di4c_molecules.py:smoke", root / "whole", **teacher, rounds=1)
    finish("di4c_molecules.py:sdtt", root / "sdtt", **teacher, rounds=2, train__steps=4, train__batch=4, train__microbatches=1)
    students = {"students__Di4C": "di4c/round_1", "students__Di4C_twice": "di4c/round_2", "students__SDTT": "sdtt/round_2"}
    finish("di4c_molecules.py:smoke_table", root / "table", **teacher, **{name: root / path for name, path in students.items()})
    return root


def test_students_are_networks(folder):
    """Each round leaves a network that loads: Di4C's are mixtures that have moved from their teacher, SDTT's are products; rounds differ."""
    first, second, product = (pretrained.load(folder / name) for name in ("di4c/round_1", "di4c/round_2", "sdtt/round_2"))
    assert first.network.denoiser.mixture and second.network.denoiser.mixture and not product.network.denoiser.mixture
    value = np.asarray(first.params["block_0"]["latent_value"]["kernel"])
    assert value.any() and (np.asarray(second.params["block_0"]["latent_value"]["kernel"]) != value).any()
    for student, method in ((first, "di4c"), (product, "sdtt")):
        assert student.description["method"] == method and math.isfinite(student.description["metrics"]["test_bits"])
    assert product.description["distill"]["step"] == 2 / 256  # the second round's


def test_a_killed_round_goes_on_as_if_it_had_not(folder):
    """The weights are those of a run that was not killed, bit for bit."""
    assert (folder / "whole/round_1.safetensors").read_bytes() == (folder / "di4c/round_1.safetensors").read_bytes()


def test_the_table_has_all_samplers(folder):
    """Teacher and students, plain, LSD+ and hybrid; validity beside entropies; the share of the gap; a page with the plots."""
    metrics = json.loads((folder / "table/metrics.json").read_text())
    names = {(row["sampler"], row["nfe"]) for row in metrics["rows"]}
    for name in ("Teacher", "Di4C", "Di4C twice", "SDTT", "Teacher, LSD+", "Di4C, LSD+", "Di4C twice, LSD+ spread", "Di4C, hybrid", "SDTT, equal entropy", "Di4C, LSD+ spread, equal entropy"):
        assert (name, 4) in names
    assert [(row["sampler"], row["nfe"]) for row in metrics["rows"][:2]] == [("Teacher", 8), ("Teacher, ReMDM", 8)]  # long runs
    for row in metrics["rows"]:
        assert 0 <= row["validity"] <= 1 and 0 < row["entropy_1"] <= math.log2(27) and row["entropy_4"] > 0
    assert {row["sampler"] for row in metrics["gaps"]} == {name for name, nfe in names} and "closed" in metrics["gaps"][0]
    assert metrics["held_out"]["validity"] == 1
    assert [(row["network"], row["nfe"]) for row in metrics["code_lengths"]] == [(name, 4) for name in ("Teacher", "Di4C", "Di4C twice", "SDTT")]
    page = (folder / "table/report.html").read_text()
    assert "<svg" in page and "Gaps closed" in page and "Code length" in page and "Di4C twice, LSD+ spread" in page


def test_a_student_is_sampled_by_name(folder):
    """jddd.load finds the student's own network behind a row of the table; rows of one network differ from another's."""
    run = jddd.load(folder / "table")
    di4c, teacher = (run.sample(name, nfe=4, count=8) for name in ("Di4C", "Teacher"))  # plain samplers: only the networks differ
    assert len(di4c) == 8 and all(isinstance(text, str) for text in di4c) and di4c != teacher


BAD = [
    ("smoke", dict(rounds=0), "rounds is 0"),
    ("smoke", dict(method="lsd"), "method is 'lsd'"),
    ("smoke", dict(distill__near_share=2.0), "distill.near_share is 2.0"),
    ("smoke", dict(teacher="judge_text"), "teacher is 'judge_text'"),
    ("smoke", dict(teacher="nowhere"), "'nowhere' does not exist"),
    ("sdtt", dict(teacher="teacher_text_uniform"), "absorbing"),
    ("sdtt", dict(teacher="teacher_countdown", rounds=9), "rounds"),
    ("smoke_table", dict(teacher="teacher_text", students__Di4C="teacher_countdown", students__Di4C_twice="", students__SDTT=""), "students.Di4C is 'teacher_countdown'"),
    ("smoke_table", dict(report__nfe=()), "report.nfe"),
    ("smoke_table", dict(report__remask=1.5, students__Di4C_twice="", students__SDTT=""), "report.remask is 1.5"),
    ("smoke_table", dict(teacher="teacher_text_uniform", data__name="embedded", data__tokenizer="characters", data__length=128, students__Di4C="", students__Di4C_twice="", students__SDTT=""), "report.remask is 0.05 with Uniform"),
    ("smoke_table", dict(teacher="teacher_molecules", report__remask_at=1.0, students__Di4C="", students__Di4C_twice="", students__SDTT=""), "remasking loop"),
    ("smoke_table", dict(report__cost_windows=33), "report.cost_windows is 33"),
    ("smoke_table", dict(report__remask_temperature=0.0), "report.remask_temperature is 0.0"),
    ("smoke_table", dict(teacher="teacher_molecules", report__cost_windows=32 * 10**5, students__Di4C="", students__Di4C_twice="", students__SDTT=""), "report.cost_windows is 3200000 and the train split"),
]


@pytest.mark.parametrize("variant,changes,message", BAD, ids=[message for *_, message in BAD])
def test_bad_configs_are_refused_before_a_folder_is_taken(tmp_path, variant, changes, message):
    config = configured("di4c_molecules.py", variant, **({"teacher": "teacher_text"} | changes))
    with pytest.raises(ValueError, match=message):
        (compare if config.experiment == "compare" else rounds).run(config, tmp_path)
    assert not (tmp_path / "config.json").exists()
