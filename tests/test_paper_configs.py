"""The papers' experiments on published text networks: every config at full size without an array (jax.eval_shape), and end to end on a network of thousands of
parameters in the hub's layout, with subwords, a text file and published judges."""

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jddd import build, compare, experiment, grids, optim, pretrained, rounds, runs, sampling, sharding, train
from jddd.distill import lsd, profile
from jddd.pretrained import layouts

ROOT = Path(__file__).parents[1]
FIXTURES = Path(__file__).parent / "fixtures"
HUB = {"hidden_dim": 768, "n_blocks": 12, "n_heads": 12, "cond_dim": 128, "model_length": 1024, "vocab_size": 50258}
SMALL = {"hidden_size": 768, "n_blocks": 12, "n_heads": 12, "cond_dim": 128, "length": 1024}
MEDIUM = SMALL | {"hidden_size": 1024, "n_blocks": 24, "n_heads": 16}
SEDD = {"graph": {"type": "absorb"}, "noise": {"type": "loglinear"}, "tokens": 50257}
SDTT = {"parameterization": {"name": "multi-round-sdtt"}, "noise": {"type": "loglinear"}, "time_conditioning": False, "tokens": 50257, "model": SMALL}
# (file, variant): (family, the config.json of its teacher). The hub's own say the same (SEDD, SDTT, RADD: hydra's layout; MDLM, Duo: transformers').
TEACHERS = {
    ("lsd_sedd_small", ""): ("sedd", SEDD | {"model": SMALL | {"scale_by_sigma": True}}),
    ("lsd_sedd_small", "medium"): ("sedd", SEDD | {"model": MEDIUM | {"scale_by_sigma": True}}),
    ("lsd_sedd_small", "uniform"): ("sedd", SEDD | {"graph": {"type": "uniform"}, "noise": {"type": "geometric", "sigma_min": 1e-4, "sigma_max": 20}, "model": SMALL | {"scale_by_sigma": False}}),
    ("lsd_radd", ""): ("radd", SEDD | {"model": SMALL}),
    ("lsd_radd", "medium"): ("radd", SEDD | {"model": MEDIUM}),
    ("lsd_duo", ""): ("duo", HUB | {"model_type": "duo"}),
    ("lsd_duo", "distilled"): ("duo", HUB | {"model_type": "duo"}),
    ("di4c_sdtt", ""): ("sdtt", SDTT),
    ("di4c_sdtt", "round6"): ("sdtt", SDTT),
    ("di4c_sdtt", "table"): ("sdtt", SDTT),
    ("sdtt_mdlm", ""): ("mdlm", HUB | {"model_type": "mdlm", "time_conditioning": False}),
}  # fmt: skip


def get_config(name, variant):
    return runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"](variant)


def count(width, depth, states, time=128, latent=False):
    """Parameters by hand. time: width of the noise level's vector, 0 for none."""
    block = 3 * width**2 + width**2 + 2 * 4 * width**2 + 5 * width + 2 * width  # qkv, out, MLP with its biases, the weights of two norms
    block += 6 * width * (time + 1) if time else 2 * width  # modulation, or the norms' biases
    ends = 2 * states * width + states + width  # embedding, head with its bias, the last norm's weight
    ends += 2 * width * (time + 1) + 256 * time + time + time * time + time if time else width
    return depth * block + ends + ((128 * 512 + 512 + 512 * width + width) if latent else 0)


def shaped(family, config):
    """(description, network, shapes of its parameters), with no array made."""
    description = layouts.describe(config, layouts.family_of(config, set(), family, "config"), {}, "config")
    network = build.network_from(description)
    return description, network, jax.eval_shape(network.init, jax.random.key(0))


def size(shapes):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


# ------------------------------------------------------------------------------------------------------------------------------------- at full size
def test_every_variant_has_its_teacher():
    """Nothing of the papers' configs is left out below but the smokes."""
    for name in {name for name, _ in TEACHERS}:
        with pytest.raises(ValueError, match="allowed: ") as refused:
            get_config(name, "no such variant")
        variants = ["" if v == "nothing" else v for v in str(refused.value).split("allowed: ")[1].split(", ")]
        assert {v for v in variants if not v.startswith("smoke")} == {v for n, v in TEACHERS if n == name}


@pytest.mark.parametrize(("name", "variant"), [key for key in TEACHERS if key[1] not in ("round6", "table", "distilled")])  # the same sizes again
def test_full_size(name, variant):
    """Parameters by hand and as published (rounded: 162 M and 405 M RADD; 170 M and 424 M the others), shapes of one network call and of one sampler run."""
    family, settings = TEACHERS[name, variant]
    description, network, shapes = shaped(family, settings)
    states = 50257 if (name, variant) == ("lsd_sedd_small", "uniform") else 50258
    sizes = (768, 12) if settings.get("model", SMALL)["hidden_size"] == 768 else (1024, 24)
    assert size(shapes) == count(*sizes, states, 0 if family == "radd" else 128)
    millions = {("radd", 12): 162, ("radd", 24): 405}.get((family, sizes[1]), 170 if sizes[1] == 12 else 424)
    assert abs(size(shapes) / 1e6 - millions) < 1.5
    assert (network.length, network.process.states, network.dit.width, network.dit.heads) == (1024, states, sizes[0], 12 if sizes[1] == 12 else 16)
    tokens = jax.ShapeDtypeStruct((2, 1024), jnp.int32)
    out = jax.eval_shape(lambda *inputs: network.denoiser(*inputs), shapes, tokens, jax.ShapeDtypeStruct((), jnp.float32))
    assert out.shape == (2, 1024, network.process.symbols) and out.dtype == jnp.float32
    run = sampling.sampler(network.denoiser, network.process, (2, 1024), chunk=-1)
    assert jax.eval_shape(run, jax.random.key(0), shapes, sampling.plain(grids.uniform(8))).shape == (2, 1024)
    names = {tensor.name for tensor in layouts.tensors(network.dit)}
    assert "blocks.11.mlp.2.weight" in names and ("sigma_map.mlp.0.weight" in names) == (family != "radd")


@pytest.mark.parametrize("method,name", [("di4c", "di4c_sdtt"), ("sdtt", "sdtt_mdlm")])
def test_one_update_at_full_size(method, name):
    """A whole update of the papers' students, of the papers' batch, by its shapes; and their numbers, which are the point of these configs."""
    config = get_config(name, "")
    settings, sizes = build.section(rounds.METHODS[method].config, config.distill, "distill"), build.section(build.TrainConfig, config.train, "train")
    description, _, teacher = shaped(*TEACHERS[name, ""])
    found = pretrained.Pretrained(teacher, build.network_from(description), description)
    network = rounds.student_network(found, method)[1]
    params = jax.eval_shape(network.init, jax.random.key(0))
    assert size(params) == count(768, 12, 50258, latent=method == "di4c")
    task = rounds.METHODS[method].task(found.network.denoiser, network.denoiser, network.process, settings)
    optimiser = optim.optimiser(build.optim(config.optim), sizes.steps)
    state = train.TrainState(jax.ShapeDtypeStruct((), jnp.int32), params, params, jax.eval_shape(optimiser.init, params))
    update = lambda state, key, x, frozen: train.train_step(state, key, x, frozen, task=task, optimiser=optimiser, ema=sizes.ema, microbatches=sizes.microbatches, on=sharding.mesh(devices=jax.devices()[:1]))
    batch = jax.ShapeDtypeStruct((sizes.batch, 1024), jnp.int32)
    after, metrics = jax.eval_shape(update, state, jax.random.key(0), batch, teacher)
    assert jax.tree.map(lambda leaf: leaf.shape, after.params) == jax.tree.map(lambda leaf: leaf.shape, params) and metrics["loss"].shape == ()
    if method == "di4c":
        assert (sizes.batch, settings.latents, config.optim.learning_rate, config.optim.clip, sizes.ema, config.rounds) == (2, 16, 3e-5, 1.0, 0.9999, 2)
        assert (settings.near, settings.near_share, settings.gap_low, settings.gap_high, settings.target, settings.consistency, settings.step_low) == (0.02, 0.3, 1 / 1024, 1 / 1024, "drawn", 1.0, 0.0)
        np.testing.assert_allclose(settings.weights.alpha(jnp.asarray([0.5, 1.0])), [0.05, 0.1 / (1 + np.exp(-10))], rtol=1e-6)
    else:
        assert (sizes.batch, sizes.steps, settings.step, settings.count, settings.divergence, config.rounds) == (128, 10_000, 1 / 1024, 2, "reverse_kl", 7)


@pytest.mark.parametrize(("name", "variant"), [("lsd_sedd_small", ""), ("lsd_radd", "")])
def test_costs_at_full_size(name, variant):
    """The measurement that LSD learns from, by its shapes."""
    _, network, shapes = shaped(*TEACHERS[name, variant])
    measure = lambda key, params, x: profile.measure(key, params, x, profile.default_rates(), denoiser=network.denoiser, process=network.process)
    found = jax.eval_shape(measure, jax.random.key(0), shapes, jax.ShapeDtypeStruct((64, 1024), jnp.int32))
    assert found.log_p.shape == (33, 8192)


# ------------------------------------------------------------------------------------------------------------------------------------- end to end
WORDS = "the cat sat on a mat and saw two dogs run by its old red barn while rain fell".split()


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with text.txt, tokenizer.json, the two fixture judges with that tokenizer, and a teacher of every family in the hub's layout."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    root = tmp_path_factory.mktemp("papers")
    generator = np.random.default_rng(0)
    (root / "text.txt").write_text("\n".join(" ".join(generator.choice(WORDS, 9)) + "." for _ in range(700)) + "\n")
    found = Tokenizer(models.BPE(unk_token="[UNK]"))
    found.pre_tokenizer, found.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    found.train([str(root / "text.txt")], trainers.BpeTrainer(vocab_size=60, special_tokens=["<|endoftext|>", "[UNK]"], show_progress=False))
    found.save(str(root / "tokenizer.json"))
    for judge in ("judge_gpt2", "judge_llama"):
        shutil.copytree(FIXTURES / judge, root / judge)
        shutil.copy(root / "tokenizer.json", root / judge)
    symbols = found.get_vocab_size()
    tiny = {"hidden_size": 16, "n_blocks": 1, "n_heads": 2, "cond_dim": 8, "length": 16}
    hub = {"hidden_dim": 16, "n_blocks": 1, "n_heads": 2, "cond_dim": 8, "model_length": 16, "vocab_size": symbols + 1}
    teachers = {
        "sedd": ("sedd", SEDD | {"tokens": symbols, "model": tiny | {"scale_by_sigma": True}}),
        "uniform": ("sedd", SEDD | {"tokens": symbols, "graph": {"type": "uniform"}, "noise": {"type": "geometric"}, "model": tiny | {"scale_by_sigma": False}}),
        "radd": ("radd", SEDD | {"tokens": symbols, "model": tiny}),
        "duo": ("duo", hub | {"model_type": "duo"}),  # a padding that the tokenizer has no symbol for
        "mdlm": ("mdlm", hub | {"model_type": "mdlm", "time_conditioning": False}),
        "sdtt": ("sdtt", SDTT | {"tokens": symbols, "model": tiny}),
    }
    for i, (name, (family, settings)) in enumerate(teachers.items()):
        made = pretrained.fresh(jax.random.key(i), settings, family)
        assert size(made.params) < 20_000
        leaves, tree = jax.tree.flatten(made.params)
        moved = tree.unflatten([x + 0.2 * jax.random.normal(jax.random.key(j), x.shape) for j, x in enumerate(leaves)])
        pretrained.export(made._replace(params=moved), root / name)
    return root


def flags_of(here, network, **fields):
    """What the docstrings of the configs say is to be set."""
    flags = {"teacher": here / network, "data.path": here / "text.txt", "data.tokenizer": here / "tokenizer.json", "data.cache": here / "cache"}
    return {name: str(value) for name, value in (flags | {field.replace("__", "."): value for field, value in fields.items()}).items()}


def smoke(here, name, network, variant="smoke", **fields):
    """The config with those flags."""
    config = get_config(name, variant)
    config.update_from_flattened_dict(flags_of(here, network, **fields))
    return config


def command(here, workdir, name, network, variant="smoke", **fields):
    """The same by the command line, in a process of its own (one device, no types checked)."""
    flags = [f"--config.{field}={value}" for field, value in flags_of(here, network, **fields).items()]
    done = subprocess.run([sys.executable, "-m", "jddd.main", f"--config=configs/{name}.py:{variant}", f"--workdir={workdir}", *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((workdir / "metrics.json").read_text())


def lsd_table(here, workdir, name, network, judge):
    """A whole LSD smoke: rows with perplexity and entropy side by side, the judge's name, students that sample."""
    metrics = command(here, workdir, name, network, judge=here / judge)
    names = {(r["sampler"], r["nfe"]) for r in metrics["rows"]}
    assert {("Euler", 4), ("Tweedie", 8), ("LSD", 4), ("LSD+ (Tweedie)", 8), ("LSD+ paper Eq. 8 (Euler)", 4), ("Teacher", 8)} <= names
    for row in metrics["rows"]:
        assert row["generative_perplexity"] > 1 and 0 < row["token_entropy"] <= np.log(16) + 1e-6 and np.isfinite(row["judge_bits"])
    assert judge in metrics["protocol"] and "generative perplexity" in (workdir / "report.html").read_text().lower()
    texts = runs.load(workdir).sample("LSD+", nfe=4, count=2)
    assert len(texts) == 2 and all(isinstance(text, str) and text for text in texts)
    return metrics


def test_lsd_smoke(here, tmp_path):
    """SEDD, absorbing, judged by GPT-2: students are no dearer than the uniform grid they start from."""
    metrics = lsd_table(here, tmp_path, "lsd_sedd_small", "sedd", "judge_gpt2")
    for bound in metrics["bounds"]:
        assert bound["dynamic programme"] - 1e-3 <= bound["LSD+ (Tweedie)"] <= bound["uniform"] + 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name,network,judge", [("lsd_radd", "radd", "judge_llama"), ("lsd_duo", "duo", "judge_llama"), ("lsd_sedd_small", "uniform", "judge_gpt2")])
def test_lsd_smokes_of_the_others(here, tmp_path, name, network, judge):
    """A network without time, and the uniform process, with Duo's padding and SEDD's geometric noise."""
    lsd_table(here, tmp_path, name, network, judge)


@pytest.fixture(scope="module")
def di4c(here):
    """Two rounds of Di4C on SDTT."""
    command(here, here / "di4c", "di4c_sdtt", "sdtt")
    return here / "di4c"


def test_di4c_twice_and_its_table(here, di4c, tmp_path):
    """Students carry the tokenizer, the second's teacher is a mixture, both stand in a table beside the teacher, and go back to Di4C's layout."""
    students = [pretrained.load(di4c / f"round_{i}") for i in (1, 2)]
    for student in students:
        assert student.network.denoiser.mixture and student.network.tokenizer.path == str(here / "tokenizer.json")
    assert students[1].description["teacher"] == "round_1"
    metrics = command(here, tmp_path, "di4c_sdtt", "sdtt", "smoke_table", judge=here / "judge_llama", students__Di4C=di4c / "round_1", students__Di4C_twice=di4c / "round_2")
    assert {"Teacher", "Di4C", "Di4C twice", "Di4C, hybrid", "Di4C, LSD+"} <= {r["sampler"] for r in metrics["rows"]}
    assert all(r["generative_perplexity"] > 1 and r["token_entropy"] > 0 for r in metrics["rows"])
    assert len(runs.load(tmp_path).sample("Di4C", nfe=4, count=2)) == 2
    back = pretrained.load(pretrained.export(students[1], tmp_path / "out"))
    assert back.description["family"] == "di4c" and back.network.tokenizer is None


def test_sdtt_rounds(here, tmp_path):
    """Two rounds on MDLM, of which the second's steps are twice as long; its student can be Di4C's teacher."""
    command(here, tmp_path, "sdtt_mdlm", "mdlm")
    steps = [json.loads((tmp_path / f"round_{i}.json").read_text())["distill"]["step"] for i in (1, 2)]
    assert steps == [1 / 1024, 2 / 1024]
    assert rounds.student_network(pretrained.load(tmp_path / "round_2"), "di4c")[1].denoiser.mixture


@pytest.mark.parametrize("network,method", [("sedd", "di4c"), ("radd", "di4c"), ("mdlm", "di4c"), ("duo", "di4c"), ("sedd", "sdtt"), ("radd", "sdtt"), ("sdtt", "sdtt")])
def test_losses_for_the_other_families(here, network, method):
    """Students of every family that the page of checkpoints names have a loss with gradients, by its shapes; a uniform score network's are refused."""
    found, settings = pretrained.load(here / network), build.section(rounds.METHODS[method].config, smoke(here, {"di4c": "di4c_sdtt", "sdtt": "sdtt_mdlm"}[method], network).distill, "distill")
    student = rounds.student_network(found, method)[1]
    task = rounds.METHODS[method].task(found.denoiser, student.denoiser, student.process, settings)
    params = jax.eval_shape(student.init, jax.random.key(0))
    (loss, _), gradient = jax.eval_shape(jax.value_and_grad(task.loss, has_aux=True), params, jax.random.key(1), jnp.zeros((2, 16), jnp.int32), found.params)
    assert loss.shape == () and jax.tree.structure(gradient) == jax.tree.structure(params)
    with pytest.raises(ValueError, match="learned scores"):
        rounds.student_network(pretrained.load(here / "uniform"), method)


def test_a_score_network_at_the_end_of_its_noise(here):
    """At alpha = 2e-9 scores that are off 1 by as little as 1 give masses of 1e9: the law stays finite, and sums to 1."""
    found = pretrained.load(here / "uniform")
    log_p = found.denoiser(found.params, jnp.arange(16, dtype=jnp.int32)[None] % 7, jnp.ones(()))
    assert float(found.process.schedule.alpha(1.0)) < 1e-8 and np.isfinite(log_p).all()
    np.testing.assert_allclose(jnp.exp(log_p).sum(-1), 1.0, rtol=1e-5)


def test_what_is_missing_is_named(here, tmp_path):
    """One error that names the field: no teacher, no tokenizer, one of another network, no text, no judge, a judge without a tokenizer."""
    judge = {"judge": str(here / "judge_gpt2")}
    (tmp_path / "bare").mkdir()
    for file in ("config.json", "model.safetensors"):
        shutil.copy(FIXTURES / "judge_gpt2" / file, tmp_path / "bare")
    cases = (
        ({"teacher": ""}, "network '' does not exist .is config field teacher set"),
        ({"data__tokenizer": ""}, "config field data.tokenizer is ''"),
        ({"data__tokenizer": "characters"}, "config field data.tokenizer is 'characters', of 27 symbols"),
        ({"data__tokenizer": "/no/such/tokenizer.json"}, "data.tokenizer is '/no/such/tokenizer.json'"),
        ({"data__path": "/no/such/text.txt"}, "data.path is '/no/such/text.txt'"),
        ({"judge": ""}, "config field judge is ''"),
        ({"judge": "no_such_judge"}, "config field judge is 'no_such_judge'"),
        ({"judge": str(tmp_path / "bare")}, "config field judge is .*bare'"),
    )
    for i, (fields, message) in enumerate(cases):
        with pytest.raises(ValueError, match=message):
            experiment.run(smoke(here, "lsd_sedd_small", "sedd", **(judge | fields)), tmp_path / str(i))
    for run, config in ((rounds.run, smoke(here, "di4c_sdtt", "sdtt", data__tokenizer="")), (compare.run, smoke(here, "di4c_sdtt", "sdtt", "smoke_table", data__tokenizer=""))):
        with pytest.raises(ValueError, match="config field data.tokenizer is ''"):
            run(config, tmp_path)


def test_a_tokenizer_of_one_symbol_less(here):
    """Duo's padding: allowed of a uniform process, by one; not of a masked network, whose symbols would all be others."""
    data = build.DataConfig(tokenizer=str(here / "tokenizer.json"))
    found, _ = pretrained.with_data(pretrained.load(here / "duo"), data)
    assert found.process.symbols == found.network.tokenizer.size + 1
    assert isinstance(found.network.tokenizer.decode(np.asarray([3, found.network.tokenizer.size, 4])), str)
    masked = pretrained.fresh(jax.random.key(0), {"model_type": "mdlm", **{k: v for k, v in HUB.items()}, "hidden_dim": 8, "n_heads": 2, "n_blocks": 1, "vocab_size": found.network.tokenizer.size + 2})
    with pytest.raises(ValueError, match="config field data.tokenizer"):
        pretrained.with_data(masked, data)
