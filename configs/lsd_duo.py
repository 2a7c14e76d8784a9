"""LSD and LSD+ on Duo (Sahoo et al. 2025), a uniform-state network of text: every token may change in every step, so costs are a table of segments.

  hf download openai-community/gpt2 tokenizer.json tokenizer_config.json --local-dir gpt2        the tokenizer, once
  python -m jddd.main --config=configs/lsd_duo.py --config.data.path=openwebtext.txt --config.data.tokenizer=gpt2
  python -m jddd.main --config=configs/lsd_duo.py:distilled ...           duo-distilled, Duo's own few-step student, as the teacher; the same flags
  python -m jddd.main --config=configs/lsd_duo.py:smoke --config.teacher=FOLDER --config.judge=FOLDER ...            a network of any size, minutes, for tests

Duo has 50,258 symbols, GPT-2's and a padding that no text holds; GPT-2's tokenizer is taken for it. Data and hardware as of configs/lsd_sedd_small.py: one
accelerator of 80 GB. About 8 hours on one H100, reckoned from operations and not run: a uniform process has no skipping path, and its table of segment costs
(32 windows, 32 times, 3 coefficients) is read in parts of 2 windows. The table resolves students of up to 16 steps; at NFE 32 and 64 plain samplers are shown.

To compare with: nothing is published of LSD on Duo. The LSD paper names a uniform-state SEDD; our table's own Euler and Tweedie rows are the baseline.
"""

from ml_collections import ConfigDict

from jddd import recipes

TEACHERS = {"": "s-sahoo/duo", "distilled": "s-sahoo/duo-distilled", "smoke": ""}


def get_config(variant: str = "") -> ConfigDict:
    if variant not in TEACHERS:
        raise ValueError(f"variant is {variant!r}; allowed: nothing, {', '.join(list(TEACHERS)[1:])}")
    return recipes.paper_lsd("lsd_duo" + (f"_{variant}" if variant else ""), TEACHERS[variant], smoke=variant == "smoke")
