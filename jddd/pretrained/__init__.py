"""Trained networks: those shipped with jddd by name, any other by the path of its safetensors file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jddd import build, checkpoints
from jddd.models import dit

ASSETS = Path(__file__).parent / "assets"


class Pretrained(NamedTuple):
    params: Any
    network: build.Network
    description: dict


def names() -> list[str]:
    """The networks that ship with jddd."""
    return sorted(path.stem for path in ASSETS.glob("*.safetensors"))


def load(name: str | Path) -> Pretrained:
    """A shipped network by name, or one's own by path (with or without .safetensors; the .json lies beside it).

    Raises ValueError naming the value for an unknown name, a damaged file, or weights whose shapes are not those the description asks for."""
    path = ASSETS / str(name)
    if str(name) not in names():
        path = Path(str(name).removesuffix(".safetensors"))
        if not checkpoints.weight_files(path)[0].is_file():
            raise ValueError(f"network {str(name)!r} does not exist; allowed: {', '.join(names())}, or the path of a .safetensors file")
    params, description = checkpoints.load_weights(path)
    try:
        network = build.network_from(description)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"weights {path}.json do not describe a network: {type(error).__name__} {error}") from error
    wanted = jax.eval_shape(lambda key: dit.init(key, network.dit, network.length), jax.random.key(0))
    shapes = lambda tree: {jax.tree_util.keystr(k): v.shape for k, v in jax.tree_util.tree_leaves_with_path(tree)}
    want, have = shapes(wanted), shapes(params)
    if want != have:
        odd = sorted(k for k in want.keys() | have.keys() if want.get(k) != have.get(k))[0]
        raise ValueError(f"weights {path}: {odd} has shape {have.get(odd)}; its description asks for {want.get(odd)}")
    return Pretrained(jax.tree.map(jnp.asarray, params), network, description)
