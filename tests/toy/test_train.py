"""Training a toy, and the one that is bundled."""

import json
import random
import signal
import subprocess
import sys

import pytest
import torch
from helpers.models import SMALL, forward, new_cache, random_model

import llama_cli
from llama_cli.checkpoint import open_checkpoint
from llama_cli.checkpoint.folders import TOY
from llama_cli.checkpoint.params import read_params
from llama_cli.tokenizer import CharTokenizer
from llama_cli.toy import train as training

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "runs", "away", "from", "it\n"]


@pytest.fixture(name="text_file")
def _text_file(tmp_path):
    chance = random.Random(1)
    path = tmp_path / "text.txt"
    path.write_text(" ".join(chance.choice(WORDS) for _ in range(4000)))
    return path


def command(*arguments):
    """The training with small steps."""
    code = "import sys; from llama_cli.toy import train; train.BATCH = 2; sys.exit(train.main())"
    return [sys.executable, "-c", code, *map(str, arguments)]


def test_the_training_forward_is_the_inference_forward():
    model = random_model(SMALL)
    ids = torch.randint(SMALL.vocab_size, (3, 50), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        batched = training.training_logits(model, ids)
    for row, want in zip(ids.tolist(), batched, strict=True):
        torch.testing.assert_close(forward(model, new_cache(model, 1, 50), row), want, atol=1e-4, rtol=1e-4)


def test_windows_cover_the_text_once():
    pieces = training.windows(torch.arange(21), 5)
    assert pieces.tolist() == [list(range(at, at + 6)) for at in (0, 5, 10, 15)]


def test_a_few_steps_learn(text_file):
    torch.manual_seed(0)
    text = text_file.read_text()
    tokenizer = CharTokenizer.from_text(text)
    ids = torch.tensor(tokenizer.encode(text))
    args = read_params({**training.PARAMS, "dim": 48, "n_layers": 1, "n_heads": 3, "n_kv_heads": 1,
                        "vocab_size": tokenizer.vocab_size, "max_seq_len": 32})  # fmt: skip
    model = training.new_model(args)
    budget = training.Budget(steps=60, seconds=float("inf"))
    progress = list(training.train(model, ids, ids[-2000:], budget, dropout=0.1, seed=1))
    assert len(progress) == 60
    assert progress[-1].training_loss < progress[0].training_loss - 0.5
    assert progress[-1].validation_loss == pytest.approx(training.validation_loss(model, ids[-2000:], 32))


def test_the_folder_loads_and_writes_text(text_file, tmp_path, monkeypatch, capsys):
    out = tmp_path / "model"
    monkeypatch.setattr(sys, "argv", ["train", str(text_file), "--out", str(out), "--steps", "2"])
    monkeypatch.setattr(training, "BATCH", 2)
    assert training.main() == 0
    printed, said = capsys.readouterr()
    assert printed == ""
    assert "validation loss" in said.splitlines()[-1]
    assert sorted(path.name for path in out.iterdir()) == ["chars.json", "consolidated.00.pth", "params.json"]
    session = llama_cli.load(out)
    assert len(session.complete("the", llama_cli.Sampling(max_tokens=9))[0].text) == 9


def test_an_interrupted_training_keeps_what_it_has(text_file, tmp_path):
    out = tmp_path / "model"
    with subprocess.Popen(command(text_file, "--out", out, "--minutes", 5), stderr=subprocess.PIPE) as process:
        while b"step 1 " not in process.stderr.read1(200):
            pass
        process.send_signal(signal.SIGINT)
        process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert open_checkpoint(out).is_tied


@pytest.mark.parametrize(
    ("prepare", "code", "fragment"),
    [
        (lambda path: path.unlink(), 5, "No such file"),
        (lambda path: path.write_text("short"), 5, "5 characters are too few"),
        (lambda path: path.write_bytes(b"\xff" * 9000), 5, "utf-8"),
        (lambda path: (path.parent / "model").mkdir(), 7, "exists already"),
    ],
)
def test_refusals(text_file, tmp_path, monkeypatch, capsys, prepare, code, fragment):
    prepare(text_file)
    monkeypatch.setattr(sys, "argv", ["train", str(text_file), "--out", str(tmp_path / "model")])
    assert training.main() == code
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert fragment in error
    assert len(error.splitlines()) == 2


def test_the_bundled_toy_is_small_and_whole():
    files = [TOY / name for name in ("params.json", "consolidated.00.pth", "chars.json")]
    assert sum(path.stat().st_size for path in files) < 3_000_000
    checkpoint = open_checkpoint(TOY)
    args = read_params(checkpoint.params, vocab_size=checkpoint.vocab_size)
    checkpoint.check(args)
    assert checkpoint.is_tied
    assert checkpoint.dtype == torch.bfloat16
    assert len(json.loads((TOY / "chars.json").read_text())) == args.vocab_size
    assert args.max_seq_len == training.CONTEXT
