"""Answers of a conversation: what they cost, how they end, what is kept."""

import dataclasses

import pytest
from helpers.models import DATA, kit_folder, needs_kit

import llama_cli
from llama_cli.chat.answerer import Answerer
from llama_cli.chat.conversation import Conversation
from llama_cli.engine.request import Sampling
from llama_cli.errors import ContextTooLong, UsageError
from llama_cli.loader import load
from llama_cli.tokenizer.chat import Message, ToolCall

GREEDY = Sampling(temperature=0, max_tokens=12, ignore_eos=True)


@pytest.fixture(name="session", params=["llama3", "chatml", "none"])
def _session(request):
    return load(DATA / "tiny/bpe1024", dtype="fp32", chat_template=request.param)


def start(session, sampling=GREEDY, system=None, **more):
    conversation = Conversation()
    if system is not None:
        conversation.set_system(system)
    return Answerer(session, conversation, sampling, **more)


def say(answerer, text):
    """Run one turn to its end."""
    answerer.conversation.add(Message("user", text))
    turn = answerer.prepare()
    chunks = list(answerer.answer(turn))
    assert "".join(chunk.text for chunk in chunks) == turn.text
    return turn


def test_a_turn_costs_its_new_tokens(session):
    """Everything but the last token of the answer before, which nobody had to compute, is in the cache."""
    answerer = start(session, system="Be brief.")
    held = 0
    for number in range(5):
        turn = say(answerer, f"question {number}")
        assert turn.stats.n_reused == held
        assert turn.stats.n_prompt == len(turn.prompt) - held
        held = len(turn.prompt) + len(turn.token_ids) - 1
    assert len(turn.prompt) > 80


def test_a_turn_costs_its_new_tokens_where_the_model_ends_its_answers(session):
    """The end token is not part of the content, and stands in the next prompt all the same."""
    sampling = Sampling(temperature=0, max_tokens=12, logit_bias={session.tokenizer.special_tokens["<|eot_id|>"]: 100})
    answerer = start(session, sampling)
    first = say(answerer, "Hi")
    assert first.finish_reason == "stop"
    assert first.text == ""
    second = say(answerer, "And?")
    assert second.stats.n_reused == len(first.prompt)


def test_undo_retry_and_fork_keep_the_common_beginning(session):
    answerer = start(session)
    first, second = say(answerer, "one"), say(answerer, "two")
    answerer.conversation.take_back_answer()
    again = answerer.prepare()
    list(answerer.answer(again))
    assert again.prompt == second.prompt
    assert again.stats.n_prompt == 1
    answerer.conversation.undo()
    other = say(answerer, "three")
    # A word that goes on where an answer ended shares no token behind it; formats with headers share more.
    assert other.stats.n_reused >= len(first.prompt) + len(first.token_ids) - 1
    answerer.conversation.fork("aside")
    before = answerer.session.stats.n_prompt
    aside = say(answerer, "four")
    assert answerer.session.stats.n_prompt - before == aside.stats.n_prompt < len(aside.prompt) // 2


def test_a_seed_tells_answers_apart_and_makes_them_again():
    session = load(DATA / "tiny/bpe1024", dtype="fp32")
    sampling = Sampling(temperature=1.0, max_tokens=20, seed=5, ignore_eos=True)
    texts = []
    for _ in range(2):
        answerer = start(session, sampling)
        first = say(answerer, "one")
        answerer.conversation.take_back_answer()
        retried = answerer.prepare()
        list(answerer.answer(retried))
        texts.append((first.text, retried.text))
    assert texts[0] == texts[1]
    assert texts[0][0] != texts[0][1]


def test_an_interruption_keeps_what_was_said(session):
    answerer = start(session, Sampling(temperature=0, max_tokens=2000, ignore_eos=True))
    answerer.conversation.add(Message("user", "go on"))
    turn = answerer.prepare()
    for place, _ in enumerate(answerer.answer(turn)):
        if place == 4:
            answerer.interrupt()
    assert turn.finish_reason == "interrupted"
    assert len(turn.token_ids) == 5
    (message,) = answerer.conversation.branch.spoken[1:]
    assert message.content == turn.text
    answerer.interrupt()  # when nothing runs it does nothing
    answerer.sampling = GREEDY
    following = say(answerer, "and?")
    assert following.finish_reason == "length"
    assert following.stats.n_reused >= len(turn.prompt)


def test_abandoning_an_answer_keeps_what_was_said(session):
    answerer = start(session, Sampling(temperature=0, max_tokens=2000, ignore_eos=True))
    answerer.conversation.add(Message("user", "go on"))
    turn = answerer.prepare()
    answer = answerer.answer(turn)
    for _ in range(3):
        next(answer)
    answer.close()
    assert answerer.conversation.branch.spoken[-1].role == "assistant"
    assert turn.finish_reason == "interrupted"


def test_what_was_interrupted_before_its_first_token_is_no_answer(session):
    answerer = start(session, prefill="Well")
    answerer.conversation.add(Message("user", "go on"))
    turn = answerer.prepare()
    answer = answerer.answer(turn)
    assert next(answer).text == "Well"
    answerer.interrupt()
    assert [chunk.token_ids for chunk in answer] == [()]
    assert turn.finish_reason == "interrupted"
    assert answerer.conversation.awaits_answer


def test_a_stop_string_ends_the_text_and_the_dialog_goes_on_with_the_text():
    session = load(DATA / "tiny/bpe1024", dtype="fp32")
    free = say(start(session), "Hi")
    stop = free.text[6:9]
    answerer = start(session, Sampling(temperature=0, max_tokens=12, ignore_eos=True, stop=stop))
    turn = say(answerer, "Hi")
    assert turn.text == free.text[: free.text.index(stop)]
    assert answerer.conversation.branch.spoken[-1].token_ids is None
    say(answerer, "And?")


def test_prefill_begins_every_answer(session):
    answerer = start(session, prefill="Well, ")
    first = say(answerer, "one")
    assert first.text.startswith("Well, ")
    ids = session.tokenizer.encode("Well, ")
    assert list(first.prompt[-len(ids) :]) == ids
    second = say(answerer, "two")
    assert second.text.startswith("Well, ")
    assert second.stats.n_reused == len(first.prompt) + len(first.token_ids) - 1


def go_on(answerer, n_tokens):
    """Run the rest of the last answer, until it has so many tokens."""
    turn = answerer.prepare(answerer.conversation.take_back_unfinished())
    answerer.sampling = dataclasses.replace(answerer.sampling, max_tokens=n_tokens - len(turn.begun.ids))
    shown = "".join(chunk.text for chunk in answerer.answer(turn))
    assert turn.text.endswith(shown)
    return turn


def assert_goes_on(session, text, prefill=""):
    """Cut anywhere, an answer that goes on is the one that was never cut, and costs its new tokens."""
    whole = start(session, prefill=prefill)
    expected = say(whole, text)
    for n_first in (1, 5, 11):
        answerer = start(session, dataclasses.replace(GREEDY, max_tokens=n_first), prefill=prefill)
        first = say(answerer, text)
        answerer.prefill = "not this"  # it began the answer, and does not begin its rest
        rest = go_on(answerer, len(expected.begun.ids) + 12)
        assert first.token_ids == expected.token_ids[:n_first]
        assert rest.text == expected.text
        assert rest.stats.n_reused == len(rest.prompt) - 1
        assert answerer.conversation.branch == whole.conversation.branch


@pytest.mark.parametrize("prefill", ["", "Well, "])
def test_an_answer_that_was_cut_goes_on(session, prefill):
    assert_goes_on(session, "Hi", prefill)


@needs_kit
def test_an_answer_of_sentencepiece_goes_on():
    """The white space that begins the rest is not lost."""
    session = load(kit_folder("stories260k-sp"), dtype="fp32", chat_template="none")
    assert_goes_on(session, "Once upon a time, there was a little")


def test_an_answer_without_ids_goes_on_from_its_text(session):
    """As one of another model, or one that was edited in its file; half a character is made anew."""
    answerer = start(session)
    answerer.conversation.add(Message("user", "Hi"))
    answerer.conversation.add(Message("assistant", "A word"))
    turn = go_on(answerer, len(session.tokenizer.encode("A word")) + 3)
    assert turn.text.startswith("A word")
    ids = session.tokenizer.encode("漢字")
    answerer.conversation.add(Message("user", "And?"))
    cut = ids[:-1]
    assert session.tokenizer.decode(cut).endswith("\ufffd")
    answerer.conversation.add(Message("assistant", session.tokenizer.decode(cut), token_ids=tuple(cut)))
    turn = answerer.prepare(answerer.conversation.take_back_unfinished())
    assert turn.begun.text == "漢"


def test_what_cannot_go_on(session):
    call = ToolCall("f", {})
    for messages in ([], [Message("user", "Hi")], [Message("assistant", "x")],
                     [Message("user", "Hi"), Message("assistant", "", (call,))]):  # fmt: skip
        answerer = start(session)
        for message in messages:
            answerer.conversation.add(message)
        before = answerer.conversation.branch
        with pytest.raises(UsageError):
            answerer.conversation.take_back_unfinished()
        assert answerer.conversation.branch == before


# ---- where the context is full


def small(**more):
    return load(DATA / "tiny/bpe1024", dtype="fp32", max_seq_len=160, **more)


def test_an_error_leaves_the_conversation_as_it_was():
    answerer = start(small(), system="Be brief.")
    while answerer.n_used < 150:
        say(answerer, "a question")
    before = answerer.conversation.branch
    with pytest.raises(ContextTooLong, match="the context holds 160"):
        say(answerer, "a question")
    assert answerer.conversation.undo() == (Message("user", "a question"),)
    assert answerer.conversation.branch == before
    answerer.overflow = "truncate"
    say(answerer, "short")


@pytest.mark.parametrize("overflow", ["truncate", "shift"])
def test_the_oldest_turns_make_room_and_the_system_prompt_stays(overflow):
    session = small()
    answerer = start(session, system="Be brief.", overflow=overflow)
    dropped = []
    for number in range(12):
        turn = say(answerer, f"question {number}")
        dropped.append(turn.n_dropped)
        assert len(turn.token_ids) == 12
        assert answerer.conversation.branch.sent[0].content == "Be brief."
        assert answerer.conversation.branch.sent[-2].content == f"question {number}"
    assert answerer.conversation.n_turns == 12
    assert sum(map(bool, dropped)) >= 2
    assert dropped.count(0) > 6  # room is made for several turns at once
    assert sum(dropped) == answerer.conversation.branch.n_dropped


@pytest.mark.parametrize("overflow", ["error", "truncate", "shift"])
def test_a_message_that_never_fits_is_refused(overflow):
    answerer = start(small(), overflow=overflow)
    say(answerer, "one")
    before = answerer.conversation.branch
    answerer.conversation.add(Message("user", "word " * 200))
    with pytest.raises(ContextTooLong):
        answerer.prepare()
    assert answerer.conversation.branch.n_dropped == before.n_dropped


def test_shift_goes_on_within_an_answer():
    """A model that would say more than the context holds says it; the oldest turns are forgotten meanwhile."""
    sampling = Sampling(temperature=0, max_tokens=100, ignore_eos=True)
    by_truncating, by_shifting = (start(small(), GREEDY, overflow=overflow) for overflow in ("truncate", "shift"))
    for answerer in (by_truncating, by_shifting):
        for number in range(3):
            say(answerer, f"question {number}")
        answerer.sampling = sampling
    cut, whole = say(by_truncating, "tell me all"), say(by_shifting, "tell me all")
    assert cut.finish_reason == whole.finish_reason == "length"
    assert len(cut.token_ids) < 100 == len(whole.token_ids)
    assert whole.n_dropped > cut.n_dropped
    assert whole.token_ids[:40] == cut.token_ids[:40]
    assert by_shifting.conversation.branch.spoken[-1].content == whole.text


def test_shift_without_anything_to_drop_ends():
    answerer = start(small(), Sampling(temperature=0, max_tokens=1000, ignore_eos=True), overflow="shift")
    turn = say(answerer, "go on")
    assert turn.finish_reason == "length"
    assert len(turn.prompt) + len(turn.token_ids) == 160


def test_no_character_is_cut_in_two_by_a_shift():
    """Text made anew behind the cut is whole: every answer is what its ids say."""
    session = small()
    for seed in range(8):
        sampling = Sampling(temperature=1.5, max_tokens=90, ignore_eos=True, seed=seed)
        answerer = start(session, GREEDY, overflow="shift")
        for number in range(3):
            say(answerer, f"question {number}")
        answerer.sampling = sampling
        turn = say(answerer, "tell me all")
        assert session.tokenizer.decode(turn.token_ids) == turn.text


# ---- tools


def test_tool_calls_are_parsed_and_go_back_with_the_end_they_had():
    """The model is made to say a call: its last chunk carries it, and the tool's answer follows as ipython."""
    session = load(DATA / "tiny/bpe1024", dtype="fp32")
    special = session.tokenizer.special_tokens
    call = '{"name": "get_weather", "parameters": {"city": "Bern"}}'
    answerer = start(session, Sampling(temperature=0, logit_bias={special["<|eom_id|>"]: 100}), prefill=call)
    said = say(answerer, "Weather?")
    assert (said.tool_calls, said.finish_reason) == ((), "stop")  # JSON that nobody asked to be a call
    assert answerer.conversation.branch.spoken[-1].content == call
    answerer.conversation.clear()
    answerer.conversation.set_system("Environment: ipython")
    answerer.conversation.add(Message("user", "Weather?"))
    turn = answerer.prepare()
    last = list(answerer.answer(turn))[-1]
    assert last.finish_reason == turn.finish_reason == "tool_calls"
    assert [(one.name, one.arguments) for one in last.tool_calls] == [("get_weather", {"city": "Bern"})]
    message = answerer.conversation.branch.spoken[-1]
    assert (message.content, message.tool_calls, message.awaits_tool) == ("", last.tool_calls, True)
    answerer.prefill = ""
    answerer.conversation.add(Message("tool", "25 C"))
    ids = answerer.encode(answerer.conversation.branch.sent)
    shown = session.tokenizer.decode(ids)
    assert f"{call}<|eom_id|><|start_header_id|>ipython<|end_header_id|>\n\n25 C<|eot_id|>" in shown


# ---- which template


def test_an_untrained_model_is_told_by_its_control_tokens(tmp_path):
    """The rows of the chat tokens are as a reserved token's: a base model, whatever its name."""
    import torch

    source = DATA / "tiny/bpe1024"
    weights = torch.load(source / "consolidated.00.pth", weights_only=True)
    rows = weights["tok_embeddings.weight"].clone()
    rows[-256:] = rows[-100]
    weights["tok_embeddings.weight"] = rows
    folder = tmp_path / "Llama3.2-1B-Instruct"
    folder.mkdir()
    torch.save(weights, folder / "consolidated.00.pth")
    for name in ("params.json", "tokenizer.model"):
        (folder / name).write_bytes((source / name).read_bytes())
    template = load(folder).template
    assert (template.name, template.format) == ("none", None)
    assert "base model: its chat tokens were never trained" in template.warning
    assert load(folder, chat_template="llama3").template.warning is None


def test_a_trained_model_with_a_base_models_name_gets_a_warning(tmp_path):
    (tmp_path / "Llama3.2-1B").symlink_to(DATA / "tiny/bpe1024")
    for name in ("params.json", "consolidated.00.pth", "tokenizer.model"):
        folder = tmp_path / "Llama3.1-8B"
        folder.mkdir(exist_ok=True)
        (folder / name).symlink_to(DATA / "tiny/bpe1024" / name)
    template = load(tmp_path / "Llama3.1-8B").template
    assert template.name == "llama3"
    assert "by its name Llama3.1-8B is a base model" in template.warning


def test_a_folder_names_its_template(tmp_path):
    import json

    for name in ("consolidated.00.pth", "tokenizer.model"):
        (tmp_path / name).symlink_to(DATA / "tiny/bpe1024" / name)
    params = json.loads((DATA / "tiny/bpe1024/params.json").read_text())
    (tmp_path / "params.json").write_text(json.dumps(params | {"chat_template": "chatml"}))
    assert load(tmp_path).template.name == "chatml"
    assert load(tmp_path, chat_template="llama3-strip").template.name == "llama3-strip"
    for bad, fragment in [("jinja", "'jinja' is not known"), ("llama2", "needs tokens that this tiktoken"), (3, "'3'")]:
        (tmp_path / "params.json").write_text(json.dumps(params | {"chat_template": bad}))
        with pytest.raises(llama_cli.LlamaError, match=fragment) as caught:
            load(tmp_path)
        assert caught.value.exit_code == 3


def test_chatml_in_metas_places_is_told_by_the_end_of_its_headers(tmp_path):
    """Its headers end with a line break, which fills the place of the token that ends Llama 3's."""
    import torch

    source = DATA / "tiny/bpe1024"
    session = load(source, dtype="fp32")
    assert (session.template.name, session.template.reason) == (
        "llama3",
        "its tokens are in the vocabulary, and trained",
    )
    weights = torch.load(source / "consolidated.00.pth", weights_only=True)
    rows = weights["tok_embeddings.weight"]
    (newline,) = session.tokenizer.encode("\n")
    rows[session.tokenizer.special_tokens["<|end_header_id|>"]] = rows[newline]
    torch.save(weights, tmp_path / "consolidated.00.pth")
    for name in ("params.json", "tokenizer.model"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    template = load(tmp_path).template
    assert (template.name, template.reason) == ("chatml", "its headers end with a line break")
    assert load(tmp_path, chat_template="llama3").template.reason == "as asked for"


@needs_kit
@pytest.mark.parametrize("name", ["stories260k-tiktoken", "stories260k-sp"])
def test_a_story_model_goes_on_in_plain_text(name):
    if name == "stories260k-sp":
        pytest.importorskip("sentencepiece")
    session = load(kit_folder(name))
    assert session.template.name == "none"
    assert "continues what you write" in session.template.warning
    answerer = start(session, Sampling(temperature=0, max_tokens=30))
    first = say(answerer, "Once upon a time, there was")
    second = say(answerer, "One day, Lily")
    assert first.text.strip()
    assert second.stats.n_reused > 20
