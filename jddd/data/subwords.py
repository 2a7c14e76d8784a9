"""Subword symbols in the formats that tokenizers are published in, through the package tokenizers (extra `jddd[bpe]`)."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

BYTE_PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))  # one format under two pairs of names
STARTS = ("<|endoftext|>", "<|begin_of_text|>", "<|im_start|>", "<s>", "[CLS]")  # for files that do not say; GPT-2 has one token for both
ENDS = ("<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "</s>", "[SEP]")
LLAMA3_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CONTROL, USER_DEFINED = 3, 4  # types of tokens in a gguf


@dataclasses.dataclass(frozen=True)
class Subwords:
    """Subword symbols from a path: a `tokenizer.json`; a folder that holds one, or byte pairs as vocab.json + merges.txt (encoder.json + vocab.bpe); or a
    .gguf file with its own vocabulary. Two are equal where their paths are.

    start, end: the symbols that begin and end a document (bos, eos), None where the files name none. A special token written out in a text is read as that
    token and written back by decode, as the field's re-tokenising of samples has it. Raises ValueError naming the path where it holds none of these."""

    path: str

    def __post_init__(self):
        path = Path(self.path)
        if not path.exists():
            raise ValueError(f"data.tokenizer is {self.path!r}; allowed: 'characters', or an existing tokenizer.json, a folder with one, a folder with vocab.json and merges.txt, or a .gguf file")
        found, start, end = _read(str(path), path.stat().st_mtime_ns)
        for name, value in (("_tokenizer", found), ("start", start), ("end", end)):
            object.__setattr__(self, name, value)

    @property
    def size(self) -> int:
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> np.ndarray:
        """text -> symbols (n,) uint32; nothing is put around it."""
        return np.asarray(self._tokenizer.encode(text, add_special_tokens=False).ids, np.uint32)

    encode_piece = encode

    def decode(self, symbols: np.ndarray) -> str:
        """symbols (n,) -> text, without what lies past the vocabulary (the mask)."""
        size = self.size
        return self._tokenizer.decode([i for i in np.asarray(symbols).tolist() if i < size], skip_special_tokens=False)


@functools.lru_cache(maxsize=8)
def _read(path: str, changed: int) -> tuple[Any, int | None, int | None]:
    """(tokenizer, start, end) of a path as it was at `changed`, kept: reading a gguf's vocabulary takes a second."""
    try:
        import tokenizers
    except ImportError as error:
        raise ValueError(f"data.tokenizer is {path!r}, which needs the package tokenizers: pip install 'jddd[bpe]'") from error
    place = Path(path)
    if place.suffix == ".gguf":
        return _from_gguf(place)
    folder = place if place.is_dir() else place.parent
    file = folder / "tokenizer.json" if place.is_dir() else place
    pair = next(((folder / v, folder / m) for v, m in BYTE_PAIRS if (folder / v).is_file() and (folder / m).is_file()), None)
    try:
        if file.is_file():
            found = tokenizers.Tokenizer.from_file(str(file))
        elif pair:
            found = _byte_pairs(*tokenizers.models.BPE.read_file(*map(str, pair)))
        else:
            raise ValueError(f"data.tokenizer is {path!r}; allowed: a folder with tokenizer.json, or vocab.json and merges.txt, or encoder.json and vocab.bpe")
    except ValueError:
        raise
    except Exception as error:  # tokenizers raises plain Exception
        raise ValueError(f"data.tokenizer is {path!r}, which cannot be read: {str(error)[:200]}") from None
    return found, *(_named(folder, found, field, usual) for field, usual in (("bos", STARTS), ("eos", ENDS)))


def _byte_pairs(vocabulary: dict[str, int], merges: list[tuple[str, str]], words: str = "gpt-2"):
    """GPT-2's byte-pair tokenizer. words: how text is cut before pairs are merged, by the names a gguf uses."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    rules = {
        ("gpt-2", "gpt2", "default"): [pre_tokenizers.ByteLevel(add_prefix_space=False)],
        ("smollm",): [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
        ("llama-bpe", "llama3", "llama-v3"): [pre_tokenizers.Split(Regex(LLAMA3_WORDS), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)],
    }
    rule = next((rule for names, rule in rules.items() if words in names), None)
    if rule is None:
        raise ValueError(f"gguf field tokenizer.ggml.pre is {words!r}; allowed: {', '.join(name for names in rules for name in names)} (or give a tokenizer.json beside it)")
    found = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=words.startswith("llama")))
    found.pre_tokenizer, found.decoder = pre_tokenizers.Sequence(rule), decoders.ByteLevel()
    found.add_special_tokens([token for token in dict.fromkeys(STARTS + ENDS) if token in vocabulary])
    return found


def _named(folder: Path, found, field: str, usual: tuple[str, ...]) -> int | None:
    """The bos or eos symbol by the files beside the tokenizer, or else by its usual names."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        token = _json(folder / name).get(f"{field}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if token is not None and (symbol := found.token_to_id(token)) is not None:
            return symbol
    symbol = _json(folder / "config.json").get(f"{field}_token_id")
    symbol = symbol[0] if isinstance(symbol, list) and symbol else symbol  # Llama 3 chat models have several ends
    return symbol if isinstance(symbol, int) else next((i for token in usual if (i := found.token_to_id(token)) is not None), None)


def _json(file: Path) -> dict:
    """The object in a JSON file, {} where there is none."""
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(file)!r} is not JSON: {error}") from None
    return found if isinstance(found, dict) else {}


def _from_gguf(path: Path) -> tuple[Any, int | None, int | None]:
    """(tokenizer, start, end) of a gguf's metadata."""
    from tokenizers import AddedToken

    from jddd.judges.gguf_files import metadata

    facts = metadata(path, "tokenizer.ggml.")
    if facts.get("model") != "gpt2" or "tokens" not in facts or "merges" not in facts:
        raise ValueError(f"gguf field tokenizer.ggml.model of {str(path)!r} is {facts.get('model')!r}; allowed: 'gpt2' (byte pairs), with tokens and merges; for others give a tokenizer.json")
    tokens, merges = facts["tokens"], [tuple(pair.split(" ", 1)) for pair in facts["merges"]]
    found = _byte_pairs({token: i for i, token in enumerate(tokens)}, merges, facts.get("pre", "default"))
    kinds = facts.get("token_type", [])
    found.add_special_tokens([AddedToken(token, special=True, normalized=False) for token, kind in zip(tokens, kinds) if kind == CONTROL])
    found.add_tokens([AddedToken(token, normalized=False) for token, kind in zip(tokens, kinds) if kind == USER_DEFINED])
    return found, facts.get("bos_token_id"), facts.get("eos_token_id")
