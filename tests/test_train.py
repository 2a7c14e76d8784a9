"""The trainer: the same numbers however a run is cut, spread over devices or split into parts; and what is kept when something breaks."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from jddd import build, checkpoints, pretrain, pretrained, sharding, train
from jddd.models import dit

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # reads that orbax leaves behind where one of them fails


def linear(noise=0.0):
    """Least squares with a 6 x 3 matrix; noise: how strongly the loss depends on its key."""

    def init(key):
        return {"w": jax.random.normal(key, (6, 3)), "b": jnp.zeros(3)}

    def loss(params, key, batch, frozen):
        x, y = batch
        value = jnp.square((x + noise * jax.random.normal(key, x.shape)) @ params["w"] + params["b"] - y).mean()
        return value, {"draw": jax.random.uniform(key)}

    return train.Task(init, loss)


def batch_of(step, rows=8, bad=()):
    """Rows of a regression problem; a step in `bad` holds NaN."""
    generator = np.random.default_rng(step)
    x, y = generator.normal(size=(rows, 6)).astype(np.float32), generator.normal(size=(rows, 3)).astype(np.float32)
    return (x * np.nan if step in bad else x), y


def same(left, right):
    """Bit for bit, leaf by leaf."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right)):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def lines(workdir):
    return [json.loads(line) for line in (Path(workdir) / "log.jsonl").read_text().splitlines()]


quiet = dict(progress=False)


# --------------------------------------------------------------------------------------------------------------------------------- going on again
def test_a_run_that_is_cut_goes_on_bit_for_bit(key, tmp_path):
    """fit to step 6 = fit to step 3, then fit to step 6: parameters, average and optimiser, with a loss that draws noise. Only steps 3 to 5 run again."""
    asked = []

    def batch(step):
        asked.append(step)
        return batch_of(step)

    task, optimiser = linear(noise=0.3), optax.adam(1e-2)
    whole = train.fit(key, task, optimiser, batch, steps=6, **quiet)
    train.fit(key, task, optimiser, batch, steps=3, workdir=tmp_path, **quiet)
    asked.clear()
    cut = train.fit(key, task, optimiser, batch, steps=6, workdir=tmp_path, **quiet)
    assert asked == [3, 4, 5] and int(cut.step) == 6
    same(whole, cut)
    asked.clear()
    same(train.fit(key, task, optimiser, batch, steps=6, workdir=tmp_path, **quiet), cut)  # a finished run is only read
    assert asked == []


def test_a_killed_run_goes_on_bit_for_bit(tmp_path):
    """kill -9 in the middle of `python -m jddd.main`, the same command again: the weights are those of a run that was left alone, to the last bit."""
    words = "in the beginning god created heaven and earth light darkness water day night".split()
    (tmp_path / "text.txt").write_text(" ".join(np.random.default_rng(0).choice(words, 2000)))
    steps, every = 240, 40
    values = {"data.path": tmp_path / "text.txt", "data.cache": tmp_path / "cache", "data.length": 16, "model.width": 8, "optim.name": "adamw"}
    values |= {"train.steps": steps, "train.save_every": every, "train.log_every": 5, "train.evaluate_every": 0}

    def start(name):
        command = [sys.executable, "-m", "jddd.main", "--config=configs/teacher_text.py:smoke", f"--workdir={tmp_path / name}"]
        command += [f"--config.{field}={value}" for field, value in values.items()]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=open(tmp_path / f"{name}.stderr", "a"))

    run, folder, deadline = start("cut"), tmp_path / "cut" / "checkpoints", time.monotonic() + 300
    while not (saved := [p for p in folder.glob("*") if p.name.isdigit()]) and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    run.kill()
    assert run.wait() == -signal.SIGKILL and saved, (tmp_path / "cut.stderr").read_text()[-2000:]
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    left = max(int(p.name) for p in folder.glob("*") if p.name.isdigit())
    assert every <= left < steps  # before the end
    before = len(lines(tmp_path / "cut"))
    for name, run in {name: start(name) for name in ("cut", "whole")}.items():
        assert run.wait(timeout=300) == 0, (tmp_path / f"{name}.stderr").read_text()[-2000:]
    assert lines(tmp_path / "cut")[before]["step"] == left + 5  # it went on from the checkpoint, not from the start
    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    same(whole, cut)
    same(*({k: v for k, v in lines(tmp_path / name)[-1].items() if k in ("step", "loss", "grad_norm")} for name in ("whole", "cut")))
    assert lines(tmp_path / "cut")[-1]["step"] == steps


def test_a_checkpoint_is_of_its_step(key, tmp_path):
    """Training goes on while a checkpoint is written and reuses the memory of its state; what is written is still the state of that step."""
    size = 1_000_000
    task = train.Task(lambda key: {"w": jnp.zeros(size)}, lambda params, key, batch, frozen: (params["w"].sum() + 0 * batch.sum(), {}))
    state = train.fit(key, task, optax.sgd(1.0), lambda step: np.zeros((1, 1), np.float32), steps=9, workdir=tmp_path, save_every=4, **quiet)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    shutil.rmtree(tmp_path / "checkpoints" / "9")
    with checkpoints.manager(tmp_path) as store:
        saved = checkpoints.restore(store, like)
    assert int(saved.step) == 8
    np.testing.assert_array_equal(saved.params["w"], np.full(size, -8.0, np.float32))


# ------------------------------------------------------------------------------------------------------------------------------ devices and parts
@pytest.fixture(scope="module")
def network():
    """A denoiser of 27 symbols over windows of 8, small enough to compile quickly."""
    return build.network(build.DataConfig(length=8), build.ProcessConfig(), build.ModelConfig(width=8, depth=1, heads=2))


@pytest.fixture(scope="module")
def on_devices(network, tmp_path_factory):
    """run(mesh) -> the state after three steps on the mesh and its losses; the weights it started from, none zero; the run on one device."""
    shapes = jax.eval_shape(lambda key: dit.init(key, network.dit, network.length), jax.random.key(0))
    generator = np.random.default_rng(0)
    start = jax.tree.map(lambda s: generator.normal(0.0, 0.3, s.shape).astype(np.float32), shapes)
    task = pretrain.task(network)._replace(init=lambda key: jax.tree.map(jnp.asarray, start))
    rows = lambda step: np.random.default_rng(step).integers(0, 27, (16, 8), np.int32)

    def run(on):
        folder = tmp_path_factory.mktemp("run")
        options = dict(steps=3, microbatches=2, on=on, workdir=folder, log_every=1)
        state = train.fit(jax.random.key(1), task, optax.sgd(0.3, momentum=0.9), rows, **options, **quiet)
        return state, [line["loss"] for line in lines(folder)]

    return run, start, run(sharding.mesh(devices=jax.devices()[:1]))


@pytest.mark.parametrize("model", [1, 2])
def test_eight_devices_are_one(on_devices, model):
    """The same training, noise included, on one device and on eight, with the batch over all of them and with 4 x 2 tensor parallelism."""
    run, start, (one, one_losses) = on_devices
    many, many_losses = run(sharding.mesh(model))
    kernel = many.params["block_0"]["qkv"]["kernel"]
    assert len(jax.devices()) == len(kernel.sharding.device_set) == 8
    assert kernel.addressable_shards[0].data.shape == (8, 24 // model)  # so that the test is about what it says
    moved = max(np.abs(np.asarray(a) - b).max() for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(start)))
    assert moved > 0.05
    # sums over 8 devices run in another order: float32 roundings (6e-8) of gradients of order 1, over 3 steps of a plain momentum rule
    for a, b in zip(jax.tree.leaves((one.params, one.ema)), jax.tree.leaves((many.params, many.ema))):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-5)
    np.testing.assert_allclose(one_losses, many_losses, rtol=1e-5)  # the log keeps 6 digits


def test_a_run_goes_on_with_other_devices(key, tmp_path):
    """A checkpoint of one device is restored onto eight, whole on each of them, and trained further to the same numbers."""
    task, optimiser = linear(noise=0.3), optax.sgd(0.1)
    whole = train.fit(key, task, optimiser, batch_of, steps=4, **quiet)
    train.fit(key, task, optimiser, batch_of, steps=2, workdir=tmp_path, **quiet)
    cut = train.fit(key, task, optimiser, batch_of, steps=4, workdir=tmp_path, on=sharding.mesh(), **quiet)
    assert len(cut.params["w"].sharding.device_set) == 8
    np.testing.assert_allclose(whole.params["w"], cut.params["w"], atol=1e-6)  # two float32 gradients, summed in another order


def test_mesh_refuses_groups_that_do_not_divide(key):
    """A number of model devices that does not divide the devices is a ValueError that says so."""
    with pytest.raises(ValueError, match="model is 3.*8 devices"):
        sharding.mesh(3)


@pytest.mark.parametrize("parts", [4, 8])
def test_parts_of_a_batch_add_up_to_it(key, parts):
    """The mean of the gradients of equal parts is the gradient of the batch, so microbatches change nothing for a loss without noise."""
    whole = train.fit(key, linear(), optax.sgd(0.1), batch_of, steps=3, microbatches=1, **quiet)
    split = train.fit(key, linear(), optax.sgd(0.1), batch_of, steps=3, microbatches=parts, **quiet)
    np.testing.assert_allclose(whole.params["w"], split.params["w"], rtol=1e-5, atol=1e-6)  # float32 means of order 1 in another order
    assert np.abs(whole.params["w"] - linear().init(jax.random.split(key)[0])["w"]).max() > 0.01


def test_every_part_of_every_step_draws_for_itself(key, tmp_path):
    """The key of part i of step n is fold_in(fold_in(key, n), i): no two are the same, and none depends on how the run was cut."""
    train.fit(key, linear(), optax.sgd(0.1), batch_of, steps=3, microbatches=4, workdir=tmp_path, log_every=1, **quiet)
    steps_key = jax.random.split(key)[1]
    draws = [[float(jax.random.uniform(jax.random.fold_in(jax.random.fold_in(steps_key, n), i))) for i in range(4)] for n in range(3)]
    assert len({d for row in draws for d in row}) == 12
    np.testing.assert_allclose([line["draw"] for line in lines(tmp_path)], np.mean(draws, 1), rtol=1e-5)  # the log keeps 6 digits


def test_the_average_follows_its_recursion(key):
    """ema_n = d_n ema_{n-1} + (1 - d_n) theta_n with d_n = min(ema, n / (n + 9)), for a loss whose gradient is 1: theta_n = theta_0 - lr n."""
    task = train.Task(lambda key: {"w": jnp.zeros(())}, lambda params, key, batch, frozen: (params["w"] + 0 * batch.sum(), {}))
    state = train.fit(key, task, optax.sgd(0.5), lambda step: np.zeros((2, 1), np.float32), steps=12, ema=0.4, **quiet)
    average = 0.0
    for n in range(1, 13):
        decay = min(0.4, n / (n + 9))
        average = decay * average + (1 - decay) * -0.5 * n
    np.testing.assert_allclose([state.params["w"], state.ema["w"]], [-6.0, average], rtol=1e-6)  # a dozen float32 steps of a contraction


def test_frozen_parameters_are_read_and_left(key):
    """The teacher's parameters reach the loss and are no part of the state."""
    loss = lambda params, key, batch, frozen: (jnp.square(params["w"] - frozen["goal"]).sum() + 0 * batch.sum(), {})
    task = train.Task(lambda key: {"w": jnp.zeros(3)}, loss)
    goal = jnp.array([1.0, -2.0, 3.0])
    state = train.fit(key, task, optax.sgd(0.25), lambda step: np.zeros((1, 1), np.float32), steps=30, frozen={"goal": goal}, **quiet)
    np.testing.assert_allclose(state.params["w"], goal, rtol=1e-6)  # the error halves at each of 30 steps: 1e-9, below float32
    assert list(state.params) == ["w"]


# -------------------------------------------------------------------------------------------------------------------------------------- the log
def test_log_and_events(key, tmp_path):
    """log.jsonl holds every log_every-th step and the last one, with the task's figures and the evaluation's; TensorBoard gets an events file."""
    evaluate = lambda state: {"step_seen": float(state.step)}
    train.fit(key, linear(), optax.sgd(0.1), batch_of, steps=7, workdir=tmp_path, log_every=2, evaluate=evaluate, evaluate_every=3, **quiet)
    rows = lines(tmp_path)
    assert [row["step"] for row in rows if "loss" in row] == [2, 4, 6, 7]
    assert [(row["step"], row["step_seen"]) for row in rows if "step_seen" in row] == [(3, 3.0), (6, 6.0)]
    assert all({"loss", "grad_norm", "draw", "steps_per_second"} <= set(row) for row in rows if "loss" in row)
    events = list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))
    assert len(events) == 1 and b"grad_norm" in events[0].read_bytes()
    train.fit(key, linear(), optax.sgd(0.1), batch_of, steps=9, workdir=tmp_path, log_every=2, **quiet)
    assert [row["step"] for row in lines(tmp_path) if "loss" in row] == [2, 4, 6, 7, 8, 9]  # a run that goes on writes on


def test_logged_loss_is_that_of_the_step(key, tmp_path):
    """The first logged loss is the loss of the initial parameters on the first batch."""
    train.fit(key, linear(), optax.sgd(0.1), batch_of, steps=2, workdir=tmp_path, log_every=1, **quiet)
    params, (x, y) = linear().init(jax.random.split(key)[0]), batch_of(0)
    assert lines(tmp_path)[0]["loss"] == pytest.approx(float(np.square(x @ np.asarray(params["w"]) - y).mean()), rel=1e-5)  # the log keeps 6 digits


# --------------------------------------------------------------------------------------------------------------------------- when something breaks
@pytest.mark.parametrize(("bad", "log_every", "step"), [(7, 1, 8), (7, 50, None), (9, 50, None)], ids=["logged", "between logs", "at the save"])
def test_a_loss_that_is_nan_stops_the_run(key, tmp_path, bad, log_every, step):
    """FloatingPointError names a step and the checkpoint that is kept; that checkpoint is from before and finite, also when the step that broke was
    not logged, and training goes on from it with better data to the end."""
    task, optimiser = linear(), optax.adam(1e-2)
    with pytest.raises(FloatingPointError, match=rf"at step {step or 10}; the newest checkpoint is 5 in .*{tmp_path.name}"):
        train.fit(key, task, optimiser, lambda n: batch_of(n, bad=[bad]), steps=40, workdir=tmp_path, save_every=5, log_every=log_every, **quiet)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["5"]
    state = train.fit(key, task, optimiser, batch_of, steps=12, workdir=tmp_path, save_every=5, **quiet)
    same(state, train.fit(key, task, optimiser, batch_of, steps=12, **quiet))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


def test_a_gradient_that_is_nan_is_not_saved(key, tmp_path):
    """A finite loss with an infinite gradient spoils the parameters: sqrt at zero. The run stops before they are saved."""
    task = train.Task(lambda key: {"w": jnp.zeros(())}, lambda params, key, batch, frozen: (jnp.sqrt(params["w"] * batch.mean()) + params["w"], {}))
    with pytest.raises(FloatingPointError, match="grad_norm is .* at step 1"):
        train.fit(key, task, optax.sgd(0.1), lambda step: np.zeros((2, 1), np.float32), steps=4, workdir=tmp_path, save_every=1, log_every=50, **quiet)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_truncated_checkpoint_is_refused_by_name(key, tmp_path):
    """Any one file of a checkpoint cut in half: either the state is as it was (orbax keeps some things twice), or ValueError names the folder; never
    other numbers. With that folder removed, as the message says, the run goes on from the checkpoint before."""
    task, optimiser = linear(), optax.adam(1e-2)
    whole = train.fit(key, task, optimiser, batch_of, steps=4, workdir=tmp_path / "run", save_every=2, **quiet)
    newest = tmp_path / "run" / "checkpoints" / "4"
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), whole)
    files = sorted((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    refused = []
    for file in files:
        raw = file.read_bytes()
        file.write_bytes(raw[: len(raw) // 2])
        with checkpoints.manager(tmp_path / "run") as store:
            try:
                same(checkpoints.restore(store, like), whole)
            except ValueError as error:
                assert str(newest) in str(error) and "remove that folder" in str(error)
                refused.append(file)
        file.write_bytes(raw)
    assert len(refused) >= 3
    refused[-1].write_bytes(b"")
    with pytest.raises(ValueError, match=str(newest)):
        train.fit(key, task, optimiser, batch_of, steps=6, workdir=tmp_path / "run", **quiet)
    shutil.rmtree(newest)
    same(train.fit(key, task, optimiser, batch_of, steps=4, workdir=tmp_path / "run", **quiet), whole)


def test_a_checkpoint_of_another_model_is_refused(key, tmp_path):
    """A workdir that holds a run of other shapes is a ValueError naming the folder, not a run with parameters cut to fit."""
    train.fit(key, linear(), optax.sgd(0.1), batch_of, steps=1, workdir=tmp_path, **quiet)
    wider = linear()._replace(init=lambda key: {"w": jax.random.normal(key, (6, 4)), "b": jnp.zeros(4)})
    with pytest.raises(ValueError, match=str(tmp_path / "checkpoints" / "1")):
        train.fit(key, wider, optax.sgd(0.1), batch_of, steps=2, workdir=tmp_path, **quiet)


# --------------------------------------------------------------------------------------------------------------------------- weights that travel
@pytest.fixture
def weights(tmp_path, network):
    """The path (without suffix) of a small network's weights, as `pretrain.run` writes them."""
    shapes = jax.eval_shape(lambda key: dit.init(key, network.dit, network.length), jax.random.key(0))
    generator = np.random.default_rng(0)
    params = jax.tree.map(lambda s: generator.normal(0.0, 0.3, s.shape).astype(np.float32), shapes)
    description = {"data": {"length": 8}, "process": {"name": "absorbing"}, "model": {"width": 8, "depth": 1, "heads": 2}, "name": "tiny"}
    checkpoints.save_weights(tmp_path / "tiny", params, description)
    return tmp_path / "tiny", params


def test_weights_come_back_as_they_went(weights, network):
    """save_weights and load are inverse to each other, bit for bit, with and without the suffix, and the network is that of the description."""
    path, params = weights
    for name in (path, str(path), f"{path}.safetensors"):
        loaded = pretrained.load(name)
        same(loaded.params, params)
        assert loaded.network.dit == network.dit and loaded.network.length == 8 and loaded.description["name"] == "tiny"


def test_weights_keep_their_shapes(tmp_path):
    """Scalars stay scalars, transposed arrays keep their order, everything is float32, and a dot in the name is no suffix."""
    params = {"a": {"scalar": np.float32(2.5), "turned": np.arange(6.0).reshape(2, 3).T}}
    checkpoints.save_weights(tmp_path / "odd-0.9", params, {"of": "0.9"})
    checkpoints.save_weights(tmp_path / "odd-0.8", {"b": np.zeros(1)}, {"of": "0.8"})
    back, config = checkpoints.load_weights(tmp_path / "odd-0.9")
    same(back, params)
    assert back["a"]["scalar"].shape == () and {x.dtype for x in jax.tree.leaves(back)} == {np.dtype("float32")} and config == {"of": "0.9"}


@pytest.mark.parametrize("keep", [0, 4, 0.5, -1], ids=["empty", "a few bytes", "half", "all but one byte"])
def test_truncated_weights_are_refused_by_name(weights, keep):
    """A safetensors file that is cut anywhere is a ValueError naming the file."""
    file = weights[0].with_suffix(".safetensors")
    raw = file.read_bytes()
    file.write_bytes(raw[: int(keep * len(raw)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=str(file)):
        pretrained.load(weights[0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(weights, value):
    """One NaN or infinity is a ValueError naming the file and the array."""
    file = weights[0].with_suffix(".safetensors")
    flat = load_file(file)
    flat["block_0.qkv.kernel"][3, 1] = value
    save_file(flat, file)
    with pytest.raises(ValueError, match=rf"{file}.*block_0\.qkv\.kernel"):
        pretrained.load(weights[0])


def spoil_shape(flat, description):
    description["model"]["width"] = 16


def spoil_missing(flat, description):
    del flat["logits.kernel"]


def spoil_extra(flat, description):
    flat["logits.bias"] = np.zeros(27, np.float32)


@pytest.mark.parametrize(("spoil", "named"), [(spoil_shape, "block_0"), (spoil_missing, "logits"), (spoil_extra, "logits")])
def test_weights_that_are_not_those_described_are_refused(weights, spoil, named):
    """Other shapes, an array too few, an array too many: ValueError naming the file and an array."""
    path = weights[0]
    flat, description = load_file(path.with_suffix(".safetensors")), json.loads(path.with_suffix(".json").read_text())
    spoil(flat, description)
    checkpoints.save_weights(path, traverse_util.unflatten_dict(flat, sep="."), description)
    with pytest.raises(ValueError, match=rf"{path}.*{named}"):
        pretrained.load(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"data": {}, "process": null}', '{"data": 3, "model": {}}'])
def test_a_damaged_description_is_refused_by_name(weights, text):
    """A description that is not JSON, or lacks what a network needs, is a ValueError naming the file."""
    file = weights[0].with_suffix(".json")
    file.write_text(text)
    with pytest.raises(ValueError, match=str(file)):
        pretrained.load(weights[0])


@pytest.mark.parametrize("gone", [".safetensors", ".json"])
def test_half_a_network_is_refused(weights, gone):
    """Weights without description, or the other way round: ValueError naming what is missing."""
    weights[0].with_suffix(gone).unlink()
    with pytest.raises(ValueError, match=str(weights[0])):
        pretrained.load(weights[0])


@pytest.mark.parametrize("name", ["no_such_teacher", "/no/such/file.safetensors", ""])
def test_an_unknown_network_lists_those_there_are(name):
    """ValueError with the name that was asked for and all names that ship."""
    assert {"judge_text", "teacher_text"} <= set(pretrained.names())
    with pytest.raises(ValueError, match=f"network {name!r} does not exist.*{', '.join(pretrained.names())}"):
        pretrained.load(name)
