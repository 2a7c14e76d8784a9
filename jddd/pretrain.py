"""Training a teacher (a denoiser) or a judge (autoregressive), and measuring what came out."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jddd import build, checkpoints, losses, optim, pretrained, runs, score, sharding, train
from jddd.models import dit

BITS = 1 / math.log(2)


def task(network: build.Network, floor: float = 0.0) -> train.Task:
    """The training task of a network: NELBO of a denoiser, score entropy of a score network, next-symbol cross-entropy of a judge."""

    def loss(params, key, x_0, frozen):
        if network.process is None:
            value = losses.autoregressive(params, x_0, denoiser=network.denoiser, start_id=network.tokenizer.size).mean()
        elif network.scores:
            value = score.loss(key, params, x_0, process=network.process, network=network.scores).mean()
        else:
            value = losses.nelbo(key, params, x_0, process=network.process, denoiser=network.denoiser, floor=floor).mean()
        return value, {"bits": value * BITS}

    return train.Task(network.init, loss)


@functools.partial(jax.jit, static_argnames=("process", "denoiser", "start_id"))
def _bits(key, params, x_0, *, process, denoiser, start_id):
    if process is None:
        return losses.autoregressive(params, x_0, denoiser=denoiser, start_id=start_id).mean(-1) * BITS
    return (losses.nelbo(key, params, x_0, process=process, denoiser=denoiser, low=0.0) + process.prior_kl()) * BITS


LARGEST = 2**27  # floats in one array of probabilities: half a GiB, of which a measurement holds several


def rows_at_once(states: int, length: int) -> int:
    """How many rows of a length have probabilities that fit in LARGEST floats: a power of 2, 1 at least. Only a vocabulary of thousands leaves room for less than hundreds."""
    return 2 ** max(0, (LARGEST // (states * length)).bit_length() - 1)


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """The mean of values (N,) and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def bits_per_symbol(key, params, windows: np.ndarray, network: build.Network, **options) -> tuple[float, float]:
    """(mean, standard error over windows) of `bits_of`."""
    return mean_and_error(bits_of(key, params, windows, network, **options))


def bits_of(key, params, windows: np.ndarray, network: build.Network, *, batch: int = 64, repeats: int = 1) -> np.ndarray:
    """The NELBO or the exact code length, bits a symbol, of each of windows (N, L); networks asked with one key and batch see the same noise.

    Each batch, of `batch` rows or as many as memory has room for, takes stratified times, and the NELBO is averaged over `repeats` passes with fresh noise."""
    values, batch = [], min(batch, rows_at_once(network.tokenizer.size, windows.shape[1]))
    for repeat in range(1 if network.process is None else repeats):
        for i in range(0, len(windows), batch):
            key_batch = jax.random.fold_in(jax.random.fold_in(key, repeat), i)
            x_0 = jnp.asarray(windows[i : i + batch])
            values.append(_bits(key_batch, params, x_0, process=network.process, denoiser=network.denoiser, start_id=network.tokenizer.size))
    return np.concatenate(values).reshape(-1, len(windows)).mean(0)  # passes over one window are not independent windows


def _initial(name: str, network: build.Network, key):
    """The parameters training goes on from, or None for fresh ones; weights made without positions may get them, which say nothing at first.

    Raises ValueError where they are those of another network."""
    if not name:
        return None
    found = pretrained.load(name)
    if network.dit.positions and not getattr(found.network.dit, "positions", True):
        found = found._replace(
            params=dit.from_teacher(network.init(key), found.params),
            network=found.network._replace(dit=dataclasses.replace(found.network.dit, positions=True)),
        )
    for part in ("dit", "process", "tokenizer", "length"):
        if getattr(found.network, part) != getattr(network, part):
            raise ValueError(f"config field initial is {name!r}, with {part} {getattr(found.network, part)}; allowed: {getattr(network, part)}")
    return found.params


def run(config: ConfigDict, workdir: str | Path) -> dict:
    """Train, evaluate on held-out data, and write workdir/model.safetensors, model.json and metrics.json.

    config.initial (if set) names weights to start from, with the optimiser and its rates anew: a further run of a network that was not trained enough."""
    data = build.section(build.DataConfig, config.data, "data")
    model = build.section(build.ModelConfig, config.model, "model")
    process_config = build.section(build.ProcessConfig, config.process, "process") if config.get("process") else None
    sizes = build.section(build.TrainConfig, config.train, "train")
    settings = build.optim(config.optim)
    network = build.network(data, process_config, model)
    corpora = {split: build.corpus(data, network.tokenizer, split) for split in ("train", "valid", "test")}
    key_train, key_valid, key_test = jax.random.split(jax.random.key(sizes.seed), 3)
    initial = _initial(config.get("initial", ""), network, key_train)
    runs.record(Path(workdir), config, ({"initial": checkpoints.digest(initial)} if initial else {}) | {"text": checkpoints.digest({split: c.symbols for split, c in corpora.items()})})
    on = sharding.mesh(sizes.model)

    def evaluate(state):
        bits, error = bits_per_symbol(key_valid, state.ema, corpora["valid"].windows(512), network)
        return {"valid_bits": bits, "valid_bits_error": error}

    begin = time.perf_counter()
    state = train.fit(
        key_train,
        task(network, sizes.floor),
        optim.optimiser(settings, sizes.steps),
        lambda step: corpora["train"].batch(step, sizes.batch, sizes.seed),
        steps=sizes.steps,
        initial=initial,
        ema=sizes.ema,
        microbatches=sizes.microbatches,
        on=on,
        workdir=workdir,
        save_every=sizes.save_every,
        log_every=sizes.log_every,
        evaluate=evaluate,
        evaluate_every=sizes.evaluate_every,
        title=config.name,
    )
    seconds = time.perf_counter() - begin
    bits, error = bits_per_symbol(key_test, state.ema, corpora["test"].windows(2048), network, repeats=4)
    metrics = {
        "test_bits_per_symbol": bits,
        "standard_error": error,
        "measure": "code length" if network.process is None else "NELBO",
        "test_windows": len(corpora["test"].windows(2048)),
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
        "train_seconds": seconds,
        "device": jax.devices()[0].device_kind,
        "date": time.strftime("%Y-%m-%d"),
    }
    description = {
        "name": config.name,
        "initial": config.get("initial", ""),
        "data": dataclasses.asdict(data) | {"cache": "", "path": ""},
        "process": dataclasses.asdict(process_config) if process_config else None,
        "model": dataclasses.asdict(model),
        "train": dataclasses.asdict(sizes),
        "optim": dataclasses.asdict(settings),
        "metrics": metrics,
    }
    checkpoints.save_weights(Path(workdir) / "model", state.ema, description)
    (Path(workdir) / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    return metrics
