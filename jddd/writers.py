"""Logs of a run: JSON lines (to read with anything) and TensorBoard events; seconds by stage."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a file in one move: a kill leaves the old one or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)


class Writer:
    """Scalars to workdir/log.jsonl and workdir/tensorboard. Opened for append, so that a resumed run goes on in the same files."""

    def __init__(self, workdir: str | Path):
        from tensorboardX import SummaryWriter

        folder = Path(workdir)
        folder.mkdir(parents=True, exist_ok=True)
        self._lines = open(folder / "log.jsonl", "a")
        self._events = SummaryWriter(str(folder / "tensorboard"))

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """One line and one event a scalar, flushed, so that a killed run keeps them."""
        self._lines.write(json.dumps({"step": step, "time": round(time.time(), 2), **{k: float(f"{v:.6g}") for k, v in scalars.items()}}) + "\n")
        self._lines.flush()
        for name, value in scalars.items():
            self._events.add_scalar(name, value, step)
        self._events.flush()

    def close(self) -> None:
        self._lines.close()
        self._events.close()


class Stages:
    """Seconds by stage, in the order they ran, each announced on stderr."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str):
        print(f"[{name}]", file=sys.stderr, flush=True)
        begin = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin
