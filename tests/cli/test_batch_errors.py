"""A row at which this program itself breaks: the others run, at once or at the next start, and it is told."""

import json

import pytest
from helpers import commands
from helpers.models import DATA

from llama_cli.cli.app import main
from llama_cli.engine import sampler
from llama_cli.engine.engine import Engine
from llama_cli.engine.scheduler import Scheduler
from llama_cli.errors import DoesNotFit, InputRejected, NumericalError
from llama_cli.jobs.processing import MOST_INTERNAL_ERRORS
from llama_cli.jobs.results import error_code

pytestmark = pytest.mark.promise("P24")

TINY = ["-m", str(DATA / "tiny/bpe1024"), "--dtype", "fp32", "--seed", "1"]
SHARED = "a beginning that all of these prompts share, so that it is copied from slot to slot: "
BROKEN = 13  # max_tokens of a row that breaks what computes it


def rows(n, broken=()):
    return [
        {"id": n_, "prompt": f"{SHARED}{n_}", "max_tokens": BROKEN if n_ in broken else 3 + n_ % 5, "n": 1 + n_ % 2}
        for n_ in range(n)
    ]


class Files:
    """An input, an output, and the command between them."""

    def __init__(self, folder):
        self.source, self.out = folder / "in.jsonl", folder / "out.jsonl"

    def write(self, some):
        self.source.write_text("".join(json.dumps(row) + "\n" for row in some))

    @property
    def arguments(self):
        return ["batch", str(self.source), "-o", str(self.out), "--output-format", "simple", *TINY]

    def run(self, *flags):
        return main([*self.arguments, *flags])

    def rows(self):
        return [json.loads(line) for line in self.out.read_bytes().splitlines()] if self.out.exists() else []

    @property
    def suspects(self):
        return self.out.with_name("out.jsonl.started").exists()


@pytest.fixture(name="files")
def _files(tmp_path):
    return Files(tmp_path)


@pytest.fixture(name="clean", scope="module")
def _clean(tmp_path_factory):
    files = Files(tmp_path_factory.mktemp("clean"))
    files.write(rows(12))
    assert files.run("-b", "4") == 0
    return {row["id"]: row.get("texts", row["text"]) for row in files.rows()}


def breaks(sampling):
    return sampling.max_tokens == BROKEN


def break_at_start(monkeypatch, error):
    real = Engine._start

    def start(self, request):
        if breaks(request.sampling):
            raise error
        return real(self, request)

    monkeypatch.setattr(Engine, "_start", start)


def break_in_step(monkeypatch, error):
    """In the middle of a step, behind the copies that it promised."""
    real = Scheduler.plan

    def plan(self):
        planned = real(self)
        if any(breaks(self.sequence_in(span.slot).request.sampling) for span in planned.spans):
            raise error
        return planned

    monkeypatch.setattr(Scheduler, "plan", plan)


def break_in_choice(monkeypatch, error):
    real = sampler.pick

    def pick(logits, draws):
        if any(breaks(draw.sampling) for draw in draws):
            raise error
        return real(logits, draws)

    monkeypatch.setattr(sampler, "pick", pick)


def break_in_text(monkeypatch, error):
    from llama_cli.llm import LLM

    real = LLM.encode

    def encode(self, content, max_tokens=1):
        if max_tokens == BROKEN:
            raise error
        return real(self, content, max_tokens)

    monkeypatch.setattr(LLM, "encode", encode)


def break_in_writing(monkeypatch, error):
    from llama_cli.jobs.results import RowWriter

    real = RowWriter.answer

    def answer(self, job, answers, n_prompt, prompt_logprobs=None):
        if breaks(job.sampling):
            raise error
        return real(self, job, answers, n_prompt, prompt_logprobs)

    monkeypatch.setattr(RowWriter, "answer", answer)


WAYS = [break_at_start, break_in_step, break_in_choice, break_in_text, break_in_writing]


@pytest.mark.parametrize("size", [1, 4, 16])
@pytest.mark.parametrize("way", WAYS)
def test_one_rows_error_ends_that_row_alone(files, clean, monkeypatch, capfd, way, size):
    """It ended the run, at every start again."""
    way(monkeypatch, IndexError("no such token"))
    files.write(rows(12, broken=(5, 6, 11)))
    assert files.run("-b", str(size)) == 6
    found = files.rows()
    assert [row["id"] for row in found] == list(range(12))
    for row in found:
        if row["id"] in (5, 6, 11):
            assert row["error"] == {"code": "internal_error", "message": "IndexError: no such token"}
        else:
            assert row.get("texts", row["text"]) == clean[row["id"]]
    error = capfd.readouterr().err
    assert "an error of this program at row 5: IndexError" in error
    assert "12 rows: 9 ok, 3 errors (3 internal_error)" in error
    assert "--retry-errors" in error
    assert not files.suspects


@pytest.mark.parametrize("error", [DoesNotFit("no room"), MemoryError()])
def test_memory_that_one_row_has_not(files, monkeypatch, error):
    break_at_start(monkeypatch, error)
    files.write(rows(6, broken=(2,)))
    assert files.run("-b", "3") == 6
    assert [row.get("error", {}).get("code") for row in files.rows()] == [None, None, "out_of_memory", None, None, None]


@pytest.mark.parametrize("way", [break_in_text, break_in_writing])
@pytest.mark.parametrize("error", [DoesNotFit("no room"), NumericalError("no number"), InputRejected("not so")])
def test_what_is_wrong_with_one_row_is_said_of_that_row(files, monkeypatch, way, error):
    """Some of these ended the run, depending on where in the row they arose."""
    way(monkeypatch, error)
    files.write(rows(6, broken=(2,)))
    assert files.run("-b", "3") == 6
    assert [row.get("error", {}).get("code") for row in files.rows()] == [
        None, None, error_code(error), None, None, None,
    ]  # fmt: skip


def test_retried_rows(files, clean, monkeypatch):
    with monkeypatch.context() as broken:
        real = Engine._start
        broken.setattr(Engine, "_start", lambda self, request: 1 / 0 if request.key == 4 else real(self, request))
        files.write(rows(12))
        assert files.run("-b", "4") == 6
    assert files.run("--retry-errors", "-b", "4") == 0
    assert {row["id"]: row.get("texts", row["text"]) for row in files.rows()} == clean


def test_where_everything_breaks_the_run_ends(files, monkeypatch, capfd):
    """No million of error rows because a device is gone. The next start gets past those that are told."""
    real = Engine._start
    with monkeypatch.context() as broken:
        broken.setattr(Engine, "_start", lambda self, request: 1 / 0)
        files.write(rows(MOST_INTERNAL_ERRORS + 20))
        assert files.run("-b", "8") == 1
        assert "internal error: ZeroDivisionError" in capfd.readouterr().err
        assert [row["error"]["code"] for row in files.rows()] == ["internal_error"] * MOST_INTERNAL_ERRORS
        assert files.suspects
        assert files.run("-b", "8") == 6
    assert Engine._start is real
    assert files.run("--retry-errors", "-b", "8") == 0
    assert not files.suspects


def test_an_error_in_reading_is_no_rows_fault(files, monkeypatch):
    """The rows behind it must not be left out in silence."""
    from llama_cli.jobs import batch

    real = batch.parse_row

    def parse(line, *how):
        if line.place == 5:
            raise ZeroDivisionError
        return real(line, *how)

    files.write(rows(12))
    with monkeypatch.context() as broken:
        broken.setattr(batch, "parse_row", parse)
        assert files.run("-b", "2") == 1
        assert files.suspects
    assert files.run("-b", "2") == 0
    assert len(files.rows()) == 12


def test_where_ranks_share_a_model_the_next_start_gets_past_it(files, clean, monkeypatch):
    """They might not be in step any more: the row is found as one that kills is."""
    monkeypatch.setattr("llama_cli.jobs.run.ranks_of_a_group", lambda options: 2)
    break_in_choice(monkeypatch, IndexError("no such token"))
    files.write(rows(12, broken=(7,)))
    assert [files.run("-b", "4") for _ in range(4)] == [1, 1, 1, 6]
    found = {row["id"]: row for row in files.rows()}
    assert found[7]["error"]["code"] == "crashed"
    others = {n: row.get("texts", row["text"]) for n, row in found.items() if n != 7}
    assert others == {n: texts for n, texts in clean.items() if n != 7}


def test_the_traceback_is_shown_where_asked_for(files, monkeypatch, capfd):
    break_at_start(monkeypatch, IndexError("no such token"))
    files.write(rows(3, broken=(1,)))
    assert files.run("--debug") == 6
    assert "Traceback (most recent call last)" in capfd.readouterr().err


def test_strict_counts_all_bad_lines_of_a_pipe_too(files):
    """With a pipe it was left out in silence."""
    lines = ['{"prompt": "a"}', "", *[f'{{"prompt": {n}}}' for n in range(7)], '{"prompt": "a", "bogus": 1}']
    for text, code, fragment in [
        ("\n".join(lines), 5, "8 rows are bad: line 3: prompt must be a text or a list of ids, is 0; line 4"),
        ("\n".join(lines), 5, "and 3 more"),
        ('{"prompt": "a", "max_tokens": 1}\n{"id": [], "prompt": "a"}', 5, "1 row is bad: line 2: custom_id must be"),
        ('{"prompt": "a", "max_tokens": 1}\n', 0, "1 row: 1 ok"),
    ]:
        words = ["-" if word == str(files.source) else word for word in files.arguments]
        ended = commands.run(*words, "--strict", stdin=text.encode(), prepare=commands.from_pipe)
        assert (ended.code, fragment in ended.err) == (code, True), ended.err
        assert files.out.exists() == (code == 0)
