"""Batches of real models: every row once, whatever happens, and the same texts where docs/batch.md promises them."""

import json
import os
import random
import signal
import subprocess
import time

import pytest
from real.shell import PROGRAM, environment, rows_of, run, start, write_rows

from llama_cli.backends.native.library import Kind, native_library

SYSTEM = {"role": "system", "content": "You are a helpful AI assistant named SmolLM, trained by Hugging Face"}
FLAGS = ["--seed", "5", "-q", "--output-format", "simple"]
N_ROWS = 10
N_TO_FILL = 120  # rows that are more than 20 KB


def row(n):
    """Prompts and dialogs in turn, of several lengths."""
    if n % 2:
        dialog = [SYSTEM, {"role": "user", "content": f"Tell me about the number {n}."}]
        return {"id": f"row {n}", "messages": dialog, "max_tokens": 4 + n % 5}
    return {"id": f"row {n}", "prompt": "Once upon a time, there was a little girl. " * (n % 3) + f"The number {n} is",
            "max_tokens": 3 + n % 7}  # fmt: skip


def texts(rows):
    return {one["id"]: one["text"] for one in rows}


def ids(rows):
    return [one["id"] for one in rows]


# Commands that would go on for long: their words, and a line of what they read.
ENDLESS = {
    "batch": (["-", "-o", "-", "-n", "20", "--ignore-eos", "-t", "0"], '{"prompt": "Hi"}'),
    "complete": (["Once", "-n", "2000", "--ignore-eos", "-t", "0", "--no-stdin"], ""),
    "score": (["--rows", "-"], '{"text": "some words of a text"}'),
    "chat": (["--stdin", "-t", "0"], "Hi"),
}
ALL = [f"row {n}" for n in range(N_ROWS)]


@pytest.fixture(name="source")
def _source(tmp_path):
    return write_rows(tmp_path / "in.jsonl", [row(n) for n in range(N_ROWS)])


def batch(source, out, model, *flags):
    run("batch", source, "-o", out, "-m", model, *FLAGS, *flags)
    return rows_of(out.read_text())


def chat_flags(name):
    return ["--chat-template", "chatml"] if name.startswith("smollm2") else ["--chat-template", "llama2"]


def kill_after(source, out, model, number, *flags):
    """Send a signal once two rows are written; the exit code."""
    process = start("batch", source, "-o", out, "-m", model, *FLAGS, *flags)
    while process.poll() is None and not (out.exists() and out.read_bytes().count(b"\n") >= 2):
        time.sleep(0.01)  # to leave the processor to it
    process.send_signal(number)
    process.communicate(timeout=60)
    return process.returncode


@pytest.mark.real
def test_a_killed_run_goes_on(smollm2, source, tmp_path):
    """What was written stays as it is, the rest follows in order. In bfloat16 that is all that is promised."""
    out, flags = tmp_path / "out.jsonl", [*chat_flags("smollm2"), "-b", "2"]
    assert kill_after(source, out, smollm2, signal.SIGKILL, *flags) == -signal.SIGKILL
    kept = [line for line in out.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    rows = batch(source, out, smollm2, *flags)
    assert out.read_bytes().startswith(b"".join(kept))
    assert ids(rows) == ALL
    assert all(one["finish_reason"] in ("stop", "length") for one in rows)


@pytest.mark.real
def test_the_same_command_gives_the_same_bytes(smollm2, source, tmp_path):
    flags = chat_flags("smollm2")
    first, again = (batch(source, tmp_path / name, smollm2, *flags, "-b", "4") for name in ("a.jsonl", "b.jsonl"))
    assert first == again
    assert ids(first) == ALL


@pytest.mark.real
@pytest.mark.parametrize("name", ["smollm2-int8", "smollm2-int4", "pieces", "pieces-int8"])
@pytest.mark.parametrize("size", [1, 8])
def test_the_same_bytes_of_other_models(name, size, models, source, tmp_path):
    flags = [*chat_flags(name), "-b", size]
    assert batch(source, tmp_path / "a", models[name], *flags) == batch(source, tmp_path / "b", models[name], *flags)


def is_ours(*kinds):
    """Whether own kernels compute prompts with such weights here."""
    library = native_library()
    return library is not None and all(library.takes_many(kind) for kind in kinds)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("smollm2", "fp32"),
        ("pieces", "fp32"),
        pytest.param("smollm2", "bf16", marks=pytest.mark.skipif(not is_ours(Kind.BFLOAT16), reason="torch's prompts")),
        pytest.param("pieces", "bf16", marks=pytest.mark.skipif(not is_ours(Kind.BFLOAT16), reason="torch's prompts")),
        pytest.param("smollm2-int8", "bf16", marks=pytest.mark.skipif(not is_ours(Kind.INT8), reason="no products")),
        pytest.param(
            "smollm2-int4", "bf16", marks=pytest.mark.skipif(not is_ours(Kind.INT4), reason="torch's prompts")
        ),
    ],
)
def test_a_row_has_one_text(name, dtype, models, source, tmp_path):
    """Alone, in company, with other threads, shuffled, sharded, killed and resumed."""
    model, flags = models[name], [*chat_flags(name), "--dtype", dtype]
    alone = texts(batch(source, tmp_path / "alone.jsonl", model, *flags, "-b", "1"))
    assert texts(batch(source, tmp_path / "company.jsonl", model, *flags, "-b", "8", "--threads", "1")) == alone
    lines = source.read_text().splitlines(keepends=True)
    random.Random(3).shuffle(lines)
    (tmp_path / "shuffled.jsonl").write_text("".join(lines))
    assert texts(batch(tmp_path / "shuffled.jsonl", tmp_path / "s.jsonl", model, *flags, "-b", "4")) == alone
    kill_after(source, tmp_path / "killed.jsonl", model, signal.SIGKILL, *flags, "-b", "2")
    assert texts(batch(source, tmp_path / "killed.jsonl", model, *flags, "-b", "2")) == alone
    parts = [tmp_path / f"part{n}.jsonl" for n in (1, 2, 3)]
    for n, part in enumerate(parts, start=1):
        batch(source, part, model, *flags, "--shard", f"{n}/3")
    run("merge", *parts, "-o", tmp_path / "merged.jsonl", "-q")
    merged = rows_of((tmp_path / "merged.jsonl").read_text())
    assert (ids(merged), texts(merged)) == (ALL, alone)


@pytest.mark.real
@pytest.mark.parametrize("name", ["smollm2", "smollm2-int8", "pieces"])
def test_shards_have_all_rows_and_merge_in_order(name, models, source, tmp_path):
    parts = [tmp_path / f"part{n}.jsonl" for n in (1, 2)]
    written = [batch(source, part, models[name], *chat_flags(name), "--shard", f"{n}/2")
               for n, part in enumerate(parts, start=1)]  # fmt: skip
    run("merge", *parts, "-o", tmp_path / "merged.jsonl", "-q")
    merged = rows_of((tmp_path / "merged.jsonl").read_text())
    assert ids(merged) == ALL
    assert texts(merged) == texts(written[0]) | texts(written[1])


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "number"),
    [("smollm2", number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    + [(name, signal.SIGTERM) for name in ("smollm2-int8", "pieces")],
)
def test_a_signal_leaves_whole_rows_and_the_same_command_goes_on(name, number, models, tmp_path):
    numbers = range(N_ROWS if name.startswith("smollm2") else 300)  # so many that the signal comes before the end
    source = write_rows(tmp_path / "in.jsonl", [row(n) for n in numbers])
    out, flags = tmp_path / "out.jsonl", [*chat_flags(name), "-b", "2"]
    assert kill_after(source, out, models[name], number, *flags) == 128 + number
    written = out.read_bytes()
    assert written.endswith(b"\n")
    assert ids(batch(source, out, models[name], *flags)) == [f"row {n}" for n in numbers]
    assert out.read_bytes().startswith(written)


@pytest.mark.real
def test_bad_rows_are_told_and_the_others_run(smollm2, tmp_path):
    bad = ['{"prompt": 5}', "nonsense", '{"prompt": "x", "bogus": 1}', json.dumps({"prompt": "word " * 9000})]
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"prompt": "The capital of France is"}\n' + "\n".join(bad) + "\n")
    run("batch", source, "-o", out, "-m", smollm2, "-n", "3", "-t", "0", "-q", code=6)
    rows = rows_of(out.read_text())
    codes = [one["error"] and one["error"]["code"] for one in rows]
    assert codes == [None, "invalid_request", "invalid_json", "invalid_request", "context_length_exceeded"]
    assert rows[0]["response"]["body"]["choices"][0]["text"].startswith(" Paris")


def test_a_pipe_there_and_a_pipe_away(smollm2):
    rows = "".join(json.dumps({"prompt": "The capital of France is", "id": name}) + "\n" for name in "abc")
    printed = rows_of(run("batch", "-", "-o", "-", "-m", smollm2, "-n", "3", "-t", "0", *FLAGS, stdin=rows))
    assert [one["id"] for one in printed] == ["a", "b", "c"]
    assert all(one["text"].startswith(" Paris") for one in printed)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "command"),
    [("smollm2", command) for command in ENDLESS]
    + [(name, command) for name in ("smollm2-int8", "pieces") for command in ("batch", "complete")],
)
def test_a_pipe_closed_early(name, command, models, tmp_path):
    """`| head -c 1`: exit 141 and not a word."""
    words, line = ENDLESS[command]
    (tmp_path / "in").write_text((line + "\n") * 400)
    command = [str(PROGRAM), command, *words, "-m", str(models[name]), "-q"]
    shell = 'cat "$0" | { "$@"; echo $? >&2; } | head -c 1'
    done = subprocess.run(["sh", "-c", shell, tmp_path / "in", *command], capture_output=True, env=environment())
    assert len(done.stdout) == 1
    assert done.stderr.decode().split() == ["141"]


@pytest.mark.real
@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk")
@pytest.mark.parametrize("name", ["smollm2", "smollm2-int8", "pieces"])
def test_a_full_disk(name, models, tmp_path):
    """A real one, of 20 KB."""
    rows = [{"prompt": f"The number {n} is", "id": str(n), "max_tokens": 1} for n in range(N_TO_FILL)]
    source, disk = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("no mount here")
    try:
        out, flags = disk / "out.jsonl", ["-m", models[name], *FLAGS]
        run("batch", source, "-o", out, *flags, code=74)
        written = out.read_bytes()
        assert written.endswith(b"\n")
        subprocess.run(["mount", "-o", "remount,size=1m", disk], check=True)
        run("batch", source, "-o", out, *flags)
        assert out.read_bytes().startswith(written)
        assert ids(rows_of(out.read_text())) == [str(n) for n in range(N_TO_FILL)]
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.real
def test_samples_and_seeds(smollm2, tmp_path):
    """Sample i is what seed + i gives; the same seed gives the same."""
    asked = ["complete", "The sky is", "-m", smollm2, "-n", "6", "--json", "-t", "1"]
    several = rows_of(run(*asked, "--num-samples", "3", "--seed", "7"))
    assert [one["seed"] for one in several] == [7, 8, 9]
    again = rows_of(run(*asked, "--num-samples", "3", "--seed", "7"))
    assert [one["token_ids"] for one in several] == [one["token_ids"] for one in again]
    exact = ["complete", "The sky is", "-m", smollm2, "-n", "6", "--json", "-t", "1", "--dtype", "fp32"]
    several = rows_of(run(*exact, "--num-samples", "3", "--seed", "7"))
    assert [one["text"] for one in several] == [rows_of(run(*exact, "--seed", seed))[0]["text"] for seed in (7, 8, 9)]


@pytest.mark.real
@pytest.mark.parametrize("name", ["smollm2", "pieces"])
def test_n_in_a_row(name, models, tmp_path):
    source = write_rows(tmp_path / "in.jsonl", [{"custom_id": "a", "prompt": "Once", "n": 3, "max_tokens": 5}])
    run("batch", source, "-o", tmp_path / "out.jsonl", "-m", models[name], "--seed", "2", "-q", "-t", "1")
    (one,) = rows_of((tmp_path / "out.jsonl").read_text())
    assert [choice["index"] for choice in one["response"]["body"]["choices"]] == [0, 1, 2]


@pytest.mark.real
def test_a_shared_beginning_is_computed_once(smollm2, tmp_path):
    """Rows that begin alike are the text they are without it, in float32."""
    beginning = "A story of a girl called Lily, who lived by the sea and had a dog. " * 6
    rows = [{"id": str(n), "prompt": beginning + f"Part {n}:", "max_tokens": 6} for n in range(5)]
    source = write_rows(tmp_path / "in.jsonl", rows)
    together = batch(source, tmp_path / "a.jsonl", smollm2, "--dtype", "fp32", "-b", "5", "-t", "0")
    for one in together:
        alone = run(
            "complete", beginning + f"Part {one['id']}:", "-m", smollm2, "-n", "6", "-t", "0", "--dtype", "fp32"
        )
        assert alone.rstrip("\n") == one["text"].rstrip("\n")
