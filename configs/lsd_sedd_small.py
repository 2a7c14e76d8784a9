"""LSD and LSD+ on SEDD (Lou et al. 2024), the LSD paper's main table: samplers of 8 to 64 network calls, 1,024 samples of 1,024 tokens, judged by GPT-2 large.

  hf download openai-community/gpt2 tokenizer.json tokenizer_config.json --local-dir gpt2        the tokenizer, once
  python -m jddd.main --config=configs/lsd_sedd_small.py --config.data.path=openwebtext.txt --config.data.tokenizer=gpt2
  python -m jddd.main --config=configs/lsd_sedd_small.py:medium ...       SEDD-medium; the same flags
  python -m jddd.main --config=configs/lsd_sedd_small.py:uniform ...      a uniform-state SEDD of your own, as none is on the hub: --config.teacher=FOLDER too
  python -m jddd.main --config=configs/lsd_sedd_small.py:smoke --config.teacher=FOLDER --config.judge=FOLDER ...     a network of any size, minutes, for tests

data.path: OpenWebText as one UTF-8 file, of which the first 90 % measure the teacher's costs (64 windows), the last 5 % are what samples are held against; 50 MB
do. data.tokenizer: GPT-2's 50,257 symbols. Needs one accelerator of 80 GB (float32); extras jddd[hub,bpe]. Hours on one H100, reckoned from operations and not
run: small about 4, of which all students take minutes and the 1,024-step teacher 1; medium about 11. report.samples=64 is a look in a sixteenth of that.

To compare with (LSD paper, table 1; GPT-2 large generative perplexity at NFE 8, 16, 32, 64; no entropy was published): Euler 423.1, 215.5, 72.8, 56.2; Tweedie
404.9, 177.5, 64.3, 50.2; Jump Your Steps 308.1, 125.3, 55.8, 32.9; LSD+ (Euler) 128.4, 51.8, 36.8, 20.7; LSD+ (Tweedie) 137.9, 61.0, 38.2, 20.5. The table
has token entropies beside every perplexity and the plain sampler at equal entropy; a perplexity that falls with its entropy is sharpening, not quality. The
paper's own objectives (Eq. 6, Eq. 8) are rows at NFE 8; --config.distill.objective=paper shows them at all.
"""

from ml_collections import ConfigDict

from jddd import recipes

TEACHERS = {"": "louaaron/sedd-small", "medium": "louaaron/sedd-medium", "uniform": "", "smoke": ""}


def get_config(variant: str = "") -> ConfigDict:
    if variant not in TEACHERS:
        raise ValueError(f"variant is {variant!r}; allowed: nothing, {', '.join(list(TEACHERS)[1:])}")
    return recipes.paper_lsd("lsd_sedd_small" + (f"_{variant}" if variant else ""), TEACHERS[variant], smoke=variant == "smoke")
