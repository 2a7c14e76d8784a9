"""Molecules as SMILES, a character a symbol: one molecule a row, then the end symbol to the row's end."""

from __future__ import annotations

import dataclasses

import numpy as np

MOSES = "#()-123456=BCFHNOS[]clnors"  # the 26 characters of the set


@dataclasses.dataclass(frozen=True)
class Smiles:
    """The characters of an alphabet, and after them the end, which also fills what is left of a row.

    So a row holds exactly one molecule and its length is the model's to choose. A row with a character after an end is no molecule: `decode` shows all
    of it up to the last character with the end's sign inside, which jddd.metrics.molecules counts as invalid."""

    alphabet: str = MOSES
    end_sign: str = "."  # separates fragments in SMILES, which MOSES does not have

    def __post_init__(self):
        odd = [c for c in self.alphabet if not c.isascii() or c.isspace() or c in "_" + self.end_sign]
        if len(self.alphabet) < 2 or odd or len(set(self.alphabet)) < len(self.alphabet):
            raise ValueError(f"data.tokenizer has the alphabet {self.alphabet!r}; allowed: 'smiles:' and two or more different ASCII characters, no space, '_' or '{self.end_sign}'")

    @property
    def size(self) -> int:
        return len(self.alphabet) + 1

    @property
    def end(self) -> int:
        """The symbol of the end."""
        return len(self.alphabet)

    def encode(self, text: str) -> np.ndarray:
        """A molecule -> symbols (n,), with no end. Raises ValueError for a character outside the alphabet."""
        if bad := sorted(set(text) - set(self.alphabet)):
            raise ValueError(f"molecule {text[:60]!r} holds {bad}; allowed: {self.alphabet!r} (data.tokenizer='smiles:CHARACTERS' takes others)")
        return np.array([self.alphabet.index(c) for c in text], np.uint8)

    encode_piece = encode

    def decode(self, symbols: np.ndarray) -> str:
        """symbols (n,) -> text without the ends after the last character; a symbol past the end (the mask) is shown as '_'."""
        return "".join((self.alphabet + self.end_sign)[s] if s <= self.end else "_" for s in np.asarray(symbols)).rstrip(self.end_sign)


def table(lines: list[str], tokenizer: Smiles, length: int) -> np.ndarray:
    """Molecules -> rows (n, length) uint8. Raises ValueError naming the first line that does not fit."""
    sizes = np.fromiter(map(len, lines), int, len(lines))
    if (sizes >= length).any():
        longest = int(sizes.argmax())
        raise ValueError(f"data.length is {length}, but line {longest + 1} has a molecule of {sizes[longest]} characters; allowed: more than the longest")
    codes = np.full(256, 255, np.uint8)
    codes[np.frombuffer(tokenizer.alphabet.encode(), np.uint8)] = np.arange(len(tokenizer.alphabet))
    joined = "".join(lines)
    flat = codes[np.frombuffer(joined.encode("ascii", "replace"), np.uint8)]
    if not joined.isascii() or (flat == 255).any():
        tokenizer.encode(next(line for line in lines if not set(line) <= set(tokenizer.alphabet)))  # raises
    rows = np.full((len(lines), length), tokenizer.end, np.uint8)
    rows[np.arange(length) < sizes[:, None]] = flat
    return rows


def lines(rows: np.ndarray, tokenizer: Smiles) -> list[str]:
    """The inverse of `table`: rows (n, L), none with a character after an end, as molecules; a second for a million."""
    signs = np.frombuffer(tokenizer.alphabet.encode() + b"\n", np.uint8)
    width = (rows != tokenizer.end).sum(1) + 1  # with the first end, which becomes the line's
    return signs[rows[np.arange(rows.shape[1]) < width[:, None]]].tobytes().decode().splitlines()


@dataclasses.dataclass(frozen=True)
class Molecules:
    """The corpus of a split: rows (n, L) uint8, with the methods of jddd.data.text.Corpus."""

    symbols: np.ndarray

    def batch(self, step: int, size: int, seed: int = 0) -> np.ndarray:
        """(size, L) int32 random molecules; a pure function of (seed, step)."""
        generator = np.random.Generator(np.random.Philox(key=[seed, step]))
        return self.symbols[generator.integers(0, len(self.symbols), size)].astype(np.int32)

    def windows(self, count: int = 0) -> np.ndarray:
        """(count, L) int32 molecules, evenly spread over the split; all of them when count is 0 or too large."""
        total = len(self.symbols)
        index = np.arange(total) if not 0 < count < total else np.linspace(0, total - 1, count).astype(int)
        return self.symbols[index].astype(np.int32)
