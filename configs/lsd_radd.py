"""LSD and LSD+ on RADD (Ou et al. 2024): an absorbing network without time, so that one pass over data prices every schedule exactly.

  hf download openai-community/gpt2 tokenizer.json tokenizer_config.json --local-dir gpt2        the tokenizer, once
  python -m jddd.main --config=configs/lsd_radd.py --config.data.path=openwebtext.txt --config.data.tokenizer=gpt2
  python -m jddd.main --config=configs/lsd_radd.py:medium ...             radd-lambda-dce-medium; the same flags
  python -m jddd.main --config=configs/lsd_radd.py:smoke --config.teacher=FOLDER --config.judge=FOLDER ...           a network of any size, minutes, for tests

Data, hardware and hours as of configs/lsd_sedd_small.py: one accelerator of 80 GB, about 4 hours on one H100 (medium 11), reckoned from operations and not run.

To compare with (LSD paper, GPT-2 large generative perplexity, NFE 8): Euler 671.0, LSD+ (Euler) 89.8. No entropy was published; it stands beside every figure here.
"""

from ml_collections import ConfigDict

from jddd import recipes

TEACHERS = {"": "JingyangOu/radd-lambda-dce", "medium": "JingyangOu/radd-lambda-dce-medium", "smoke": ""}


def get_config(variant: str = "") -> ConfigDict:
    if variant not in TEACHERS:
        raise ValueError(f"variant is {variant!r}; allowed: nothing, {', '.join(list(TEACHERS)[1:])}")
    return recipes.paper_lsd("lsd_radd" + (f"_{variant}" if variant else ""), TEACHERS[variant], smoke=variant == "smoke")
