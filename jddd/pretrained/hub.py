"""Checkpoints of the Hugging Face hub, by 'owner/name' or 'owner/name@revision', into huggingface_hub's usual cache (the extra jddd[hub])."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from jddd.pretrained import files

ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
AVERAGED = tuple(name for name in files.NAMES if Path(name).suffix in files.TORCH)


def fetch(name: str, *, average: bool = False) -> Path:
    """The file of weights of a hub id, downloaded unless it is cached, config.json beside it; prints the revision that was resolved, to be pinned.

    With HF_HUB_OFFLINE=1 the cache alone is asked. Raises ValueError where huggingface_hub is missing or the files cannot be had."""
    try:
        from huggingface_hub import constants, errors, hf_hub_download
    except ImportError:
        raise ValueError(f"network {name!r} does not exist here; as an id of the Hugging Face hub it needs the package huggingface_hub: pip install 'jddd[hub]'") from None
    owner, _, revision = name.partition("@")
    first = None
    for wanted in ("config.json", *(AVERAGED if average else files.NAMES)):
        try:
            file = Path(hf_hub_download(owner, wanted, revision=(first.parent.name if first else revision) or None, local_files_only=constants.HF_HUB_OFFLINE))
        except errors.EntryNotFoundError as error:
            if isinstance(error, errors.LocalEntryNotFoundError) and (first is None or not constants.HF_HUB_OFFLINE):  # not cached, and the hub cannot be asked
                raise ValueError(f"network {name!r} does not exist here, and as an id of the Hugging Face hub it is not in the cache: {' '.join(str(error).split())[:200]}") from None
            continue
        except Exception as error:  # no such repository or revision, no rights, no connection: types of several libraries
            raise ValueError(f"network {name!r} cannot be had from the Hugging Face hub: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from None
        if first is None:
            first = file
            print(f"{owner}: revision {file.parent.name} (pin it as {owner}@{file.parent.name})", file=sys.stderr)
        if wanted != "config.json":
            return file
    raise ValueError(f"network {name!r} of the Hugging Face hub has none of {', '.join(AVERAGED if average else files.NAMES)}")
