"""Train network students of a teacher, in rounds: Di4C (the student is a mixture) or SDTT (a product that takes longer steps). After a round the student is
the next round's teacher. Each round leaves weights that jddd.pretrained.load reads; jddd.compare samples and measures them beside their teacher."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jddd import build, checkpoints, optim, pretrain, pretrained, processes, runs, sharding, train
from jddd.distill import di4c, mixtures, sdtt
from jddd.models import dit


class Method(NamedTuple):
    """config: its settings' dataclass; task: (teacher's denoiser, student's denoiser, process, settings) -> the training task."""

    config: type
    task: Callable[..., train.Task]


METHODS = {"di4c": Method(di4c.Di4CConfig, di4c.task), "sdtt": Method(sdtt.SDTTConfig, sdtt.task)}
GAIN_TIMES = (0.25, 0.5, 0.75, 1.0)
GAIN_STEP = 1 / 8  # of a sampler of 8 even steps


def student_network(teacher: pretrained.Pretrained, method: str) -> tuple[dict, build.Network]:
    """(description, network) of a student: its teacher's, for Di4C with a latent. Of an absorbing process log-scores, normalised, are log-probabilities,
    so the student of a score network starts from the same weights; raises ValueError for score networks of other processes."""
    model, scores = teacher.description["model"], teacher.network.scores is not None
    if scores and not isinstance(teacher.network.process, processes.Absorbing):
        raise ValueError(f"the teacher {teacher.description.get('name')!r} learned scores of {teacher.network.process}; allowed: log-probabilities, or an absorbing process")
    model = model | {"latent": method == "di4c" or model.get("latent", False), "scores": False}
    description = teacher.description | {"model": model}
    return description, build.network_from(description)


def measure(key, params, windows: np.ndarray, network: build.Network, teacher: pretrained.Pretrained, reveal: str) -> dict[str, float]:
    """bits: NELBO of the student's marginals, bits a symbol; bits_over_teacher: less the teacher's on the same windows and noise, each with its standard
    error; of a mixture also gain_T: bits a sequence that its correlations add to the likelihood of data noised to time T, and gain_step_T: to that of what a
    step of 1/8 from there reveals, in the order `reveal` (di4c.gain; absorbing process)."""
    key_bits, key_gain = jax.random.split(key)
    latents = 16 if network.denoiser.mixture else 1  # the marginals of a mixture are taken over so many at once
    batch = min(64, pretrain.rows_at_once(latents * network.process.states, windows.shape[1]))
    bits_of = lambda params, network: pretrain.bits_of(key_bits, params, windows, network._replace(denoiser=mixtures.marginal(network.denoiser)), batch=batch)
    bits = bits_of(params, network)
    found = {}
    for name, values in {"bits": bits, "bits_over_teacher": bits - bits_of(teacher.params, teacher.network)}.items():
        found[name], found[f"{name}_error"] = pretrain.mean_and_error(values)
    if network.denoiser.mixture:
        rows = min(64, pretrain.rows_at_once(network.process.states, windows.shape[1]))
        some = windows[:: max(1, len(windows) // 64)][:64]  # from all over a file whose order drifts
        parts = [(jax.random.fold_in(key_gain, i) if i else key_gain, jnp.asarray(some[i : i + rows])) for i in range(0, len(some), rows)]
        steps = {"gain": None} | ({"gain_step": GAIN_STEP} if isinstance(network.process, processes.Absorbing) else {})
        one = lambda key, x_0, t, step: di4c.gain(key, params, x_0, jnp.full(len(x_0), t), student=network.denoiser, process=network.process, step=step, reveal=reveal)
        gain = lambda t, step: jnp.concatenate([one(*part, t, step) for part in parts]).mean()
        found |= {f"{name}_{t}": float(gain(t, step)) / math.log(2) for name, step in steps.items() for t in GAIN_TIMES}
    return found


def run(config: ConfigDict, workdir: Path) -> dict:
    """Train the rounds and write workdir/round_N.safetensors and .json; returns the last one's metrics. A run that was killed goes on where it was."""
    method, trains = config.method, build.pick(METHODS, config.method, "method")
    data = build.section(build.DataConfig, config.data, "data")
    settings = build.section(trains.config, config.distill, "distill")
    sizes = build.section(build.TrainConfig, config.train, "train")
    adjust = build.optim(config.optim)
    if not (isinstance(config.rounds, int) and config.rounds >= 1):
        raise ValueError(f"config field rounds is {config.rounds!r}; allowed: a whole number, 1 or more")
    teacher = pretrained.load(config.teacher)
    if teacher.network.process is None:
        raise ValueError(f"config field teacher is {config.teacher!r}, an autoregressive network; allowed: a denoiser")
    if method == "sdtt" and settings.step * settings.count * 2 ** (config.rounds - 1) > 1:
        raise ValueError(f"config fields rounds and distill are {config.rounds} and {settings}; allowed: steps within [0, 1] in all rounds, of which each doubles them")
    network = student_network(teacher, method)[1]
    trains.task(teacher.network.denoiser, network.denoiser, network.process, settings)  # refuses what it cannot train
    teacher, data = pretrained.with_data(teacher, data)
    corpora = {split: build.corpus(data, teacher.network.tokenizer, split) for split in ("train", "valid", "test")}
    digests = {"teacher": checkpoints.digest(teacher.params), "data": checkpoints.digest({split: c.symbols for split, c in corpora.items()})}
    runs.record(workdir, config, digests)
    name = str(config.teacher)
    for number in range(1, config.rounds + 1):
        path = workdir / f"round_{number}"
        if not checkpoints.weight_files(path)[1].is_file():
            if method == "sdtt":
                settings = dataclasses.replace(settings, step=config.distill.step * 2 ** (number - 1))
            _one_round(path, name, teacher, corpora, config, method, settings, sizes, adjust)
        name, teacher = path.name, pretrained.load(path)
    metrics = teacher.description["metrics"]
    (workdir / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    return metrics


def _one_round(path: Path, teacher_name: str, teacher: pretrained.Pretrained, corpora: dict[str, Any], config: ConfigDict, method: str, settings, sizes: build.TrainConfig, adjust) -> None:
    description, network = student_network(teacher, method)
    key_init, key_train, key_measure = jax.random.split(jax.random.fold_in(jax.random.key(sizes.seed), int(path.name.rsplit("_", 1)[1])), 3)
    initial = dit.from_teacher(network.init(key_init), teacher.params)
    windows = corpora["valid"].windows(64)
    measured = lambda state, windows: measure(key_measure, state.ema, windows, network, teacher, getattr(settings, "reveal", "independent"))
    begin = time.perf_counter()
    state = train.fit(
        key_train,
        METHODS[method].task(teacher.network.denoiser, network.denoiser, network.process, settings),
        optim.optimiser(adjust, sizes.steps),
        lambda step: corpora["train"].batch(step, sizes.batch, sizes.seed),
        steps=sizes.steps,
        frozen=teacher.params,
        initial=initial,
        ema=sizes.ema,
        microbatches=sizes.microbatches,
        on=sharding.mesh(sizes.model),
        workdir=path,
        save_every=sizes.save_every,
        log_every=sizes.log_every,
        evaluate=lambda state: {f"valid_{name}": value for name, value in measured(state, windows).items()},
        evaluate_every=sizes.evaluate_every,
        title=f"{config.name}, {path.name}",
    )
    seconds = time.perf_counter() - begin
    metrics = {f"test_{name}": value for name, value in measured(state, corpora["test"].windows(256)).items()} | {"train_seconds": seconds, "device": jax.devices()[0].device_kind, "date": time.strftime("%Y-%m-%d")}
    facts = {"name": f"{config.name}_{path.name}", "teacher": teacher_name, "method": method, "distill": dataclasses.asdict(settings), "train": dataclasses.asdict(sizes)}
    checkpoints.save_weights(path, state.ema, description | facts | {"optim": dataclasses.asdict(adjust), "metrics": metrics})
