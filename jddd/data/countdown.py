"""Countdown (Park et al. 2024): sequences that count down to 0 and start again at a uniform value; data without end, drawn as they are asked for."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Numbers:
    """The symbols 0 ... size - 1, written as numbers with spaces between."""

    size: int

    def __post_init__(self):
        if self.size < 2:
            raise ValueError(f"data.tokenizer has {self.size} numbers; allowed: 2 or more")

    def encode(self, text: str) -> np.ndarray:
        """'3 2 1' -> symbols (n,). Raises ValueError for anything but numbers below size."""
        try:
            symbols = np.array([int(word) for word in text.split()], int)
        except ValueError:
            raise ValueError(f"text {text[:40]!r} is not a row of numbers; allowed: 0 to {self.size - 1} with spaces between") from None
        if symbols.size and not (0 <= symbols.min() and symbols.max() < self.size):
            raise ValueError(f"text holds {int(symbols.max())}; allowed: 0 to {self.size - 1}")
        return symbols

    encode_piece = encode

    def decode(self, symbols: np.ndarray) -> str:
        return " ".join(str(int(s)) for s in symbols)


def sample(generator: np.random.Generator, count: int, length: int, size: int) -> np.ndarray:
    """(count, length) int32 sequences from uniform starts."""
    x = np.empty((count, length), np.int32)
    fresh = generator.integers(0, size, (count, length))
    x[:, 0] = fresh[:, 0]
    for i in range(1, length):
        x[:, i] = np.where(x[:, i - 1] > 0, x[:, i - 1] - 1, fresh[:, i])
    return x


@dataclasses.dataclass(frozen=True)
class Countdown:
    """The corpus of a split, with the methods of jddd.data.text.Corpus; splits differ in their windows."""

    size: int
    length: int
    split: str = "train"

    @property
    def symbols(self) -> np.ndarray:
        """The windows in one row."""
        return self.windows().ravel()

    def batch(self, step: int, size: int, seed: int = 0) -> np.ndarray:
        """(size, length) int32 sequences; a pure function of (seed, step), the same in every split."""
        return sample(np.random.Generator(np.random.Philox(key=[seed, step])), size, self.length, self.size)

    def windows(self, count: int = 0) -> np.ndarray:
        """(count, length) int32, the same ones each time; 2048 when count is 0."""
        number = {"train": 1, "valid": 2, "test": 3}[self.split]
        return sample(np.random.default_rng(10**6 + number), count or 2048, self.length, self.size)
