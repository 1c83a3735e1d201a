"""What Hugging Face's folders say about tokens, as `convert` writes it and as it is read."""

import base64
import importlib.util
import json
import shutil

import jinja2.sandbox
import pytest
import torch
from helpers import folders
from helpers.folders import write_meta, write_params
from helpers.models import DATA, KIT, kit_folder, needs_kit
from helpers.progress import Silent
from helpers.sentencepieces import write_sentencepiece

from llama_cli.checkpoint.params import read_params
from llama_cli.checkpoint.tokenizer_file import tokenizer_of
from llama_cli.cli.app import main
from llama_cli.convert.conversion import convert
from llama_cli.convert.outputs import Target
from llama_cli.convert.source import open_folder
from llama_cli.errors import ModelRejected
from llama_cli.loader import load
from llama_cli.tokenizer.bpe import read_ranks
from llama_cli.tokenizer.chat import Message, ToolCall, make_template
from llama_cli.tokenizer.loader import load_tokenizer

TINY = DATA / "tiny/bpe1024"
TEXTS = [
    "Hello",
    "",
    "  two  spaces\n\ttabs ",
    "naïve 日本語 🙂",
    "def f(x):\n    return 12345\n",
    "\n \n\n",
    "'ll I'LL",
]


def converted(source, target, form):
    convert(open_folder(source), target, Target(form), Silent())
    return target


def read(folder, name):
    return json.loads((folder / name).read_text())


@pytest.fixture(name="theirs", scope="module")
def _theirs(tmp_path_factory):
    """The tiny chat model as a Hugging Face folder."""
    return converted(TINY, tmp_path_factory.mktemp("theirs") / "model", "hf")


def test_every_file_is_written(theirs):
    assert sorted(path.name for path in theirs.iterdir()) == [
        "config.json", "generation_config.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip
    assert read(theirs, "generation_config.json") == {
        "bos_token_id": 768, "eos_token_id": [769, 776, 777], "do_sample": True, "temperature": 0.6, "top_p": 0.9,
    }  # fmt: skip
    settings = read(theirs, "tokenizer_config.json")
    assert (settings["bos_token"], settings["eos_token"]) == ("<|begin_of_text|>", "<|eot_id|>")
    assert settings["added_tokens_decoder"]["776"]["content"] == "<|eom_id|>"
    assert len(settings["added_tokens_decoder"]) == 256
    config = read(theirs, "config.json")
    assert (config["bos_token_id"], config["eos_token_id"]) == (768, [769, 776, 777])


def test_the_tokenizer_reads_back_the_same(theirs):
    metas, again = load_tokenizer(TINY / "tokenizer.model"), tokenizer_of(theirs)
    assert (again.bos_id, again.eos_id, again.vocab_size) == (metas.bos_id, metas.special_tokens["<|eot_id|>"], 1024)
    assert again.stop_tokens == metas.stop_tokens
    for text in [*TEXTS, "<|eot_id|>"]:
        assert again.encode(text, bos=True) == metas.encode(text, bos=True)
    assert [again.token_bytes(n) for n in range(1024)] == [metas.token_bytes(n) for n in range(1024)]


def test_there_and_back_is_the_same_tokenizer(theirs, tmp_path):
    back = converted(theirs, tmp_path / "back", "pth")
    assert (back / "tokenizer.model").read_bytes() == (TINY / "tokenizer.model").read_bytes()
    assert sorted(path.name for path in back.iterdir()) == ["consolidated.00.pth", "params.json", "tokenizer.model"]
    params = read(back, "params.json")
    assert params["chat_template"] == "llama3"
    assert not {"special_tokens", "stop_token_ids", "add_bos_token", "pre_tokenizer"} & params.keys()


def rendered(folder, messages, *, add_generation_prompt=True):
    """The text that transformers makes of a dialog: its settings of Jinja, and no others."""

    def tojson(value, ensure_ascii=False):
        return json.dumps(value, ensure_ascii=ensure_ascii)

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    settings = read(folder, "tokenizer_config.json")
    template = environment.from_string(settings["chat_template"])
    names = {key: settings[key] for key in ("bos_token", "eos_token") if key in settings}
    return template.render(messages=messages, add_generation_prompt=add_generation_prompt, **names)


def as_text(tokenizer, ids):
    return tokenizer.decode(ids)


CALLS = [
    ToolCall("get_weather", {"city": "Zürich", "days": [1, 2]}),
    ToolCall("brave_search", {"query": 'a "b" c'}),
    ToolCall("code_interpreter", {"code": "print(1)"}),
]
DIALOGS = [
    [Message("user", "Hello")],
    [Message("system", "Be brief."), Message("user", "Who? "), Message("assistant", "I."), Message("user", "ok\n\n1 ")],
    *([Message("user", "q"), Message("assistant", "", (call,)), Message("tool", '{"t": 25}')] for call in CALLS),
    [Message("user", "q"), Message("assistant", "", tuple(CALLS[:2]), True), Message("ipython", "done")],
    [Message("user", "q"), Message("assistant", "text", tuple(CALLS[:1])), Message("tool", "x"), Message("user", "y")],
]


def with_objects(dialog):
    """Messages as transformers wants them: arguments as objects."""
    found = [message.as_json() for message in dialog]
    for message in found:
        for call in message.get("tool_calls", []):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return found


@pytest.mark.parametrize("name", ["llama3", "llama3-strip", "chatml"])
def test_the_template_writes_what_the_format_writes(name, tmp_path):
    source = shutil.copytree(TINY, tmp_path / "source")
    write_params(source, read(TINY, "params.json") | {"chat_template": name})
    folder = converted(source, tmp_path / "theirs", "hf")
    tokenizer = tokenizer_of(folder)
    form = make_template(name, tokenizer).format
    for dialog in DIALOGS:
        assert rendered(folder, with_objects(dialog)) == as_text(tokenizer, form.encode(dialog)), dialog
    assert load(folder).template.name == name


def test_only_the_prompt_of_an_answer_is_left_out(theirs):
    text = rendered(theirs, with_objects(DIALOGS[0]), add_generation_prompt=False)
    assert text == "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"


@pytest.fixture(name="llama2")
def _llama2(tmp_path):
    """A chat model with a SentencePiece tokenizer."""
    folder = tmp_path / "tiny-chat"
    folder.mkdir()
    pieces = write_sentencepiece(folder / "tokenizer.model")
    params = {**folders.PARAMS, "vocab_size": pieces}
    write_meta(folder, folders.random_weights(read_params(params)))
    write_params(folder, params)
    return folder


def test_llama_2_comes_with_both_files(llama2, tmp_path):
    folder = converted(llama2, tmp_path / "theirs", "hf")
    assert (folder / "tokenizer.model").read_bytes() == (llama2 / "tokenizer.model").read_bytes()
    file = read(folder, "tokenizer.json")
    assert file["model"]["byte_fallback"]
    assert [step["type"] for step in file["normalizer"]["normalizers"]] == ["Prepend", "Replace"]
    assert file["post_processor"]["single"][0] == {"SpecialToken": {"id": "<s>", "type_id": 0}}
    settings = read(folder, "tokenizer_config.json")
    assert (settings["bos_token"], settings["eos_token"], settings["add_bos_token"]) == ("<s>", "</s>", True)
    tokenizer = tokenizer_of(folder)
    form = make_template("llama2", tokenizer).format
    dialog = DIALOGS[1]
    # Control pieces show nothing, and SentencePiece puts a space before each part.
    assert rendered(folder, with_objects(dialog)).replace("<s>", " ").replace("</s>", "") == as_text(
        tokenizer, form.encode(dialog)
    )
    with pytest.raises(jinja2.TemplateError, match="take turns"):
        rendered(folder, with_objects([Message("assistant", "x")]))


def test_a_toy_has_words_of_one_character(tmp_path):
    folder = converted(DATA.parent.parent / "llama_cli/toy", tmp_path / "theirs", "hf")
    file, symbols = read(folder, "tokenizer.json"), read(folder, "chars.json")
    assert list(file["model"]["vocab"]) == symbols
    assert file["model"]["unk_token"] not in symbols  # so that an unknown character is an error there too
    assert "chat_template" not in read(folder, "tokenizer_config.json")
    assert tokenizer_of(folder).kind == "char"


def test_a_base_model_has_no_template(tmp_path):
    source = shutil.copytree(TINY, tmp_path / "base")
    weights = folders.random_weights(read_params(read(TINY, "params.json")))
    weights["tok_embeddings.weight"][768:] = 0  # the special tokens were never trained
    torch.save(weights, source / "consolidated.00.pth")
    settings = read(converted(source, tmp_path / "theirs", "hf"), "tokenizer_config.json")
    assert "chat_template" not in settings
    assert settings["eos_token"] == "<|end_of_text|>"


def put_theirs(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def test_a_folder_with_tokenizer_json_alone_runs(theirs, capfd):
    assert not (theirs / "tokenizer.model").exists()
    line = ["Once upon", "-n", "8", "-t", "0", "--dtype", "fp32", "--json"]
    answers = []
    for folder in (TINY, theirs):
        assert main(["complete", "-m", str(folder), *line]) == 0
        answers.append(json.loads(capfd.readouterr().out))
    assert answers[0]["token_ids"] == answers[1]["token_ids"]
    assert answers[0]["prompt_token_ids"] == answers[1]["prompt_token_ids"]
    for command in (["info", str(theirs)], ["verify", str(theirs)], ["tokenize", "-m", str(theirs), "Hi"]):
        assert main(command) == 0


def test_their_files_say_where_answers_end(theirs, tmp_path):
    """generation_config.json before config.json; eos_token of tokenizer_config.json beside both."""
    folder = shutil.copytree(theirs, tmp_path / "model")
    put_theirs(folder, config=read(folder, "config.json") | {"eos_token_id": 5}, generation_config={"eos_token_id": 9})
    settings = read(folder, "tokenizer_config.json")
    put_theirs(folder, tokenizer_config=settings | {"eos_token": {"content": "<|reserved_special_token_3|>"}})
    tokenizer = tokenizer_of(folder)
    assert tokenizer.stop_tokens == {9, 769, 776, 777, tokenizer.special_tokens["<|reserved_special_token_3|>"]}
    (folder / "generation_config.json").unlink()
    assert 5 in tokenizer_of(folder).stop_tokens
    back = converted(folder, tmp_path / "back", "pth")
    assert tokenizer_of(back).stop_tokens == tokenizer_of(folder).stop_tokens
    assert load(back).engine.stop_tokens == load(folder).engine.stop_tokens


@pytest.mark.parametrize(
    ("asked", "is_told"),
    [
        ({"stop_strings": ["\n\n"]}, True),
        ({"suppress_tokens": [5]}, True),
        ({"repetition_penalty": 1.1}, True),
        ({"stop_strings": None, "suppress_tokens": [], "repetition_penalty": 1.0, "temperature": 0.6}, False),
    ],
)
def test_what_they_ask_of_every_answer_is_told(theirs, tmp_path, caplog, asked, is_told):
    """An end that the file names was not looked at."""
    folder = shutil.copytree(theirs, tmp_path / "model")
    put_theirs(folder, generation_config=read(folder, "generation_config.json") | asked)
    tokenizer_of(folder)
    assert ("which is left to the flags here" in caplog.text) == is_told
    assert not is_told or next(iter(asked)) in caplog.text


def with_chatml_added(theirs, folder):
    """Two reserved places have new names, as a fine-tune gives them, and its template uses these."""
    shutil.copytree(theirs, folder)
    text = (folder / "tokenizer.json").read_text()
    text = text.replace("<|reserved_special_token_5|>", "<|im_start|>").replace(
        "<|reserved_special_token_6|>", "<|im_end|>"
    )
    (folder / "tokenizer.json").write_text(text)
    settings = read(folder, "tokenizer_config.json")
    del settings["added_tokens_decoder"]
    template = "{% for message in messages %}<|im_start|>{{ message.role }}...{% endfor %}"
    put_theirs(folder, tokenizer_config=settings | {"chat_template": template, "eos_token": "<|im_end|>"})
    return folder


def test_new_names_on_reserved_places(theirs, tmp_path, capfd):
    folder = with_chatml_added(theirs, tmp_path / "fine-tune")
    ids = {name: number for number, name in ((783, "<|im_start|>"), (784, "<|im_end|>"))}
    back = converted(folder, tmp_path / "back", "pth")
    params = read(back, "params.json")
    assert (params["chat_template"], params["stop_token_ids"]) == ("chatml", [ids["<|im_end|>"]])
    assert params["special_tokens"] == ids
    for made in (folder, back):
        session = load(made)
        assert session.template.name == "chatml"
        assert ids["<|im_end|>"] in session.engine.stop_tokens
        prompt = session.template.format.encode([Message("user", "x")])
        assert prompt[0] == ids["<|im_start|>"]
    again = converted(back, tmp_path / "again", "hf")
    assert read(again, "tokenizer_config.json")["eos_token"] == "<|im_end|>"
    assert "<|im_start|>" in rendered(again, [{"role": "user", "content": "x"}])
    assert main(["info", str(back)]) == 0
    out = capfd.readouterr().out
    assert "ChatML, template chatml, from params.json" in out
    assert "<|im_end|> (784)" in out
    assert main(["verify", str(back), "--quick"]) == 0
    assert "answers end at 769, 776, 777, 784" in capfd.readouterr().out


def test_a_template_of_another_kind_is_told(theirs, tmp_path, caplog):
    folder = shutil.copytree(theirs, tmp_path / "model")
    put_theirs(folder, tokenizer_config=read(folder, "tokenizer_config.json") | {"chat_template": "{{ '<|user|>' }}"})
    assert "is not used" in load(folder).template.warning
    assert "chat_template" not in read(converted(folder, tmp_path / "back", "pth"), "params.json")
    assert "chat template is left out" in caplog.text


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *(("generation_config", {"eos_token_id": value}) for value in ("9", 9.0, True, [[9]], [9, None])),
        ("config", {"eos_token_id": "9"}),
        ("tokenizer_config", {"add_bos_token": "false"}),
    ],
)
def test_what_their_files_say_in_another_type_is_refused(name, change, theirs, tmp_path):
    """An end that is a text or a float was none, so that answers went on without a word."""
    folder = shutil.copytree(theirs, tmp_path / "model")
    if name == "config":
        (folder / "generation_config.json").unlink()
    put_theirs(folder, **{name: read(folder, f"{name}.json") | change})
    with pytest.raises(ModelRejected, match=f"{next(iter(change))} must be"):
        tokenizer_of(folder)


def test_no_end_may_be_written_as_minus_one(theirs, tmp_path):
    folder = shutil.copytree(theirs, tmp_path / "model")
    ends = tokenizer_of(folder).stop_tokens
    put_theirs(folder, generation_config={"eos_token_id": -1})
    assert tokenizer_of(folder).stop_tokens == ends


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"stop_token_ids": [99999]}, "end answers with id 99999"),
        ({"stop_token_ids": "<|im_end|>"}, "stop_token_ids must be a list"),
        ({"stop_token_ids": [True]}, "stop_token_ids must be a list"),
        ({"special_tokens": {"<|im_end|>": "x"}}, "special_tokens must be an object"),
        ({"add_bos_token": "no"}, "add_bos_token must be true or false"),
        ({"bos_token": 7}, "bos_token must be the name"),
        ({"pre_tokenizer": "bert"}, "pre_tokenizer must be one of llama3"),
    ],
)
def test_wrong_keys_are_refused(change, reason, tmp_path, capfd):
    folder = shutil.copytree(TINY, tmp_path / "model")
    write_params(folder, read(TINY, "params.json") | change)
    assert main(["complete", "-m", str(folder), "x"]) == 3
    assert reason in capfd.readouterr().err


def test_keys_of_params_json(tmp_path, caplog):
    """Ends, names, no begin token, another way to cut: what the keys say is done, and no word about unknown keys."""
    folder = shutil.copytree(TINY, tmp_path / "model")
    keys = {"stop_token_ids": [7], "special_tokens": {"<|x|>": 790}, "add_bos_token": False, "pre_tokenizer": "smollm"}
    write_params(folder, read(TINY, "params.json") | keys)
    session = load(folder)
    assert not caplog.records
    assert 7 in session.engine.stop_tokens
    assert session.tokenizer.decode([790]) == "<|x|>"
    assert session.encode("12")[0] == session.tokenizer.encode("12")[0]
    assert len(session.tokenizer.encode("1234")) == 4
    again = converted(folder, tmp_path / "theirs", "hf")
    assert tokenizer_of(again).encode("a 1234  5") == session.tokenizer.encode("a 1234  5")
    assert tokenizer_of(again).bos_id is None


HAS_TRANSFORMERS = importlib.util.find_spec("transformers") is not None


@pytest.mark.slow
@pytest.mark.skipif(not HAS_TRANSFORMERS, reason="transformers is not installed")
def test_transformers_gives_the_same_ids(theirs, llama2, tmp_path):
    from transformers import AutoTokenizer

    for folder in (theirs, converted(llama2, tmp_path / "llama2", "hf")):
        judge, ours = AutoTokenizer.from_pretrained(folder), tokenizer_of(folder)
        for text in TEXTS:
            assert judge(text).input_ids == ours.encode(text, bos=True), text
        form = load(folder).template.format
        for dialog in DIALOGS[:2]:
            ids = judge.apply_chat_template(with_objects(dialog), add_generation_prompt=True, return_dict=False)
            assert ids == form.encode(dialog)


@needs_kit
@pytest.mark.parametrize("name", ["stories260k-tiktoken", "stories260k-sp"] if KIT else [])
def test_real_models_keep_their_ids(name, tmp_path):
    source = kit_folder(name)
    ours, again = tokenizer_of(source), tokenizer_of(converted(source, tmp_path / "theirs", "hf"))
    for text in TEXTS:
        assert again.encode(text, bos=True) == ours.encode(text, bos=True)


def test_ranks_of_the_source_are_written_again(theirs):
    """Byte for byte what base64 makes of them, in the order of the ids."""
    ranks = read_ranks(TINY / "tokenizer.model")
    vocab = read(theirs, "tokenizer.json")["model"]["vocab"]
    assert list(vocab.values()) == list(range(len(ranks)))
    assert base64.b64encode(next(iter(ranks))) in (TINY / "tokenizer.model").read_bytes()
