"""Checkpoints of the published families (jddd.pretrained.layouts) in and out: SEDD, RADD, MDLM, SDTT, Di4C students, Duo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from safetensors.numpy import save_file

from jddd import build, processes
from jddd.models import ddit
from jddd.pretrained import files, layouts
from jddd.writers import write_whole


def load(path: Path, *, family: str = "", config: dict | None = None, average: bool = False) -> tuple[Any, dict]:
    """(params, description) of a folder or a file of weights, config.json beside it; see jddd.pretrained.load for the options.

    Raises one ValueError for whatever is wrong: the file, the config's field, or the first tensor, with the shape found and the shape expected."""
    file = files.find(path, average) if path.is_dir() else path
    where = f"checkpoint {str(file)!r}"
    settings = files.read_config(file) | (config or {})
    weights = files.read(file)
    flat = weights.tensors
    shapes = {layouts.bare(name): array.shape for name, array in flat.items()}
    found = layouts.family_of(settings, set(shapes), family, where)
    try:
        description = layouts.describe(settings, found, shapes, where)
        model = build.section(ddit.DDiTConfig, description["model"], "model")
    except (TypeError, ZeroDivisionError, AttributeError) as error:
        raise ValueError(f"{where}: its config.json does not describe a network: {type(error).__name__} {error}") from error
    if average:
        names = [tensor.name for tensor in layouts.tensors(model)]
        if weights.average is None:
            raise ValueError(f"{where} has no averaged weights (ema.shadow_params); allowed: average=False, or a checkpoint with them")
        if len(weights.average) != len(names):
            raise ValueError(f"{where} has {len(weights.average)} averaged tensors, expected {len(names)}, from {names[0]!r} to {names[-1]!r}")
        flat = dict(zip(names, weights.average))
    params = layouts.to_params(flat, model, where)
    return jax.tree.map(jnp.asarray, params), description | {"name": f"{found} ({path.name})"}


def fresh(key, config: dict, family: str = "") -> tuple[Any, dict]:
    """(params, description) of a network of random weights with the sizes of a config.json, which must have them all: to measure speed and memory with."""
    found = layouts.family_of(config, set(), family, "config")
    description = layouts.describe(config, found, {}, "config")
    return build.network_from(description).init(key), description | {"name": f"{found} (random weights)"}


def log_score(raw: Float[Array, "b l s"], tokens: Int[Array, "b l"], sigma: Float[Array, "*b"], process) -> Float[Array, "b l s"]:
    """SEDD's log-score over all S states at every site, masked or not, as its networks give it: raw - log(exp(sigma) - 1) - log V for the absorbing graph,
    raw for the uniform one, and 0 at the own state. jddd.score.log_score is the same where a score is used, and none at clean sites of a masked row."""
    if isinstance(process, processes.Absorbing):
        raw = raw - jnp.log(jnp.expm1(jnp.broadcast_to(sigma, raw.shape[:1])))[:, None, None] - jnp.log(float(process.symbols))
    return jnp.where(jax.nn.one_hot(tokens, process.states, dtype=bool), 0.0, raw)


def export(params: Any, description: dict, folder: str | Path, family: str = "") -> Path:
    """Write folder/config.json and folder/model.safetensors in a family's layout, by default its own (of mixtures Di4C's); returns the folder.

    Raises ValueError for a network that the family's code could not run: of another transformer, process, kind of output or conditioning."""
    if "family" not in description:
        raise ValueError(f"network {description.get('name')!r} is of jddd's own transformer, which no published layout holds; allowed: networks of {', '.join(layouts.FAMILIES)}, and their students")
    model, process, own = build.section(ddit.DDiTConfig, description["model"], "model"), description["process"], description["family"]
    if model.latent:  # a student may have what its teacher's family has no place for
        own = "di4c"
    elif layouts.FAMILIES[own].scores and not model.scores:
        own = "mdlm"
    name = family or own
    if name not in layouts.FAMILIES:
        raise ValueError(f"family is {name!r}; allowed: {', '.join(layouts.FAMILIES)}")
    wanted = layouts.FAMILIES[name]
    softmax = model.scores and process["name"] == "absorbing" and not wanted.scores  # log-scores of masked sites, normalised, are log-probabilities
    facts = {
        "process": (process["name"], " or ".join(wanted.processes), process["name"] in wanted.processes),
        "process.schedule": (process["schedule"], "linear, geometric", process["schedule"] in ("linear", "geometric")),
        "model.scores": (model.scores, wanted.scores, model.scores == wanted.scores or softmax),
        "model.latent": (model.latent, wanted.latent, model.latent == wanted.latent),
        "model.time_conditioning": (model.time_conditioning, wanted.conditioned, wanted.conditioned in (None, model.time_conditioning)),
        "model.cond_dim": (model.cond_dim, "above 0" if wanted.time else 0, bool(model.cond_dim) == wanted.time),
    }
    for field, (value, allowed, fits) in facts.items():
        if not fits:
            raise ValueError(f"network {description.get('name')!r} has {field} {value}, which family {name!r} does not; allowed: {allowed}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    flat = {key: np.asarray(value) for key, value in layouts.from_params(params, model, wanted.prefix).items()}
    temporary = folder / "model.safetensors.tmp"
    save_file(flat, temporary, metadata={"format": "pt"})
    temporary.replace(folder / "model.safetensors")
    write_whole(folder / "config.json", layouts.to_config(description, name))
    return folder
