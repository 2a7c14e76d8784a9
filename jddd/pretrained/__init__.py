"""Trained networks: those shipped with jddd by name, others by path, jddd's own weights and published checkpoints alike, or by their id of the Hugging Face hub.

    teacher = pretrained.load("kuleshov-group/mdlm-owt")       # or a folder, or a file: SEDD, RADD, MDLM, SDTT, Di4C students, Duo
    teacher.denoiser, teacher.process, teacher.params          # for every sampler and distiller
    teacher.network(tokens, sigma)                             # the raw output
    pretrained.export(student, "out")                          # back to the same layout
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jddd import build, checkpoints, score
from jddd.models import ddit
from jddd.pretrained import hub, published
from jddd.types import Denoiser

ASSETS = Path(__file__).parent / "assets"


class _Fields(NamedTuple):
    params: Any
    network: build.Network
    description: dict


class Pretrained(_Fields):
    """Parameters, their network, and the description that lies beside them on disk. `network` as an attribute can be called: it has the parameters."""

    __slots__ = ()

    @property
    def network(self) -> build.Network:
        plain = self[1]
        return plain._replace(bound=plain.raw and functools.partial(plain.raw, self.params))

    @property
    def process(self):
        return self[1].process

    @property
    def denoiser(self) -> Denoiser:
        return self[1].denoiser

    def log_score(self, tokens, noise):
        """SEDD's log p_t(y) / p_t(x_t) (B, L, S) of a network that learned scores, at tokens (B, L) and its noise: sigma (of jddd's own networks t), a scalar
        or one a row. Raises ValueError for other networks, whose scores process.log_score has."""
        if self[1].scores is None:
            raise ValueError(f"network {self.description.get('name')!r} did not learn scores; allowed: a SEDD network (process.log_score gives the scores of others)")
        raw, noise = self.network(tokens, noise), jnp.asarray(noise)
        if isinstance(self[1].dit, ddit.DDiTConfig):
            return published.log_score(raw, tokens, noise, self.process)
        return score.log_score(raw, tokens, noise if noise.ndim == 0 else noise[:, None], self.process)


def names() -> list[str]:
    """The networks that ship with jddd."""
    return sorted(path.stem for path in ASSETS.glob("*.safetensors"))


def load(name: str | Path, *, family: str = "", config: dict | None = None, average: bool = False) -> Pretrained:
    """A shipped network by name; one's own by path (with or without .safetensors; the .json lies beside it); a published checkpoint by its folder, its file,
    or its id 'owner/name' or 'owner/name@revision' of the Hugging Face hub, which is asked only if there is no such name and no such path.

    Of published checkpoints only: family: one of layouts.FAMILIES, '' to find out; config: fields that take the place of config.json's; average: the EMA's
    weights of a torch checkpoint. Raises ValueError naming the value for an unknown name, a damaged file, or weights whose shapes are not those asked for."""
    path = ASSETS / str(name)
    if str(name) not in names():
        path = Path(str(name).removesuffix(".safetensors"))
        if not all(file.is_file() for file in checkpoints.weight_files(path)):
            return _published(str(name), family=family, config=config, average=average)
    if family or config or average:
        raise ValueError(f"network {str(name)!r} is jddd's own, and family, config or average is given; allowed: them for published checkpoints only")
    params, description = checkpoints.load_weights(path)
    try:
        network = build.network_from(description)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"weights {path}.json do not describe a network: {type(error).__name__} {error}") from error
    wanted = jax.eval_shape(network.init, jax.random.key(0))
    shapes = lambda tree: {jax.tree_util.keystr(k): v.shape for k, v in jax.tree_util.tree_leaves_with_path(tree)}
    want, have = shapes(wanted), shapes(params)
    if want != have:
        odd = sorted(k for k in want.keys() | have.keys() if want.get(k) != have.get(k))[0]
        raise ValueError(f"weights {path}: {odd} has shape {have.get(odd)}; its description asks for {want.get(odd)}")
    return Pretrained(jax.tree.map(jnp.asarray, params), network, description)


def _published(name: str, **options) -> Pretrained:
    path = Path(name).expanduser()
    file = path if path.exists() else path.with_name(path.name + ".safetensors")
    if not (name and file.exists()):
        if not hub.ID.fullmatch(name) or path.parent.is_dir():  # in a folder that is here a name is a mistyped path, not a stranger's repository
            unset = "" if name else " (is config field teacher set?)"
            raise ValueError(f"network {name!r} does not exist{unset}; allowed: {', '.join(names())}, the path of a .safetensors file or of a folder with a published checkpoint, or an id 'owner/name' of the Hugging Face hub")
        file = hub.fetch(name, average=options["average"])
    params, description = published.load(file, **options)
    return Pretrained(params, build.network_from(description), description | {"name": f"{description['family']} ({name})"})


def fresh(key, config: dict, family: str = "") -> Pretrained:
    """A published network of random weights, of the sizes of a config.json (see published.fresh)."""
    params, description = published.fresh(key, config, family)
    return Pretrained(params, build.network_from(description), description)


def export(found: Pretrained, folder: str | Path, family: str = "") -> Path:
    """Write a published network, or a student of one, in a family's layout (see published.export)."""
    return published.export(found.params, found.description, folder, family)


def with_data(found: Pretrained, data: build.DataConfig) -> tuple[Pretrained, build.DataConfig]:
    """The network with symbols, and the config of its data: its own tokenizer where it has one, else data.tokenizer, in windows of its length.

    Raises ValueError where the tokenizer has not as many symbols as the network."""
    own = found.description["data"]
    if found[1].tokenizer is not None:
        return found, dataclasses.replace(data, length=found[1].length, tokenizer=own["tokenizer"])
    if not data.tokenizer:
        raise ValueError(f"config field data.tokenizer is '' and the network {found.description.get('name')!r} came without symbols; allowed: the path of the tokenizer.json it was trained with, of {found.process.symbols} symbols")
    symbols = build.tokenizer(data)
    if not build.spells(symbols, found.process):
        raise ValueError(f"config field data.tokenizer is {data.tokenizer!r}, of {symbols.size} symbols, and the network {found.description.get('name')!r} has {found.process.symbols}; allowed: the tokenizer it was trained with")
    description = found.description | {"data": own | {"tokenizer": data.tokenizer, "unknown": data.unknown}}
    return found._replace(network=found[1]._replace(tokenizer=symbols), description=description), dataclasses.replace(data, length=found[1].length)
