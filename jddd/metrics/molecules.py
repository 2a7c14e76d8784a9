"""What generated SMILES are worth: which are molecules, which of them are new, and how they lie beside real ones.

The figures are those of MOSES (Polykovskiy et al. 2020, arXiv:1811.12823): validity is a share of all samples, everything else is of the valid ones,
duplicates kept but for novelty. Chemistry is RDKit's (the extra `jddd[molecules]`). N samples of the reference's own law have distances above 0 too, by about the
property's spread over sqrt(N), and a scaffold similarity far below 1 (0.4 for 512 of MOSES): read them beside the `score` of as many real molecules.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import html
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

PROPERTIES = ("logp", "qed", "sa", "weight")  # the columns of `properties`
NAN = float("nan")


def _rdkit():
    """rdkit.Chem with the parts used here. Raises ValueError where the package is missing."""
    try:
        import rdkit.Chem.Crippen
        import rdkit.Chem.Descriptors
        import rdkit.Chem.Draw.rdMolDraw2D
        import rdkit.Chem.QED
        import rdkit.Chem.rdFingerprintGenerator
        import rdkit.Chem.Scaffolds.MurckoScaffold
    except ImportError as error:
        raise ValueError("a figure of molecules needs the package rdkit: pip install 'jddd[molecules]'") from error
    return rdkit.Chem


@functools.cache
def _synthetic_accessibility():
    """The SA score of a molecule (Ertl & Schuffenhauer 2009), 1 easy to 10 hard, from the contributions that RDKit's wheels carry; loading takes a
    third of a second. Raises ValueError where this RDKit has none."""
    _rdkit()
    from rdkit import RDConfig

    file = Path(RDConfig.RDContribDir) / "SA_Score" / "sascorer.py"
    if not (file.is_file() and file.with_name("fpscores.pkl.gz").is_file()):
        raise ValueError(f"the SA score needs {file} and its fpscores.pkl.gz, which this rdkit lacks; RDKit's wheels have them: pip install 'jddd[molecules]'")
    spec = importlib.util.spec_from_file_location("sascorer", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.calculateScore


# ------------------------------------------------------------------------------------------------------------------------------ strings to molecules
def parse(smiles: str):
    """The RDKit molecule, or None for what is none: text that does not parse or sanitise, no text, text with a blank (RDKit would take the rest for a
    name) and several fragments, '.': the end sign of jddd.data.molecules.Smiles, so a row with a character after an end."""
    chem = _rdkit()
    if smiles.split() != [smiles] or "." in smiles:
        return None
    from rdkit import rdBase

    with rdBase.BlockLogs():  # a line for every invalid sample otherwise
        return chem.MolFromSmiles(smiles)


def canonical(smiles: str) -> str | None:
    """RDKit's canonical SMILES, None for what is no molecule (see `parse`)."""
    molecule = parse(smiles)
    return None if molecule is None else _rdkit().MolToSmiles(molecule)


def digests(lines: Iterable[str]) -> np.ndarray:
    """Sorted 64-bit digests of the different strings, (n,) uint64: 8 bytes a string, and two strings share one with probability 2^-64. The 1.6 million
    lines of MOSES take 13 MB and 3 seconds."""
    return np.unique(np.frombuffer(b"".join(hashlib.blake2b(line.encode(), digest_size=8).digest() for line in lines), "<u8"))


def known(training: list[str], probe: int = 200) -> np.ndarray:
    """The `digests` of the canonical SMILES of training molecules, for `novelty`. Lines are taken as they are where 99 % of `probe` of them are canonical:
    MOSES's are, but for one in about 10,000, which counts as new (canonicalising all 1.6 million would take five minutes). Others are written anew."""
    some = training[:: max(1, len(training) // probe)]
    if sum(canonical(line) == line for line in some) >= 0.99 * len(some):
        return digests(training)
    return digests(canonical(line) or line for line in tqdm(training, desc="canonical training molecules"))


# ----------------------------------------------------------------------------------------------------------------------------- molecules to numbers
def properties(molecules: list) -> np.ndarray:
    """(n, 4) of RDKit molecules: logP (Wildman & Crippen 1999), QED (Bickerton et al. 2012) in 0 to 1, SA in 1 to 10, weight in g/mol; a millisecond
    and a half each."""
    chem, accessibility = _rdkit(), _synthetic_accessibility()
    rows = [(chem.Crippen.MolLogP(m), chem.QED.qed(m), accessibility(m), chem.Descriptors.MolWt(m)) for m in molecules]
    return np.array(rows, float).reshape(-1, len(PROPERTIES))


def scaffolds(molecules: list) -> collections.Counter[str]:
    """How often each Bemis-Murcko scaffold (1996; the rings and what links them, as canonical SMILES) occurs. As in MOSES, molecules of fewer than two
    rings have none."""
    chem = _rdkit()
    cyclic = (m for m in molecules if m.GetRingInfo().NumRings() > 1)
    return collections.Counter(chem.MolToSmiles(chem.Scaffolds.MurckoScaffold.GetScaffoldForMol(m)) for m in cyclic)


def fingerprints(molecules: list) -> np.ndarray:
    """Morgan fingerprints of radius 2, (n, 1024) uint8 of 0 and 1; every molecule has at least one 1."""
    generator = _rdkit().rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)
    return np.array([generator.GetFingerprintAsNumPy(m) for m in molecules], np.uint8).reshape(-1, 1024)


# ------------------------------------------------------------------------------------------------------------------------------------------ figures
def wilson(hits: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval (1927; 95 %) of a share hits / count: a share of 1 has an interval too, where resampled rows give none. 0 to 1 for no rows."""
    if not count:
        return 0.0, 1.0
    share, shrunk = hits / count, 1 + z**2 / count
    middle, half = (share + z**2 / (2 * count)) / shrunk, z / shrunk * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return float(max(middle - half, 0)), float(min(middle + half, 1))


def uniqueness(found: list[str]) -> float:
    """Different strings over all, of the canonical SMILES of the valid samples: MOSES's unique@N with N all that were drawn."""
    return len(set(found)) / len(found)


def novelty(found: list[str], training: np.ndarray) -> float:
    """Share of the different canonical SMILES whose digest is not among the training set's, (m,) sorted.

    Equality is that of strings, so the training lines must be canonical as the installed RDKit writes them: see `known`."""
    drawn = digests(found)
    seen = np.searchsorted(training, drawn, "right") > np.searchsorted(training, drawn)
    return float(1 - seen.mean())


def internal_diversity(prints: np.ndarray, block: int = 1024) -> float:
    """MOSES's IntDiv_1 of fingerprints (n, bits): 1 - the mean Tanimoto similarity of all n^2 ordered pairs, each molecule with itself included."""
    prints = prints.astype(np.float32)  # counts up to 2^24 are exact
    sizes, total = prints.sum(1), 0.0
    for i in range(0, len(prints), block):
        common = prints[i : i + block] @ prints.T
        total += (common / (sizes[i : i + block, None] + sizes - common)).sum(dtype=np.float64)
    return float(1 - total / len(prints) ** 2)


def scaffold_similarity(ours: collections.Counter[str], theirs: collections.Counter[str]) -> float:
    """Cosine of two vectors of scaffold counts; nan where either has no scaffold."""
    norm = np.sqrt(float(sum(n**2 for n in ours.values())) * sum(n**2 for n in theirs.values()))
    return float(sum(n * theirs[scaffold] for scaffold, n in ours.items()) / norm) if norm else NAN


class Gaussian(NamedTuple):
    """mean (d,) and covariance (d, d)."""

    mean: np.ndarray
    covariance: np.ndarray


def frechet(a: Gaussian, b: Gaussian) -> float:
    """Squared Wasserstein-2 distance of two Gaussians (Dowson & Landau 1982): |m - m'|^2 + Tr(C + C' - 2 (C^1/2 C' C^1/2)^1/2)."""
    values, vectors = np.linalg.eigh(a.covariance)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ b.covariance @ root), 0)).sum()
    return float(((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross)


def chemnet(found: list[str]) -> Gaussian | None:
    """The Gaussian of ChemNet's 512 activations over canonical SMILES, of which `frechet` makes the Fréchet ChemNet distance (Preuer et al. 2018); None
    where the package fcd, or torch, which it needs, is not installed."""
    try:
        from fcd import get_predictions, load_ref_model
    except ImportError:
        return None
    activations = np.asarray(get_predictions(load_ref_model(), found, n_jobs=0), float)  # 0: in this process, for JAX's threads survive no fork
    return Gaussian(activations.mean(0), np.cov(activations.T))


# ---------------------------------------------------------------------------------------------------------------------------------------- the score
class Reference(NamedTuple):
    """What samples are held against: properties (m, 4) and scaffolds of real molecules, the sorted digests of the training set, and ChemNet's Gaussian
    (None without the package fcd)."""

    properties: np.ndarray
    scaffolds: collections.Counter[str]
    training: np.ndarray
    chemnet: Gaussian | None


def reference(smiles: list[str], training: np.ndarray) -> Reference:
    """The reference of real molecules, once for all scores: 2 seconds for 1,000. smiles: best of a test set and spread evenly over it, for MOSES's files
    are in the order of ZINC, not shuffled; training: `digests` of the lines the teacher learned from. Raises ValueError for fewer than two valid."""
    molecules = [m for m in map(parse, smiles) if m is not None]
    if len(molecules) < 2:
        raise ValueError(f"the reference has {len(molecules)} valid molecules of {len(smiles)}; allowed: two or more")
    found = [_rdkit().MolToSmiles(m) for m in molecules]
    return Reference(properties(molecules), scaffolds(molecules), training, chemnet(found))


def score(smiles: list[str], reference: Reference) -> dict[str, float | tuple[float, float]]:
    """All figures of samples: validity, its 95 % interval and valid, their number; uniqueness, novelty, internal_diversity; logp_distance, qed_distance, sa_distance and
    weight_distance, Wasserstein-1 to the reference in the property's unit; scaffold_similarity; atoms, the mean number but hydrogens; fcd where the
    reference has ChemNet. All but validity are nan for fewer than two valid samples. A second for 512."""
    from scipy.stats import wasserstein_distance

    molecules = [m for m in map(parse, smiles) if m is not None]
    found, several = [_rdkit().MolToSmiles(m) for m in molecules], len(molecules) > 1
    ours = properties(molecules)
    figures = {
        "uniqueness": lambda: uniqueness(found),
        "novelty": lambda: novelty(found, reference.training),
        "internal_diversity": lambda: internal_diversity(fingerprints(molecules)),
        **{f"{name}_distance": lambda i=i: float(wasserstein_distance(ours[:, i], reference.properties[:, i])) for i, name in enumerate(PROPERTIES)},
        "scaffold_similarity": lambda: scaffold_similarity(scaffolds(molecules), reference.scaffolds),
        "atoms": lambda: float(np.mean([m.GetNumHeavyAtoms() for m in molecules])),
    }
    if reference.chemnet is not None:
        figures["fcd"] = lambda: frechet(chemnet(found), reference.chemnet)
    validity = {"validity": len(molecules) / len(smiles) if smiles else NAN, "validity_interval": wilson(len(molecules), len(smiles)), "valid": len(molecules)}
    return validity | {name: figure() if several else NAN for name, figure in figures.items()}


# --------------------------------------------------------------------------------------------------------------------------------------- the pictures
def draw(smiles: list[str], per_row: int = 6, names: list[str] | None = None) -> str:
    """The molecules as one piece of HTML, a grid of inline SVG that needs nothing else; what is no molecule is shown as its text, in red. names: a line
    under each. About 10 KB a molecule. Raises ValueError where names are not as many."""
    cells = []
    for text, name in zip(smiles, [""] * len(smiles) if names is None else names, strict=True):
        molecule, shown = parse(text), html.escape(text)
        picture = f'<code style="color:#c62828;overflow-wrap:anywhere">{shown or "(empty)"}</code>' if molecule is None else _svg(molecule)
        caption = f"<figcaption>{html.escape(name)}</figcaption>" if name else ""
        cells.append(f'<figure title="{shown}" style="margin:0;text-align:center;font-size:12px">{picture}{caption}</figure>')
    return f'<div style="display:grid;grid-template-columns:repeat({per_row},minmax(0,1fr));gap:8px;align-items:center">{"".join(cells)}</div>'


def _svg(molecule, width: int = 200, height: int = 150) -> str:
    """The drawing as an <svg> element as wide as what holds it."""
    tools = _rdkit().Draw.rdMolDraw2D
    canvas = tools.MolDraw2DSVG(width, height)
    canvas.drawOptions().clearBackground = False
    canvas.drawOptions().includeMetadata = False
    tools.PrepareAndDrawMolecule(canvas, molecule)
    canvas.FinishDrawing()
    drawing = canvas.GetDrawingText()
    return drawing[drawing.index("<svg") :].replace(f"width='{width}px' height='{height}px'", "width='100%'", 1)
