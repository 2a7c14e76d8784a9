"""What configs of one kind share: the training of network students, Di4C or SDTT, of any teacher, and the papers' own settings on published text networks. A
config file says what is its own on top."""

from __future__ import annotations

from ml_collections import ConfigDict

from jddd.build import DataConfig, OptimConfig, TrainConfig, defaults
from jddd.distill.di4c import Di4CConfig
from jddd.distill.lsd import LSDConfig
from jddd.distill.sdtt import SDTTConfig
from jddd.experiment import ReportConfig

JUDGE = "openai-community/gpt2-large"  # of the papers' generative perplexities


def student(config: ConfigDict, method: str, *, rounds: int, smoke: bool = False) -> ConfigDict:
    """The config with the sections of a student's training. method: 'di4c', whose latents serve a sampler's own steps (see Di4CConfig.step_low), of those of
    NFE 4 to 16, or 'sdtt'; smoke, of Di4C: seconds, for tests."""
    config.experiment, config.method, config.rounds = "student", method, rounds
    config.optim = defaults(OptimConfig, name="adamw", learning_rate=5e-4, latent_rate=4.0, warmup=50, decay_from=0.5, clip=10.0)
    if method == "sdtt":
        config.distill = defaults(SDTTConfig, step=1 / 256)
        config.train = defaults(TrainConfig, steps=200, batch=32, microbatches=2, ema=0.98, save_every=100, log_every=20, evaluate_every=200)
        return config
    config.distill = defaults(
        Di4CConfig, latents=16, stratified=True, target="teacher", near_share=0.0, start_share=0.1, shape="constant", scale=1.0, step_low=1 / 16, step_high=1 / 4, consistency=0.0
    )
    config.train = defaults(TrainConfig, steps=1200, batch=8, microbatches=1, ema=0.995, save_every=100, log_every=20, evaluate_every=400)
    if smoke:
        config.distill.latents = config.distill.teacher_latents = 2
        config.train = defaults(TrainConfig, steps=6, batch=4, microbatches=2, save_every=3, log_every=3, evaluate_every=3)
    return config


# ------------------------------------------------------------------------------------------------------------------------ published text networks
def paper_text(name: str, teacher: str) -> ConfigDict:
    """A config with a published teacher, whose data are the user's: data.path and data.tokenizer are to be set (the length is the teacher's)."""
    config = ConfigDict({"name": name, "teacher": teacher})
    config.data = defaults(DataConfig, tokenizer="")
    del config.data.length  # the teacher's
    return config


def paper_lsd(name: str, teacher: str, *, smoke: bool = False) -> ConfigDict:
    """The LSD paper's table for a teacher of text: NFE 8 to 64, 1,024 samples, GPT-2 large; beside path KL the paper's objectives at NFE 8, from chains of a
    teacher of 256 steps. smoke: everything once, at sizes for tests."""
    config = paper_text(name, teacher)
    config.experiment, config.judge = "distill", JUDGE
    config.distill = defaults(LSDConfig)
    config.report = defaults(ReportConfig, nfe=(8, 16, 32, 64), samples=1024, batch=16, teacher_steps=1024, match_samples=128, temperatures=(0.8, 0.9))
    if smoke:
        config.judge = ""
        config.distill = defaults(LSDConfig, steps=30, batch=4, rounds=1, teacher_steps=8)
        config.report = defaults(
            ReportConfig, nfe=(4, 8), extra_nfe=(4,), claim_nfe=(4,), samples=8, batch=8, teacher_steps=8, profile_windows=32, match_samples=8,
            bootstrap=20, confidences=((0.0, 0.0),), temperatures=(0.8,),
        )  # fmt: skip
    del config.distill.learn_times  # LSD and LSD+ are both learned
    return config


def paper_student(config: ConfigDict, method: str, *, rounds: int, smoke: bool = False) -> ConfigDict:
    """The papers' training on OpenWebText, of Di4C (AdamW 3e-5, clip 1, EMA .9999, batch 2 of 16 latents, a tenth of sigmoid(20 (t - 1/2)) for the data, t - u =
    min(1/1024, t/2), distillation below t = .02 with probability .3) or SDTT (AdamW 6e-5, batch 128, steps of 1/1024 doubled each round)."""
    config.experiment, config.method, config.rounds = "student", method, rounds
    config.optim = defaults(OptimConfig, name="adamw", learning_rate=3e-5, warmup=2500, decay_from=1.0, clip=1.0)
    if method == "di4c":
        config.distill = defaults(
            Di4CConfig, latents=16, near=0.02, near_share=0.3, gap_low=1 / 1024, gap_high=1 / 1024, shape="sigmoid", scale=0.1, target="drawn", consistency=1.0, step_low=0.0, step_high=0.0
        )
        config.train = defaults(TrainConfig, steps=100_000, batch=2, microbatches=2, ema=0.9999, save_every=5000, log_every=50, evaluate_every=10_000)
    else:
        config.optim.learning_rate, config.optim.warmup = 6e-5, 500
        config.distill = defaults(SDTTConfig, step=1 / 1024, count=2, divergence="reverse_kl")
        config.train = defaults(TrainConfig, steps=10_000, batch=128, microbatches=32, ema=0.9999, save_every=1000, log_every=20, evaluate_every=5000)
    if smoke:
        config.optim.warmup = 1
        config.train = defaults(TrainConfig, steps=3, batch=4, microbatches=2, ema=0.5, save_every=2, log_every=1, evaluate_every=10)
        if method == "di4c":
            config.distill.latents = config.distill.teacher_latents = 2
    return config
