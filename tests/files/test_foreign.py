"""A file that is not what its name promises is named, by one table for weights and rows."""

import pytest
from helpers.in_memory import InMemory

from llama_cli.errors import InputRejected
from llama_cli.files import magic
from llama_cli.files.foreign import foreign
from llama_cli.jobs.lines import Lines


@pytest.mark.parametrize("kind", magic.KINDS)
def test_every_kind_is_named_where_weights_should_be(tmp_path, kind):
    path = tmp_path / "consolidated.00.pth"
    path.write_bytes(kind.beginning + b" and more")
    error = foreign(path, path.stat().st_size)
    assert kind.what in error.message
    assert error.hint


@pytest.mark.parametrize("kind", [kind for kind in magic.KINDS if kind not in (magic.GGUF, magic.GZIP)])
def test_every_kind_is_named_where_rows_should_be(kind):
    with pytest.raises(InputRejected, match=kind.what):
        list(Lines(InMemory(kind.beginning + b" and more\n"), "text"))


def test_a_line_of_text_may_begin_as_a_file_of_weights():
    (line,) = Lines(InMemory(b"GGUF is a format\n"), "auto")
    assert line.data == b"GGUF is a format"


def test_no_kind_begins_as_another():
    beginnings = [kind.beginning for kind in magic.KINDS]
    for one in beginnings:
        assert [other for other in beginnings if other.startswith(one)] == [one]
        assert magic.kind_of(one + b"x").beginning == one
    assert magic.kind_of(b"text") is None
