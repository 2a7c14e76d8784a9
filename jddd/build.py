"""ConfigDict -> frozen objects, once. Nothing below this file sees a ConfigDict; every bad value is refused here, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax

from ml_collections import ConfigDict

from jddd import processes, schedules, score
from jddd.data import countdown, molecules, text
from jddd.models import ddit, dit
from jddd.optim import OptimConfig
from jddd.types import Denoiser

T = TypeVar("T")

MODULES = {dit.DiTConfig: dit, ddit.DDiTConfig: ddit}  # where the network of a config of sizes is
SCHEDULES = {"linear": schedules.Linear, "geometric": schedules.Geometric, "cosine": schedules.Cosine}
PROCESSES = {"absorbing": processes.Absorbing, "uniform": processes.Uniform}
COUNTS = {  # the fields that must be 1 or more, in whatever section
    *("length", "steps", "batch", "microbatches", "width", "depth", "heads", "model", "save_every", "log_every"),
    *("rounds", "teacher_steps", "samples", "profile_windows", "match_samples", "bootstrap"),
    *("symbols", "windows", "solver_samples", "reference_samples", "trained_samples"),
}


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """name: 'embedded', 'text8', 'tfds:NAME', 'molecules' or 'countdown'; path: a UTF-8 file instead; tokenizer: 'characters', a tokenizer.json, 'smiles'
    (or 'smiles:CHARACTERS') for one molecule a line, or 'numbers:32' for countdown; length: symbols a window."""

    name: str = "embedded"
    path: str = ""
    tokenizer: str = "characters"
    unknown: str = "space"
    length: int = 128
    cache: str = ""


@dataclasses.dataclass(frozen=True)
class ProcessConfig:
    """name: 'absorbing' or 'uniform'; schedule: 'linear', 'geometric' or 'cosine'; eps: of the linear schedule."""

    name: str = "absorbing"
    schedule: str = "linear"
    eps: float = 1e-3

    def __post_init__(self):
        if not 0 <= self.eps < 1:
            raise ValueError(f"config field process.eps is {self.eps}; allowed: 0 or more, below 1")


@dataclasses.dataclass(frozen=True)
class NoiseConfig(ProcessConfig):
    """The process of a published network, which may have other ends of the geometric schedule (SEDD's)."""

    sigma_min: float = 1e-3
    sigma_max: float = 20.0


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes of the transformer (see jddd.models.dit.DiTConfig)."""

    width: int = 128
    depth: int = 4
    heads: int = 2
    conv: int = 0
    causal: bool = False
    time_conditioning: bool = False
    latent: bool = False
    positions: bool = False
    scores: bool = False
    dtype: str = "float32"


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """floor bounds the NELBO's weight in training (jddd.processes.Absorbing.nelbo); model: devices that share one copy of the parameters."""

    steps: int = 1000
    batch: int = 64
    microbatches: int = 1
    ema: float = 0.999
    floor: float = 0.0
    seed: int = 0
    save_every: int = 500
    log_every: int = 20
    evaluate_every: int = 500
    model: int = 1

    def __post_init__(self):
        if self.batch % self.microbatches:
            raise ValueError(f"config field train.batch is {self.batch}; allowed: a multiple of train.microbatches, {self.microbatches}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"config field train.ema is {self.ema}; allowed: 0 or more, below 1")


def section(cls: type[T], values: ConfigDict | dict, name: str) -> T:
    """The dataclass of a config section. Raises ValueError naming section.field for an unknown field or a value of the wrong type."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key, value in dict(values).items():
        if key not in fields:
            raise ValueError(f"config field {name}.{key} is unknown; allowed: {', '.join(fields)}")
        wanted = type(fields[key].default)
        if wanted is tuple and isinstance(value, (tuple, list)):
            continue
        if isinstance(value, bool) != (wanted is bool) or not isinstance(value, (int, float) if wanted is float else wanted):
            raise ValueError(f"config field {name}.{key} is {value!r}; allowed: a value of type {wanted.__name__}")
        if wanted is int and key in COUNTS and value < 1:
            raise ValueError(f"config field {name}.{key} is {value}; allowed: 1 or more")
    frozen = lambda value: tuple(map(frozen, value)) if isinstance(value, (tuple, list)) else value
    return cls(**{key: float(value) if type(fields[key].default) is float else frozen(value) for key, value in dict(values).items()})


def defaults(cls: type, **values: Any) -> ConfigDict:
    """A config section with every field of its dataclass, so that each can be set by a flag (--config.section.field=value)."""
    return ConfigDict(dataclasses.asdict(cls(**values)))


def pick(table: dict[str, Any], value: str, field: str) -> Any:
    """table[value], or a ValueError naming the field and what is allowed."""
    if value not in table:
        raise ValueError(f"config field {field} is {value!r}; allowed: {', '.join(sorted(table))}")
    return table[value]


def process(config: ProcessConfig, symbols: int):
    schedule = pick(SCHEDULES, config.schedule, "process.schedule")
    numbers = {"linear": ("eps",), "geometric": ("sigma_min", "sigma_max")}.get(config.schedule, ())
    return pick(PROCESSES, config.name, "process.name")(symbols, schedule(**{name: getattr(config, name) for name in numbers if hasattr(config, name)}))


class Network(NamedTuple):
    """A network with everything needed to use it. process is None for a judge (causal); dit: its sizes, of jddd's own or of the published transformer;
    scores: the raw network of a denoiser that learns scores (jddd.score), else None; tokenizer: None for a published network nobody gave one.

    raw: (params, tokens (B, L), noise, latent or None) -> what the head gives (B, L, ...); noise: what the network takes in, t of jddd's own networks, sigma
    of published ones. bound: raw with parameters (jddd.pretrained); the network is then called without them."""

    tokenizer: Any
    process: Any
    dit: dit.DiTConfig | ddit.DDiTConfig
    denoiser: Denoiser
    length: int
    scores: Denoiser | None = None
    raw: Callable | None = None
    bound: Callable | None = None

    def init(self, key):
        """Fresh parameters."""
        return MODULES[type(self.dit)].init(key, self.dit, self.length)

    def __call__(self, tokens, noise, latent=None):
        """The raw output at tokens (B, L) and noise, a scalar or one a row, of a mixture at a latent (B,)."""
        if self.bound is None:
            raise ValueError("this network has no parameters; allowed: jddd.pretrained.load(...).network, or network.raw(params, tokens, noise, latent)")
        return self.bound(tokens, noise, latent)


def tokenizer(data: DataConfig):
    """What turns symbols into something to read."""
    kind, _, size = data.tokenizer.partition(":")
    if kind == "numbers":
        if not size.isdigit():
            raise ValueError(f"config field data.tokenizer is {data.tokenizer!r}; allowed: 'numbers:' and how many, as in 'numbers:32'")
        return countdown.Numbers(int(size))
    if kind == "smiles":
        return molecules.Smiles(size or molecules.MOSES)
    return text.tokenizer(data.tokenizer, data.unknown)


def network(data: DataConfig, process_config: ProcessConfig | None, model: ModelConfig) -> Network:
    """The denoiser of a process, or (process_config None) a causal judge whose start symbol is V."""
    symbols = tokenizer(data)
    chain = process(process_config, symbols.size) if process_config else None
    if model.causal != (chain is None):
        raise ValueError(f"config field model.causal is {model.causal}; allowed: true for a judge, false for a teacher")
    if model.scores and chain is None:
        raise ValueError("config field model.scores is True; allowed: false for a judge, which has no noise to have scores of")
    sizes = dit.DiTConfig(states=chain.states if chain else symbols.size + 1, symbols=symbols.size, **dataclasses.asdict(model))
    denoiser = plain = dit.denoiser(sizes)
    raw = jax.jit(lambda params, tokens, noise, latent=None: plain(params, tokens, noise, *(() if latent is None else (latent,))))
    if model.scores:
        return Network(symbols, chain, sizes, score.as_denoiser(chain, plain), data.length, plain, raw)
    if isinstance(chain, processes.Uniform):
        denoiser = processes.with_evidence(chain, denoiser)
    return Network(symbols, chain, sizes, denoiser, data.length, None, raw)


def spells(symbols, process) -> bool:
    """Whether a tokenizer is of a network's process: it has as many symbols, or of a uniform process one less, as Duo's networks have a row for a padding that
    GPT-2's tokenizer has no symbol for; no text holds it, and decoding leaves it out."""
    return process.symbols - symbols.size in ((0, 1) if isinstance(process, processes.Uniform) else (0,))


def published(description: dict) -> Network:
    """The network of a published family. Its tokenizer is the one the description names, None where that is '' or a file that is not here.

    Raises ValueError naming the field for sections that are not of a network, and for a tokenizer of other symbols."""
    model, noise, data = (section(cls, description[name], name) for cls, name in ((ddit.DDiTConfig, "model"), (NoiseConfig, "process"), (DataConfig, "data")))
    chain = process(noise, model.states - (noise.name == "absorbing"))
    own = data.tokenizer == "characters" or data.tokenizer.partition(":")[0] in ("numbers", "smiles")
    symbols = tokenizer(data) if own or (data.tokenizer and Path(data.tokenizer).exists()) else None
    if symbols and not spells(symbols, chain):
        raise ValueError(f"config field data.tokenizer is {data.tokenizer!r}, of {symbols.size} symbols; allowed: a tokenizer of {chain.symbols}, as many as the network's")
    raw = ddit.raw(model)
    if model.scores:
        scores = ddit.outputs(model, chain)
        return Network(symbols, chain, model, score.as_denoiser(chain, scores), data.length, scores, raw)
    denoiser = ddit.denoiser(model, chain)
    if isinstance(chain, processes.Uniform):  # Duo puts the network's law into q(x_s | x_t, x_0), which adds what the site itself says
        denoiser = processes.with_evidence(chain, denoiser)
    return Network(symbols, chain, model, denoiser, data.length, None, raw)


def network_from(description: dict) -> Network:
    """The network a weights file describes (the json beside the safetensors)."""
    if "family" in description:
        return published(description)
    process_config = section(ProcessConfig, description["process"], "process") if description.get("process") else None
    return network(section(DataConfig, description["data"], "data"), process_config, section(ModelConfig, description["model"], "model"))


def corpus(data: DataConfig, tokenizer, split: str) -> text.Corpus | molecules.Molecules | countdown.Countdown:
    """The data of a split. Raises ValueError where tokenizer and data do not go together."""
    wanted = {"countdown": "numbers", "molecules": "smiles"}.get("" if data.path else data.name)
    kind = data.tokenizer.partition(":")[0]
    if (wanted and kind != wanted) or (not wanted and (kind == "numbers" or (kind == "smiles" and not data.path))):
        raise ValueError(f"config fields data.name and data.tokenizer are {data.name!r} and {data.tokenizer!r}; allowed: 'countdown' with 'numbers:N', 'molecules' with 'smiles', text with the others")
    if data.name == "countdown":
        return countdown.Countdown(tokenizer.size, data.length, split)
    if kind == "smiles":
        lines = [stripped for line in "\n".join(text.documents(data.name, data.path, data.cache, split)).splitlines() if (stripped := line.strip())]
        if (number := next((i for i, line in enumerate(lines) if len(line.split()) > 1), None)) is not None:  # .smi files have names there
            raise ValueError(f"config field data.path is {data.path!r}, whose {split} molecule {number + 1} is {lines[number]!r}; allowed: one molecule a line and nothing else")
        return molecules.Molecules(molecules.table(lines, tokenizer, data.length))
    return text.corpus(tokenizer, length=data.length, split=split, name=data.name, path=data.path, cache=data.cache)


def optim(values: ConfigDict | dict) -> OptimConfig:
    return section(OptimConfig, values, "optim")
