"""Which lines of an input are rows, and what an input is called that has none."""

import gzip
import io
import json
import zipfile
from contextlib import ExitStack

import pytest
from helpers.in_memory import InMemory

from llama_cli.errors import InputRejected
from llama_cli.jobs.lines import Lines
from llama_cli.jobs.source import open_source

ROW = b'{"prompt": "a"}'


def numbered(content, format_="auto", name="in.jsonl"):
    """The number and bytes of each line that is a row, and the format that was found."""
    lines = Lines(InMemory(content, name), format_)
    found = [(line.place, line.number, line.data) for line in lines]
    assert found == [(line.place, line.number, line.data) for line in lines]  # a second time is the same
    return found, lines.format


@pytest.mark.parametrize("format_", ["auto", "prompts"])
@pytest.mark.parametrize("blank", [b"", b"  ", b"\t", b"\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_marks_and_blank_lines_are_no_rows(mark, blank, format_):
    """A byte-order mark, or a blank first line, made prompts of the JSON source of all rows."""
    content = mark + b"\n".join([blank, ROW, blank, blank, ROW, b""])
    assert numbered(content, format_) == ([(0, 2, ROW), (1, 5, ROW)], format_)
    assert numbered(mark + ROW, format_) == ([(0, 1, ROW)], format_)


def test_marks_between_files_that_were_put_together():
    """`cat a.jsonl b.jsonl` of two files with marks: the second one was part of a prompt, or no JSON."""
    mark = b"\xef\xbb\xbf"
    assert numbered(mark + ROW + b"\n" + mark + ROW) == ([(0, 1, ROW), (1, 2, ROW)], "auto")
    assert numbered(mark + b"one\n" + mark + b"\n" + mark + b"two") == ([(0, 1, b"one"), (1, 3, b"two")], "text")


def test_blank_lines_of_text_are_no_prompts():
    assert numbered(b"\n\none\n \ntwo\n\n") == ([(0, 3, b"one"), (1, 5, b"two")], "text")
    assert numbered(b"\xef\xbb\xbfone", "text") == ([(0, 1, b"one")], "text")
    assert numbered(b"\n\n") == ([], "auto")


TEXTS = [b"[INST] Hello [/INST]", b"[1] is a citation", b"{a", b"# prompt", b"Once, upon a time", b'"quoted", she said',
         b"id, please", b"prompt", b"PAR 1", b"[]x"]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_text_stays_text(text):
    found, format_ = numbered(text + b"\nmore\n")
    assert [data for _, _, data in found] == [text, b"more"]
    assert format_ == ("auto" if text.startswith(b"{") else "text")
    assert numbered(text + b"\n", "text")[1] == "text"


DOCUMENTS = {
    "an array on one line": b'[{"prompt": "a"}, {"prompt": "b"}]',
    "an array with a row on each line": b'[\n{"prompt": "a"},\n{"prompt": "b"}\n]',
    "an array that begins with its first row": b'[ {"prompt": "a"},\n{"prompt": "b"}]',
    "an indented array": b'[\n  {\n    "prompt": "a"\n  }\n]',
    "an array of texts": b'["a", "b"]',
    "an array behind a mark and a blank line": b'\xef\xbb\xbf\n[{"prompt": "a"}]',
    "an indented object": b'{\n  "prompt": "a"\n}\n',
    "objects over two lines": b'{"custom_id": "a",\n "body": {"prompt": "b"}}\n' * 3,
}


@pytest.mark.parametrize("content", DOCUMENTS.values(), ids=DOCUMENTS)
def test_documents_are_refused_by_name(content):
    what = "one JSON array" if content.lstrip(b"\xef\xbb\xbf\n").startswith(b"[") else "JSON over several lines"
    for format_ in ("auto", "prompts", "openai"):
        with pytest.raises(InputRejected, match=what) as refused:
            numbered(content, format_)
        assert refused.value.hint.startswith("jq -c")
    assert numbered(content, "text")[1] == "text"


@pytest.mark.parametrize(
    "content", [b'{"prompt": {"0": "a", "1": "b"}, "n": {"0": 1}}', b'{"id": {"0": 1}, "messages": {"0": []}}']
)
def test_columns_are_refused_by_name(content):
    """What pandas writes by default."""
    with pytest.raises(InputRejected, match="one JSON object of columns") as refused:
        numbered(content)
    assert "orient='records', lines=True" in refused.value.hint


@pytest.mark.parametrize(
    ("content", "name"),
    [(b"prompt,max_tokens\na,5\n", "-"), (b"id;Prompt\n", "x.txt"), (b'"custom_id"\t"text"', "-"), (b"a\nb\n", "x.csv"),
     (b"one\n", "IN.TSV"), (b"\xef\xbb\xbfid,prompt\n", "-")],
)  # fmt: skip
def test_tables_are_refused_by_name(content, name):
    with pytest.raises(InputRejected, match="is a table"):
        numbered(content, name=name)
    assert numbered(content, "text", name)[1] == "text"


def zipped(name):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, ROW)
    return file.getvalue()


BINARY = {
    "UTF-16": [json.dumps({"prompt": "ab"}).encode(encoding) for encoding in ("utf-16", "utf-16-le", "utf-16-be")],
    "a zip archive": [zipped("in.jsonl")],
    "an Excel workbook": [zipped("[Content_Types].xml"), zipped("xl/workbook.xml")],
    "a Parquet file": [b"PAR1\x15\x04\x15"],
    "zstd": [b"\x28\xb5\x2f\xfd\x04"],
    "xz": [b"\xfd7zXZ\x00\x00"],
    "bzip2": [b"BZh91AY&SY"],
    "gzip within gzip": [gzip.compress(b"", mtime=0)],
    "an Arrow file": [b"ARROW1\0\0"],
    "an SQLite database": [b"SQLite format 3\0"],
    "a PDF": [b"%PDF-1.7"],
    "an old Office file": [b"\xd0\xcf\x11\xe0\xa1\xb1"],
    "a git-lfs pointer": [b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"],
}


@pytest.mark.parametrize(("what", "content"), [(what, each) for what, all_ in BINARY.items() for each in all_])
@pytest.mark.parametrize("format_", ["auto", "prompts", "text"])
def test_what_is_no_text_is_refused_by_name(what, content, format_):
    with pytest.raises(InputRejected, match=what):
        numbered(content, format_)


def test_rows_among_text_are_told(caplog):
    """An input whose first line is no JSON is text: the settings of its rows were ignored without a word."""
    numbered(b"# my rows\n" + ROW + b"\n" + ROW + b"\n")
    (told,) = caplog.messages
    assert told.startswith("line 2 is a row in JSON")
    assert "--format prompts" in told
    caplog.clear()
    numbered(b'# my rows\n{name}\n{"a": 1}\n')
    numbered(b"# my rows\n" + ROW, "text")
    assert not caplog.messages


WRAPPED = {
    b'data: {"prompt": "a"}': "begins with 'data: '",
    b'\x1e{"prompt": "a"}': "begins with '\\x1e'",
    "\u2028".encode() + ROW: "begins with '\\u2028'",
    b'"Once upon a time"': "is a text in JSON",
}


@pytest.mark.parametrize(("line", "what"), WRAPPED.items())
def test_text_that_is_hardly_a_prompt_is_told(line, what, caplog):
    """JSON behind something else, or a text in quotes as jq writes it, was a prompt without a word."""
    found, format_ = numbered(line + b"\n" + ROW + b"\n")
    assert ([data for _, _, data in found], format_) == ([line, ROW], "text")
    assert all(message.startswith(f"the first line {what}") for message in caplog.messages)
    assert caplog.messages
    caplog.clear()
    numbered(line, "text")
    assert not caplog.messages


@pytest.mark.parametrize("content", [b"one\rtwo\r", ROW + b"\r" + ROW])
def test_lines_that_end_with_carriage_returns_alone_are_named(content):
    """The whole file was one prompt."""
    with pytest.raises(InputRejected, match="carriage returns alone") as refused:
        numbered(content)
    assert refused.value.hint == r"tr '\r' '\n' < in.jsonl > rows.jsonl"
    assert numbered(b"one\r\ntwo\r") == ([(0, 1, b"one"), (1, 2, b"two")], "text")


@pytest.mark.parametrize("content", [*DOCUMENTS.values(), b"BZh91AY&SY"])
def test_no_hint_writes_over_the_input(content):
    """`jq . in.jsonl > in.jsonl` empties the file."""
    for name in ("in.jsonl", "/data/in.jsonl", "rows.jsonl"):
        with pytest.raises(InputRejected) as refused:
            numbered(content, "prompts", name)
        made = refused.value.hint.split(" > ")[1].split(",")[0]
        assert made != name.rpartition("/")[2]


def read(path, stack):
    source = open_source(stack, str(path))
    return source, [[line.data for line in Lines(source, "auto")] for _ in range(2)]


def test_gzip_is_read(tmp_path):
    path = tmp_path / "in.jsonl.gz"
    path.write_bytes(gzip.compress(ROW + b"\n") + gzip.compress(b"\n" + ROW))
    with ExitStack() as stack:
        source, (first, second) = read(path, stack)
        assert first == second == [ROW, ROW]
        assert source.describe()["size"] == path.stat().st_size
    for damaged in (path.read_bytes()[:-9], path.read_bytes()[:12], path.read_bytes()[:30] + b"x" * 30):
        path.write_bytes(damaged)
        with ExitStack() as stack, pytest.raises(InputRejected, match="is damaged gzip"):
            read(path, stack)
    path.write_bytes(gzip.compress(gzip.compress(ROW)))
    with ExitStack() as stack, pytest.raises(InputRejected, match="gzip within gzip"):
        read(path, stack)


def test_what_cannot_be_opened(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with ExitStack() as stack, pytest.raises(InputRejected, match="cannot read"):
            open_source(stack, str(path))
