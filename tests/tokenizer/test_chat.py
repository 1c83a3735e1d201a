"""Dialogs against Meta's own ChatFormat, and the formats of the other families."""

import importlib.util
import io
import json
import random
from pathlib import Path

import pytest
from helpers.models import DATA
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_cli.tokenizer import CharTokenizer, EncodeError, TokenizerError, load_tokenizer
from llama_cli.tokenizer.chat import ROLES, Llama3Format, Message, chat_format, family_template, make_template
from llama_cli.tokenizer.chat_formats import spell_prompt
from llama_cli.tokenizer.message import ToolCall


def real_llama3() -> Path | None:
    spec = importlib.util.find_spec("llama_models")
    return Path(spec.origin).parent / "llama3/tokenizer.model" if spec and spec.origin else None


TOKENIZER = load_tokenizer(DATA / "tokenizer/tiny768.model")
LLAMA3 = real_llama3()
needs_llama3 = pytest.mark.skipif(LLAMA3 is None, reason="llama-models, which has Meta's tokenizer.model, is absent")


def golden_cases():
    for name in ("tiny768", "llama3"):
        for case in json.loads((DATA / f"chat/{name}.json").read_text())["cases"]:
            marks = [needs_llama3] if name == "llama3" else []
            yield pytest.param(name, case, id=f"{name}-{case['name']}", marks=marks)


def message_of(fields):
    """A message of the goldens, which spell tool calls as llama-models does."""
    calls = tuple(ToolCall(call["tool_name"], call["arguments"]) for call in fields.get("tool_calls", []))
    return Message(fields["role"], fields["content"], calls, fields.get("stop_reason") == "end_of_message")


def test_there_are_nine_goldens():
    assert len(list(golden_cases())) == 18


@pytest.mark.parametrize(("name", "case"), list(golden_cases()))
def test_dialogs_are_metas(name, case):
    tokenizer = TOKENIZER if name == "tiny768" else load_tokenizer(LLAMA3)
    dialog = [message_of(message) for message in case["dialog"]]
    ids = Llama3Format(tokenizer).encode(dialog)
    assert ids == case["prompt_ids"]
    assert tokenizer.decode(ids) == case["prompt_decoded"]
    stripped = case.get("prompt_ids_llama3_repo_strip")  # the older repository has no tools
    if stripped is not None:
        expected = case["prompt_ids"] if stripped == "same" else stripped
        assert Llama3Format(tokenizer, strip=True).encode(dialog) == expected


ANY_DIALOG = st.lists(
    st.builds(Message, st.sampled_from(ROLES), st.text(max_size=40) | st.just("<|eot_id|>")), max_size=4
)


@pytest.mark.promise("P12")
@settings(max_examples=200, deadline=None)
@given(dialog=ANY_DIALOG)
def test_contents_make_no_control_tokens(dialog):
    """The control ids are the begin, and three for each message and the answer's two: no more."""
    ids = Llama3Format(TOKENIZER).encode(dialog)
    assert sum(token_id >= 768 for token_id in ids) == 1 + 3 * len(dialog) + 2


MARKS = ["<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|begin_of_text|>", "<|python_tag|>", "<|im_end|>"]


def text_with_marks(chance):
    """Control tokens whole, cut, doubled, nested and among any characters."""
    pieces = [*MARKS, "<|", "|>", "<", "|", "\n\n", "assistant", "\u200b", "é", "😀", "\0", " "]
    pieces += [mark[: chance.randint(1, len(mark))] for mark in MARKS]
    return "".join(chance.choice(pieces) for _ in range(chance.randint(1, 10)))


@pytest.mark.promise("P12")
@pytest.mark.slow
@pytest.mark.parametrize("field", ["prompt", *ROLES])
def test_twenty_thousand_texts_make_no_control_token(field, record_property):
    """For the prompt of `complete` and the content of each role: ids from 768 on are the format's own."""
    record_property("cases", 20_000)
    chance, form = random.Random(field), Llama3Format(TOKENIZER)
    for _ in range(20_000):
        text = text_with_marks(chance)
        ids = TOKENIZER.encode(text) if field == "prompt" else form.encode([Message(field, text)])
        assert sum(token_id >= 768 for token_id in ids) == (0 if field == "prompt" else 6), repr(text)
        assert field != "prompt" or TOKENIZER.decode(ids) == text


@settings(max_examples=100, deadline=None)
@given(dialog=ANY_DIALOG)
def test_chatml_is_its_text_and_contents_make_no_control_tokens(dialog):
    """In Meta's layout the tokens have Llama 3's names."""
    ids = make_template("chatml", TOKENIZER).format.encode(dialog)
    assert sum(token_id >= 768 for token_id in ids) == 2 * len(dialog) + 1
    names = {"ipython": "tool"}
    text = "".join(
        f"<|start_header_id|>{names.get(message.role, message.role)}\n{message.content}<|eot_id|>\n"
        for message in dialog
    )
    assert TOKENIZER.decode(ids) == text + "<|start_header_id|>assistant\n"


def test_chatml_contents_are_encoded_together_with_their_role():
    """`user\\n` and a content that begins with a line break are one text, as in the templates of such models."""
    ids = make_template("chatml", TOKENIZER).format.encode([Message("user", "\n\nHello")])
    content = TOKENIZER.encode("user\n\n\nHello")
    assert ids[1 : 1 + len(content)] == content


def test_plain_text_goes_on_where_it_ended():
    dialog = [
        Message("system", "A tale."),
        Message("user", "Once upon"),
        Message("assistant", " a time"),
        Message("user", "The end"),
    ]
    toy = CharTokenizer(sorted({*"\n", *(letter for message in dialog for letter in message.content)}))
    ids = make_template("none", toy).format.encode(dialog)
    assert toy.decode(ids) == "A tale.\nOnce upon a time\nThe end"
    assert make_template("none", TOKENIZER).format.encode(dialog)[0] == TOKENIZER.bos_id


@pytest.mark.parametrize("name", ["llama3", "chatml", "none"])
def test_answers_go_back_as_the_ids_that_were_made(name):
    """Encoding the text again may give other ids, and nothing of the cache would fit."""
    made = (*TOKENIZER.encode("He"), *TOKENIZER.encode("llo"))
    assert made != tuple(TOKENIZER.encode("Hello"))
    form = make_template(name, TOKENIZER).format
    question = [Message("user", "Hi")]
    before = form.encode(question)
    after = form.encode([*question, Message("assistant", "Hello", token_ids=made), Message("user", "Why?")])
    assert after[: len(before) + len(made)] == [*before, *made]


def test_families():
    assert chat_format(CharTokenizer("ab")) is None
    assert family_template(CharTokenizer("ab")) == "none"
    assert family_template(TOKENIZER) == "llama3"
    assert chat_format(TOKENIZER) is not None


@pytest.mark.parametrize(
    ("name", "tokenizer"),
    [
        ("llama3", CharTokenizer("ab")),
        ("chatml", CharTokenizer("ab")),
        ("llama2", TOKENIZER),
        ("codellama-70b", TOKENIZER),
    ],
)
def test_a_template_without_its_tokens_is_refused(name, tokenizer):
    with pytest.raises(TokenizerError, match=f"the chat template {name} needs tokens"):
        make_template(name, tokenizer)


# ---- SentencePiece families, on a model trained here


@pytest.fixture(name="sentencepiece_tokenizer", scope="module")
def _sentencepiece_tokenizer(tmp_path_factory):
    """Returns a function that trains a small tokenizer, as Llama 2's is, with further symbols."""
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer

    def train(*symbols):
        model = io.BytesIO()
        text = (DATA.parent.parent / "tests/tokenizer/test_chat.py").read_text().split("\n")
        trainer.train(
            sentence_iterator=iter(text), model_writer=model, model_type="bpe", vocab_size=500, byte_fallback=True,
            user_defined_symbols=list(symbols), remove_extra_whitespaces=False, normalization_rule_name="identity",
            hard_vocab_limit=False, minloglevel=2,
        )  # fmt: skip
        path = tmp_path_factory.mktemp("spm") / "tokenizer.model"
        path.write_bytes(model.getvalue())
        return load_tokenizer(path)

    return train


DIALOG = [
    Message("system", " Be brief. "),
    Message("user", "  Hello there\n"),
    Message("assistant", " Hi! "),
    Message("user", "Why?"),
]


def test_llama2_is_metas_text(sentencepiece_tokenizer):
    """Meta's code formats each pair as one text between begin and end, with a space behind an answer."""
    tokenizer = sentencepiece_tokenizer()
    assert family_template(tokenizer) == "llama2"
    form = chat_format(tokenizer)
    first = "[INST] <<SYS>>\n Be brief. \n<</SYS>>\n\n  Hello there [/INST] Hi! "
    expected = tokenizer.encode(first, bos=True, eos=True) + tokenizer.encode("[INST] Why? [/INST]", bos=True)
    assert form.encode(DIALOG) == expected
    # The ids of an answer, here those that the text has anyway, make the same prompt.
    question = tokenizer.encode("[INST] Hello [/INST]")
    made = tokenizer.encode("[INST] Hello [/INST] Hi!")[len(question) :]
    plain = [Message("user", "Hello"), Message("assistant", "Hi!"), Message("user", "Why?")]
    with_ids = [plain[0], Message("assistant", "Hi!", token_ids=tuple(made)), plain[2]]
    assert form.encode(with_ids) == form.encode(plain)


@pytest.mark.parametrize(
    ("dialog", "fragment"),
    [
        ([Message("user", "[INST] hm")], "holds [INST]"),
        ([Message("system", "<<SYS>>"), Message("user", "a")], "holds <<SYS>>"),
        ([Message("user", "a"), Message("user", "b")], "user and assistant in turns"),
        ([Message("user", "a"), Message("assistant", "b")], "user last"),
        ([Message("user", "a"), Message("assistant", "b"), Message("tool", "c")], "in turns"),
    ],
)
def test_llama2_refuses_what_metas_code_refuses(sentencepiece_tokenizer, dialog, fragment):
    with pytest.raises(EncodeError) as caught:
        chat_format(sentencepiece_tokenizer()).encode(dialog)
    assert fragment in caught.value.message


LLAMA2_MARKS = ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<step>", "<|im_end|>", "</s>"]


@pytest.mark.parametrize("mark", LLAMA2_MARKS)
def test_what_the_model_said_is_not_searched(sentencepiece_tokenizer, mark):
    """An answer that held a mark ended the conversation for good: each later message was refused."""
    tokenizer = sentencepiece_tokenizer()
    form = chat_format(tokenizer)
    said = f"It ends with {mark} there"
    ids = tuple(tokenizer.encode(said))
    dialog = [Message("user", "Hello"), Message("assistant", said, token_ids=ids), Message("user", "Why?")]
    prompt = form.encode(dialog)
    begin = len(tokenizer.encode("[INST] Hello [/INST]", bos=True))
    assert prompt[begin : begin + len(ids)] == list(ids)
    # Another model's answer, or an edited one, is text.
    dialog[1] = Message("assistant", said)
    assert mark in tokenizer.decode(form.encode(dialog))


@pytest.mark.parametrize("mark", LLAMA2_MARKS[4:])
def test_marks_of_other_formats_are_text_to_llama2(sentencepiece_tokenizer, mark):
    tokenizer = sentencepiece_tokenizer()
    assert f"a {mark} b" in tokenizer.decode(chat_format(tokenizer).encode([Message("user", f"a {mark} b")]))


@pytest.mark.parametrize("mark", ["[/INST]", "<step>"])
def test_code_llama_70b_does_not_search_its_own_answers(sentencepiece_tokenizer, mark):
    tokenizer = sentencepiece_tokenizer("<step>")
    step = tokenizer.special_tokens["<step>"]
    form = chat_format(tokenizer)
    plain = [Message("user", "Hello"), Message("assistant", "a b"), Message("user", "Why?")]
    for ids in (None, tuple(tokenizer.encode(f"a {mark} b"))):
        dialog = [plain[0], Message("assistant", f"a {mark} b", token_ids=ids), plain[2]]
        assert form.encode(dialog).count(step) == form.encode(plain).count(step)


def test_code_llama_70b_is_metas(sentencepiece_tokenizer):
    tokenizer = sentencepiece_tokenizer("<step>")
    step = tokenizer.special_tokens["<step>"]
    assert family_template(tokenizer) == "codellama-70b"
    assert step in tokenizer.stop_tokens
    form = chat_format(tokenizer)

    def part(header, body):
        return [*tokenizer.encode(header), *(tokenizer.encode(f"\n\n {body}") if body else []), step]

    answer = " Source: assistant\nDestination: user"
    expected = [
        tokenizer.bos_id,
        *part(" Source: system", "Be brief."),
        *part(" Source: user", "Hello there"),
        *part(answer, "Hi!"),
        *part(" Source: user", "Why?"),
        *tokenizer.encode(answer),
        *tokenizer.encode("\n\n "),
    ]
    assert form.encode(DIALOG) == expected
    without = form.encode([Message("user", "Why?")])
    assert without[: 1 + len(part(" Source: system", ""))] == [tokenizer.bos_id, *part(" Source: system", "")]
    with pytest.raises(EncodeError, match="<step>"):
        form.encode([Message("user", "a<step> Source: system")])


def test_sentencepiece_chatml_keeps_names_in_a_message_as_text(sentencepiece_tokenizer):
    """SentencePiece itself reads such symbols out of any text; the tokenizer spells them."""
    tokenizer = sentencepiece_tokenizer("<|im_start|>", "<|im_end|>")
    assert family_template(tokenizer) == "chatml"
    end = tokenizer.special_tokens["<|im_end|>"]
    assert end in tokenizer.stop_tokens
    plain = chat_format(tokenizer).encode([Message("user", "a b")])
    ids = chat_format(tokenizer).encode([Message("user", "a<|im_end|>b")])
    assert ids.count(end) == plain.count(end) == 1
    assert "a<|im_end|>b" in tokenizer.decode(ids)


# ---- messages


@pytest.mark.parametrize(
    ("fields", "fragment"),
    [
        ({"role": "admin", "content": "x"}, "the role 'admin'"),
        ({"content": "x"}, "the role 'None'"),
        ({"role": "user"}, "no text"),
        ({"role": "user", "content": [1]}, "no text"),
        ({"role": "assistant", "content": None}, "no text"),
        ({"role": "user", "content": "", "tool_calls": [{}]}, "no list of an assistant's calls"),
        ({"role": "assistant", "tool_calls": "x"}, "no list of an assistant's calls"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}, "no function with a name and arguments"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}, "a name and arguments"),
    ],
)
def test_bad_messages(fields, fragment):
    with pytest.raises(EncodeError, match=fragment):
        Message.of(fields)


def test_messages_survive_json():
    calls = (ToolCall("get_weather", {"city": "Zürich", "days": 2}),)
    for message in (
        Message("user", "Hi"),
        Message("assistant", "", calls, awaits_tool=True),
        Message("assistant", "x", token_ids=(1, 2)),
    ):
        fields = json.loads(json.dumps(message.as_json()))
        assert Message.of(fields, with_ids=True) == message
        read = Message.of(fields)
        assert read == Message(message.role, message.content, message.tool_calls, message.awaits_tool)


def test_a_prompt_is_spelled_as_the_model_knows_it():
    """In Meta's layout ChatML's tokens have other names; what a message holds is text under any name."""
    tokenizer = load_tokenizer(DATA / "tiny/bpe1024/tokenizer.model")
    dialog = [Message("user", "Hi \U0001f600<|eot_id|>")]
    chatml, llama3 = (make_template(name, tokenizer).format for name in ("chatml", "llama3"))
    shown = spell_prompt(tokenizer, chatml, chatml.encode(dialog))
    assert shown == "<|im_start|>user\nHi \U0001f600<|eot_id|><|im_end|>\n<|im_start|>assistant\n"
    ids = llama3.encode(dialog)
    assert spell_prompt(tokenizer, llama3, ids) == tokenizer.decode(ids)
    assert spell_prompt(tokenizer, chatml, 2 * [ids[1]]) == 2 * "<|im_start|>"


def test_a_spelled_prompt_shows_what_sentencepiece_hides(sentencepiece_tokenizer):
    tokenizer = sentencepiece_tokenizer()
    form = chat_format(tokenizer)
    shown = spell_prompt(
        tokenizer, form, form.encode([Message("user", "a"), Message("assistant", "b"), Message("user", "c")])
    )
    assert shown == "<s> [INST] a [/INST] b </s><s> [INST] c [/INST]"
