"""SDTT on MDLM (Deschenaux & Gulcehre 2024): seven rounds, each of which halves the number of steps, from 1,024 to 8.

  hf download openai-community/gpt2 tokenizer.json tokenizer_config.json --local-dir gpt2        the tokenizer, once
  python -m jddd.main --config=configs/sdtt_mdlm.py --config.data.path=openwebtext.txt --config.data.tokenizer=gpt2
  python -m jddd.main --config=configs/sdtt_mdlm.py:smoke --config.teacher=FOLDER ...            two rounds on a network of any size, seconds, for tests

data.path: OpenWebText as one UTF-8 file; data.tokenizer: GPT-2's 50,257 symbols. runs/sdtt_mdlm/round_6 and round_7 are what configs/di4c_sdtt.py starts from,
and configs/di4c_sdtt.py:table compares. Divergence KL(student || teacher), two teacher steps learned at once, 10,000 updates a round (the released config),
batch 128 (the released command). Rate 6e-5 with 500 updates of warm-up are the paper's as we remember them, not looked up; the released config has 3e-4 and
2,500: --config.optim.learning_rate=3e-4 --config.optim.warmup=2500. The optimiser's b2 is .99 here, .999 there.

Needs one accelerator of 80 GB in float32 (train.microbatches=32 rows of 4; more of them for less memory). About 5 hours a round on one H100, 35 in all,
reckoned from operations and not run.

To compare with (Di4C paper, OpenWebText, 16 steps, GPT-2 large perplexity / MAUVE / entropy): SDTT round 7 61.3 / .88 / 5.36.
"""

from ml_collections import ConfigDict

from jddd import recipes


def get_config(variant: str = "") -> ConfigDict:
    if variant not in ("", "smoke"):
        raise ValueError(f"variant is {variant!r}; allowed: nothing, smoke")
    config = recipes.paper_text("sdtt_mdlm" + (f"_{variant}" if variant else ""), "" if variant else "kuleshov-group/mdlm-owt")
    return recipes.paper_student(config, "sdtt", rounds=2 if variant else 7, smoke=bool(variant))
