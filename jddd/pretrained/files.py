"""Reading checkpoint files as arrays: safetensors without torch, torch's own files through torch, of which nothing but tensors is ever unpickled."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

TORCH = (".ckpt", ".pt", ".pth", ".bin")
NAMES = ("model.safetensors", "model.ckpt", "last.ckpt", "pytorch_model.bin", "checkpoint.pth", "model.pt")  # of weights in a folder, the first that is there
FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


class Weights(NamedTuple):
    """tensors by the names in the file; average: an EMA's, without names, in the order of the parameters, None where the file has none."""

    tensors: dict[str, np.ndarray]
    average: list[np.ndarray] | None = None


def find(folder: Path, average: bool) -> Path:
    """The weights of a folder: of NAMES the first, else the only file of a kind; average: torch's files alone, as only they keep an EMA beside the weights.
    Raises ValueError where there is none, or more than one and no name to choose by."""
    kinds = TORCH if average else (".safetensors", *TORCH)
    for name in NAMES:
        if Path(name).suffix in kinds and (folder / name).is_file():
            return folder / name
    found = sorted(path for path in folder.iterdir() if path.suffix in kinds and path.is_file())
    if len(found) != 1:
        raise ValueError(f"checkpoint {str(folder)!r} has {[path.name for path in found] or 'no weights'}{' with an average' if average else ''}; allowed: one file of {', '.join(kinds)}, or the path of the one that is meant")
    return found[0]


def read_config(path: Path) -> dict:
    """config.json beside a file of weights, {} where there is none. Raises ValueError naming it where it is not a JSON object."""
    file = path.with_name("config.json")
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"checkpoint {str(file)!r} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"checkpoint {str(file)!r} holds a {type(config).__name__}; allowed: a JSON object")
    return config


def read(path: Path) -> Weights:
    """The arrays of a file, floats as they are stored. Raises ValueError naming the file, and what is wrong with which tensor of it."""
    return read_torch(path) if path.suffix in TORCH else Weights(read_safetensors(path))


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """(what a safetensors file says of its tensors, where their bytes begin)."""
    with path.open("rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        entries = json.loads(file.read(size)) if size <= path.stat().st_size else None
    if not isinstance(entries, dict):
        raise ValueError("no table of tensors")
    return {name: entry for name, entry in entries.items() if name != "__metadata__"}, 8 + size


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file. Raises ValueError naming the first that the file is too short for, or that holds no floats."""
    try:
        header, start = _header(path)
    except (OSError, ValueError, struct.error) as error:
        raise ValueError(f"checkpoint {str(path)!r} is damaged or truncated: its table of tensors cannot be read ({error or type(error).__name__})") from None
    for name, entry in header.items():
        numbers = [value for field in ("data_offsets", "shape") for value in (entry.get(field) if isinstance(entry, dict) and isinstance(entry.get(field), list) else [None])]
        if not all(isinstance(value, int) and value >= 0 for value in numbers) or len(entry["data_offsets"]) != 2:
            raise ValueError(f"checkpoint {str(path)!r} is damaged: its table says {str(entry)[:100]} of tensor {name!r}; expected dtype, shape and two data_offsets")
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        if entry.get("dtype") not in FLOATS:
            raise ValueError(f"checkpoint {str(path)!r}: tensor {name!r} of shape {tuple(entry.get('shape', ()))} has type {entry.get('dtype')}, expected one of {', '.join(FLOATS)}")
        wanted, there = start + entry["data_offsets"][1], path.stat().st_size
        if wanted > there:
            size = np.dtype(FLOATS[entry["dtype"]]).itemsize
            left = max(0, there - start - entry["data_offsets"][0]) // size
            raise ValueError(f"checkpoint {str(path)!r} is truncated: of tensor {name!r} the file has {left} numbers, expected {math.prod(entry['shape'])} of shape {tuple(entry['shape'])}")
    try:
        with safe_open(path, framework="np"):  # the library's own checks of the table
            pass
    except (SafetensorError, OSError) as error:
        raise ValueError(f"checkpoint {str(path)!r} is damaged or truncated: {error}") from None
    data = np.memmap(path, np.uint8, mode="r", offset=start) if header else np.zeros(0, np.uint8)
    part = lambda entry: np.asarray(data[slice(*entry["data_offsets"])])
    return {name: part(entry).view(FLOATS[entry["dtype"]]).reshape(entry["shape"]) for name, entry in header.items()}


def read_torch(path: Path) -> Weights:
    """The weights of a torch or Lightning checkpoint: its 'state_dict' or 'model', or all of it; and ema.shadow_params. Needs the extra jddd[torch].

    Raises ValueError for a file that is damaged, and for one that torch.load(weights_only=True) refuses as it would run code."""
    try:
        import torch
    except ImportError:
        raise ValueError(f"checkpoint {str(path)!r} is a torch file, which needs the package torch: pip install 'jddd[torch]', or convert it to safetensors") from None
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):  # before, weights_only=True could be made to run code (CVE-2025-32434)
        raise ValueError(f"checkpoint {str(path)!r} is a torch file, and the package torch here is {torch.__version__}; allowed: torch 2.6 or newer, or safetensors")
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no common type for what a damaged or a foreign file makes it raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"checkpoint {str(path)!r} cannot be read as tensors alone (torch.load with weights_only=True: {type(error).__name__}: {reason[:200]}); allowed: a whole file that holds tensors, numbers and text") from None
    array = lambda tensor: (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).detach().numpy()
    state = next((found[name] for name in ("state_dict", "model") if isinstance(found, dict) and isinstance(found.get(name), dict)), found)
    tensors = {name: array(value) for name, value in state.items() if isinstance(value, torch.Tensor)} if isinstance(state, dict) else {}
    if not tensors:
        raise ValueError(f"checkpoint {str(path)!r} holds no tensors by name; allowed: a state_dict, or a checkpoint with 'state_dict' or 'model'")
    for name, value in tensors.items():
        if not np.issubdtype(value.dtype, np.floating):
            raise ValueError(f"checkpoint {str(path)!r}: tensor {name!r} of shape {value.shape} has type {value.dtype}, expected floats")
    average = found.get("ema") if isinstance(found, dict) else None
    shadow = average.get("shadow_params") if isinstance(average, dict) else None
    if shadow is not None and not (isinstance(shadow, (list, tuple)) and all(isinstance(value, torch.Tensor) for value in shadow)):
        raise ValueError(f"checkpoint {str(path)!r}: ema.shadow_params holds other things than tensors, expected a list of them")
    return Weights(tensors, None if shadow is None else [array(value) for value in shadow])
