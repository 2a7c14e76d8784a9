"""A finished distillation run on disk: its students, ready to sample.

    run = jddd.load("runs/lsd_text")
    print(run.sample(nfe=8, count=4, prefix="in the beginning "))
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jddd import build, pretrained, sampling, solvers
from jddd.sampling import Student
from jddd.writers import write_whole


class Entry(NamedTuple):
    """A sampler of the report's table: its numbers and how they are used. network: the name or path of a network student, '' for the teacher."""

    sampler: str
    grid: str
    student: Student
    solver: str = "tweedie"
    form: str = "score"
    reveal: str = "independent"
    network: str = ""

    @property
    def nfe(self) -> int:
        """Network calls."""
        return solvers.calls(self.solver, self.student.count)

    @property
    def name(self) -> str:
        """A file name: letters, digits and dashes."""
        text = f"{self.sampler} {self.grid} {self.nfe}".lower().replace("+", "plus")
        return "-".join("".join(c if c.isalnum() else " " for c in text).split())


def save_entries(path: Path, entries: list[Entry]) -> None:
    """Write entries as JSON, replacing the file in one move."""
    rows = [e._asdict() | {"student": {k: np.asarray(v, np.float64).tolist() for k, v in vars(e.student).items()}, "nfe": e.nfe} for e in entries]
    write_whole(path, json.dumps(rows, indent=1) + "\n")


def load_entries(path: Path) -> list[Entry]:
    """Entries as save_entries wrote them. Raises ValueError naming the file when it is missing or damaged."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist; allowed: the folder of a finished run")
    try:
        rows = json.loads(path.read_text())
        numbers = [{k: jnp.asarray(v, jnp.float32) for k, v in r["student"].items()} for r in rows]  # a number an older version did not have is the plain one
        return [Entry(r["sampler"], r["grid"], sampling.plain(n["times"]).replace(**n), r["solver"], r["form"], r["reveal"], r.get("network", "")) for r, n in zip(rows, numbers)]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from None


def record(workdir: Path, config: ConfigDict, digests: dict[str, str] | None = None) -> None:
    """Write config.json, or raise ValueError where the folder holds a run of another config, other weights or another text."""
    file, now = workdir / "config.json", {"config": json.loads(config.to_json()), "digests": digests or {}}
    if file.is_file():
        try:
            there = json.loads(file.read_text())
        except ValueError:
            raise ValueError(f"{file} is damaged; remove it, or choose another --workdir") from None
        for part in now:
            if there.get(part) != now[part]:
                raise ValueError(f"workdir {workdir} holds a run of another {part[:-1] if part == 'digests' else part}; allowed: a new --workdir, or the same config, weights and text to go on")
    write_whole(file, json.dumps(now, indent=1) + "\n")


class Run(NamedTuple):
    """A loaded run: its students and their teacher."""

    entries: list[Entry]
    teacher: pretrained.Pretrained

    def entry(self, sampler: str, nfe: int) -> Entry:
        """The first entry whose sampler starts with the given name, or else holds it; '' is 'LSD+ spread' where the process has it, else 'LSD+'.
        Raises ValueError listing what there is."""
        if not sampler:
            sampler = "LSD+ spread" if any(e.reveal == "spread" for e in self.entries) else "LSD+"
        here = [e for e in self.entries if e.nfe == nfe]
        found = [e for e in here if e.sampler.lower().startswith(sampler.lower())] or [e for e in here if sampler.lower() in e.sampler.lower()]
        if not found:
            raise ValueError(f"no sampler {sampler!r} with nfe {nfe}; allowed: {', '.join(sorted({f'{e.sampler} ({e.nfe})' for e in self.entries}))}")
        return found[0]

    def sample(self, sampler: str = "", *, nfe: int = 8, count: int = 4, length: int = 0, prefix: str = "", template: str = "", seed: int = 0) -> list[str]:
        """Text of `count` samples: `symbols`, decoded by the teacher's tokenizer."""
        drawn = self.symbols(sampler, nfe=nfe, count=count, length=length, prefix=prefix, template=template, seed=seed)
        return [self.teacher.network.tokenizer.decode(row) for row in drawn]

    def symbols(self, sampler: str = "", *, nfe: int = 8, count: int = 4, length: int = 0, prefix: str = "", template: str = "", seed: int = 0) -> np.ndarray:
        """`count` samples (count, L). prefix: symbols every sample begins with; template, in its place: a whole text in which '_' marks what to fill in.
        length: symbols a sample, 0 for the teacher's. Raises ValueError for a sampler that is not there, and for numbers and texts that do not fit."""
        for name, value, least in (("count", count, 1), ("length", length, 0)):
            if value < least:
                raise ValueError(f"{name} is {value}; allowed: {least} or more{' (0: the length of the teacher)' if name == 'length' else ''}")
        if prefix and template:
            raise ValueError(f"prefix is {prefix!r} and template {template!r}; allowed: one of them, as a template can begin with the prefix")
        entry = self.entry(sampler, nfe)
        params, network, _ = pretrained.load(entry.network) if entry.network else self.teacher
        length = length or network.length
        sampling.check(entry.student, process=network.process, solver=entry.solver, form=entry.form, reveal=entry.reveal, length=length)
        given = fixed = None
        if prefix or template:
            given, fixed = condition(network, prefix=prefix, template=template, length=length)
            given, fixed = (jnp.broadcast_to(a, (count, length)) for a in (given, fixed))
        generate = sampling.sampler(network.denoiser, network.process, (count, length), solver=entry.solver, form=entry.form, reveal=entry.reveal)
        return np.asarray(generate(jax.random.key(seed), params, entry.student, given, fixed))


def condition(network, *, prefix: str = "", template: str = "", length: int) -> tuple[np.ndarray, np.ndarray]:
    """(given (L,), fixed (L,)) of a prefix, or of a template in which each '_' is one symbol to fill in."""
    pieces = re.split("(_)", template) if template else [prefix]
    parts = [(np.zeros(1, int), False) if piece == "_" else (np.asarray(network.tokenizer.encode_piece(piece), int), True) for piece in pieces if piece]
    symbols = np.concatenate([part for part, _ in parts])
    held = np.concatenate([np.full(len(part), keep) for part, keep in parts])
    if len(symbols) > length:
        raise ValueError(f"prefix or template has {len(symbols)} symbols; allowed: at most the length {length}")
    given, fixed = np.zeros(length, np.int32), np.zeros(length, bool)
    given[: len(symbols)], fixed[: len(symbols)] = symbols, held
    return given, fixed


def load(workdir: str | Path) -> Run:
    """A finished run. Raises ValueError naming the file that is missing or damaged."""
    folder = Path(workdir)
    entries = load_entries(folder / "students.json")
    try:
        config = json.loads((folder / "config.json").read_text())["config"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder / 'config.json'} is missing or damaged: {error!r}") from None
    if "teacher" not in config:
        raise ValueError(f"{folder} holds a run of experiment {config.get('experiment')!r}, which has no teacher of text; allowed: the folder of a text distillation, as of configs/lsd_text.py")
    teacher, _ = pretrained.with_data(pretrained.load(config["teacher"]), build.section(build.DataConfig, config["data"], "data"))
    return Run(entries, teacher)
