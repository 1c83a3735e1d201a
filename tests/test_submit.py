"""Many threads ask one model: each gets what it would get alone."""

import gc
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from helpers.models import DATA

import llama_cli
from llama_cli import LLM, LlamaError, Sampling
from llama_cli.errors import ContextTooLong, InputRejected, UsageError

N_THREADS = 8
PROMPTS = [f"{word} and then" for word in ("Hello", "Once", "The sea", "A king", "Rain", "Two dogs", "Snow", "End")]
SETTINGS = [
    Sampling(temperature=0, max_tokens=12, ignore_eos=True),
    Sampling(temperature=0.9, seed=7, n=2, max_tokens=9, logprobs=True),
    Sampling(temperature=0, max_tokens=40, ignore_eos=True, stop="e"),
]


@pytest.fixture(name="llm")
def _llm():
    llm = llama_cli.load(DATA / "tiny/bpe1024", max_seq_len=128, batch_size=3)
    yield llm
    llm.close()


def answers_of(completions):
    return [(each.text, each.token_ids, each.finish_reason) for each in completions]


def test_eight_threads_get_what_each_would_get_alone(llm):
    expected = {
        (prompt, number): answers_of(llm.complete(prompt, settings))
        for prompt in PROMPTS
        for number, settings in enumerate(SETTINGS)
    }
    barrier = Barrier(N_THREADS)

    def ask(prompt):
        barrier.wait()
        return {
            (prompt, number): answers_of(llm.submit(prompt, settings).completions())
            for number, settings in enumerate(SETTINGS)
        }

    with ThreadPoolExecutor(N_THREADS) as pool:
        found = {key: answer for answers in pool.map(ask, PROMPTS) for key, answer in answers.items()}
    assert found == expected


def test_chunks_come_one_by_one_and_the_rest_whole(llm):
    (expected,) = llm.complete("Hello", SETTINGS[0])
    stream = llm.submit("Hello", SETTINGS[0])
    first = next(stream)
    assert len(first.token_ids) == 1
    (whole,) = stream.completions()
    assert (whole.text, whole.token_ids) == (expected.text, expected.token_ids)


def test_run_and_complete_go_the_same_way_then(llm):
    expected = answers_of(llm.complete(PROMPTS, SETTINGS[1]))
    beside = llm.submit("Hello", SETTINGS[0])
    assert answers_of(llm.complete(PROMPTS, SETTINGS[1])) == expected
    assert {chunk.prompt for chunk in llm.stream(PROMPTS, SETTINGS[0])} == set(range(len(PROMPTS)))
    assert len(beside.completions()[0].token_ids) == 12


def test_a_conversation(llm):
    asked = [{"role": "user", "content": "Hello"}]
    (answer,) = llm.chat(asked, SETTINGS[0]).completions()
    (expected,) = llm.complete([llm.encode_dialog([llama_cli.tokenizer.chat.Message("user", "Hello")])], SETTINGS[0])
    assert answer.token_ids == expected.token_ids
    for wrong in ([{"role": "nobody", "content": "x"}], [{"content": "x"}], [{"role": "user", "content": 5}]):
        with pytest.raises(InputRejected):
            llm.chat(wrong)


def test_one_that_is_cancelled_ends_and_the_others_go_on(llm):
    long = Sampling(temperature=0, max_tokens=100, ignore_eos=True, n=2)
    one, other = llm.submit("Hello", long), llm.submit("Once", SETTINGS[0])
    next(one)
    one.cancel()
    assert all(len(each.token_ids) < 100 for each in one.completions())
    assert len(other.completions()[0].token_ids) == 12


def test_one_that_nobody_reads_makes_room(llm):
    llm.submit("Hello", Sampling(temperature=0, max_tokens=10**6, ignore_eos=True))
    gc.collect()
    assert [llm.submit(prompt, SETTINGS[0]).completions()[0].text for prompt in PROMPTS]


@pytest.mark.parametrize("prompt", ["word " * 500, [1, 99999], [], 5, None])
def test_what_cannot_run_is_refused_at_once(llm, prompt):
    with pytest.raises((ContextTooLong, InputRejected, UsageError)):
        llm.submit(prompt)


def test_an_error_reaches_those_who_wait_and_the_next_run(llm, monkeypatch):
    runner = llm.engine.runner
    (expected,) = llm.complete("Hello", SETTINGS[0])
    with monkeypatch.context() as broken:
        broken.setattr(type(runner), "run", lambda self, plan: 1 / 0)
        streams = [llm.submit(prompt, SETTINGS[0]) for prompt in PROMPTS[:5]]
        for stream in streams:
            with pytest.raises(ZeroDivisionError):
                stream.completions()
    (found,) = llm.submit("Hello", SETTINGS[0]).completions()
    assert found.token_ids == expected.token_ids


def test_closing_ends_what_runs(llm):
    stream = llm.submit("Hello", Sampling(temperature=0, max_tokens=100, ignore_eos=True))
    llm.close()
    with pytest.raises(LlamaError, match="closed before it had answered"):
        stream.completions()
    with pytest.raises(UsageError, match="has been closed"):
        llm.submit("Hello")
    llm.close()


def test_the_thread_ends_with_the_model():
    llm = llama_cli.load(DATA / "tiny/bpe1024", max_seq_len=64)
    llm.submit("Hello", SETTINGS[0]).completions()
    thread = llm._sharing._thread
    assert thread.is_alive()
    del llm
    gc.collect()
    assert not thread.is_alive()


def test_a_stream_keeps_its_model():
    stream = llama_cli.load(DATA / "tiny/bpe1024", max_seq_len=64).submit("Hello", SETTINGS[0])
    gc.collect()
    assert len(stream.completions()[0].token_ids) == 12


def test_no_second_thread_runs_what_one_is_in_the_middle_of(llm):
    chunks = llm.stream("Hello", SETTINGS[0])
    next(chunks)
    with pytest.raises(UsageError, match="in the middle"):
        llm.submit("Once")
    chunks.close()
    assert llm.submit("Once", SETTINGS[0]).completions()


def test_session_is_the_old_name(llm):
    assert llama_cli.Session is LLM
    assert isinstance(llm, LLM)
