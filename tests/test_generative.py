"""Generative perplexity against direct sums by the protocol's words, MAUVE against its definition, self-BLEU against the golden numbers of Di4C's code."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import FIXTURES

from jddd import build, domains, judge, judges, text_report
from jddd.data.text import Characters
from jddd.metrics import bleu, generative, mauve
from jddd.metrics.generative import JudgeScorer, Protocol
from jddd.models import lm

SYMBOLS = ["<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz", "Ġ", "Ċ", ".", "th", "the", "Ġthe"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The tiny GPT-2 (context 48) of tests/fixtures, with byte pairs of lower-case text; its folder is the judge's name."""
    place = tmp_path_factory.mktemp("tiny")
    for name in ("config.json", "model.safetensors"):
        (place / name).write_bytes((FIXTURES / "judge_gpt2" / name).read_bytes())
    (place / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(SYMBOLS)}))
    (place / "merges.txt").write_text("t h\nth e\nĠ the\n")
    return judges.load(place)


def direct(tiny, row):
    """log p(x_i | x_<i) of a row, one prefix at a time, from all logits."""
    found = []
    for i in range(1, len(row)):
        logits = np.asarray(lm.logits(tiny.config, tiny.params, lm.features(tiny.config, tiny.params, jnp.asarray(row[None, :48], jnp.int32))), np.float64)[0]
        found.append(logits[i - 1, row[i]] - np.log(np.exp(logits[i - 1]).sum()))
    return np.array(found)


TEXTS = ["the cat sat on the mat.", "the end<|endoftext|>the start<|endoftext|><|endoftext|>a", "x", "and the dog sat by the door all the day.", ""]


class Startless:
    """A tokenizer whose files name no start symbol."""

    start = None


# ------------------------------------------------------------------------------------------------------------------------------------------ perplexity
def test_the_default_protocol_in_its_own_words(tiny):
    """exp of the mean over all tokens of all samples; the first of a window and later ends of text are not scored; the rest is counted."""
    found = generative.perplexity(tiny, TEXTS)
    nll, tokens, characters, entropies = [], 0, 0, []
    for sample in TEXTS:
        row = tiny.tokenizer.encode(sample)
        ends = np.flatnonzero(row == 0)
        kept = [i for i in range(1, len(row)) if i not in ends[1:]]
        nll.append(-direct(tiny, row)[np.array(kept, int) - 1].sum() if kept else 0.0)
        tokens += len(kept)
        characters += len(tiny.tokenizer.decode(row[kept])) if kept else 0
        shares = [np.mean(row == i) for i in set(row.tolist())]
        entropies.append(-sum(p * math.log(p) for p in shares))
    assert found.nll == pytest.approx(sum(nll) / tokens, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(sum(nll) / tokens), rel=1e-5)
    assert found.bits_per_character == pytest.approx(sum(nll) / math.log(2) / characters, rel=1e-5)
    assert found.entropy == pytest.approx(np.mean(entropies), abs=1e-12)
    assert (found.samples, found.tokens, found.characters, found.truncated) == (5, tokens, characters, 0)
    assert "windows of 48 tokens" in found.protocol and "first token of a window not scored" in found.protocol


def test_windows_and_truncation(tiny):
    """A sample longer than a window is read in pieces, each afresh and without its first token; what follows `length` is cut off and counted."""
    rows = np.random.default_rng(0).integers(1, 97, (3, 40))
    found = generative.score(tiny, rows, Protocol(length=30, window=12))
    for i, row in enumerate(rows):
        pieces = [row[0:12], row[12:24], row[24:30]]
        assert found.nll[i] == pytest.approx(-sum(direct(tiny, piece).sum() for piece in pieces), rel=1e-5)
    np.testing.assert_array_equal(found.tokens, 27)
    np.testing.assert_array_equal(found.truncated, 10)
    whole = generative.score(tiny, rows, Protocol(length=0, window=0))
    assert whole.truncated.sum() == 0 and (whole.tokens == 39).all()


def test_alternatives_of_the_protocol(tiny):
    """first='start' scores every token after the start symbol; repeated_ends counts them; mean='sequences' is SEDD's, above the other by Jensen."""
    row = tiny.tokenizer.encode(TEXTS[1]).astype(int)
    found = generative.score(tiny, [row], Protocol(first="start", repeated_ends=True, window=10))
    want = [-direct(tiny, np.concatenate([[0], row[i : i + 9]])).sum() for i in range(0, len(row), 9)]
    assert found.tokens[0] == len(row) and found.nll[0] == pytest.approx(sum(want), rel=1e-5)
    rows = np.random.default_rng(1).integers(1, 97, (6, 20))
    pooled, each = (generative.perplexity(tiny, rows, Protocol(mean=mean)) for mean in ("tokens", "sequences"))
    nll = np.array([-direct(tiny, r).mean() for r in rows])
    assert pooled.perplexity == pytest.approx(math.exp(nll.mean()), rel=1e-5) and each.perplexity == pytest.approx(np.exp(nll).mean(), rel=1e-5)
    assert each.perplexity > pooled.perplexity and each.protocol != pooled.protocol
    # samples of equal length: the ratio's standard error is that of a mean
    assert pooled.nll_error == pytest.approx(nll.std(ddof=1) / math.sqrt(6), rel=1e-4)
    assert pooled.perplexity_error == pytest.approx(pooled.perplexity * pooled.nll_error, rel=1e-9)


def test_standard_error_of_a_ratio_covers():
    """Rows of unequal length: the interval of 1.96 standard errors covers the true ratio in about 95 % of 400 draws."""
    generator, hits = np.random.default_rng(2), 0
    for _ in range(400):
        lengths = generator.integers(5, 50, 60)
        ratio, error = generative._ratio(generator.gamma(lengths * 3.0, 1.0), lengths)
        hits += abs(ratio - 3.0) < 1.96 * error
    assert 362 <= hits <= 394  # binomial(400, 0.945): standard deviation 4.6


def test_entropy_is_always_there(tiny):
    """One repeated word has an entropy near 0 beside whatever perplexity; the sampler's own symbols are measured where they are given."""
    assert generative.token_entropy(np.array([7] * 10)) == 0.0
    assert generative.token_entropy(np.array([1, 2, 3, 3])) == pytest.approx(1.5 * math.log(2), abs=1e-12)
    own = np.array([[0, 0, 1, 1], [0, 1, 2, 3]])
    found = generative.perplexity(tiny, ["the cat", "the dog"], own=own)
    assert found.entropy == pytest.approx(1.5 * math.log(2), abs=1e-12) and found.entropy_of == "the sampler's symbols"
    assert found.entropy_error == pytest.approx(0.5 * math.log(2), abs=1e-12)
    for samples, own, message in ((["a", ""], None, "no token to score"), (["the cat"], own, "for 2 samples of 1")):
        with pytest.raises(ValueError, match=message):
            generative.perplexity(tiny, samples, own=own)


def test_protocols_that_are_refused(tiny):
    for field, value in (("first", "bos"), ("mean", "all"), ("window", 1), ("length", -1), ("batch", 0)):
        with pytest.raises(ValueError, match=f"protocol {field} is"):
            Protocol(**{field: value})
    with pytest.raises(ValueError, match="allowed: 1 to 48, each in 0 .. 96"):
        generative.score(tiny, np.full((1, 5), 97))
    with pytest.raises(ValueError, match="no start symbol"):
        generative.score(tiny._replace(tokenizer=Startless()), ["a"], Protocol(first="start"))


# ------------------------------------------------------------------------------------------------------------------------------------------------ MAUVE
def test_mauve_of_equal_and_disjoint():
    """1 for equal histograms; for disjoint ones the area under ((1 - w)^c, w^c), c B(c, c + 1), reached as points grow."""
    p = np.array([0.2, 0.3, 0.5])
    assert mauve.score(p, p) == pytest.approx(1, abs=1e-12) and mauve.score(7 * p, p) == pytest.approx(1, abs=1e-12)
    for scaling in (1.0, 2.0, 5.0):
        limit = scaling * math.gamma(scaling) * math.gamma(scaling + 1) / math.gamma(2 * scaling + 1)
        # the trapezoidal rule on n points of a smooth curve: an error of the order of n^-2
        assert mauve.score(np.array([1, 0]), np.array([0, 1]), scaling=scaling, points=4001) == pytest.approx(limit, rel=1e-4)
    assert mauve.score(np.array([1, 0]), np.array([0, 1])) == pytest.approx(1 / 252, rel=0.03)  # the default 25 points


def test_mauve_of_two_bins_by_hand():
    """Every point of the curve from the two logarithms it is made of, and the area by summing trapezoids over one axis and over the other."""
    p, q, scaling, points = np.array([0.7, 0.3]), np.array([0.4, 0.6]), 5.0, 25
    curve = [(0.0, 1.0)]
    for i in range(points):
        w = (1 - 1e-6) + i * ((1e-6) - (1 - 1e-6)) / (points - 1)
        r = [w * a + (1 - w) * b for a, b in zip(p, q)]
        kl = lambda s: sum(a * math.log(a / c) for a, c in zip(s, r))
        curve.append((math.exp(-scaling * kl(q)), math.exp(-scaling * kl(p))))
    curve.append((1.0, 0.0))
    np.testing.assert_allclose(mauve.divergence_curve(p, q), curve, rtol=1e-10)
    pairs = list(zip(curve, curve[1:]))
    over_x = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairs)
    over_y = sum((a[1] - b[1]) * (a[0] + b[0]) / 2 for a, b in pairs)
    assert mauve.score(p, q) == pytest.approx((over_x + over_y) / 2, abs=1e-12)
    assert mauve.score(p, q) == pytest.approx(mauve.score(q, p), abs=1e-12)  # symmetric
    assert 1 / 252 < mauve.score(np.array([0.9, 0.1]), q) < mauve.score(p, q) < 1


def test_mauve_of_features():
    """Sets of one law score high, of laws apart low, directions without variance are dropped; the same seed gives the same figure."""
    pytest.importorskip("sklearn")
    generator = np.random.default_rng(3)
    draw = lambda centre, n=200: np.pad(generator.normal(centre, 1.0, (n, 3)), ((0, 0), (0, 5))) + 3.0
    a, b, far = draw(0.0), draw(0.0), draw(np.array([9.0, -9.0, 0.0]))
    same, apart = mauve.mauve(a, b), mauve.mauve(a, far)
    assert same.mauve > 0.8 > 0.05 > apart.mauve and len(same.p) == 20 and same.samples == (200, 200)
    assert same.p.sum() == pytest.approx(1) and same.dimensions <= 3
    assert mauve.mauve(a, b).mauve == same.mauve
    assert mauve.mauve(a, a).mauve == pytest.approx(1, abs=1e-12)
    with pytest.raises(ValueError, match="in 50 clusters"):
        mauve.mauve(a[:20], b[:20], clusters=50)
    with pytest.raises(ValueError, match="of the same clusters"):
        mauve.score(np.ones(2), np.ones(3))


def test_principal_axes():
    """As many as explain the share, by the singular values of a known matrix: variances 9, 4, 1 are 0.643, 0.929 and 1 of the whole."""
    rows = np.concatenate([np.diag([3.0, 2.0, 1.0]), -np.diag([3.0, 2.0, 1.0])]) + 5.0
    for explained, count in ((0.6, 1), (0.7, 2), (0.9, 2), (0.95, 3), (1.0, 3)):
        kept = mauve.principal(rows, explained)
        assert kept.shape == (6, count)
        np.testing.assert_allclose((kept**2).sum(0), [18.0, 8.0, 2.0][:count], rtol=1e-12)


# -------------------------------------------------------------------------------------------------------------------------------------------- self-BLEU
def test_self_bleu_is_golden(golden):
    """Every sentence, every prefix, the mean, and hypotheses shorter than the references, against Di4C's evaluation through nltk."""
    cases = golden("bleu")
    tokens = cases["bleu_tokens"]
    np.testing.assert_allclose([bleu.self_bleu(rows) for rows in tokens], cases["bleu_per_prefix"], rtol=1e-12)
    assert np.mean([bleu.self_bleu(rows) for rows in tokens]) == pytest.approx(float(cases["bleu_mean"]), rel=1e-12)
    first = tokens[0].tolist()
    np.testing.assert_allclose([bleu.bleu(row, first[:i] + first[i + 1 :]) for i, row in enumerate(first)], cases["bleu_sentences_prefix0"], rtol=1e-12)
    np.testing.assert_allclose([bleu.bleu(first[0][:n], first[1:]) for n in cases["bleu_short_lengths"]], cases["bleu_short_hypothesis"], rtol=1e-12)


def test_self_bleu_at_its_ends():
    """Copies score 100, samples without a symbol in common 0; one sample has nothing to be like."""
    assert bleu.self_bleu(np.tile(np.arange(10), (3, 1))) == pytest.approx(100, abs=1e-9)
    assert bleu.self_bleu([[1, 2, 3, 4], [5, 6, 7, 8]]) == 0.0 == bleu.bleu([], [[1, 2]])
    # 3 of 4 symbols, 2 of 3 pairs, 1 of 2 triples, 0 of 1: (3/4 * 2/3 * 1/2 * 0.1)^(1/4)
    assert bleu.bleu("abcx", ["abcd"]) == pytest.approx(100 * 0.025**0.25, rel=1e-12)
    with pytest.raises(ValueError, match="2 or more"):
        bleu.self_bleu([[1, 2]])


# ------------------------------------------------------------------------------------------------------------------------------- the command and tables
def test_the_command(tiny, tmp_path, capsys):
    """Texts a line and JSON lines give the same figures, those of `perplexity`; protocol options arrive; MAUVE and self-BLEU on demand."""
    lines = ["the cat sat on the mat.", "a dog sat by the door.", "the end of the day.", "all the birds sing."]
    (tmp_path / "a.txt").write_text("\n".join(lines) + "\n\n")
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps({"sample": line}) for line in lines))
    judge.main([f"--judge={tiny.name}", f"--texts={tmp_path / 'a.txt'}", f"--json={tmp_path / 'a.json'}"])
    first = capsys.readouterr().out
    judge.main([f"--judge={tiny.name}", f"--texts={tmp_path / 'b.jsonl'}", "--field=sample"])
    assert first == capsys.readouterr().out
    want = generative.perplexity(tiny, lines)
    found = json.loads((tmp_path / "a.json").read_text())
    assert found == want._asdict() and f"{want.perplexity:.3f} ±" in first and "nats, unigrams" in first and "4 texts" in first
    judge.main([f"--judge={tiny.name}", f"--texts={tmp_path / 'a.txt'}", "--limit=3", "--mean=sequences", "--window=8", "--self-bleu", f"--reference={tmp_path / 'a.txt'}", "--clusters=2"])
    second = capsys.readouterr().out
    assert "3 texts" in second and "windows of 8 tokens" in second and "self-BLEU" in second and "MAUVE" in second


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [("", "a.txt", "holds no text"), ("{", "a.jsonl", "text 1 is not JSON"), ('"x"\n{"a": 1}', "a.jsonl", "text 2 has no string 'text'"), (None, "a.txt", "cannot be read")],
)
def test_texts_that_are_refused(tiny, tmp_path, content, name, message):
    """One line that names the file and what is wrong, no traceback."""
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(SystemExit, match=f"error: texts .*{message}"):
        judge.main([f"--judge={tiny.name}", f"--texts={tmp_path / name}"])


def test_a_published_judge_in_a_table(tiny):
    """What `config.judge` may be: the tables of a network of other symbols get perplexity and entropy side by side, and bits a character to compare by."""
    network = build.Network(Characters(), "a process", None, None, 24)
    scorer = domains.scorer(network, tiny.name, frozenset(["the", "cat"]), repeats=20)
    assert isinstance(scorer, JudgeScorer)
    texts = ["the cat sat on the mat x", "a dog sat by the door no", "the end of the day is it"]
    samples = np.stack([Characters().encode(line)[:24] for line in texts]).astype(np.int32)
    figures = scorer(samples)
    shown = [Characters().decode(row) for row in samples]
    want = generative.perplexity(tiny, shown, own=samples)
    assert figures["generative_perplexity"] == pytest.approx(want.perplexity) and figures["token_entropy"] == pytest.approx(want.entropy)
    assert figures["judge_bits"] == pytest.approx(scorer.bits(samples).mean()) == pytest.approx(want.bits_per_character, rel=0.05)
    low, high = figures["generative_perplexity_interval"]
    assert low < figures["generative_perplexity"] < high and "entropy_4" in figures
    columns = list(text_report.columns(True))
    assert columns.index("token_entropy") == columns.index("generative_perplexity") + 1 and text_report.columns(False) == text_report.COLUMNS
    assert set(columns) == set(text_report.COLUMNS) | set(text_report.JUDGED)
    with pytest.raises(ValueError, match="an autoregressive network with the teacher's symbols, or a published judge"):
        domains.scorer(network, "teacher_text", frozenset(), repeats=20)
