"""What a tokenizer file is, told from its bytes."""

import os
import subprocess
import sys

import pytest
from helpers.bad_tokenizers import FOREIGN
from helpers.models import kit_folder, needs_kit

from llama_cli.tokenizer import TokenizerError, load_tokenizer


@pytest.mark.parametrize(("content", "fragment"), FOREIGN)
def test_other_files_are_named_for_what_they_are(tmp_path, content, fragment):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match=fragment):
        load_tokenizer(path)


def test_folders_pipes_and_absent_files(tmp_path):
    with pytest.raises(TokenizerError, match="is a folder"):
        load_tokenizer(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TokenizerError, match="is no regular file"):
        load_tokenizer(tmp_path / "pipe")  # opening it would wait for ever
    with pytest.raises(TokenizerError, match="No such file"):
        load_tokenizer(tmp_path / "absent")


def test_the_heavy_libraries_wait_until_they_are_needed():
    code = "import sys, tokenizer; print([m for m in ('tiktoken', 'sentencepiece', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@needs_kit
def test_sentencepiece_ids_of_a_trained_model():
    import json

    pytest.importorskip("sentencepiece")
    folder = kit_folder("stories260k-sp")
    tokenizer = load_tokenizer(folder / "tokenizer.model")
    assert tokenizer.kind == "sentencepiece"
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (1, 2, 512)
    for case in json.loads((folder / "golden.json").read_text())["cases"]:
        assert tokenizer.encode(case["prompt"], bos=True) == case["prompt_ids"]
        assert case["text"].startswith((case["prompt"] + tokenizer.decode(case["greedy_ids_f32"])).strip()[:40])


@needs_kit
def test_sentencepiece_bytes():
    pytest.importorskip("sentencepiece")
    tokenizer = load_tokenizer(kit_folder("stories260k-sp") / "tokenizer.model")
    text = "a 漢 b\n"
    assert tokenizer.decode(tokenizer.encode(text)) == " " + text
