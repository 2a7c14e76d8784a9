"""The alphabet, the windows, the sources, and what bad input is answered with."""

import numpy as np
import pytest

from jddd import build
from jddd.data import text

ALPHABET = " abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache of this module's own, so that every set is prepared from its source here."""
    return str(tmp_path_factory.mktemp("cache"))


def long_text(count, seed=0):
    """Words of 1 to 9 letters with single spaces, `count` symbols, no space at either end."""
    drawn = np.random.default_rng(seed).choice(list(ALPHABET), count)
    drawn[0] = drawn[-1] = "x"
    drawn[1:-1:10] = " "
    return " ".join("".join(drawn).split()).ljust(count, "x")


# ------------------------------------------------------------------------------------------------------------------------------------ the alphabet
@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("In 1984", "in one nine eight four"),
        ("0123456789", "zero one two three four five six seven eight nine"),
        ("a7b", "a seven b"),
        ("don't   stop --\n\tnow!", "don t stop now"),
        ("  edges  ", "edges"),
        ("na\u00efve \u4e2d caf\u00e9", "na ve caf"),
        ("\u0663 apples", "apples"),  # a digit of another script has no English name here: a space, like every other symbol
        ("...", ""),
    ],
)
def test_text8_rules(raw, plain):
    """Lower case, digits spelled, everything else a space, runs of spaces one space, none at the ends."""
    characters = text.Characters()
    assert characters.decode(characters.encode(raw)) == plain


def test_decode_is_the_inverse_of_encode():
    """decode(encode(s)) = s for normal text, and encode(decode(x)) = x; symbols are places in the alphabet, 27 in all."""
    characters = text.Characters()
    plain = long_text(500)
    symbols = characters.encode(plain)
    assert characters.decode(symbols) == plain
    np.testing.assert_array_equal(characters.encode(characters.decode(symbols)), symbols)
    assert characters.size == 27 and characters.decode(np.arange(27)) == ALPHABET
    assert [ALPHABET.index(c) for c in plain] == symbols.tolist()


def test_the_mask_is_shown_as_a_line():
    """A symbol past the alphabet decodes to '_'."""
    assert text.Characters().decode(np.array([1, 27, 0, 27])) == "a_ _"


@pytest.mark.parametrize("raw", ["Upper", "caf\u00e9", "7", "a,b"])
def test_unknown_error_refuses_what_space_replaces(raw):
    """unknown='error' raises ValueError naming data.unknown, where 'space' goes on; text of the alphabet is encoded alike by both."""
    with pytest.raises(ValueError, match="data.unknown"):
        text.Characters("error").encode(raw)
    assert len(text.Characters("space").encode(raw)) > 0
    np.testing.assert_array_equal(text.Characters("error").encode("two\nlines here"), text.Characters().encode("two lines here"))


# --------------------------------------------------------------------------------------------------------------------------------------- windows
def test_batch_is_a_function_of_seed_and_step():
    """The same (seed, step) gives the same rows whatever was drawn before; another seed or another step gives others."""
    corpus = text.Corpus(np.arange(1000, dtype=np.uint32), 10)
    first = corpus.batch(7, 16, seed=3)
    for step in range(7):
        corpus.batch(step, 5, seed=3)
    np.testing.assert_array_equal(text.Corpus(np.arange(1000, dtype=np.uint32), 10).batch(7, 16, seed=3), first)
    np.testing.assert_array_equal(corpus.batch(7, 16, seed=3), first)
    assert (corpus.batch(8, 16, seed=3) != first).any() and (corpus.batch(7, 16, seed=4) != first).any()
    assert (corpus.batch(3, 16, seed=7) != first).any()  # seed and step do not trade places


def test_batch_rows_are_windows_and_reach_every_start():
    """Each row is `length` consecutive symbols; every start from 0 to n - length occurs, and none past it."""
    corpus = text.Corpus(np.arange(14, dtype=np.uint8), 10)
    rows = corpus.batch(0, 400)
    assert rows.shape == (400, 10) and rows.dtype == np.int32
    np.testing.assert_array_equal(rows - rows[:, :1], np.broadcast_to(np.arange(10), rows.shape))
    assert set(rows[:, 0].tolist()) == {0, 1, 2, 3, 4}


def test_a_corpus_of_one_window():
    """A corpus as long as the window has one window, which every batch repeats."""
    corpus = text.Corpus(np.arange(10, dtype=np.uint8), 10)
    np.testing.assert_array_equal(corpus.batch(5, 3), np.tile(np.arange(10), (3, 1)))
    np.testing.assert_array_equal(corpus.windows(), np.arange(10)[None])


@pytest.mark.parametrize("count", [1, 2, 7, 20, 41, 99])
def test_windows_are_evenly_spread(count):
    """`count` windows side by side: all different, first and last among them, gaps that differ by at most one window."""
    length, total = 5, 100
    symbols = np.repeat(np.arange(total, dtype=np.uint32), length)  # symbol = number of the window it lies in
    rows = text.Corpus(np.append(symbols, 7777), length).windows(count)
    assert rows.shape == (count, length) and rows.dtype == np.int32
    assert (rows == rows[:, :1]).all()  # whole windows, so they do not overlap
    starts = rows[:, 0]
    assert starts[0] == 0 and (count == 1 or starts[-1] == total - 1)
    gaps = np.diff(starts)
    assert (gaps > 0).all() and (count < 3 or gaps.max() - gaps.min() <= 1)


@pytest.mark.parametrize("count", [0, 8, 1000])
def test_windows_gives_all_when_asked_for_none_or_too_many(count):
    """windows() tiles the split from its start; a last part shorter than a window is left out."""
    corpus = text.Corpus(np.arange(43, dtype=np.uint8), 5)
    np.testing.assert_array_equal(corpus.windows(count).ravel(), np.arange(40))


# --------------------------------------------------------------------------------------------------------------------------------------- sources
def test_embedded_corpus(cache):
    """636, 26 and 25 documents; all text lies in an alphabet of which all 27 symbols occur, documents one space apart."""
    parts = {split: text.documents(cache=cache, split=split) for split in text.SPLITS}
    assert {split: len(part) for split, part in parts.items()} == {"train": 636, "valid": 26, "test": 25}
    assert not set(parts["test"]) & (set(parts["train"]) | set(parts["valid"])) and not set(parts["valid"]) & set(parts["train"])
    characters = text.Characters()
    for split in ("valid", "test"):
        corpus = text.corpus(characters, length=128, split=split, cache=cache)
        assert set(np.unique(corpus.symbols).tolist()) == set(range(27))
        plain = np.frombuffer(ALPHABET.encode(), np.uint8)[corpus.symbols].tobytes().decode()
        assert "  " not in plain and plain.endswith(" ") and not plain.startswith(" ")
        lengths = [len(characters.encode(document)) + 1 for document in parts[split]]
        ends = np.cumsum(lengths) - 1
        assert len(plain) == sum(lengths) and all(plain[end] == " " for end in ends)


def test_a_file_of_ones_own(tmp_path):
    """A UTF-8 file is cut 90 / 5 / 5 %, its splits join to the file again, and a second call finds it prepared."""
    plain = long_text(2000)
    file = tmp_path / "mine.txt"
    file.write_text(plain.replace("e", "\u00e9"), encoding="utf-8")
    parts = [text.documents(path=str(file), cache=str(tmp_path / "cache"), split=split) for split in text.SPLITS]
    assert [len(part) for part in parts] == [1, 1, 1] and [len(part[0]) for part in parts] == [1800, 100, 100]
    assert "".join(part[0] for part in parts) == plain.replace("e", "\u00e9")
    records = lambda: {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*.array_record*")}
    prepared = records()
    assert len(prepared) == 3
    corpus = text.corpus(text.Characters(), length=50, path=str(file), cache=str(tmp_path / "cache"), split="train")
    assert text.Characters().decode(corpus.symbols).split() == plain[:1800].replace("e", " ").split()
    assert records() == prepared


def test_a_changed_file_is_read_anew(tmp_path):
    """The cache goes by content: the same name with other text gives the other text."""
    file, cache = tmp_path / "mine.txt", str(tmp_path / "cache")
    file.write_text("a" * 100)
    before = text.documents(path=str(file), cache=cache, split="train")
    file.write_text("b" * 100)
    assert before == ["a" * 90] and text.documents(path=str(file), cache=cache, split="train") == ["b" * 90]


def test_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    """JDDD_CACHE is the cache when none is given."""
    file = tmp_path / "mine.txt"
    file.write_text("word " * 100)
    monkeypatch.setenv("JDDD_CACHE", str(tmp_path / "elsewhere"))
    text.documents(path=str(file), split="test")
    assert any((tmp_path / "elsewhere").rglob("*.array_record*"))


# ------------------------------------------------------------------------------------------------------------------------------------- bad input
BAD = {
    "missing file": (dict(path="{tmp}/none.txt"), "data.path"),
    "a folder": (dict(path="{tmp}"), "data.path"),
    "empty file": (dict(path="{tmp}/empty.txt"), "data.path"),
    "only blanks": (dict(path="{tmp}/blank.txt"), "data.path"),
    "not UTF-8": (dict(path="{tmp}/latin.txt"), "data.path"),
    "shorter than a window": (dict(path="{tmp}/short.txt"), "data.length"),
    "no symbol of the alphabet": (dict(path="{tmp}/marks.txt"), "data.length"),
    "one character": (dict(path="{tmp}/one.txt"), "data.length"),
    "unknown symbol policy": (dict(unknown="drop"), "data.unknown"),
    "symbols that are refused": (dict(path="{tmp}/upper.txt", unknown="error"), "data.unknown"),
    "unknown source": (dict(name="wikipedia"), "data.name"),
    "unknown stock set": (dict(name="tfds:no_such_set"), "data.name"),
    "missing tokenizer": (dict(tokenizer="{tmp}/none.json"), "data.tokenizer"),
    "unknown split": (dict(split="validation"), "data split"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_name(case, tmp_path):
    """Every bad input is a ValueError of one line that names the field."""
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "blank.txt").write_bytes(b" \n\n")
    (tmp_path / "latin.txt").write_bytes("caf\u00e9 ".encode("latin-1") * 50)
    (tmp_path / "short.txt").write_text("a few words")
    (tmp_path / "marks.txt").write_text("?! " * 500)
    (tmp_path / "one.txt").write_text("x")
    (tmp_path / "upper.txt").write_text("Upper Case " * 50)
    values, field = BAD[case]
    values = {k: v.format(tmp=tmp_path) for k, v in values.items()}
    split = values.pop("split", "train")
    with pytest.raises(ValueError, match=field) as refused:
        data = build.DataConfig(length=32, cache=str(tmp_path / "cache"), **values)
        build.corpus(data, text.tokenizer(data.tokenizer, data.unknown), split)
    assert "\n" not in str(refused.value)
