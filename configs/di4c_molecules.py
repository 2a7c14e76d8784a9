"""Di4C on molecules: mixture students of the molecule teacher, beside SDTT, hybrid sampling and LSD+, at NFE 2 to 16.

  python -m jddd.main --config=configs/di4c_molecules.py              compares networks; needs jddd[molecules]
  python -m jddd.main --config=configs/di4c_molecules.py:train        trains the Di4C student (and its own student, 'Di4C twice')
  python -m jddd.main --config=configs/di4c_molecules.py:sdtt         trains the SDTT students
  python -m jddd.main --config=configs/di4c_molecules.py:smoke        a Di4C student in seconds, for tests
  python -m jddd.main --config=configs/di4c_molecules.py:smoke_table  the comparison at toy size, for tests

One Di4C student ships (di4c_molecules: round 1 of :train, 25 minutes on two busy CPU cores). Others: --config.students.SDTT=runs/di4c_molecules_sdtt/round_5 and so
on; '' leaves one out. Expected with --config.report.samples=256 --config.report.cost_windows=32, valid at NFE 16 / 8: teacher .109 / .043, Di4C .176 / .090,
Di4C with LSD+ spread .250 / .176, the teacher at 256 steps .328, by ReMDM-loop at temperature .9 .613 (entropies in docs/di4c.md).
"""

from ml_collections import ConfigDict

from jddd import recipes
from jddd.build import DataConfig, defaults
from jddd.compare import CompareConfig
from jddd.distill.lsd import LSDConfig

VARIANTS = ("", "train", "sdtt", "smoke", "smoke_table")


def get_config(variant: str = "") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"variant is {variant!r}; allowed: nothing, {', '.join(VARIANTS[1:])}")
    config = ConfigDict()
    config.name = "di4c_molecules" + (f"_{variant}" if variant else "")
    config.teacher = "teacher_molecules"
    config.data = defaults(DataConfig, name="molecules", tokenizer="smiles", length=58)
    if variant in ("", "smoke_table"):
        config.experiment = "compare"
        config.students = ConfigDict({"Di4C": "di4c_molecules", "Di4C_twice": "", "SDTT": ""})
        config.distill = defaults(LSDConfig)
        config.report = defaults(CompareConfig, remask=0.05, remask_temperature=0.9, match=True)
        if variant == "smoke_table":
            config.distill = defaults(LSDConfig, steps=60, batch=4, rounds=1, teacher_steps=16)
            config.report = defaults(CompareConfig, nfe=(4,), teacher_steps=8, remask=0.05, match=True, samples=8, batch=8, cost_windows=32, bootstrap=20)
        return config
    if variant == "sdtt":
        return recipes.student(config, "sdtt", rounds=5)
    config = recipes.student(config, "di4c", rounds=2, smoke=variant == "smoke")
    if variant == "train":  # for spread reveals, which suit molecules; steps up to those of NFE 3
        config.distill.update(reveal="spread", step_high=0.34, start_share=0.2)
        config.train.update(steps=700, batch=16, microbatches=4)
    return config
