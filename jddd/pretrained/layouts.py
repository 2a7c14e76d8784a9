"""How the published families lay out their networks: names of tensors, as data that serve both ways, and what config.json says of sizes and process."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from jddd.build import NoiseConfig
from jddd.models import ddit
from jddd.models.dit import rotary_frequencies


class Family(NamedTuple):
    """prefix: of every key; processes: that its networks denoise; scores: log-scores, not logits of x_0; conditioned: on the noise level, None where the
    config says; latent: a mixture (Di4C); time: whether there is a conditioning vector at all."""

    prefix: str
    processes: tuple[str, ...]
    scores: bool = False
    conditioned: bool | None = None
    latent: bool = False
    time: bool = True


FAMILIES = {
    "sedd": Family("", ("absorbing", "uniform"), scores=True, conditioned=True),
    "radd": Family("", ("absorbing",), conditioned=False, time=False),
    "mdlm": Family("backbone.", ("absorbing",)),
    "sdtt": Family("backbone.", ("absorbing",)),
    "di4c": Family("backbone.", ("absorbing",), latent=True),
    "duo": Family("backbone.", ("uniform",), conditioned=True),
}
# (published module, ours, kind), in the order of the parameters, which is the only name that the averages of an EMA have.
MODULES = (
    ("vocab_embed", "embed", "table"),
    ("sigma_map.mlp.0", "sigma_in", "dense"),
    ("sigma_map.mlp.2", "sigma_out", "dense"),
    ("blocks", "block", "blocks"),
    ("output_layer.norm_final", "norm.layer", "norm"),
    ("output_layer.linear", "logits", "dense"),
    ("output_layer.adaLN_modulation", "modulation", "dense"),
    ("latent_projection.0", "latent_in", "dense"),
    ("latent_projection.2", "latent_out", "dense"),
)
BLOCK = (
    ("norm1", "norm_attention.layer", "norm"),
    ("attn_qkv", "qkv", "dense"),
    ("attn_out", "attention_out", "dense"),
    ("norm2", "norm_mlp.layer", "norm"),
    ("mlp.0", "mlp_in", "dense"),
    ("mlp.2", "mlp_out", "dense"),
    ("adaLN_modulation", "modulation", "dense"),
)
KINDS = {  # (published tensor, ours, whether it is transposed): torch keeps matrices (out, in)
    "table": (("embedding", "embedding", False),),
    "dense": (("weight", "kernel", True), ("bias", "bias", False)),
    "norm": (("weight", "scale", False), ("bias", "bias", False)),
}
WRAPPERS = ("module.", "_orig_mod.", "backbone.")  # what data-parallel training, torch.compile and Lightning modules put before a key, in any number
BUFFERS = ("rotary_emb.inv_freq",)  # no parameters: a function of the sizes
SIZES = {"width": "hidden_size", "depth": "n_blocks", "heads": "n_heads", "cond_dim": "cond_dim", "length": "length"}  # of hydra configs, under model
HUB_SIZES = SIZES | {"width": "hidden_dim", "length": "model_length", "states": "vocab_size"}  # of hub configs, at the top


class Tensor(NamedTuple):
    name: str  # without prefix
    path: tuple[str, ...]  # in our parameters
    transposed: bool
    shape: tuple[int, ...]  # of the published tensor


def tensors(config: ddit.DDiTConfig) -> list[Tensor]:
    """Every tensor of a network, in the order of the published parameters."""
    ours = traverse_util.flatten_dict(jax.eval_shape(lambda key: ddit.init(key, config, 4), jax.random.key(0)))
    blocks = [(f"blocks.{i}.{name}", f"block_{i}.{own}", kind) for i in range(config.depth) for name, own, kind in BLOCK]
    modules = [row for module in MODULES for row in (blocks if module[2] == "blocks" else (module,))]
    rows = [(f"{name}.{leaf}", (*own.split("."), own_leaf), transposed) for name, own, kind in modules for leaf, own_leaf, transposed in KINDS[kind]]
    return [Tensor(name, path, transposed, ours[path].shape[::-1] if transposed else ours[path].shape) for name, path, transposed in rows if path in ours]


def bare(name: str) -> str:
    """A tensor's name without what wrappers put before it."""
    for wrapper in WRAPPERS:
        if name.startswith(wrapper):
            return bare(name.removeprefix(wrapper))
    return name


def to_params(flat: dict[str, np.ndarray], config: ddit.DDiTConfig, where: str) -> dict:
    """Our parameters (float32) from published tensors by their names in the file. Raises ValueError naming the first tensor that is missing, of another
    shape, too many, or not finite, with the shape found and the shape expected."""
    wanted, found = tensors(config), {}
    for name in flat:
        if bare(name) in found:
            raise ValueError(f"{where}: tensor {name!r} of shape {flat[name].shape} is there twice, as {found[bare(name)]!r} too; expected one of them")
        if bare(name) not in BUFFERS:
            found[bare(name)] = name
    first = next(iter(found.items()), ("", ""))
    prefix = first[1].removesuffix(first[0])
    extra = [found[name] for name in found if name not in {tensor.name for tensor in wanted}]
    for tensor in wanted:
        if tensor.name not in found:
            instead = f"; the file has {extra[0]!r} of shape {flat[extra[0]].shape}, which is not expected" if extra else ""
            raise ValueError(f"{where}: tensor {prefix + tensor.name!r} is missing: found none, expected shape {tensor.shape}{instead}")
        array = flat[found[tensor.name]]
        if array.shape != tensor.shape:
            raise ValueError(f"{where}: tensor {found[tensor.name]!r} has shape {array.shape}, expected {tensor.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{where}: tensor {found[tensor.name]!r} of shape {array.shape} holds NaN or infinity, expected finite numbers of shape {tensor.shape}")
    if extra:
        raise ValueError(f"{where}: tensor {extra[0]!r} of shape {flat[extra[0]].shape} is too many, expected no tensor of that name in a network of these sizes: {config}")
    own = {tensor.path: np.asarray(flat[found[tensor.name]], np.float32) for tensor in wanted}
    return traverse_util.unflatten_dict({tensor.path: own[tensor.path].T if tensor.transposed else own[tensor.path] for tensor in wanted})


def from_params(params: dict, config: ddit.DDiTConfig, prefix: str) -> dict[str, np.ndarray]:
    """Published tensors, with the buffer of rotary frequencies that strict loaders ask for: the inverse of to_params."""
    ours = traverse_util.flatten_dict(jax.device_get(params))
    array = lambda tensor: np.ascontiguousarray(np.asarray(ours[tensor.path], np.float32).T if tensor.transposed else np.asarray(ours[tensor.path], np.float32))
    half = config.width // config.heads // 2
    return {prefix + tensor.name: array(tensor) for tensor in tensors(config)} | {prefix + BUFFERS[0]: rotary_frequencies(half)}


# ------------------------------------------------------------------------------------------------------------------------------------ config.json
def look(config: dict, path: str) -> Any:
    """config['a']['b'] at 'a.b', None where it is not; a hydra interpolation '${c.d}' is followed, one that is not a path of the config is None."""
    value: Any = config
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, str) and value.startswith("${"):
        target = value[2:-1]
        return look(config, target) if target != path and all(c.isalnum() or c in "._" for c in target) and not target.startswith(".") else None
    return value


def recognise(config: dict, names: set[str]) -> tuple[str, str] | None:
    """(family, what shows it) of a config and the bare names of tensors, None where nothing does."""
    model, parameterization, algorithm = (look(config, path) for path in ("model_type", "parameterization", "algo.name"))
    if isinstance(model, str) and model in FAMILIES:
        return model, f"model_type is {model!r}"
    if any(name.startswith("latent_projection.") for name in names) or config.get("is_di4c") is True:
        return "di4c", "is_di4c is true" if config.get("is_di4c") is True else "its tensors have 'latent_projection.0.weight'"
    if "vocab_embed.embedding" in names and "blocks.0.norm1.bias" in names:  # RADD's own configs have no graph
        return "radd", "its tensors have 'blocks.0.norm1.bias'"
    if look(config, "graph.type"):
        return "sedd", f"graph.type is {look(config, 'graph.type')!r}"
    if isinstance(algorithm, str) and (named := algorithm.partition("_")[0]) in ("duo", "mdlm"):
        return named, f"algo.name is {algorithm!r}"
    if "sdtt" in str(look(config, "parameterization.name")):
        return "sdtt", f"parameterization.name is {look(config, 'parameterization.name')!r}"
    return ("mdlm", "parameterization is 'subs'") if parameterization == "subs" else None


def family_of(config: dict, names: set[str], told: str, where: str) -> str:
    """The family of a checkpoint, told or found out. Raises ValueError where it is neither, or both and they disagree."""
    if told and told not in FAMILIES:
        raise ValueError(f"family is {told!r}; allowed: {', '.join(FAMILIES)}")
    found = recognise(config, names)
    if not (told or found):
        raise ValueError(f"{where}: neither config.json nor the tensors say which family this is; allowed: family= one of {', '.join(FAMILIES)}")
    alike = [{"mdlm", "sdtt"}] + ([] if names else [{"sedd", "radd"}])  # of one layout and one law; of one config, told apart by their tensors
    if told and found and told != found[0] and {told, found[0]} not in alike:
        raise ValueError(f"{where}: family is {told!r}, but {found[1]}; allowed: {found[0]!r}, or a checkpoint of {told!r}")
    return told or found[0]


def _process(config: dict, family: Family, where: str) -> dict:
    kind = look(config, "graph.type") if len(family.processes) > 1 else family.processes[0]
    kind = {"absorb": "absorbing"}.get(kind, kind)
    if kind not in family.processes:
        raise ValueError(f"{where}: config.json has graph.type {look(config, 'graph.type')!r}; allowed: absorb, uniform")
    if family.scores and bool(look(config, "model.scale_by_sigma")) != (kind == "absorbing"):
        raise ValueError(f"{where}: config.json has model.scale_by_sigma {look(config, 'model.scale_by_sigma')} and graph.type {look(config, 'graph.type')!r}; allowed: true for absorb, false for uniform")
    name = look(config, "noise.type") or "loglinear"
    if name not in ("loglinear", "log-linear", "geometric"):
        raise ValueError(f"{where}: config.json has noise.type {name!r}; allowed: loglinear, geometric")
    given = {}
    for field in ("eps", "sigma_min", "sigma_max"):
        value = look(config, f"noise.{field}")
        if isinstance(value, bool) or not isinstance(value, (int, float, type(None))):
            raise ValueError(f"{where}: config.json has noise.{field} {value!r}; allowed: a number")
        given[field] = float(getattr(NoiseConfig, field) if value is None else value)
    return dataclasses.asdict(NoiseConfig(name=kind, schedule="geometric" if name == "geometric" else "linear", **given))


def describe(config: dict, family_name: str, shapes: dict[str, tuple[int, ...]], where: str) -> dict:
    """The description of a checkpoint (what jddd writes beside weights of its own): sizes from config.json, those it does not have from the tensors' shapes,
    by bare names. Raises ValueError naming the field for a size that is neither, and for a config that this network cannot be."""
    family, model = FAMILIES[family_name], isinstance(config.get("model"), dict)
    names = {field: f"model.{name}" for field, name in SIZES.items()} if model else HUB_SIZES
    process = _process(config, family, where)
    sizes = {field: look(config, names[field]) for field in names}
    if config.get("tokens") is not None:
        sizes["states"] = config["tokens"] + (process["name"] == "absorbing")
    embedding, blocks = shapes.get("vocab_embed.embedding", (None, None)), {int(name.split(".")[1]) for name in shapes if name.startswith("blocks.") and name.split(".")[1].isdigit()}
    rotary, sigma = shapes.get(BUFFERS[0], (0,)), shapes.get("sigma_map.mlp.2.bias", (None,))
    by_shape = {"states": embedding[0], "width": embedding[-1], "depth": max(blocks) + 1 if blocks else None, "heads": embedding[-1] // (2 * rotary[0]) if rotary[0] and embedding[-1] else None, "cond_dim": sigma[0], "length": None}
    if not family.time:
        sizes["cond_dim"] = 0
    for field, value in by_shape.items():
        sizes[field] = value if sizes.get(field) is None else sizes[field]
        if isinstance(sizes[field], bool) or not isinstance(sizes[field], int) or sizes[field] < (field != "cond_dim" or family.time):
            raise ValueError(f"{where}: config.json has {names.get(field, 'the vocabulary')} {sizes[field]!r}; allowed: a whole number of 1 or more")
    if config.get("causal"):
        raise ValueError(f"{where}: config.json has causal true; allowed: false")
    length = sizes.pop("length")
    conditioned = family.conditioned if family.conditioned is not None else any(look(config, path) is True for path in ("time_conditioning", "algo.time_conditioning"))
    try:
        sized = ddit.DDiTConfig(**sizes, outputs=sizes["states"], time_conditioning=conditioned, latent=family.latent, scores=family.scores)
    except ValueError as error:
        raise ValueError(f"{where}: config.json describes no network: {error}") from None
    return {"family": family_name, "data": {"tokenizer": "", "length": length}, "process": process, "model": dataclasses.asdict(sized), "metrics": {}, "config": config}


def to_config(description: dict, family_name: str) -> str:
    """config.json of a description in a family's layout: the one it came with, if it is of that family, with its sizes."""
    model, process, family = description["model"], description["process"], FAMILIES[family_name]
    values = {field: model[field] for field in ("width", "depth", "heads", "cond_dim")} | {"length": description["data"]["length"], "states": model["states"]}
    config = json.loads(json.dumps(description.get("config", {}))) if description["family"] == family_name else {}
    noise = {"type": "geometric", **{k: process[k] for k in ("sigma_min", "sigma_max")}} if process["schedule"] == "geometric" else {"type": "loglinear"} | ({"eps": process["eps"]} if process["eps"] != 1e-3 else {})
    if family_name in ("mdlm", "duo") and not isinstance(config.get("model"), dict):
        name = family_name.upper()
        base = {"architectures": [name], "model_type": family_name, "dropout": 0.1, "return_dict": False, "torch_dtype": "float32"} | ({"causal": False} if name == "DUO" else {})
        config = base | config | {name: values[field] for field, name in HUB_SIZES.items()} | ({"time_conditioning": model["time_conditioning"]} if name == "MDLM" else {})
        return json.dumps(config | ({"noise": noise} if noise != {"type": "loglinear"} else {}), indent=2, sort_keys=True) + "\n"
    sizes = {"dropout": 0.1, "name": "exported", **(config.get("model") or {}), **{name: values[field] for field, name in SIZES.items() if field != "cond_dim" or family.time}}
    config = config | {"model": sizes, "noise": {**(config.get("noise") or {}), **noise}}
    if family_name in ("sedd", "radd"):
        absorbs = process["name"] == "absorbing"
        config |= {"tokens": model["states"] - absorbs, "graph": {**(config.get("graph") or {}), "type": "absorb" if absorbs else "uniform"}}
        sizes |= {"scale_by_sigma": absorbs, "type": "ddit"} if family_name == "sedd" else {"use_checkpoint": False, "dtype": "float32"}
    else:
        shown = {"mdlm": {"parameterization": "subs"}, "duo": {"algo": {"name": "duo"}}}.get(family_name, {"parameterization": {"name": "multi-round-sdtt"}})
        config = shown | config | {"time_conditioning": model["time_conditioning"]}
        config |= {"is_di4c": True} if family.latent else {}
    return json.dumps(config, indent=2, sort_keys=True) + "\n"
