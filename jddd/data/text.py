"""Text: one tensorflow-datasets builder for every source, symbols, and windows as a pure function of (seed, step).

The builder keeps documents as they are and runs without tensorflow (array_record). Symbols and windows are cheap and are made in memory, so that
one prepared cache serves every alphabet and every window length.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import lzma
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jddd.data.subwords import Subwords

ASSETS = Path(__file__).parent / "assets"
EMBEDDED = ("embedded", "molecules")
VALID_MOLECULES = 158  # each 158th line of the training file is set apart as valid: its order drifts, so that no stretch of it has its law
SPLITS = ("train", "valid", "test")
TEXT8_URL = "http://mattmahoney.net/dc/text8.zip"
_DIGITS = dict(zip("0123456789", "zero one two three four five six seven eight nine".split()))


# --------------------------------------------------------------------------------------------------------------------------------------- symbols
@dataclasses.dataclass(frozen=True)
class Characters:
    """The text8 alphabet: space and a-z, 27 symbols. Digits are spelled, everything else becomes a space, runs of spaces become one.

    unknown: 'space' (the text8 rule) or 'error' (refuse text that is not already in the alphabet).
    """

    unknown: str = "space"
    alphabet: str = " abcdefghijklmnopqrstuvwxyz"

    def __post_init__(self):
        if self.unknown not in ("space", "error"):
            raise ValueError(f"data.unknown is {self.unknown!r}; allowed: 'space', 'error'")

    @property
    def size(self) -> int:
        return len(self.alphabet)

    def encode(self, text: str) -> np.ndarray:
        """text -> symbols (n,) uint8. Raises ValueError for a symbol outside the alphabet when unknown='error'."""
        if self.unknown == "error" and (bad := set(text) - set(self.alphabet) - {"\n"}):
            raise ValueError(f"data.unknown is 'error' and the text holds {sorted(bad)[:8]}; allowed symbols: {self.alphabet!r}")
        spelled = re.sub(r"\d", lambda d: f" {_DIGITS.get(d[0], '')} ", text.lower())
        plain = re.sub(r"[^a-z]+", " ", spelled).strip()
        table = np.zeros(256, np.uint8)
        table[np.frombuffer(self.alphabet.encode(), np.uint8)] = np.arange(self.size)
        return table[np.frombuffer(plain.encode(), np.uint8)]

    def encode_piece(self, text: str) -> np.ndarray:
        """As encode, but a space at either end stays: for a piece of a longer text."""
        return self.encode(f"a{text}a")[1:-1]

    def decode(self, symbols: np.ndarray) -> str:
        """symbols (n,) -> text; a symbol past the alphabet (the mask) is shown as '_'."""
        table = np.frombuffer(self.alphabet.encode().ljust(256, b"_"), np.uint8)
        return table[np.minimum(np.asarray(symbols), 255)].tobytes().decode()


def tokenizer(name: str = "characters", unknown: str = "space") -> Characters | Subwords:
    """'characters', or the path of a published tokenizer (jddd.data.subwords)."""
    return Characters(unknown) if name == "characters" else Subwords(name)


# --------------------------------------------------------------------------------------------------------------------------------------- sources
def _embedded(name: str, split: str) -> Iterator[dict]:
    """The documents that ship with jddd: English text, or all molecules of a split as one document, one a line."""
    if name == "molecules":
        with lzma.open(ASSETS / "molecules" / f"{'test' if split == 'test' else 'train'}.smi.xz", "rt", encoding="ascii") as file:
            lines = file.read().splitlines()
        if split == "valid":
            lines = lines[::VALID_MOLECULES]
        if split == "train":
            del lines[::VALID_MOLECULES]
        yield {"source": "moses", "id": split, "text": "\n".join(lines)}
        return
    with lzma.open(ASSETS / "text" / f"{split}.jsonl.xz", "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def read_utf8(path: str | os.PathLike) -> str:
    """A user's file as text. Raises ValueError naming data.path for a missing, empty or non-UTF-8 file."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"data.path is {str(path)!r}, which is not a file; allowed: an existing UTF-8 text file")
    raw = path.read_bytes()
    if not raw.strip():
        raise ValueError(f"data.path is {str(path)!r}, which is empty; allowed: a UTF-8 text file longer than one window")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"data.path is {str(path)!r}, which is not UTF-8 (byte {error.start}); allowed: a UTF-8 text file") from None


def _cut(text: str) -> dict[str, str]:
    """The text8 convention for one long file: the first 90 % for training, 5 % for validation, 5 % for test, cut at ends of lines where there are any."""
    first, second = (text.find("\n", place - 1) + 1 or place for place in (int(len(text) * 0.9), int(len(text) * 0.95)))
    return {"train": text[:first], "valid": text[first:second], "test": text[second:]}


@functools.cache
def _builder_class():
    """The tensorflow-datasets builder; made once (the registry allows no second) and late (the import takes a second)."""
    import tensorflow_datasets as tfds

    @dataclasses.dataclass
    class SourceConfig(tfds.core.BuilderConfig):
        path: str = ""

    class JdddText(tfds.core.GeneratorBasedBuilder):
        """Documents of text, as {source, id, text}."""

        VERSION = tfds.core.Version("1.0.0")
        source_config = SourceConfig

        def _info(self):
            features = {key: tfds.features.Text() for key in ("source", "id", "text")}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            name, path = self.builder_config.name, self.builder_config.path
            if name in EMBEDDED:
                return {split: self._generate_examples(_embedded(name, split)) for split in SPLITS}
            if name == "text8":
                path = dl_manager.download_and_extract(TEXT8_URL) / "text8"
            parts = _cut(read_utf8(path))
            return {split: self._generate_examples([{"source": name, "id": split, "text": parts[split]}]) for split in SPLITS}

        def _generate_examples(self, documents):
            for document in documents:
                yield f"{document['source']}/{document['id']}", document

    return JdddText


def default_cache() -> Path:
    return Path(os.environ.get("JDDD_CACHE", Path.home() / ".cache" / "jddd"))


def documents(name: str = "embedded", path: str = "", cache: str = "", split: str = "train") -> list[str]:
    """The documents of one split, prepared once into `cache` (default $JDDD_CACHE or ~/.cache/jddd).

    name: 'embedded', 'molecules' (MOSES, ships too), 'text8' (downloads), or 'tfds:NAME' for a stock TFDS text set (downloads; needs tensorflow, which jddd does not install).
    path: a UTF-8 file of the user's; takes the place of name. Raises ValueError naming the field for anything else.
    """
    if split not in SPLITS:
        raise ValueError(f"data split is {split!r}; allowed: {', '.join(SPLITS)}")
    if name.startswith("tfds:") and not path:
        return _stock(name.removeprefix("tfds:"), split)
    if path:
        text = read_utf8(path)
        name = "file-" + hashlib.sha256(text.encode()).hexdigest()[:16]
    elif name not in (*EMBEDDED, "text8"):
        raise ValueError(f"data.name is {name!r}; allowed: 'embedded', 'molecules', 'text8', 'tfds:NAME' (or set data.path to a UTF-8 file)")
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    source_config = _builder_class().source_config(name=name, path=str(path))
    builder = _builder_class()(config=source_config, data_dir=str(cache or default_cache()), file_format="array_record")
    if not builder.is_prepared():
        print(f"preparing the text once, into {builder.data_dir}", file=sys.stderr)
        with contextlib.redirect_stdout(io.StringIO()):  # it announces a download even where there is none
            builder.download_and_prepare()
    source = builder.as_data_source(split=split)
    rows = sorted((row["id"].decode(), row["text"].decode("utf-8")) for row in source)
    return [text for _, text in rows]


def _stock(name: str, split: str) -> list[str]:
    import tensorflow_datasets as tfds

    try:
        source = tfds.data_source(name, split={"valid": "validation"}.get(split, split))
    except ImportError as error:
        raise ValueError(f"data.name is 'tfds:{name}', a stock TFDS set; those need tensorflow to be prepared: pip install tensorflow") from error
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]  # the list of all its sets follows
        raise ValueError(f"data.name is 'tfds:{name}', which tensorflow-datasets could not give: {reason}") from error
    field = "text" if "text" in source[0] else next(k for k, v in source[0].items() if isinstance(v, bytes))
    return [row[field].decode("utf-8") for row in source]


# --------------------------------------------------------------------------------------------------------------------------------------- windows
@dataclasses.dataclass(frozen=True)
class Corpus:
    """One split as one long row of symbols, documents joined by a space.

    symbols: (n,) uint8 or uint32; length: symbols in a window.
    """

    symbols: np.ndarray
    length: int

    def __post_init__(self):
        if len(self.symbols) < self.length:
            raise ValueError(f"data.length is {self.length}, but the corpus split has {len(self.symbols)} symbols; allowed: a corpus of at least one window")

    def batch(self, step: int, size: int, seed: int = 0) -> np.ndarray:
        """(size, length) int32 random windows; a pure function of (seed, step), so a resumed run sees the same data."""
        generator = np.random.Generator(np.random.Philox(key=[seed, step]))
        starts = generator.integers(0, len(self.symbols) - self.length + 1, size)
        return self.symbols[starts[:, None] + np.arange(self.length)].astype(np.int32)

    def windows(self, count: int = 0) -> np.ndarray:
        """(count, length) int32: windows side by side, evenly spread over the split; all of them when count is 0 or too large."""
        total = len(self.symbols) // self.length
        index = np.arange(total) if not 0 < count < total else np.linspace(0, total - 1, count).astype(int)
        return self.symbols[: total * self.length].reshape(total, self.length)[index].astype(np.int32)


def corpus(symbols: Characters | Subwords, *, length: int, split: str = "train", name: str = "embedded", path: str = "", cache: str = "") -> Corpus:
    """The named split as windows of `length` symbols. Raises ValueError naming the field for bad input (see `documents` and `Corpus`)."""
    parts = [symbols.encode(text) for text in documents(name, path, cache, split)]
    gap = symbols.encode("a b")[1:2] if isinstance(symbols, Characters) else parts[0][:0]
    joined = [piece for part in parts for piece in (part, gap)]
    return Corpus(np.concatenate(joined), length)
