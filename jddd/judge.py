"""Generative perplexity of texts under a published judge, with the entropy of the texts beside it:

python -m jddd.judge --judge=SmolLM2-135M.gguf --texts=samples.txt
python -m jddd.judge --judge=openai-community/gpt2-large --texts=samples.jsonl
python -m jddd.judge --judge=models/gpt2 --run=runs/lsd_text --nfe=8 --count=64
python -m jddd.judge --judge=models/gpt2 --texts=samples.txt --reference=real.txt       MAUVE of the two sets as well
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np

from jddd import judges, runs
from jddd.metrics import bleu, generative, mauve
from jddd.metrics.generative import Protocol

PROTOCOL = """The protocol's defaults are MDLM's: samples are decoded, read by the judge's tokenizer, truncated at 1024
tokens, cut into windows of 1024, the first token of each unscored; exp of the mean NLL over all tokens. SEDD's: --mean=sequences --repeated-ends."""


def read(file: str | Path, field: str = "text") -> list[str]:
    """Texts of a file: one a line, or of a .jsonl file each line's string, or its `field`. Empty lines are left out.

    Raises ValueError naming the file, and the line that is not as it should be."""
    path = Path(file).expanduser()
    try:
        lines = [line for line in path.read_text("utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"texts {str(file)!r} cannot be read: {error}; allowed: a UTF-8 file, one text a line, or JSON lines (.jsonl)") from None
    if path.suffix not in (".jsonl", ".ndjson"):
        texts = [line.rstrip("\r") for line in lines]
    else:
        texts = []
        for number, line in enumerate(lines, 1):
            try:
                value = json.loads(line)
            except ValueError as error:
                raise ValueError(f"texts {str(file)!r}, text {number} is not JSON: {error}") from None
            value = value.get(field) if isinstance(value, dict) else value
            if not isinstance(value, str):
                raise ValueError(f"texts {str(file)!r}, text {number} has no string {field!r}; allowed: strings, or objects with that field (--field)")
            texts.append(value)
    if not texts:
        raise ValueError(f"texts {str(file)!r} holds no text; allowed: one text a line at least")
    return texts


def lines(found: generative.GenerativePerplexity) -> list[str]:
    """The figures as lines for a terminal."""
    beside = lambda value, error, digits=3: f"{value:.{digits}f} ± {error:.{digits}f}"
    return [
        f"perplexity            {beside(found.perplexity, found.perplexity_error)} a token of the judge",
        f"entropy               {beside(found.entropy, found.entropy_error)} nats, unigrams within a text, of {found.entropy_of}",
        f"NLL                   {beside(found.nll, found.nll_error, 4)} nats a token",
        f"bits a character      {beside(found.bits_per_character, found.bits_per_character_error, 4)}",
        f"counts                {found.samples} texts, {found.tokens} tokens scored, {found.characters} characters in them, {found.truncated} tokens truncated",
        f"protocol              {found.protocol}",
    ]


def main(arguments: list[str] | None = None) -> None:
    defaults = Protocol()
    parser = argparse.ArgumentParser(prog="python -m jddd.judge", description=__doc__, epilog=PROTOCOL, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge", required=True, help="a folder with config.json and model.safetensors, a .gguf file, or a hub id (owner/name@revision)")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--texts", help="a file: one text a line, or JSON lines (.jsonl) of strings or of objects with --field")
    source.add_argument("--run", help="folder of a finished run of jddd, of which --count samples are drawn (see python -m jddd.sample)")
    parser.add_argument("--field", default="text", help="of JSON lines (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=0, help="the first so many texts only (default: all)")
    parser.add_argument("--tokenizer", default="", help="where the judge's own files hold none: tokenizer.json, or a folder with vocab.json and merges.txt")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the judge's weights and activations (default: %(default)s)")
    parser.add_argument("--length", type=int, default=defaults.length, help="tokens kept of a text, 0: all (default: %(default)s)")
    parser.add_argument("--window", type=int, default=defaults.window, help="tokens the judge reads at once, 0: its context (default: %(default)s)")
    parser.add_argument("--first", default=defaults.first, choices=generative.FIRST, help="first token of a window: unscored, or scored after the start symbol (default: %(default)s)")
    parser.add_argument("--mean", default=defaults.mean, choices=generative.MEANS, help="exp of the mean over all tokens, or mean over texts of their perplexity (default: %(default)s)")
    parser.add_argument("--repeated-ends", action="store_true", help="score the second and later end-of-text tokens of a window too")
    parser.add_argument("--batch", type=int, default=defaults.batch, help="windows a call of the judge (default: %(default)s)")
    parser.add_argument("--reference", default="", help="a file of real texts: MAUVE against them (as many, thousands, for a figure worth quoting)")
    parser.add_argument("--clusters", type=int, default=0, help="of MAUVE (default: a tenth of the smaller set)")
    parser.add_argument("--self-bleu", action="store_true", help="self-BLEU of the texts as well, which takes time with the square of their number")
    parser.add_argument("--json", default="", help="write all figures to this file")
    for name, kind, value in (("sampler", str, ""), ("nfe", int, 8), ("count", int, 64), ("seed", int, 0)):
        parser.add_argument(f"--{name}", type=kind, default=value, help=f"of --run (default: {value!r})")
    options = parser.parse_args(arguments)
    try:
        report(options)
    except ValueError as error:
        sys.exit(f"error: {error}")


def report(options: argparse.Namespace) -> None:
    """Scores what the options name and prints it. Raises ValueError for what cannot be scored."""
    protocol = Protocol(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Protocol)})
    own = None
    if options.run:
        run = runs.load(options.run)
        own = list(run.symbols(options.sampler, nfe=options.nfe, count=options.count, seed=options.seed))
        texts = [run.teacher.network.tokenizer.decode(row) for row in own]
    else:
        texts = read(options.texts, options.field)
    texts, own = (part[: options.limit or None] if part else part for part in (texts, own))
    judge = judges.load(options.judge, tokenizer=options.tokenizer, dtype=options.dtype)
    found = generative.perplexity(judge, texts, protocol, own=own, progress=True)
    figures = found._asdict()
    shown = lines(found)
    if options.self_bleu:
        figures["self_bleu"] = bleu.self_bleu([judge.tokenizer.encode(text).tolist() for text in texts])
        shown.append(f"self-BLEU             {figures['self_bleu']:.2f} of the judge's tokens")
    if options.reference:
        context = min(protocol.length or judge.config.context, judge.config.context)
        feature = lambda some: judges.features(judge, [row for text in some if len(row := judge.tokenizer.encode(text)[:context])], batch=protocol.batch, progress=True)
        near = mauve.mauve(feature(texts), feature(read(options.reference, options.field)), clusters=options.clusters)
        figures["mauve"] = near.mauve
        shown.append(f"MAUVE                 {near.mauve:.4f}, {near.samples[0]} texts against {near.samples[1]}, {len(near.p)} clusters, {near.dimensions} principal axes")
    print(*shown, sep="\n")
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1, default=np.ndarray.tolist) + "\n")


if __name__ == "__main__":
    main()
