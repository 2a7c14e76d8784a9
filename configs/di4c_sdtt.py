"""Di4C on SDTT's students of OpenWebText (Hayakawa et al. 2025): the losses, the batch and the optimiser of the paper, once and twice.

  hf download openai-community/gpt2 tokenizer.json tokenizer_config.json --local-dir gpt2        the tokenizer, once
  python -m jddd.main --config=configs/di4c_sdtt.py --config.data.path=openwebtext.txt --config.data.tokenizer=gpt2      both rounds, from SDTT's round 7
  python -m jddd.main --config=configs/di4c_sdtt.py:round6 ...           from SDTT's round 6; the same flags
  python -m jddd.main --config=configs/di4c_sdtt.py:table ...            the teacher and runs/di4c_sdtt/round_1 and round_2 side by side, judged by GPT-2 large
  python -m jddd.main --config=configs/di4c_sdtt.py:smoke --config.teacher=FOLDER ...            two rounds on a network of any size, seconds, for tests
  python -m jddd.main --config=configs/di4c_sdtt.py:smoke_table --config.teacher=FOLDER --config.judge=FOLDER ...    the comparison at toy size, for tests

Teachers: the hub's jdeschena/sdtt, whose rounds are revisions, or one's own: --config.teacher=runs/sdtt_mdlm/round_7 (configs/sdtt_mdlm.py). data.path: OpenWebText as one UTF-8 file; data.tokenizer: GPT-2's 50,257 symbols. The optimiser's b2 is .99 here, .999 there.

Needs one accelerator of 80 GB in float32 (distill.together=false visits the 16 latents one after another: 24 GB). 100,000 updates a round, ours: the paper's
number of updates is not among the facts we have, its code stops by hand. About 10 hours a round on one H100, reckoned from operations and not run.

To compare with (Di4C paper, OpenWebText, 16 steps, 1,024 samples, GPT-2 large perplexity / MAUVE / entropy): SDTT round 7 61.3 / .88 / 5.36, and Di4C twice
44.8 / .90 / 5.34. Latency at most 5 % above the teacher's.
"""

from ml_collections import ConfigDict

from jddd import recipes
from jddd.build import defaults
from jddd.compare import CompareConfig
from jddd.distill.lsd import LSDConfig

TEACHERS = {"": "jdeschena/sdtt@baselines_kld_step_70000", "round6": "jdeschena/sdtt@baselines_kld_step_60000", "table": "jdeschena/sdtt@baselines_kld_step_70000", "smoke": "", "smoke_table": ""}


def get_config(variant: str = "") -> ConfigDict:
    if variant not in TEACHERS:
        raise ValueError(f"variant is {variant!r}; allowed: nothing, {', '.join(list(TEACHERS)[1:])}")
    config = recipes.paper_text("di4c_sdtt" + (f"_{variant}" if variant else ""), TEACHERS[variant])
    if variant.endswith("table"):
        config.experiment = "compare"
        config.judge = "" if variant.startswith("smoke") else recipes.JUDGE
        config.students = ConfigDict({"Di4C": "" if config.judge == "" else "runs/di4c_sdtt/round_1", "Di4C_twice": "" if config.judge == "" else "runs/di4c_sdtt/round_2"})
        config.distill = defaults(LSDConfig)
        config.report = defaults(CompareConfig, nfe=(4, 8, 16, 32), teacher_steps=1024, samples=1024, batch=16)
        if variant == "smoke_table":
            config.distill = defaults(LSDConfig, steps=30)
            config.report = defaults(CompareConfig, nfe=(4,), teacher_steps=8, samples=8, batch=8, cost_windows=32, bootstrap=20)
        return config
    return recipes.paper_student(config, "di4c", rounds=2, smoke=variant == "smoke")
