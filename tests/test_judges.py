"""Published judges: against transformers' logits (tests/fixtures/make_judges.py), their layouts, their tokenizers, and what is refused."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import FIXTURES
from safetensors.numpy import load_file, save_file

from jddd import judges
from jddd.data import text
from jddd.data.subwords import Subwords
from jddd.judges import folders
from jddd.models import lm

FAMILIES = ("gpt2", "llama")


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def folder(family, tmp_path):
    """A copy of the family's folder, to be spoiled."""
    return shutil.copytree(FIXTURES / f"judge_{family}", tmp_path / "judge")


def spoil(folder, change):
    """Rewrites the folder's tensors by change(dict of them)."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A folder with byte pairs of 97 symbols at most: the bytes of lower-case text, some merges, and an end of text."""
    symbols = ["<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz", "Ġ", "Ċ", ".", "1", "2", "Ã", "©", "th", "the", "Ġthe"]
    place = tmp_path_factory.mktemp("words")
    (place / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(symbols)}))
    (place / "merges.txt").write_text("#version: 0.2\nt h\nth e\nĠ the\n")
    return place


# ------------------------------------------------------------------------------------------------------------------------------- against transformers
def test_logits_are_those_of_transformers(family, golden):
    """Hidden states, logits, log-probabilities and the loss of tiny random models: GPT-2's Conv1D and tied head; Llama's grouped heads, own head, RoPE."""
    config, params = folders.load(FIXTURES / f"judge_{family}")
    cases = golden("judges")
    x, want = jnp.asarray(cases[f"{family}_tokens"], jnp.int32), jnp.asarray(cases[f"{family}_logits"])
    hidden = lm.features(config, params, x)
    np.testing.assert_allclose(hidden, cases[f"{family}_hidden"], atol=1e-5)
    np.testing.assert_allclose(lm.logits(config, params, hidden), want, atol=1e-5)
    log_p = jnp.take_along_axis(jax.nn.log_softmax(want[:, :-1]), x[:, 1:, None], -1)[..., 0]
    np.testing.assert_allclose(lm.log_likelihood(config, params, x), log_p, atol=1e-5)
    assert -lm.log_likelihood(config, params, x).mean() == pytest.approx(float(cases[f"{family}_loss"]), abs=1e-5)
    assert np.ptp(log_p) > 3  # far from uniform


@pytest.mark.parametrize("chunk", [1, 7, 39 * 3, 1000])
def test_chunks_of_the_head_change_nothing(family, golden, chunk):
    """Chunks that divide the positions, that do not, and that are more than there are."""
    config, params = folders.load(FIXTURES / f"judge_{family}")
    x = jnp.asarray(golden("judges")[f"{family}_tokens"], jnp.int32)
    np.testing.assert_allclose(lm.log_likelihood(config, params, x, chunk=chunk), lm.log_likelihood(config, params, x), atol=2e-6)


def test_the_head_never_holds_all_logits(family):
    """At 50,257 symbols and 1024 positions the compiled program's temporaries stay below the (B, L, V) logits alone."""
    config, _ = folders.load(FIXTURES / f"judge_{family}")
    config = dataclasses.replace(config, symbols=50_257, context=1024)
    flat = {name: jax.ShapeDtypeStruct((config.depth, *shape) if name.startswith("block.") else shape, jnp.float32) for name, shape in lm.shapes(config).items()}
    params = {name: value for name, value in flat.items() if not name.startswith("block.")}
    params["blocks"] = {name.removeprefix("block."): value for name, value in flat.items() if name.startswith("block.")}
    compiled = lm.log_likelihood.lower(config, params, jax.ShapeDtypeStruct((2, 1024), jnp.int32)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2 * 1024 * 50_257 * 4 / 2


def test_rows_of_any_length_and_order(family):
    """Padding on the right and other rows in the batch change nothing: each row alone gives the same; last hidden states too."""
    name = FIXTURES / f"judge_{family}"
    config, params = folders.load(name)
    judge = judges.Judge("tiny", config, params, None)
    generator = np.random.default_rng(0)
    rows = [generator.integers(0, 97, n) for n in (5, 48, 1, 17, 30)]
    together, states = judges.log_likelihood(judge, rows, batch=2), judges.features(judge, rows, batch=2)
    for row, values, state in zip(rows, together, states):
        assert values.shape == (len(row) - 1,)
        alone = jnp.asarray(row[None], jnp.int32)
        np.testing.assert_allclose(values, lm.log_likelihood(config, params, alone)[0] if len(row) > 1 else [], atol=1e-5)
        np.testing.assert_allclose(state, lm.features(config, params, alone)[0, -1], atol=1e-5)
    for bad in ([], [97], [-1], np.zeros(config.context + 1, int)):
        with pytest.raises(ValueError, match="row 1 has"):
            judges.log_likelihood(judge, [rows[0], np.array(bad, int)])


def test_bfloat16_is_near(family, golden):
    """Half the memory: log-probabilities to bfloat16's precision, and still float32."""
    x = jnp.asarray(golden("judges")[f"{family}_tokens"], jnp.int32)
    full, half = (lm.log_likelihood(*folders.load(FIXTURES / f"judge_{family}", dtype), x) for dtype in ("float32", "bfloat16"))
    assert half.dtype == jnp.float32 and abs(float(half.mean() / full.mean()) - 1) < 0.02


# ------------------------------------------------------------------------------------------------------------------------------------------ layouts
def test_other_folders_of_one_model(family, folder):
    """Without the prefix, with the buffers of old files, and in shards with an index: the same parameters."""
    want = folders.load(folder)
    prefix = {"gpt2": "transformer.", "llama": "model."}[family]
    buffer = {"gpt2": "h.0.attn.bias", "llama": "layers.1.self_attn.rotary_emb.inv_freq"}[family]
    tensors = {key.removeprefix(prefix): value for key, value in load_file(folder / "model.safetensors").items()}
    save_file(tensors | {buffer: np.ones((1, 1), np.float32)}, folder / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, folders.load(folder)[1], want[1])
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, keys in shards.items():
        save_file({key: tensors[key] for key in keys}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {key: shard for shard, keys in shards.items() for key in keys}}))
    config, params = folders.load(folder)
    assert config == want[0]
    jax.tree.map(np.testing.assert_array_equal, params, want[1])
    (folder / "b.safetensors").unlink()
    with pytest.raises(ValueError, match="b.safetensors.*does not exist"):
        folders.load(folder)


def test_tied_weights_may_be_written_twice(folder, family):
    """A tied head that is in the file all the same is left out; an untied one that is not there is named."""
    config, _ = folders.load(folder)
    if config.tied:
        spoil(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["transformer.wte.weight"].copy()}))
        assert "head" not in folders.load(folder)[1]
    else:
        spoil(folder, lambda tensors: tensors.pop("lm_head.weight"))
        with pytest.raises(ValueError, match=r"lm_head.weight is missing; expected, with shape \(97, 32\)"):
            folders.load(folder)


def llama_cpp_order(weight, heads):
    """Rows of q or k as llama.cpp's converter writes them: the two halves of a head interleaved."""
    rows = weight.reshape(heads, 2, -1, weight.shape[1])
    return np.stack([rows[:, 0], rows[:, 1]], 2).reshape(weight.shape)


@pytest.fixture
def gguf_file(tmp_path, words):
    """The tiny Llama as a gguf of its own, with the vocabulary of `words`."""
    import gguf

    config, params = folders.load(FIXTURES / "judge_llama")
    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.depth)
    writer.add_feed_forward_length(config.hidden)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_layer_norm_rms_eps(config.eps)
    writer.add_rope_freq_base(config.base)
    symbols = json.loads((words / "vocab.json").read_text())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(list(symbols))
    writer.add_token_merges(["t h", "th e", "Ġ the"])
    writer.add_token_types([3] + [1] * (len(symbols) - 1))
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    names = {"norm_attention": "attn_norm", "q": "attn_q", "k": "attn_k", "v": "attn_v", "out": "attn_output", "norm_mlp": "ffn_norm", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"}
    tensors = {"token_embd": params["embed"], "output_norm": params["norm"], "output": params["head"]}
    for layer in range(config.depth):
        for ours, theirs in names.items():
            value = np.asarray(params["blocks"][ours][layer]).T
            tensors[f"blk.{layer}.{theirs}"] = llama_cpp_order(value, {"q": config.heads, "k": config.kv_heads}[ours]) if ours in "qk" else value
    for name, value in tensors.items():
        writer.add_tensor(f"{name}.weight", np.ascontiguousarray(value, np.float32))
    writer.add_tensor("rope_freqs.weight", np.asarray(config.stretch, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "tiny.gguf"


def test_gguf_is_the_folder(gguf_file, golden, words):
    """The same Llama through a gguf: rows of q and k put back in order, tensors [out, in], its stretched frequencies; and its vocabulary."""
    want_config, want = folders.load(FIXTURES / "judge_llama")
    judge = judges.load(gguf_file)
    jax.tree.map(np.testing.assert_array_equal, judge.params, want)
    np.testing.assert_allclose(judge.config.stretch, want_config.stretch, rtol=1e-6)  # float32 in the file
    x = jnp.asarray(golden("judges")["llama_tokens"], jnp.int32)
    np.testing.assert_allclose(lm.logits(judge.config, judge.params, lm.features(judge.config, judge.params, x)), golden("judges")["llama_logits"], atol=1e-5)
    sentence = "the cat and the dog.<|endoftext|>in 12 the"
    np.testing.assert_array_equal(judge.tokenizer.encode(sentence), Subwords(str(words)).encode(sentence))
    assert judge.tokenizer.decode(judge.tokenizer.encode(sentence)) == sentence
    assert (judge.tokenizer.start, judge.tokenizer.end) == (0, 0)


def test_gguf_that_is_refused(gguf_file, tmp_path):
    """Truncated, no gguf at all, missing: one ValueError that names the file."""
    (tmp_path / "short.gguf").write_bytes(gguf_file.read_bytes()[:-4000])
    (tmp_path / "other.gguf").write_bytes(b"not a gguf file, but long enough for a header")
    for name in ("short", "other", "missing"):
        with pytest.raises(ValueError, match=f"{name}.gguf"):
            judges.load(tmp_path / f"{name}.gguf")


# ------------------------------------------------------------------------------------------------------------------------------------------- refusals
BLOCK = {"gpt2": "transformer.h.1.attn.c_attn.weight", "llama": "model.layers.1.self_attn.k_proj.weight"}
SHAPE = {"gpt2": (32, 96), "llama": (16, 32)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, key: tensors.pop(key), "{bare} is missing; expected, with shape {shape}"),
        (lambda tensors, key: tensors.update({key: tensors[key].T.copy()}), "{bare} has shape {turned}; expected {shape}"),
        (lambda tensors, key: tensors.update({key: tensors[key] * np.nan}), "{bare} of shape .* holds NaN"),
        (lambda tensors, key: tensors.update({f"{key}.lora": np.zeros((2, 2), np.float32)}), "{bare}.lora has shape \\(2, 2\\); expected no such tensor"),
    ],
    ids=["missing", "mis-shaped", "not finite", "unexpected"],
)
def test_bad_tensors_are_named(family, folder, change, message):
    """The first offending key, the shape found and the shape expected."""
    key, shape = BLOCK[family], SHAPE[family]
    spoil(folder, lambda tensors: change(tensors, key))
    escaped = lambda value: str(value).replace("(", r"\(").replace(")", r"\)")
    bare = key.removeprefix("transformer.").removeprefix("model.")
    with pytest.raises(ValueError, match=message.format(bare=bare, shape=escaped(shape), turned=escaped(shape[::-1]))):
        folders.load(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"model_type": "mamba"}, "model_type is 'mamba'"), ({"vocab_size": 98}, r"has shape \(97, 32\); expected \(98, 32\)")],
    ids=["family", "vocabulary"],
)
def test_bad_configs_are_named(folder, fields, message):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    with pytest.raises(ValueError, match=message):
        folders.load(folder)


def test_fields_that_are_not_supported(folder, family):
    """What would change the network is refused by name, not left out."""
    config = json.loads((folder / "config.json").read_text())
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}
    changes = {"gpt2": [{"scale_attn_by_inverse_layer_idx": True}, {"activation_function": "relu"}], "llama": [{"attention_bias": True}, {"rope_parameters": rope}]}[family]
    for change in changes:
        with pytest.raises(ValueError, match="rope type is 'yarn'" if "rope_parameters" in change else next(iter(change))):
            folders.config_of(config | change)
    first = {"gpt2": "n_layer", "llama": "num_hidden_layers"}[family]
    with pytest.raises(ValueError, match=f"{first} is missing"):
        folders.config_of({key: value for key, value in config.items() if key != first})


def test_truncated_and_missing_files(folder):
    """One ValueError each, that names the file."""
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="model.safetensors.*truncated"):
        folders.load(folder)
    weights.unlink()
    with pytest.raises(ValueError, match="model.safetensors.*does not exist"):
        folders.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json.*not JSON"):
        folders.load(folder)
    with pytest.raises(ValueError, match="does not exist; allowed: a folder"):
        judges.load("nowhere")


def test_which_names_are_published(tmp_path, folder):
    """gguf files, folders with config.json and hub ids; a network of jddd's own by name or path is none."""
    (tmp_path / "own.safetensors").write_bytes(b"")
    assert judges.known(folder) and judges.known("x.gguf") and judges.known("openai-community/gpt2-large") and judges.known("owner/name@abc123")
    assert not judges.known("judge_text") and not judges.known(tmp_path / "own") and not judges.known("runs/a/b")


# ----------------------------------------------------------------------------------------------------------------------------------------- tokenizers
def test_byte_pairs_under_both_names(words, tmp_path):
    """vocab.json + merges.txt, the same as encoder.json + vocab.bpe, and the tokenizer.json made of them; text comes back, special tokens and bytes too."""
    shutil.copy(words / "vocab.json", tmp_path / "encoder.json")
    shutil.copy(words / "merges.txt", tmp_path / "vocab.bpe")
    first, second = Subwords(str(words)), Subwords(str(tmp_path))
    np.testing.assert_array_equal(first.encode("the the"), [35, 36])
    assert first.decode(np.array([36, 35])) == " thethe" and (first.start, first.end, first.size) == (0, 0, 37)
    sentence = "the end.\n<|endoftext|>caf\u00e9 1"
    assert first.decode(first.encode(sentence)) == sentence and 0 in first.encode(sentence)
    np.testing.assert_array_equal(first.encode(sentence), second.encode(sentence))
    first._tokenizer.save(str(tmp_path / "tokenizer.json"))
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        third = text.tokenizer(str(path))
        np.testing.assert_array_equal(third.encode(sentence), first.encode(sentence))
        assert (third.start, third.end) == (0, 0)
    assert first == Subwords(str(words)) != second
    assert first.decode(np.array([35, 37])) == "the"  # the mask lies past the vocabulary


def test_special_tokens_by_the_files_beside(words, tmp_path):
    """tokenizer_config.json says which they are, then config.json, whose end may be a list."""
    place = shutil.copytree(words, tmp_path / "b")
    (place / "config.json").write_text(json.dumps({"bos_token_id": 3, "eos_token_id": [4, 5]}))
    assert (Subwords(str(place)).start, Subwords(str(place)).end) == (3, 4)
    other = shutil.copytree(place, tmp_path / "c")
    (other / "tokenizer_config.json").write_text(json.dumps({"bos_token": {"content": "a"}, "eos_token": "b"}))
    assert (Subwords(str(other)).start, Subwords(str(other)).end) == (1, 2)


def test_tokenizers_that_are_refused(tmp_path):
    """A path that is not there, a folder without a vocabulary, a damaged tokenizer.json."""
    (tmp_path / "tokenizer.json").write_text("{")
    for path, message in ((tmp_path / "no", "allowed: 'characters'"), (tmp_path / "tokenizer.json", "cannot be read")):
        with pytest.raises(ValueError, match=message):
            Subwords(str(path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="a folder with tokenizer.json"):
        Subwords(str(tmp_path / "empty"))


def test_a_tokenizer_of_another_judge(words, family):
    """More symbols than the judge has is refused; as many or fewer (padded embeddings) are taken."""
    judge = judges.load(FIXTURES / f"judge_{family}", tokenizer=words)
    assert judge.tokenizer.size == 37 < judge.config.symbols
