"""Configs become frozen objects once, and every bad value is refused there by name."""

import dataclasses
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from jddd import build, compare, countdown, di4c_laboratory, experiment, optim, rounds
from jddd.distill import di4c, lsd
from jddd.models import dit

ROOT = Path(__file__).parents[1]
SECTIONS = {
    "data": build.DataConfig,
    "process": build.ProcessConfig,
    "model": build.ModelConfig,
    "train": build.TrainConfig,
    "optim": build.OptimConfig,
    "distill": lsd.LSDConfig,
    "report": experiment.ReportConfig,
}
OTHERS = {  # sections that are another class in an experiment
    ("countdown", "report"): countdown.CountdownConfig,
    ("compare", "report"): compare.CompareConfig,
    ("di4c_laboratory", "report"): di4c_laboratory.LaboratoryConfig,
    ("di4c_laboratory", "distill"): di4c.Di4CConfig,
}
PRETRAIN = ("data", "model", "optim", "train")  # and process, unless it is a judge


def class_of(config, name):
    """The dataclass of a section of a config."""
    if (config.experiment, name) == ("student", "distill"):
        return rounds.METHODS[config.method].config
    return OTHERS.get((config.experiment, name), SECTIONS[name])


def get_config(file):
    return runpy.run_path(str(ROOT / "configs" / file))["get_config"]


def variants(file):
    """The variants that a config file lists when it is asked for one it does not have."""
    with pytest.raises(ValueError, match="allowed: ") as refused:
        get_config(file)("no such variant")
    return ["" if name == "nothing" else name for name in str(refused.value).split("allowed: ")[1].split(", ")]


FILES = sorted(path.name for path in (ROOT / "configs").glob("*.py"))
CONFIGS = [(file, variant) for file in FILES for variant in variants(file)]


# ------------------------------------------------------------------------------------------------------------------------------------ config files
def test_the_config_files_are_found():
    """Each file has a quick variant and at least one other, and is the default of its own docstring."""
    assert {"judge_text.py", "lsd_text.py", "teacher_text.py"} <= set(FILES)
    for file in FILES:
        names = variants(file)
        assert "smoke" in names and len(names) > 1 and len(set(names)) == len(names)
        assert get_config(file)().to_dict() in [get_config(file)(name).to_dict() for name in names if name != "smoke"]
        assert f"configs/{file}" in (ROOT / "configs" / file).read_text().split('"""')[1]


# What is no flag: in the main job windows and symbols are the teacher's, and students with and without learned times are both made.
PAPERS = ("di4c_sdtt.py", "lsd_duo.py", "lsd_radd.py", "lsd_sedd_small.py", "sdtt_mdlm.py")  # published networks: at full size in test_paper_configs.py
SETTLED = {("lsd_text.py", "data"): {"length", "tokenizer"}, ("lsd_text.py", "distill"): {"learn_times"}, ("lsd_countdown.py", "distill"): {"learn_times"}}
SETTLED |= {(file, "data"): {"length"} for file in PAPERS} | {(file, "distill"): {"learn_times"} for file in PAPERS if file.startswith("lsd")}


@pytest.mark.parametrize(("file", "variant"), CONFIGS, ids=[f"{file}:{variant}" for file, variant in CONFIGS])
def test_every_config_builds(file, variant):
    """Each section is a dataclass with every field present (so that each is a flag), and what it describes can be made."""
    config = get_config(file)(variant)
    assert config.experiment in ("pretrain", "distill", "countdown", "student", "compare", "di4c_laboratory") and config.name.startswith(file.removesuffix(".py"))
    built = {}
    for name in [key for key, value in config.items() if isinstance(value, ConfigDict) and key != "students"]:
        section = class_of(config, name)
        built[name] = build.section(section, config[name], name)
        settled = SETTLED.get((file, name), set())
        assert set(config[name].keys()) | settled == {field.name for field in dataclasses.fields(section)}
    if config.experiment == "pretrain":
        assert set(PRETRAIN) <= set(built)
        network = build.network(built["data"], built.get("process"), built["model"])
        params = jax.eval_shape(lambda key: dit.init(key, network.dit, network.length), jax.random.key(0))
        moments = jax.eval_shape(optim.optimiser(built["optim"], built["train"].steps).init, params)
        assert len(jax.tree.leaves(moments)) > len(jax.tree.leaves(params))
        out = jax.eval_shape(lambda p, x: network.denoiser(p, x, jnp.ones(())), params, jnp.zeros((2, network.length), jnp.int32))
        assert out.shape == (2, network.length, network.tokenizer.size) and out.dtype == jnp.float32
        assert built["train"].batch % built["train"].microbatches == 0
    elif config.experiment == "countdown":
        assert set(built) == {"process", "distill", "report"}
        assert config.trained in ("teacher_countdown", "")
    elif config.experiment == "student":
        assert set(built) == {"data", "distill", "optim", "train"} and config.rounds >= 1
        assert built["train"].batch % built["train"].microbatches == 0
    elif config.experiment == "compare":
        assert set(built) == {"data", "distill", "report"} and list(config.students)
    elif config.experiment == "di4c_laboratory":
        assert set(built) == {"model", "distill", "optim", "train", "report"}
    else:
        assert set(built) == {"data", "distill", "report"}
        assert {config.teacher, config.judge} == {"teacher_text", "judge_text"} or file in PAPERS


def stated_sizes():
    """(file, variant, size) wherever a docstring of a config file says '... X M parameters'."""
    lines = [(file, line) for file in FILES for line in (ROOT / "configs" / file).read_text().split('"""')[1].splitlines()]
    found = [(file, re.search(r"configs/\w+\.py(?::(\w+))?\s.*?([\d.]+) M parameters", line)) for file, line in lines]
    return [(file, match[1] or "", match[2]) for file, match in found if match]


@pytest.mark.parametrize(("file", "variant", "millions"), stated_sizes())
def test_networks_are_as_large_as_their_files_say(file, variant, millions):
    """Parameters by eval_shape, rounded to the digits of the docstring."""
    config = get_config(file)(variant) if variant else get_config(file)()
    process = build.section(build.ProcessConfig, config.process, "process") if config.get("process") else None
    network = build.network(build.section(build.DataConfig, config.data, "data"), process, build.section(build.ModelConfig, config.model, "model"))
    params = jax.eval_shape(lambda key: dit.init(key, network.dit, network.length), jax.random.key(0))
    assert f"{sum(x.size for x in jax.tree.leaves(params)) / 1e6:.{len(millions.partition('.')[2])}f}" == millions


def test_sizes_are_stated():
    """So that the test above is about something: the judge and two teachers say how large they are."""
    assert {("judge_text.py", ""), ("teacher_text.py", "small"), ("teacher_text.py", "base")} <= {(file, variant) for file, variant, _ in stated_sizes()}


# ---------------------------------------------------------------------------------------------------------------------------------------- sections
@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_is_what_was_written(name):
    """section(cls, defaults(cls)) = cls() for every section, from a ConfigDict, a dict, or nothing; with fields changed, those are changed."""
    cls = SECTIONS[name]
    assert build.section(cls, build.defaults(cls), name) == build.section(cls, {}, name) == build.section(cls, dataclasses.asdict(cls()), name) == cls()


def test_numbers_and_lists_are_taken_as_fields_want_them():
    """A whole number will do for a float, a list of lists for a tuple of tuples; the result can be hashed."""
    eps = build.section(build.ProcessConfig, {"eps": 0}, "process").eps
    assert eps == 0 and isinstance(eps, float)
    report = build.section(experiment.ReportConfig, {"nfe": [4, 8], "claim_nfe": [4], "confidences": [[0.0, 1.0], [2.0, 3.0]]}, "report")
    assert report.nfe == (4, 8) and report.confidences == ((0.0, 1.0), (2.0, 3.0))
    assert isinstance(hash(report), int)


WRONG = [
    ("data", "length", "128"),
    ("data", "length", 128.0),
    ("data", "length", True),
    ("data", "length", None),
    ("data", "path", 3),
    ("data", "path", None),
    ("process", "eps", "small"),
    ("process", "eps", False),
    ("process", "name", ["absorbing"]),
    ("model", "causal", 1),
    ("model", "causal", "true"),
    ("model", "dtype", 32),
    ("model", "width", (128,)),
    ("train", "ema", "0.9"),
    ("train", "steps", 1e3),
    ("optim", "clip", None),
    ("distill", "steps", "300"),
    ("report", "nfe", 8),
    ("report", "nfe", "8"),
]


@pytest.mark.parametrize(("name", "field", "value"), WRONG)
def test_values_of_another_type_are_refused(name, field, value):
    """ValueError names section.field, the value and the type that is wanted."""
    wanted = type(getattr(SECTIONS[name](), field)).__name__
    with pytest.raises(ValueError) as refused:
        build.section(SECTIONS[name], {field: value}, name)
    assert f"{name}.{field} is {value!r}" in str(refused.value) and wanted in str(refused.value)


@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("data", "length"),
        ("model", "width"),
        ("model", "depth"),
        ("model", "heads"),
        ("train", "steps"),
        ("train", "batch"),
        ("train", "microbatches"),
        ("train", "save_every"),
        ("train", "log_every"),
        ("train", "model"),
        ("distill", "steps"),
        ("distill", "batch"),
        ("distill", "rounds"),
        ("distill", "teacher_steps"),
        ("report", "samples"),
        ("report", "batch"),
        ("report", "teacher_steps"),
        ("report", "profile_windows"),
        ("report", "match_samples"),
        ("report", "bootstrap"),
    ],
)
def test_counts_are_one_or_more(name, field, value):
    """A count of zero or less is a ValueError that names section.field and the value; one is a count."""
    with pytest.raises(ValueError, match=rf"{name}\.{field} is {value}; allowed: 1 or more"):
        build.section(SECTIONS[name], {field: value}, name)
    extra = {"heads": 1} if field == "width" else {}
    assert getattr(build.section(SECTIONS[name], {field: 1} | extra, name), field) == 1


@pytest.mark.parametrize("name", SECTIONS)
def test_unknown_fields_are_refused(name):
    """ValueError names section.field and lists the fields there are, from a ConfigDict as from a dict."""
    fields = ", ".join(field.name for field in dataclasses.fields(SECTIONS[name]))
    for values in ({"lenght": 3}, ConfigDict({"lenght": 3})):
        with pytest.raises(ValueError) as refused:
            build.section(SECTIONS[name], values, name)
        assert f"{name}.lenght" in str(refused.value) and fields in str(refused.value)


@pytest.mark.parametrize(
    ("sections", "field"),
    [
        (dict(process=dict(name="masked")), "process.name"),
        (dict(process=dict(schedule="quadratic")), "process.schedule"),
        (dict(process=dict(eps=1.0)), "process.eps"),
        (dict(process=dict(eps=-0.1)), "process.eps"),
        (dict(process=dict(eps=float("nan"))), "process.eps"),
        (dict(model=dict(causal=True)), "model.causal"),
        (dict(model=dict(dtype="float64")), "model.dtype"),
        (dict(model=dict(width=10, heads=4)), "model.width"),
        (dict(model=dict(conv=-3)), "model.conv"),
        (dict(data=dict(unknown="drop")), "data.unknown"),
        (dict(data=dict(tokenizer="gpt2")), "data.tokenizer"),
        (dict(train=dict(batch=8, microbatches=3)), "train.batch"),
        (dict(train=dict(ema=1.0)), "train.ema"),
        (dict(train=dict(ema=-0.5)), "train.ema"),
        (dict(optim=dict(name="sgd")), "optim.name"),
        (dict(optim=dict(learning_rate=0.0)), "optim.learning_rate"),
        (dict(distill=dict(objective="mle")), "distill.objective"),
        (dict(distill=dict(relaxed=1.0)), "distill.relaxed"),
        (dict(distill=dict(noise="coupled", form="log_score")), "distill.noise"),
        (dict(distill=dict(renormalise=False)), "distill.renormalise"),
        (dict(report=dict(precision="double")), "report.precision"),
        (dict(report=dict(nfe=())), "report.nfe"),
        (dict(report=dict(nfe=(4, 0))), "report.nfe"),
    ],
)
def test_values_without_meaning_are_refused(sections, field):
    """A value of the right type that no experiment can use is a ValueError that names it, when its section or its network is built."""
    with pytest.raises(ValueError, match=field.replace(".", r"\.")):
        built = {name: build.section(SECTIONS[name], values, name) for name, values in sections.items()}
        build.network(*(built.get(name, SECTIONS[name]()) for name in ("data", "process", "model")))


def test_a_judge_is_causal_and_a_teacher_is_not():
    """Without a process the network must be causal and reads one symbol more, the start; with one it must not be."""
    data = build.DataConfig(length=8)
    judge = build.network(data, None, build.ModelConfig(causal=True))
    assert judge.process is None and (judge.dit.states, judge.dit.symbols) == (28, 27)
    absorbing, uniform = (build.network(data, build.ProcessConfig(name=name), build.ModelConfig()) for name in ("absorbing", "uniform"))
    assert (absorbing.dit.states, uniform.dit.states) == (28, 27)
    with pytest.raises(ValueError, match=r"model\.causal is False"):
        build.network(data, None, build.ModelConfig())


# ------------------------------------------------------------------------------------------------------------------------------------ command line
def test_the_command_line_says_what_is_wrong_in_one_line(tmp_path):
    """A bad value ends `python -m jddd.main` with exit status 1 and one line that names it: no traceback, nothing trained."""
    command = [sys.executable, "-m", "jddd.main", "--config=configs/teacher_text.py:smoke", f"--workdir={tmp_path / 'run'}"]
    options = dict(cwd=ROOT, capture_output=True, text=True, timeout=120, env=os.environ | {"JDDD_CACHE": str(tmp_path / "cache")})
    done = subprocess.run([*command, "--config.data.path=/no/such/file.txt"], **options)
    assert done.returncode == 1 and done.stdout == ""
    said = done.stderr.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("error: data.path is '/no/such/file.txt'")
    assert not (tmp_path / "run" / "checkpoints").exists()
