"""Molecules: figures of SMILES against atom sums, direct sums and closed forms; the rows of the data; what bad input is answered with."""

import collections
import json
import math
import sys
import types
from xml.etree import ElementTree

import numpy as np
import pytest
from rdkit import Chem, DataStructs, RDConfig
from rdkit.Chem import rdFingerprintGenerator

from jddd import build
from jddd.data import molecules, text
from jddd.metrics import molecules as metrics

BENZENE, ETHANOL, NAPHTHALENE, QUINOLINE, ASPIRIN = "c1ccccc1", "CCO", "c1ccc2ccccc2c1", "c1ccc2ncccc2c1", "CC(=O)Oc1ccccc1C(=O)O"
CH2 = 12.011 + 2 * 1.008  # g/mol
LENGTH = 58
LINES = {"train": 1_574_633, "valid": 10_030, "test": 176_074}
NO_TRAINING = np.zeros(0, np.uint64)


def alkanes(first, last):
    """The straight chains of first to last carbons."""
    return ["C" * n for n in range(first, last + 1)]


def parsed(*smiles):
    return [metrics.parse(s) for s in smiles]


@pytest.fixture(scope="module")
def lines():
    """split -> the lines of MOSES, from the cache that everyone shares."""
    return {split: text.documents("molecules", split=split)[0].splitlines() for split in text.SPLITS}


@pytest.fixture(scope="module")
def some(lines):
    """1,000 molecules spread over the test split."""
    return lines["test"][:: len(lines["test"]) // 1000][:1000]


# ------------------------------------------------------------------------------------------------------------------------------ strings to molecules
@pytest.mark.parametrize("smiles", [BENZENE, ETHANOL, NAPHTHALENE, "[H]", "C[N+](C)(C)C", "c1cc[nH]c1", "ClCBr"])
def test_molecules_are_valid(smiles):
    """A molecule has a canonical SMILES, of itself the canonical one."""
    assert metrics.canonical(metrics.canonical(smiles)) == metrics.canonical(smiles) is not None


NO_MOLECULE = {
    "nothing": ["", " "],
    "unclosed rings": ["C1CC", "c1ccccc", "C1CC2"],
    "unclosed brackets": ["CC(", "CC)", "C(C", "[nH", "C]", "()"],
    "more bonds than an atom has": ["C(C)(C)(C)(C)C", "O=O=O", "[CH5]", "CF=C"],
    "rings that cannot be aromatic": ["c1cccc1", "cC"],
    "several fragments": ["C.C", "CCO.", ".CCO", "[Na+].[Cl-]"],
    "what RDKit takes for a name": ["CC O", "CCO\n", "CC |x|"],
    "no atoms": ["_", "C_C", "E", "1", "#"],
}


@pytest.mark.parametrize("case", NO_MOLECULE)
def test_no_molecules(case, capfd):
    """What is no molecule has no canonical SMILES and counts as invalid; RDKit says nothing of it."""
    assert [metrics.canonical(smiles) for smiles in NO_MOLECULE[case]] == [None] * len(NO_MOLECULE[case])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("same", [(ETHANOL, "OCC", "C(O)C", "[CH3][CH2][OH]"), (BENZENE, "C1=CC=CC=C1", "c2ccccc2"), (ASPIRIN, "OC(=O)c1ccccc1OC(C)=O")])
def test_one_molecule_has_one_canonical_smiles(same):
    """Ways to write one molecule count as one."""
    assert len({metrics.canonical(smiles) for smiles in same}) == 1


def test_lines_of_moses_are_canonical(some):
    """What novelty compares: RDKit writes (nearly) every line as it is, so equal strings are equal molecules."""
    assert np.mean([metrics.canonical(line) == line for line in some]) >= 0.995  # 9,999 of 10,000 when measured


def test_digests_are_a_set():
    """Sorted, one for each different string, whatever the order; none of nothing."""
    words = [str(n) for n in range(500)]
    drawn = metrics.digests(words[::-1] + words)
    assert drawn.dtype == np.uint64 and len(drawn) == 500 and (np.diff(drawn.astype(object)) > 0).all()
    np.testing.assert_array_equal(drawn, metrics.digests(words))
    assert set(metrics.digests(words[:7])) < set(drawn) and not len(metrics.digests([]))


# ----------------------------------------------------------------------------------------------------------------------------- molecules to numbers
def test_properties_are_sums_over_atoms():
    """Weights are sums of atomic weights; logP is Crippen's sum, of benzene 6 (C18 + H1), of ethanol C1 + C3 + O2 + 5 H1 + H2."""
    logp, qed, sa, weight = metrics.properties(parsed(BENZENE, ETHANOL)).T
    # RDKit's atomic weights have three decimals, Crippen's terms four
    np.testing.assert_allclose(weight, [6 * 12.011 + 6 * 1.008, 2 * 12.011 + 15.999 + 6 * 1.008], atol=2e-3)
    np.testing.assert_allclose(logp, [6 * (0.1581 + 0.1230), 0.1441 - 0.2035 - 0.2893 + 5 * 0.1230 - 0.2677], atol=1e-6)
    assert ((0 < qed) & (qed < 1)).all() and ((sa >= 1) & (sa <= 10)).all()


def test_synthetic_accessibility_is_higher_for_harder_molecules():
    """Benzene is as easy as the scale goes, 1; aspirin is easy; strychnine, of seven rings and six stereocentres, is not."""
    strychnine = "O=C1C[C@@H]2OCC=C3CN4CC[C@]56[C@@H]4C[C@@H]3[C@@H]2[C@@H]5N1c1ccccc16"
    benzene, aspirin, hard = metrics.properties(parsed(BENZENE, ASPIRIN, strychnine))[:, 2]
    assert benzene == 1 and 1 < aspirin < 2.5 < 4 < hard < 10


def test_no_molecules_have_no_properties():
    """Empty arrays of the right width."""
    assert metrics.properties([]).shape == (0, 4) and metrics.fingerprints([]).shape == (0, 1024) and not metrics.scaffolds([])


def test_scaffolds_are_rings_and_links():
    """Side chains do not count; molecules of fewer than two rings have no scaffold."""
    found = metrics.scaffolds(parsed(NAPHTHALENE, "Cc1ccc2ccccc2c1", "CCOc1cccc2ccccc12", "O" + QUINOLINE, "C(c1ccccc1)c1ccccc1", BENZENE, ETHANOL))
    assert found == {metrics.canonical(NAPHTHALENE): 3, metrics.canonical(QUINOLINE): 1, metrics.canonical("C(c1ccccc1)c1ccccc1"): 1}


# ------------------------------------------------------------------------------------------------------------------------------------------ figures
@pytest.mark.parametrize(("hits", "count"), [(0, 7), (7, 7), (3, 7), (400, 512), (511, 512)])
def test_wilson_solves_its_equation(hits, count):
    """Both ends p solve (p - hits / count)^2 = z^2 p (1 - p) / count; the misses' interval is the mirror image."""
    low, high = metrics.wilson(hits, count)
    assert 0 <= low < hits / count + 1e-9 and hits / count - 1e-9 < high <= 1 and low < high
    for p in (low, high):
        assert (p - hits / count) ** 2 == pytest.approx(1.959964**2 * p * (1 - p) / count, abs=1e-12)
    assert metrics.wilson(count - hits, count) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_uniqueness_counts_what_differs():
    """Different over all."""
    assert metrics.uniqueness(["a", "b", "a", "a"]) == 0.5 and metrics.uniqueness(["a"] * 5) == 0.2 and metrics.uniqueness(list("abc")) == 1


def test_training_molecules_of_another_spelling_are_known():
    """RDKit writes OCC as CCO: lines that are not canonical are written anew, so that no sample of them counts as new."""
    samples = [metrics.canonical(line) for line in ("OCC", "OCCC", "C1CC1")]
    assert metrics.novelty(samples, metrics.known(["OCC", "OCCC"] * 300)) == pytest.approx(1 / 3)
    np.testing.assert_array_equal(metrics.known(samples), metrics.digests(samples))


def test_novelty_is_of_what_differs():
    """The share of the different molecules that the training set has not; repeats weigh nothing. Nothing is known of no training set."""
    training = metrics.digests(["a", "b", "c"])
    assert metrics.novelty(["a", "a", "a", "x"], training) == 0.5
    assert metrics.novelty(["a", "b"], training) == 0 and metrics.novelty(["x", "y"], training) == 1 == metrics.novelty(["a"], NO_TRAINING)
    assert metrics.novelty(["a", "x", "y", "b", "z"], training) == pytest.approx(0.6)


@pytest.mark.parametrize("block", [1, 7, 64, 1024])
def test_internal_diversity_is_the_mean_over_all_pairs(some, block):
    """1 - the mean of RDKit's own Tanimoto similarity over the n^2 pairs, in blocks of any size."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)
    bits = [generator.GetFingerprint(Chem.MolFromSmiles(s)) for s in some[:60]]
    direct = 1 - np.mean([[DataStructs.TanimotoSimilarity(a, b) for a in bits] for b in bits])
    # quotients in float32, 2^-24 each
    assert metrics.internal_diversity(metrics.fingerprints(parsed(*some[:60])), block) == pytest.approx(direct, abs=1e-6)


def test_internal_diversity_in_closed_form():
    """0 for copies; 1 - 1 / n for n prints with no bit in common; 1 - (1 + 1/3) / 2 for two that share 1 of 3 bits."""
    assert metrics.internal_diversity(metrics.fingerprints(parsed(*[ASPIRIN] * 5))) == pytest.approx(0, abs=1e-7)
    assert metrics.internal_diversity(np.eye(8, dtype=np.uint8)) == pytest.approx(7 / 8, abs=1e-7)
    assert metrics.internal_diversity(np.array([[1, 1, 0], [0, 1, 1]], np.uint8)) == pytest.approx(1 / 3, abs=1e-7)


def test_scaffold_similarity_is_a_cosine():
    """1 with itself and with twice itself, 0 for disjoint ones, the cosine between; nan where a side has none."""
    count = collections.Counter
    ours = count(a=3, b=4)
    assert metrics.scaffold_similarity(ours, ours) == 1 == metrics.scaffold_similarity(ours, count(a=6, b=8))
    assert metrics.scaffold_similarity(ours, count(c=2)) == 0
    assert metrics.scaffold_similarity(ours, count(a=1)) == pytest.approx(0.6) == metrics.scaffold_similarity(count(a=1), ours)
    assert math.isnan(metrics.scaffold_similarity(ours, count())) and math.isnan(metrics.scaffold_similarity(count(), ours))


def test_frechet_in_closed_form():
    """Diagonal covariances: |m - m'|^2 + sum (s - s')^2, in any orthogonal basis; 0 with itself; covariances of low rank are no trouble."""
    generator = np.random.default_rng(0)
    basis = np.linalg.qr(generator.normal(size=(6, 6)))[0]
    means, spreads = generator.normal(size=(2, 6)), generator.uniform(0, 2, (2, 6))
    spreads[0, :3] = 0
    one, two = (metrics.Gaussian(basis @ m, basis * s**2 @ basis.T) for m, s in zip(means, spreads))
    # a zero eigenvalue comes back as 1e-16, its root as 1e-8
    assert metrics.frechet(one, two) == pytest.approx(((means[0] - means[1]) ** 2).sum() + ((spreads[0] - spreads[1]) ** 2).sum(), abs=1e-6)
    assert metrics.frechet(one, two) == pytest.approx(metrics.frechet(two, one), abs=1e-6)
    assert metrics.frechet(one, one) == pytest.approx(0, abs=1e-6)


# ---------------------------------------------------------------------------------------------------------------------------------------- the score
FIGURES = ("uniqueness", "novelty", "internal_diversity", "logp_distance", "qed_distance", "sa_distance", "weight_distance", "scaffold_similarity", "atoms")


@pytest.fixture
def no_fcd(monkeypatch):
    monkeypatch.setitem(sys.modules, "fcd", None)


def test_score_of_the_reference_itself(some, no_fcd):
    """All distances are 0, the scaffolds are the same, and nothing is new to a training set of the same lines."""
    mine = some[:100]
    result = metrics.score(mine, metrics.reference(mine, metrics.digests([metrics.canonical(line) for line in mine])))
    assert list(result) == ["validity", "validity_interval", "valid", *FIGURES] and result["valid"] == 100
    assert result["validity"] == 1 == result["uniqueness"] and result["validity_interval"] == metrics.wilson(100, 100)
    assert [result[f"{name}_distance"] for name in metrics.PROPERTIES] == [0] * 4 and result["novelty"] == 0
    assert result["scaffold_similarity"] == pytest.approx(1) and 0.7 < result["internal_diversity"] < 1
    assert result["atoms"] == np.mean([Chem.MolFromSmiles(line).GetNumHeavyAtoms() for line in mine])
    assert json.loads(json.dumps(result))["validity_interval"] == list(result["validity_interval"])


def test_distances_of_shifted_sets(no_fcd):
    """Chains one CH2 longer: every weight moves by 14.027 g/mol, every logP by C1 + 2 H1, and so do the distances; order and repeats of all change
    nothing."""
    shorter, longer = alkanes(3, 12), alkanes(4, 13)
    result = metrics.score(shorter[::-1] * 2, metrics.reference(longer, NO_TRAINING))
    assert result["weight_distance"] == pytest.approx(CH2, abs=1e-6)
    assert result["logp_distance"] == pytest.approx(0.1441 + 2 * 0.1230, abs=1e-6)
    assert result["atoms"] == 7.5 and result["uniqueness"] == 0.5 and result["novelty"] == 1
    assert math.isnan(result["scaffold_similarity"])  # chains have none


def test_score_counts_the_valid_and_the_different(no_fcd):
    """Four valid of six, two of the four ways to write ethanol: invalid samples weigh in validity alone."""
    drawn = ["CCO", "C1CC", "OCC", NAPHTHALENE, "CC.C", "O" + QUINOLINE]
    result = metrics.score(drawn, metrics.reference([NAPHTHALENE, "C" + NAPHTHALENE, ETHANOL], metrics.digests([ETHANOL])))
    assert result["validity"] == 4 / 6 and result["validity_interval"] == metrics.wilson(4, 6)
    assert result["uniqueness"] == 3 / 4 and result["novelty"] == pytest.approx(2 / 3)
    assert result["scaffold_similarity"] == pytest.approx(1 / math.sqrt(2)) and result["atoms"] == (3 + 3 + 10 + 11) / 4
    disjoint = metrics.score(["O" + QUINOLINE] * 2, metrics.reference([NAPHTHALENE, ETHANOL], NO_TRAINING))
    assert disjoint["scaffold_similarity"] == 0 and disjoint["internal_diversity"] == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize(("drawn", "valid"), [([], math.nan), (["C("], 0.0), (["C(", ""], 0.0), (["C"], 1.0), (["C", "C1", "C.", "("], 0.25)])
def test_fewer_than_two_valid_have_no_figures(drawn, valid, no_fcd):
    """Validity and its interval alone are numbers."""
    result = metrics.score(drawn, metrics.reference([NAPHTHALENE, ETHANOL], NO_TRAINING))
    assert result["validity"] == pytest.approx(valid, nan_ok=True) and np.isfinite(result["validity_interval"]).all()
    assert all(math.isnan(result[name]) for name in FIGURES)


def test_the_reference_has_two_molecules_or_more():
    """Fewer are refused."""
    for lines in ([], [ETHANOL, "C("]):
        with pytest.raises(ValueError, match="reference has .* valid"):
            metrics.reference(lines, NO_TRAINING)


def test_fcd_is_that_of_the_activations(monkeypatch):
    """With the package, fcd is the Fréchet distance of what its network says of the canonical SMILES; 0 for the reference itself."""
    features = lambda smiles: np.array([[len(s), s.count("C"), s.count("O") + 0.5 * len(s)] for s in smiles], np.float32)

    def predictions(model, smiles_list, batch_size=128, n_jobs=1, device=None):
        assert model == "ChemNet" and n_jobs == 0 and smiles_list == [metrics.canonical(s) for s in smiles_list]
        return features(smiles_list)

    monkeypatch.setitem(sys.modules, "fcd", types.SimpleNamespace(load_ref_model=lambda: "ChemNet", get_predictions=predictions))
    real, drawn = alkanes(2, 9) + [ETHANOL], ["OCC", "CC(C)CO", "CCCC", "C1"]
    reference = metrics.reference(real, NO_TRAINING)
    found = [c for c in map(metrics.canonical, drawn) if c]
    gaussians = [metrics.Gaussian(features(f).mean(0), np.cov(features(f).T)) for f in (found, [metrics.canonical(r) for r in real])]
    # activations are float32 on one side
    assert metrics.score(drawn, reference)["fcd"] == pytest.approx(metrics.frechet(*gaussians), rel=1e-5)
    assert metrics.score(real, reference)["fcd"] == pytest.approx(0, abs=1e-6)
    assert math.isnan(metrics.score(["C("], reference)["fcd"])


def test_fcd_of_the_package(some):
    """The figure is the package's own, where it is installed."""
    fcd = pytest.importorskip("fcd")
    ours, theirs = ([metrics.canonical(s) for s in half] for half in (some[:60], some[60:120]))
    assert metrics.score(ours, metrics.reference(theirs, NO_TRAINING))["fcd"] == pytest.approx(fcd.get_fcd(ours, theirs), rel=0.01)


# ------------------------------------------------------------------------------------------------------------------------------- missing packages
@pytest.mark.parametrize("figure", [metrics.canonical, lambda s: metrics.reference([s, s], NO_TRAINING), lambda s: metrics.draw([s])])
def test_without_rdkit(figure, monkeypatch):
    """One line says what to install."""
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(ValueError, match=r"needs the package rdkit: pip install 'jddd\[molecules\]'$"):
        figure(ETHANOL)


def test_without_the_contributions(monkeypatch, tmp_path):
    """An RDKit without the SA score is refused by the file it lacks."""
    monkeypatch.setattr(RDConfig, "RDContribDir", str(tmp_path))
    metrics._synthetic_accessibility.cache_clear()
    with pytest.raises(ValueError, match="SA score needs .*sascorer.py"):
        metrics.properties(parsed(ETHANOL))


# --------------------------------------------------------------------------------------------------------------------------------------- the pictures
def test_a_drawing_of_each():
    """A cell a molecule: a picture where there is one, else the text in red, escaped; names under them; well-formed, and nothing is fetched."""
    drawn = [ASPIRIN, "C1<b>&", "", NAPHTHALENE]
    grid = ElementTree.fromstring(metrics.draw(drawn, per_row=3, names=["one", "two & a half", "", "four"]))
    cells = list(grid)
    assert "repeat(3," in grid.get("style") and [cell.get("title") for cell in cells] == drawn
    assert [cell[0].tag.rpartition("}")[2] for cell in cells] == ["svg", "code", "code", "svg"]
    assert cells[1][0].text == "C1<b>&" and "color:#c62828" in cells[1][0].get("style") and cells[2][0].text == "(empty)"
    assert [[c.text for c in cell.iter("figcaption")] for cell in cells] == [["one"], ["two & a half"], [], ["four"]]
    assert len(cells[0][0].findall("{http://www.w3.org/2000/svg}path")) >= 13  # bonds of aspirin
    assert not {"src", "href", "script"} & {word for e in grid.iter() for word in (e.tag, *e.attrib)}
    assert len(ElementTree.fromstring(metrics.draw(drawn))) == 4 and not len(ElementTree.fromstring(metrics.draw([])))
    with pytest.raises(ValueError):
        metrics.draw(drawn, names=["one"])


# ------------------------------------------------------------------------------------------------------------------------------------------ the rows
def test_splits(lines):
    """As many lines as MOSES has, every 158th for training set apart as valid; no line in two splits or twice in one."""
    assert {split: len(part) for split, part in lines.items()} == LINES
    assert len(set().union(*lines.values())) == sum(LINES.values())


def test_the_alphabet_is_that_of_the_set(lines):
    """Each of the 26 characters occurs, and no other; the end is the 27th symbol."""
    assert {c for part in lines.values() for c in set("".join(part))} == set(molecules.MOSES)
    assert molecules.Smiles().size == 27 and molecules.Smiles().end == 26


def test_rows_are_molecules_and_ends(some):
    """decode(row) is the molecule, symbols are places in the alphabet, and after the last character there are only ends, one or more."""
    tokenizer = molecules.Smiles()
    rows = molecules.table(some, tokenizer, LENGTH)
    assert molecules.lines(rows, tokenizer) == list(some)
    assert rows.shape == (1000, LENGTH) and rows.dtype == np.uint8
    for row, line in zip(rows, some):
        assert tokenizer.decode(row) == line and [molecules.MOSES.index(c) for c in line] == row[: len(line)].tolist()
        assert (row[len(line) :] == tokenizer.end).all() and row[-1] == tokenizer.end
        np.testing.assert_array_equal(tokenizer.encode(line), row[: len(line)])


def test_a_character_after_an_end_is_no_molecule(some):
    """Wherever a row goes on after its end, its text is no molecule, though the part before the end is; a mask is none either."""
    tokenizer, generator = molecules.Smiles(), np.random.default_rng(0)
    for line, row in zip(some[:100], molecules.table(some[:100], tokenizer, LENGTH)):
        assert metrics.canonical(tokenizer.decode(row)) is not None
        broken = row.copy()
        broken[generator.integers(len(line) + 1, LENGTH)] = generator.integers(tokenizer.end)
        assert tokenizer.decode(broken).startswith(line + tokenizer.end_sign) and metrics.canonical(tokenizer.decode(broken)) is None
        masked = row.astype(int)
        masked[generator.integers(LENGTH)] = tokenizer.size
        assert "_" in tokenizer.decode(masked) and metrics.canonical(tokenizer.decode(masked)) is None
    assert tokenizer.decode(np.full(LENGTH, tokenizer.end)) == "" and metrics.canonical("") is None


def test_batch_is_a_function_of_seed_and_step(some):
    """The same (seed, step) gives the same molecules whatever was drawn before; another seed or another step gives others."""
    corpus = molecules.Molecules(molecules.table(some, molecules.Smiles(), LENGTH))
    first = corpus.batch(7, 16, seed=3)
    assert first.shape == (16, LENGTH) and first.dtype == np.int32
    for step in range(7):
        corpus.batch(step, 5, seed=3)
    np.testing.assert_array_equal(corpus.batch(7, 16, seed=3), first)
    assert (corpus.batch(8, 16, seed=3) != first).any() and (corpus.batch(7, 16, seed=4) != first).any() and (corpus.batch(3, 16, seed=7) != first).any()
    assert {molecules.Smiles().decode(row) for row in corpus.batch(0, 50)} <= set(some)


def test_batches_reach_every_molecule_and_windows_are_spread():
    """Every row is drawn; windows are different rows with the first and the last, and all of them when asked for none or too many."""
    corpus = molecules.Molecules(np.arange(40, dtype=np.uint8)[:, None])
    assert set(corpus.batch(0, 1000)[:, 0].tolist()) == set(range(40))
    for count in (2, 7, 20, 39):
        rows = corpus.windows(count)[:, 0]
        assert len(rows) == count and rows[0] == 0 and rows[-1] == 39 and (np.diff(rows) > 0).all() and np.ptp(np.diff(rows)) <= 1
    for count in (0, 40, 1000):
        np.testing.assert_array_equal(corpus.windows(count)[:, 0], np.arange(40))


def test_corpus_of_the_set(lines):
    """data.name='molecules' with the tokenizer 'smiles' gives the lines of the split, in their order."""
    data = build.DataConfig(name="molecules", tokenizer="smiles", length=LENGTH)
    tokenizer = build.tokenizer(data)
    assert tokenizer == molecules.Smiles()
    corpus = build.corpus(data, tokenizer, "valid")
    assert corpus.windows().shape == (LINES["valid"], LENGTH)
    assert [tokenizer.decode(row) for row in corpus.symbols[::20]] == lines["valid"][::20]
    assert max(map(len, lines["train"])) < LENGTH > max(map(len, lines["test"]))  # so that the teacher's length takes every split


def write(folder, lines):
    """A file of one molecule a line, its path."""
    (folder / "mine.smi").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(folder / "mine.smi")


def test_a_file_of_ones_own(tmp_path):
    """data.path with the tokenizer 'smiles:...': one molecule a line, in an alphabet of one's own, 90 / 5 / 5 %."""
    ethers = [f"{'C' * n}O{'C' * (n % 4)}" for n in range(1, 9)] * 5  # of several lengths: cuts fall on ends of lines all the same
    data = build.DataConfig(path=write(tmp_path, ethers), tokenizer="smiles:CO", length=12, cache=str(tmp_path / "cache"))
    tokenizer = build.tokenizer(data)
    parts = [[tokenizer.decode(row) for row in build.corpus(data, tokenizer, split).windows()] for split in text.SPLITS]
    assert tokenizer.size == 3 and abs(len(parts[0]) - 36) <= 1 and min(map(len, parts)) >= 1 and sum(parts, []) == ethers


# ------------------------------------------------------------------------------------------------------------------------------------- bad input
BAD = {
    "too long a molecule": (dict(path=["CCO"] * 40, length=3), r"data.length is 3, but line 1 has a molecule of 3 characters"),
    "a character that is not in the alphabet": (dict(path=["CCO", "CCI"] * 20), r"molecule 'CCI' holds \['I'\].*data.tokenizer"),
    "a character that is not in ASCII": (dict(path=["CC\u00e9"] * 40), "data.tokenizer"),
    "a file with names beside its molecules": (dict(path=["CCO ethanol", "CC ethane"] * 20), "molecule 1 is 'CCO ethanol'; allowed: one molecule a line"),
    "a fragment": (dict(path=["C.C"] * 40), "data.tokenizer"),
    "an alphabet of one": (dict(tokenizer="smiles:C"), "data.tokenizer"),
    "a character twice": (dict(tokenizer="smiles:CCO"), "data.tokenizer"),
    "a blank in the alphabet": (dict(tokenizer="smiles:C O"), "data.tokenizer"),
    "the mask's sign in the alphabet": (dict(tokenizer="smiles:C_"), "data.tokenizer"),
    "the end's sign in the alphabet": (dict(tokenizer="smiles:C."), "data.tokenizer"),
    "an alphabet that is not ASCII": (dict(tokenizer="smiles:C\u00e9"), "data.tokenizer"),
    "molecules as text": (dict(name="molecules", tokenizer="characters"), "data.name and data.tokenizer"),
    "text as molecules": (dict(name="embedded"), "data.name and data.tokenizer"),
    "a missing file": (dict(path="none.smi"), "data.path"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_name(case, tmp_path):
    """Every bad input is a ValueError of one line that names the field or the molecule."""
    values, message = BAD[case]
    if isinstance(values.get("path"), list):
        values = values | {"path": write(tmp_path, values["path"])}
    with pytest.raises(ValueError, match=message) as refused:
        data = build.DataConfig(**({"tokenizer": "smiles", "length": 32, "cache": str(tmp_path / "cache")} | values))
        build.corpus(data, build.tokenizer(data), "train")
    assert "\n" not in str(refused.value)
