"""Saving and restoring: orbax for runs that go on, safetensors for weights that travel. Nothing here executes code from a file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from jddd.writers import write_whole


def manager(workdir: str | Path, keep: int = 2) -> ocp.CheckpointManager:
    """Checkpoints of a run under workdir/checkpoints; what a killed save left behind is removed."""
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True, create=True)
    return ocp.CheckpointManager(Path(workdir).absolute() / "checkpoints", options=options)


def save(checkpoints: ocp.CheckpointManager, step: int, state: Any) -> None:
    """Save under the label `step`; a step that is already there is left as it is. The copy is what lets the caller donate `state` at once: on CPU
    the background write would otherwise read the donated buffers."""
    if step not in checkpoints.all_steps():
        checkpoints.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(jax.tree.map(jnp.copy, state))))


def restore(checkpoints: ocp.CheckpointManager, like: Any) -> Any | None:
    """The newest state, laid out as `like` (arrays or ShapeDtypeStructs with shardings), or None where there is none.

    Raises ValueError naming the folder when the newest checkpoint cannot be read."""
    step = checkpoints.latest_step()
    if step is None:
        return None
    try:
        return checkpoints.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like)))["state"]
    except Exception as error:
        folder = Path(checkpoints.directory) / str(step)
        raise ValueError(f"checkpoint {folder} cannot be restored ({type(error).__name__}: {str(error)[:200]}); remove that folder to go on from an earlier one") from error


def weight_files(path: str | Path) -> tuple[Path, Path]:
    """(path.safetensors, path.json); a dot in path is part of the name."""
    return Path(f"{path}.safetensors"), Path(f"{path}.json")


def digest(tree: Any) -> str:
    """A short fingerprint of a pytree of arrays: names, shapes, types and values."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def save_weights(path: str | Path, params: Any, config: dict) -> None:
    """params (nested dicts of arrays) as path.safetensors, float32, with `config` beside it as path.json."""
    weights, description = weight_files(path)
    weights.parent.mkdir(parents=True, exist_ok=True)
    flat = {k: np.asarray(v, np.float32, order="C") for k, v in traverse_util.flatten_dict(jax.device_get(params), sep=".").items()}
    temporary = weights.with_name(weights.name + ".tmp")
    save_file(flat, temporary)
    temporary.replace(weights)
    write_whole(description, json.dumps(config, indent=1, sort_keys=True) + "\n")


def load_weights(path: str | Path) -> tuple[Any, dict]:
    """(params, config) as save_weights wrote them. Raises ValueError naming the file when it is missing or damaged."""
    weights, description = weight_files(path)
    for file in (weights, description):
        if not file.is_file():
            raise ValueError(f"weights {str(file)!r} do not exist; allowed: a folder/name with name.safetensors and name.json")
    try:
        flat = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"weights {str(weights)!r} are damaged or truncated: {error}") from None
    try:
        config = json.loads(description.read_text())
    except ValueError as error:
        raise ValueError(f"weights {str(description)!r} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"weights {str(description)!r} holds a {type(config).__name__}; allowed: a JSON object")
    bad = [name for name, value in flat.items() if not np.isfinite(value).all()]
    if bad:
        raise ValueError(f"weights {str(weights)!r} hold NaN or infinity in {bad[:3]}; allowed: finite numbers")
    return traverse_util.unflatten_dict(flat, sep="."), config
