"""Published checkpoints: every number of the authors' networks, what is refused and how, the way back, and samplers and distillers on them.

1e-5 absolute, in float32: sums of 32 to 256 terms in another order differ by 1e-6, and two of the references differ by 1.5e-6 from each other. The largest
difference of every array is printed: python -m pytest -n 0 -s tests/test_published.py -k golden
"""

import dataclasses
import json
import runpy
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jddd import build, checkpoints, grids, pretrained, processes, rounds, sampling, solvers, students
from jddd.distill import lsd, mixtures, profile
from jddd.models import ddit, dit
from jddd.pretrained import layouts

ROOT = Path(__file__).parent.parent
FOLDER = Path(__file__).parent / "fixtures" / "published"
CASES = {"sedd_absorb": "sedd", "sedd_uniform": "sedd", "mdlm_dit": "mdlm", "mdlm_dit_timecond": "mdlm", "sdtt_student": "sdtt", "di4c_student": "di4c", "duo_dit": "duo"}
TOLERANCE = 1e-5
SMALL = -1e5  # the references' place for minus infinity is -1e6, and what is left of it after rounding


def log_probs(found, x, sigma, latent):
    """The denoiser's law at the time of a noise level, with what x shows; V columns."""
    if isinstance(found.process, processes.Uniform):  # Duo's is the law given the other sites
        return jax.nn.log_softmax(found.network(x, sigma))
    t = found.process.schedule.inverse(jnp.exp(-sigma))
    return mixtures.with_known(found.denoiser(found.params, x, t, *(() if latent is None else (latent,))), x, found.process)


def compute(found, case):
    """Every golden array (but those of the average) by its name."""
    x, sigma = jnp.asarray(case["in_indices" if "in_indices" in case else "in_xt"], jnp.int32), jnp.asarray(case["in_sigma"])
    latent = jnp.asarray(case["in_z"]) if "in_z" in case else None
    network = ddit.DDiT(found.network.dit)
    _, kept = network.apply({"params": found.params}, x, sigma, *(() if latent is None else (latent,)), mutable=["intermediates"])
    made = {f"out_{name}": value[0] for name, value in kept["intermediates"].items()}
    made["out_cond"] = network.apply({"params": found.params}, sigma, method="condition")
    if found.network.scores:
        later = found.log_score(x, jnp.asarray(case["in_sigma_b"]))
        return made | {"out_raw": found.network(x, sigma), "out_log_score": found.log_score(x, sigma), "out_log_score_b": later, "out_score_b": jnp.exp(later)}
    made |= {"out_logits": found.network(x, sigma, latent), "out_log_probs": log_probs(found, x, sigma, latent)}
    if latent is not None:
        other = jnp.asarray(case["in_z_b"])
        made |= {"out_z_sinusoid": ddit.latent_features(latent), "out_z_embedding": network.apply({"params": found.params}, latent, method="token")}
        made |= {"out_logits_b": found.network(x, sigma, other), "out_log_probs_b": log_probs(found, x, sigma, other)}
    if "in_soft" in case:
        made["out_logits_soft"] = found.network(jnp.asarray(case["in_soft"]), sigma)
    return made


def difference(name, mine, theirs):
    """The largest absolute difference, of scores above 1 relative; of SUBS log-probabilities where the reference's are not in the place of minus infinity, where ours must be none."""
    mine, theirs = np.asarray(mine, np.float64), np.asarray(theirs, np.float64)
    if name.startswith("out_log_probs") and mine.shape != theirs.shape:
        assert (theirs[..., mine.shape[-1] :] < SMALL).all()
        theirs = theirs[..., : mine.shape[-1]]
        assert ((theirs < SMALL) == (mine < -100)).all()
        mine, theirs = mine[theirs > SMALL], theirs[theirs > SMALL]
    assert mine.shape == theirs.shape and mine.size
    if name.startswith("out_score"):  # exp of a log-score: an absolute difference of that is a relative one of this
        return (np.abs(mine - theirs) / np.maximum(1, theirs)).max()
    return np.abs(mine - theirs).max()


@pytest.mark.parametrize("name,family", CASES.items())
def test_golden(name, family):
    """Every array the authors' code gave, nothing left out."""
    case, found = np.load(FOLDER / name / "cases.npz"), pretrained.load(FOLDER / name)
    assert found.description["family"] == family
    made = compute(found, case)
    assert made.keys() == {key for key in case.files if key.startswith("out_") and not key.endswith("_ema")}
    worst = {key: difference(key, value, case[key]) for key, value in made.items()}
    print("".join(f"\n{family:5} {name:18} {key:16} {value:.1e}" for key, value in sorted(worst.items())))
    assert max(worst.values()) < TOLERANCE, worst


def test_duo_steps_as_duo_does():
    """The loaded network's step is Duo's posterior with its law x in the place of x_0 (Sahoo et al. 2025), z = x_t one-hot, alpha_ts = alpha_t / alpha_s:
    (V alpha_t z x + (alpha_ts - alpha_t) z + (alpha_s - alpha_t) x + (1 - alpha_ts)(1 - alpha_s) / V) / (V alpha_t <z, x> + 1 - alpha_t)."""
    found, case = pretrained.load(FOLDER / "duo_dit"), np.load(FOLDER / "duo_dit/cases.npz")
    x_t, (t, s), size = jnp.asarray(case["in_xt"], jnp.int32), (jnp.asarray(0.5), jnp.asarray(0.4)), found.process.symbols
    alpha_t, alpha_s = (found.process.schedule.alpha(time) for time in (t, s))
    x, z = np.exp(np.asarray(jax.nn.log_softmax(found.network(x_t, -jnp.log(alpha_t))), np.float64)), np.eye(size)[np.asarray(x_t)]
    kept = alpha_t / alpha_s
    wanted = size * alpha_t * z * x + (kept - alpha_t) * z + (alpha_s - alpha_t) * x + (1 - kept) * (1 - alpha_s) / size
    wanted = wanted / (size * alpha_t * (z * x).sum(-1, keepdims=True) + 1 - alpha_t)
    step = sampling.plain(jnp.stack([t, s, 0 * s])).steps()
    law, _ = solvers.stage_law(found.denoiser(found.params, x_t, t), (x_t,), (), jax.tree.map(lambda value: value[0], step), 0, process=found.process, solver="tweedie", form="score")
    np.testing.assert_allclose(law, wanted, atol=2e-6)  # float32


def test_lightning_checkpoint_and_its_average():
    """The .ckpt is the safetensors bit for bit; the average's weights, which have no names, give the reference's outputs."""
    pytest.importorskip("torch")
    folder = FOLDER / "di4c_student"
    case, plain, lightning = np.load(folder / "cases.npz"), pretrained.load(folder), pretrained.load(folder / "model.ckpt")
    assert checkpoints.digest(plain.params) == checkpoints.digest(lightning.params)
    found = pretrained.load(folder, average=True)
    made = compute(found, case)
    worst = {key: difference(key, made[key], case[f"{key}_ema"]) for key in ("out_logits", "out_log_probs")}
    print("".join(f"\ndi4c  di4c_student       {key + '_ema':16} {value:.1e}" for key, value in worst.items()))
    assert max(worst.values()) < TOLERANCE and checkpoints.digest(found.params) != checkpoints.digest(plain.params)


def test_torch_files_hold_nothing_that_runs(tmp_path):
    """A pickle that would run code is refused before it does; a file of other things, a short one and a short average are told apart."""
    torch = pytest.importorskip("torch")

    class Harm:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harm",))

    shutil.copy(FOLDER / "di4c_student/config.json", tmp_path)
    whole = (FOLDER / "di4c_student/model.ckpt").read_bytes()
    state = torch.load(FOLDER / "di4c_student/model.ckpt", weights_only=True)
    short = {"state_dict": state["state_dict"], "ema": {"shadow_params": state["ema"]["shadow_params"][:-1]}}
    for made, options, message in (
        (lambda file: torch.save({"state_dict": Harm()}, file), {}, "weights_only=True"),
        (lambda file: torch.save([1, 2], file), {}, "no tensors by name"),
        (lambda file: file.write_bytes(whole[:9000]), {}, "cannot be read"),
        (lambda file: torch.save(short, file), {"average": True}, "33 averaged tensors, expected 34"),
        (lambda file: torch.save({"model": state["state_dict"]}, file), {"average": True}, "no averaged weights"),
    ):
        made(tmp_path / "model.ckpt")
        with pytest.raises(ValueError, match=message):
            pretrained.load(tmp_path, **options)
    assert not (tmp_path / "harm").exists()


def test_without_torch_it_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(ValueError, match=r"pip install 'jddd\[torch\]'"):
        pretrained.load(FOLDER / "di4c_student/model.ckpt")
    with pytest.raises(ValueError, match=r"pip install 'jddd\[torch\]'"):
        pretrained.load(FOLDER / "di4c_student", average=True)


# ------------------------------------------------------------------------------------------------------------------------------------ what is refused
def edited(change):
    """A change of the tensors of model.safetensors in a folder."""

    def apply(folder):
        flat = load_file(folder / "model.safetensors")
        change(flat)
        save_file(flat, folder / "model.safetensors")

    return apply


def configured(**fields):
    """A change of config.json in a folder."""
    return lambda folder: (folder / "config.json").write_text(json.dumps({k: v for k, v in (json.loads((folder / "config.json").read_text()) | fields).items() if v is not None}))


def cut(share):
    def apply(folder):
        data = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(data[: int(share * len(data))])

    return apply


def tabled(header):
    """A safetensors file with a table of tensors and no more."""
    text = json.dumps(header).encode()
    return lambda folder: (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)


QKV = "backbone.blocks.1.attn_qkv.weight"
BAD = {
    "table of numbers": ("mdlm_dit", tabled({"a": 5}), {}, "is damaged: its table says 5 of tensor 'a'; expected dtype, shape and two data_offsets"),
    "table of text": ("mdlm_dit", tabled({"a": {"dtype": "F32", "shape": [2], "data_offsets": "0"}}), {}, "of tensor 'a'; expected dtype, shape and two data_offsets"),
    "noise is text": ("sedd_absorb", configured(noise={"type": "loglinear", "eps": "x"}), {}, "config.json has noise.eps 'x'; allowed: a number"),
    "type is a list": ("mdlm_dit", configured(model_type=["mdlm"]), {}, "which family this is; allowed: family= one of"),
    "renamed": ("mdlm_dit", edited(lambda flat: flat.update({"backbone.blocks.1.qkv.weight": flat.pop(QKV)})), {}, "tensor 'backbone.blocks.1.attn_qkv.weight' is missing: found none, expected shape (144, 48); the file has 'backbone.blocks.1.qkv.weight' of shape (144, 48), which is not expected"),
    "missing": ("mdlm_dit", edited(lambda flat: flat.pop("backbone.output_layer.linear.bias")), {}, "tensor 'backbone.output_layer.linear.bias' is missing: found none, expected shape (31,)"),
    "mis-shaped": ("mdlm_dit", edited(lambda flat: flat.update({QKV: flat[QKV][:-1].copy()})), {}, f"tensor '{QKV}' has shape (143, 48), expected (144, 48)"),
    "transposed": ("mdlm_dit", edited(lambda flat: flat.update({QKV: flat[QKV].T.copy()})), {}, f"tensor '{QKV}' has shape (48, 144), expected (144, 48)"),
    "NaN": ("mdlm_dit", edited(lambda flat: flat.update({QKV: np.where(flat[QKV] > 0, np.float32(np.nan), flat[QKV])})), {}, f"tensor '{QKV}' of shape (144, 48) holds NaN or infinity, expected finite numbers of shape (144, 48)"),
    "integers": ("mdlm_dit", edited(lambda flat: flat.update({QKV: flat[QKV].astype(np.int32)})), {}, f"tensor '{QKV}' of shape (144, 48) has type I32, expected one of F64, F32, F16, BF16"),
    "too many": ("mdlm_dit", edited(lambda flat: flat.update({"backbone.blocks.2.norm1.weight": np.ones(48, np.float32)})), {}, "tensor 'backbone.blocks.2.norm1.weight' of shape (48,) is too many"),
    "twice": ("mdlm_dit", edited(lambda flat: flat.update({QKV.removeprefix("backbone."): flat[QKV]})), {}, "is there twice"),
    "another network": ("mdlm_dit", edited(lambda flat: (flat.clear(), flat.update({"wte.weight": np.zeros((50, 8), np.float32)}))), {}, "tensor 'vocab_embed.embedding' is missing: found none, expected shape (31, 48); the file has 'wte.weight' of shape (50, 8), which is not expected"),
    "truncated": ("mdlm_dit", cut(0.5), {}, "is truncated: of tensor 'backbone.blocks."),
    "truncated table": ("mdlm_dit", cut(0.001), {}, "is damaged or truncated: its table of tensors cannot be read"),
    "empty": ("mdlm_dit", cut(0.0), {}, "is damaged or truncated"),
    "another size": ("mdlm_dit", configured(hidden_dim=96), {}, "tensor 'backbone.vocab_embed.embedding' has shape (31, 48), expected (31, 96)"),
    "another vocabulary": ("mdlm_dit", configured(vocab_size=50258), {}, "tensor 'backbone.vocab_embed.embedding' has shape (31, 48), expected (50258, 48)"),
    "another depth": ("mdlm_dit", configured(n_blocks=3), {}, "tensor 'backbone.blocks.2.norm1.weight' is missing: found none, expected shape (48,)"),
    "heads": ("mdlm_dit", configured(n_heads=5), {}, "config.json describes no network: model.width is 48 and model.heads 5"),
    "a size that is none": ("mdlm_dit", configured(n_heads="three"), {}, "n_heads 'three'; allowed: a whole number of 1 or more"),
    "no length": ("mdlm_dit", configured(model_length=None), {}, "model_length None; allowed"),
    "no JSON": ("mdlm_dit", lambda folder: (folder / "config.json").write_text("{"), {}, "config.json' is not JSON"),
    "no weights": ("mdlm_dit", lambda folder: (folder / "model.safetensors").unlink(), {}, "has no weights; allowed"),
    "no family": ("mdlm_dit", configured(model_type=None), {}, "which family this is; allowed: family= one of sedd, radd, mdlm, sdtt, di4c, duo"),
    "wrong family": ("sedd_uniform", None, {"family": "duo"}, "family is 'duo', but graph.type is 'uniform'; allowed: 'sedd'"),
    "not a mixture": ("sdtt_student", None, {"family": "di4c"}, "family is 'di4c', but parameterization.name is 'multi-round-sdtt'"),
    "unknown family": ("sdtt_student", None, {"family": "gpt"}, "family is 'gpt'; allowed: sedd"),
    "noise": ("sdtt_student", configured(noise={"type": "cosine"}), {}, "noise.type 'cosine'; allowed: loglinear, geometric"),
    "graph": ("sedd_absorb", configured(graph={"type": "roulette"}), {}, "graph.type 'roulette'; allowed: absorb, uniform"),
    "graph of the other kind": ("sedd_absorb", configured(graph={"type": "uniform"}), {}, "model.scale_by_sigma True and graph.type 'uniform'"),
    "causal": ("duo_dit", configured(causal=True), {}, "causal true; allowed: false"),
    "no average": ("mdlm_dit", None, {"average": True}, "has no weights with an average"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_checkpoints(case, tmp_path):
    """One ValueError that names the first offending tensor or field, what was found and what was expected."""
    name, change, options, message = BAD[case]
    for file in ("config.json", "model.safetensors"):
        shutil.copyfile(FOLDER / name / file, tmp_path / file)
    if change:
        change(tmp_path)
    with pytest.raises(ValueError) as error:
        pretrained.load(tmp_path, **options)
    print(f"\n{case:24} {str(error.value).replace(str(tmp_path), name)}")
    assert message in str(error.value)


def test_unknown_names_and_options():
    for name, options, message in (("nowhere", {}, "'nowhere' does not exist"), ("teacher_text", {"family": "mdlm"}, "jddd's own"), ("/no/where", {}, "does not exist")):
        with pytest.raises(ValueError, match=message):
            pretrained.load(name, **options)
    with pytest.raises(ValueError, match="has no parameters"):
        build.network_from(pretrained.load(FOLDER / "mdlm_dit").description)(jnp.zeros((1, 4), jnp.int32), 0.5)
    with pytest.raises(ValueError, match="did not learn scores"):
        pretrained.load(FOLDER / "mdlm_dit").log_score(jnp.zeros((1, 4), jnp.int32), 0.5)
    with pytest.raises(ValueError, match="latent is missing"):
        pretrained.load(FOLDER / "di4c_student").network(jnp.zeros((1, 4), jnp.int32), 0.5)


# ------------------------------------------------------------------------------------------------------------------------------------ names and files
def test_prefixes_types_and_missing_configs(tmp_path):
    """backbone.backbone., as of runs that started from a hub checkpoint, module., half precision, no config.json, and a file's own path."""
    flat = load_file(FOLDER / "sdtt_student/model.safetensors")
    x, found = jnp.zeros((1, 4), jnp.int32), pretrained.load(FOLDER / "sdtt_student")
    expected = found.network(x, 0.0)
    save_file({f"module.backbone.{name}": value for name, value in flat.items()}, tmp_path / "other.safetensors")
    bare = pretrained.load(tmp_path / "other.safetensors", family="mdlm", config={"model_length": 24})
    assert bare.network.dit == found.network.dit and bare.description["data"]["length"] == 24
    np.testing.assert_array_equal(bare.network(x, 0.0), expected)
    save_file({name: value.astype(jnp.bfloat16) for name, value in flat.items()}, tmp_path / "other.safetensors")
    half = pretrained.load(tmp_path, family="mdlm", config={"model_length": 24})
    assert half.params["embed"]["embedding"].dtype == jnp.float32
    np.testing.assert_allclose(half.network(x, 0.0), expected, atol=0.05)  # bfloat16 has 8 bits


def test_hub_id_is_read_from_the_cache(tmp_path, monkeypatch, capsys):
    """A cache made by hand, offline: the revision that main points to, a revision that is named, and ids that are not there."""
    from huggingface_hub import constants

    repository = tmp_path / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("a" * 40)
    for revision, case in (("a" * 40, "mdlm_dit"), ("b" * 40, "duo_dit")):
        (repository / "snapshots" / revision).mkdir(parents=True)
        for file in ("config.json", "model.safetensors"):
            shutil.copyfile(FOLDER / case / file, repository / "snapshots" / revision / file)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = pretrained.load("someone/tiny")
    assert found.description["family"] == "mdlm" and found.description["name"] == "mdlm (someone/tiny)" and "revision " + "a" * 40 in capsys.readouterr().err
    assert pretrained.load(f"someone/tiny@{'b' * 40}").description["family"] == "duo"
    for name in ("someone/tinier", "someone/tiny@branch"):
        with pytest.raises(ValueError, match=f"network '{name}'"):
            pretrained.load(name)
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"pip install 'jddd\[hub\]'"):
        pretrained.load("someone/tiny")


@pytest.mark.parametrize("name", CASES)
def test_export_round_trip(name, tmp_path):
    """The same tensors under the same names, bit for bit, and the same config.json; what was exported loads as the same network."""
    found = pretrained.load(FOLDER / name)
    again = pretrained.load(pretrained.export(found, tmp_path / "out"))
    first, second = load_file(FOLDER / name / "model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    assert first.keys() == second.keys() and all((first[key] == second[key]).all() for key in first if key.split(".")[-1] != "inv_freq")
    frequencies = next(key for key in first if key.endswith("inv_freq"))
    np.testing.assert_allclose(first[frequencies], second[frequencies], rtol=2e-7)  # a unit in the last place
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (FOLDER / name, tmp_path / "out"))
    assert after == before | ({"is_di4c": True} if name == "di4c_student" else {})
    ignored = ("name", "config")
    assert {k: v for k, v in again.description.items() if k not in ignored} == {k: v for k, v in found.description.items() if k not in ignored}
    assert again.network.dit == found.network.dit and again.process == found.process


def test_export_to_other_layouts(tmp_path, key):
    """Where the law is the same: SDTT as MDLM, SEDD's normalised scores as time-conditioned MDLM; refused where it is not."""
    sdtt, sedd, duo = (pretrained.load(FOLDER / name) for name in ("sdtt_student", "sedd_absorb", "duo_dit"))
    x, t = jnp.full((2, 24), 27, jnp.int32).at[:, ::3].set(4), jnp.asarray([0.3, 0.9])
    for found, mask in ((sdtt, 27), (sedd, 29)):
        other = pretrained.load(pretrained.export(found, tmp_path / found.description["family"], family="mdlm"))
        assert other.description["family"] == "mdlm" and other.process == found.process
        x_t = jnp.where(x == 27, mask, x)
        np.testing.assert_allclose(other.denoiser(other.params, x_t, t), found.denoiser(found.params, x_t, t), atol=TOLERANCE)
    for found, family, message in ((sdtt, "sedd", "scores"), (duo, "mdlm", "process"), (sdtt, "di4c", "latent"), (sedd, "radd", "scores|time"), (sdtt, "gpt", "allowed: sedd"), (sdtt, "duo", "process")):
        with pytest.raises(ValueError, match=message):
            pretrained.export(found, tmp_path / "no", family=family)
    with pytest.raises(ValueError, match="jddd's own transformer"):
        pretrained.export(pretrained.load("teacher_text"), tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_time_free_network(tmp_path, key):
    """RADD's layout: SEDD's without a noise level, LayerNorms with biases; its denoiser does not know t."""
    config = {"noise": {"type": "loglinear"}, "tokens": 11, "model": {"type": "ddit_wot", "hidden_size": 16, "n_blocks": 2, "n_heads": 2, "length": 8, "cond_dim": 128}}
    made = pretrained.fresh(key, config, family="radd")
    moved = made._replace(params=jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(key, leaf.shape), made.params))
    folder = pretrained.export(moved, tmp_path / "radd")
    configured(graph=None)(folder)  # the authors' has none
    found = pretrained.load(folder)
    names = load_file(tmp_path / "radd/model.safetensors").keys()
    assert found.description["family"] == "radd" and "blocks.1.norm2.bias" in names and not any("adaLN" in name or "sigma" in name for name in names)
    assert checkpoints.digest(found.params) == checkpoints.digest(moved.params)
    x = jnp.full((1, 8), 11, jnp.int32).at[0, 2].set(3)
    np.testing.assert_array_equal(found.denoiser(found.params, x, 0.2), found.denoiser(found.params, x, 0.9))
    np.testing.assert_array_equal(found.network(x, 5.0), moved.network(x, 0.0))


def test_a_hydra_interpolation_is_followed():
    config = {"a": {"b": "${c.d}"}, "c": {"d": 7}, "e": "${eval:1}", "f": "${f}", "g": "${.h}"}
    assert [layouts.look(config, path) for path in ("a.b", "e", "f", "g", "a.z", "c.d.x")] == [7, None, None, None, None, None]


# ------------------------------------------------------------------------------------------------------------------------------ samplers and distillers
@pytest.mark.parametrize("name", ["sedd_absorb", "sedd_uniform", "mdlm_dit_timecond", "sdtt_student", "di4c_student", "duo_dit"])
def test_sampler_runs_and_skips(name, key):
    """Symbols alone after a few steps; the head on chunks of sites draws the very samples of the head on all of them."""
    found = pretrained.load(FOLDER / name)
    draw = lambda **options: np.asarray(sampling.sampler(found.denoiser, found.process, (3, found.network.length), **options)(key, found.params, sampling.plain(grids.uniform(4))))
    plain = draw(chunk=0)
    assert plain.shape == (3, found.network.length) and plain.min() >= 0 and plain.max() < found.process.symbols and len(np.unique(plain)) > 5
    if name not in ("sedd_uniform", "duo_dit"):
        np.testing.assert_array_equal(plain, draw(chunk=16))


def test_the_head_is_the_linear_layer(key):
    """The head on gathered sites is the head's output at those sites, for any shape."""
    found = pretrained.load(FOLDER / "sdtt_student")
    x = jax.random.randint(key, (2, 24), 0, 28)
    hidden = found.denoiser.features(found.params, x, 0.5)
    whole = found.denoiser.head(found.params, hidden)
    np.testing.assert_allclose(found.denoiser.head(found.params, hidden.reshape(48, -1)[7:11]), whole.reshape(48, -1)[7:11], atol=TOLERANCE)
    np.testing.assert_allclose(whole, jax.nn.log_softmax(found.network(x, 0.0)[..., :27], -1), atol=TOLERANCE)


def test_bfloat16_activations(key):
    """The option of large runs: 8 bits of activations, float32 outputs near the others."""
    found = pretrained.load(FOLDER / "sdtt_student")
    description = found.description | {"model": found.description["model"] | {"dtype": "bfloat16"}}
    x = jax.random.randint(key, (2, 24), 0, 28)
    half = build.network_from(description).raw(found.params, x, 0.0)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, found.network(x, 0.0), atol=0.1)


@pytest.mark.parametrize("name", ["sedd_absorb", "mdlm_dit", "duo_dit"])
def test_lsd_students(name):
    """LSD and LSD+ learn from chains of an imported teacher, and sample it."""
    found = pretrained.load(FOLDER / name)
    shape, config = (2, found.network.length), lsd.LSDConfig(objective="paper", steps=3, teacher_steps=8, rounds=1)
    common = dict(denoiser=found.denoiser, process=found.process, params=found.params)
    chain = lsd.teacher_chain(jax.random.key(1), found.params, shape, denoiser=found.denoiser, process=found.process, solver="euler", config=config)
    for learn_times in (False, True):
        student = lsd.distil(2, dataclasses.replace(config, learn_times=learn_times), solver="euler", chain=chain, **common)
        moved = np.abs(student.times - grids.uniform(2)).max() if learn_times else np.abs(student.coefficients - 1).max()
        assert student.count == 2 and 0 < moved < 0.5  # LSD+ moves its times, LSD its coefficients
    samples = sampling.sampler(found.denoiser, found.process, shape, solver="euler")(jax.random.key(1), found.params, student)
    assert 0 <= int(samples.min()) and int(samples.max()) < found.process.symbols


@pytest.mark.parametrize("name", ["sedd_absorb", "mdlm_dit_timecond"])
def test_costs_of_a_network_that_knows_its_noise(name):
    """A mask rate of 1 is past the end of a linear schedule with eps > 0 (log of a negative alpha): costs are measured at the last time there is. Whatever
    curve random weights have, a student learned from it pays no more than the uniform grid it starts from, and no less than the exact optimum."""
    found = pretrained.load(FOLDER / name)
    x = jax.random.randint(jax.random.key(0), (32, found.network.length), 0, found.process.symbols)
    common = dict(denoiser=found.denoiser, process=found.process)
    assert found.process.schedule.inverse(0.0) > 1
    measured = profile.measure(jax.random.key(1), found.params, x, profile.default_rates(9), **common)
    assert np.isfinite(measured.cross_entropy).all() and abs(measured.cross_entropy[-1] - measured.cross_entropy[-2]) < 0.5
    price = lsd.path_cost(measured, process=found.process, solver="tweedie", form="score")
    student = lsd.distil(4, lsd.LSDConfig(steps=60), solver="tweedie", cost=price, params=found.params, **common)
    cost = lambda student: float(price[0](student, measured))
    best = profile.optimal_rates(measured, 4, float(1 - found.process.schedule.alpha(1.0)))[1]
    assert best - 1e-4 < cost(student) < cost(sampling.plain(grids.uniform(4))) + 1e-6
    broken = measured._replace(log_p=measured.log_p.at[3].set(jnp.nan))
    with pytest.raises(ValueError, match="measured costs are nan at 0.3750"):
        students.finite(broken)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A round of Di4C and one of SDTT on the imported SDTT network, whose 27 symbols are read as characters here."""
    root = tmp_path_factory.mktemp("rounds")
    for variant, method in (("smoke", "di4c"), ("sdtt", "sdtt")):
        config = runpy.run_path(str(ROOT / "configs/di4c_text.py"))["get_config"](variant)
        config.update_from_flattened_dict({"teacher": str(FOLDER / "sdtt_student"), "rounds": 1, "train.steps": 2, "train.batch": 8, "train.microbatches": 1, "train.evaluate_every": 5, "train.ema": 0.0})
        (root / method).mkdir()
        rounds.run(config, root / method)
    return root


def test_rounds_on_an_imported_teacher(trained, tmp_path, key):
    """Students load by the same entry, with tokenizer and latent; Di4C's has the teacher's weights besides, moved; both go back to published layouts."""
    teacher = pretrained.load(FOLDER / "sdtt_student")
    for method, family in (("di4c", "di4c"), ("sdtt", "sdtt")):
        student = pretrained.load(trained / method / "round_1")
        assert student.network.tokenizer.size == 27 and student.network.denoiser.mixture == (method == "di4c") and student.process == teacher.process
        moved = np.abs(student.params["block_0"]["qkv"]["kernel"] - teacher.params["block_0"]["qkv"]["kernel"]).max()
        assert 0 < moved < 0.02  # two steps
        back = pretrained.load(pretrained.export(student, tmp_path / method))
        assert back.description["family"] == family and checkpoints.digest(back.params) == checkpoints.digest(student.params)


def test_how_near_its_teacher_a_mixture_starts(key):
    """The latent's token joins the sites in attention, so a fresh student is near its teacher, not equal: KL a site at these 24 sites, and less the more there are."""
    teacher = pretrained.load(FOLDER / "sdtt_student")
    network = rounds.student_network(teacher, "di4c")[1]
    params = dit.from_teacher(network.init(key), teacher.params)
    x = jnp.where(jax.random.bernoulli(key, 0.5, (8, 24)), 27, jax.random.randint(key, (8, 24), 0, 27))
    p, q = teacher.denoiser(teacher.params, x, 0.5), network.denoiser(params, x, 0.5, jnp.linspace(0, 1, 8, endpoint=False))
    kl = float((jnp.exp(p) * (p - q)).sum(-1).mean())
    print(f"\nKL(teacher || fresh student) {kl:.4f} nats a site")
    assert 0 < kl < 0.1


def test_tokenizers_of_imported_networks():
    """An imported network takes the config's tokenizer if it has as many symbols; one's own keeps its own."""
    data = build.section(build.DataConfig, {}, "data")
    found, cut = pretrained.with_data(pretrained.load(FOLDER / "sdtt_student"), data)
    assert found.network.tokenizer.size == 27 and cut.length == 24
    assert pretrained.with_data(found, build.DataConfig(tokenizer="numbers:32"))[1].tokenizer == "characters"
    with pytest.raises(ValueError, match="of 27 symbols, and the network .* has 30"):
        pretrained.with_data(pretrained.load(FOLDER / "mdlm_dit"), data)


def test_long_rows_attend_head_by_head(key):
    """Rows long enough for attention by heads: the same numbers and gradients as all heads at once; float32, sums of 512 terms in another order."""
    q, k, v = jax.random.normal(key, (3, 2, 3, ddit.LONG, 4))

    def whole(q, k, v):
        return jnp.einsum("bhlm,bhmd->bhld", jax.nn.softmax(jnp.einsum("bhld,bhmd->bhlm", q, k), -1), v)

    np.testing.assert_allclose(ddit.attend(q, k, v), whole(q, k, v), atol=1e-5)
    gradients = [jax.jit(jax.grad(lambda *inputs, f=f: (f(*inputs) ** 2).sum(), (0, 1, 2)))(q, k, v) for f in (ddit.attend, whole)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), *gradients)
