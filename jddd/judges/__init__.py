"""Published language models as judges of samples: GPT-2 and Llama families, from a Hugging Face folder, a hub id or a .gguf file."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jddd.data.subwords import Subwords
from jddd.judges import folders, gguf_files
from jddd.models import lm
from jddd.models.lm import LMConfig
from jddd.pretrained import hub

WANTED_FILES = ("*.json", "*.safetensors", "merges.txt")  # of a hub repository
BUCKET = 64  # rows are padded to a multiple of this, so that texts of many lengths compile a few times only


class Judge(NamedTuple):
    """name: where it came from; params of jddd.models.lm; tokenizer: with `start` and `end`, the symbols of documents' beginnings and ends."""

    name: str
    config: LMConfig
    params: Any
    tokenizer: Subwords


def known(name: str | Path) -> bool:
    """Whether a name is that of a published judge: a .gguf file, a folder with a config.json, or a hub id, owner/name or owner/name@revision, that is no path here."""
    path = Path(name).expanduser()
    if path.suffix == ".gguf" or (path / "config.json").is_file():
        return True
    return bool(hub.ID.fullmatch(str(name))) and not any(Path(f"{name}{end}").exists() for end in ("", ".safetensors", ".json"))


def load(name: str | Path, *, tokenizer: str | Path = "", dtype: str = "float32") -> Judge:
    """The judge of a folder (config.json, model.safetensors or shards, tokenizer files), a .gguf file or a hub id (owner/name or owner/name@revision).

    tokenizer: a path for jddd.data.subwords where the judge's own files hold none; dtype: of parameters and activations, 'float32' or 'bfloat16' (half the
    memory; softmaxes and log-probabilities stay float32). Raises ValueError naming the first offending file, field or tensor, the shape found and the
    shape expected."""
    path = Path(name).expanduser()
    if not path.exists() and path.suffix != ".gguf":
        if not hub.ID.fullmatch(str(name)) or path.parent.is_dir():  # in a folder that is here a name is a mistyped path
            raise ValueError(f"judge {str(name)!r} does not exist; allowed: a folder with config.json and model.safetensors, a .gguf file, or a hub id, owner/name")
        path = _from_hub(str(name))
    config, params = gguf_files.load(path, dtype) if path.suffix == ".gguf" else folders.load(path, dtype)
    symbols = Subwords(str(tokenizer or path))
    if symbols.size > config.symbols:
        raise ValueError(f"judge {str(name)!r} has {config.symbols} symbols and its tokenizer {symbols.size}; allowed: the tokenizer it was trained with")
    return Judge(str(name), config, params, symbols)


def _from_hub(name: str) -> Path:
    """All files of a judge, shards and tokenizer too, in huggingface_hub's usual cache; the revision is printed, so that a table can say what judged it."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ValueError(f"judge {name!r} does not exist here; as an id of the Hugging Face hub it needs the package huggingface_hub: pip install 'jddd[hub]'") from None
    owner, _, revision = name.partition("@")
    try:
        found = Path(snapshot_download(owner, revision=revision or None, allow_patterns=list(WANTED_FILES)))
    except Exception as error:  # no such repository or revision, no rights, no connection: types of several libraries
        raise ValueError(f"judge {name!r} cannot be had from the Hugging Face hub: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from None
    print(f"{owner}: revision {found.name} (pin it as {owner}@{found.name})", file=sys.stderr)
    return found


def _batches(judge: Judge, rows: Sequence[np.ndarray], size: int, progress: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(indices, tokens (size, L)) of rows of like length, padded on the right, the last batch with rows of zeros. The longest first: what does not fit
    fails at once. Raises ValueError for a row that is empty, longer than the context, or holds what is no symbol of the judge."""
    for i, row in enumerate(rows):
        if not 1 <= len(row) <= judge.config.context or np.max(row) >= judge.config.symbols or np.min(row) < 0:
            raise ValueError(f"row {i} has {len(row)} tokens; allowed: 1 to {judge.config.context}, each in 0 .. {judge.config.symbols - 1}")
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    for begin in tqdm(range(0, len(order), size), desc="judge", unit="batch", disable=not progress):
        index = np.array(order[begin : begin + size])
        length = min(-(-max(len(rows[i]) for i in index) // BUCKET) * BUCKET, judge.config.context)
        tokens = np.zeros((size, length), np.int32)
        for place, i in enumerate(index):
            tokens[place, : len(rows[i])] = rows[i]
        yield index, tokens


def log_likelihood(judge: Judge, rows: Sequence[np.ndarray], *, batch: int = 8, progress: bool = False) -> list[np.ndarray]:
    """log p(x_i | x_<i) in nats for i >= 1 of every row of tokens (n,) -> (n - 1,) float32. Rows may differ in length; results are in their order."""
    found: list[np.ndarray] = [np.zeros(0, np.float32)] * len(rows)
    for index, tokens in _batches(judge, rows, batch, progress):
        value = np.asarray(lm.log_likelihood(judge.config, judge.params, jnp.asarray(tokens)))
        for i, row in zip(index, value):
            found[i] = row[: len(rows[i]) - 1]
    return found


def features(judge: Judge, rows: Sequence[np.ndarray], *, batch: int = 8, progress: bool = False) -> np.ndarray:
    """The hidden state after the last norm at the last token of every row, (N, width) float32: what MAUVE quantises."""
    found = np.zeros((len(rows), judge.config.width), np.float32)
    for index, tokens in _batches(judge, rows, batch, progress):
        hidden = lm.features(judge.config, judge.params, jnp.asarray(tokens))
        found[index] = np.asarray(hidden[np.arange(len(index)), [len(rows[i]) - 1 for i in index]], np.float32)
    return found
