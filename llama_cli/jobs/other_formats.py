"""Names what an input is that holds no rows: a compressed or binary file, UTF-16, one JSON document, a table."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import PurePath
from typing import Any

from ..errors import InputRejected
from ..files import magic
from ..files.user_text import is_utf_16
from .source import STANDARD_INPUT

# How to make rows of a file of a known kind.
HINTS = {
    magic.BZIP2: "bunzip2 -c {0} > {3}",
    magic.XZ: "xz -dc {0} > {3}",
    magic.ZSTD: "zstd -dc {0} > {3}",
    magic.PARQUET: "write it as JSONL: pandas.read_parquet({1}).to_json({4}, {2})",
    magic.OFFICE: "save it as JSONL",
    magic.SQLITE: "write its rows as JSONL",
    magic.ARROW: "write it as JSONL: pandas.read_feather({1}).to_json({4}, {2})",
    magic.PDF: "write its text as JSONL",
    magic.GIT_LFS: "git lfs pull",
}
AS_ROWS = "orient='records', lines=True"

TABLE_ENDINGS = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
TABLE_COLUMNS = ("prompt", "messages", "custom_id", "text")


def refuse_other_bytes(beginning: bytes, name: str) -> None:
    """InputRejected if the beginning of an input shows that it is no text in UTF-8."""
    kind = magic.kind_of(beginning)
    if kind is magic.ZIP:
        if b"[Content_Types]" in beginning or b"xl/" in beginning:
            raise _refused(name, "an Excel workbook", "write it as JSONL: pandas.read_excel({1}).to_json({4}, {2})")
        raise _refused(name, kind.what, "unzip -p {0} > {3}")
    if kind is magic.GZIP:  # one is taken off as it is read
        raise _refused(name, "gzip within gzip", "gunzip it once more")
    if kind is not None and kind in HINTS:  # a line of text may begin with GGUF
        raise _refused(name, kind.what, HINTS[kind])
    if is_utf_16(beginning):
        raise _refused(name, "UTF-16, or UTF-32", "iconv -f utf-16 -t utf-8 {0} > {3}")
    if b"\n" not in beginning and b"\r" in beginning.rstrip(b"\r"):
        raise _refused(name, "one line: its lines end with carriage returns alone", "tr '\\r' '\\n' < {0} > {3}")


def refuse_documents(first: bytes, following: bytes, name: str, *, is_json: bool) -> None:
    """InputRejected if the first line begins a JSON document of several lines or rows, or a table.

    `is_json` says that rows in JSON were asked for; else a line of text may begin with a bracket.
    """
    text = first.strip()
    if text.startswith(b"["):
        if is_json or text == b"[" or text[1:].lstrip().startswith(b"{") or isinstance(parse_json(text), list):
            raise _refused(name, "one JSON array, not a row on every line", "jq -c '.[]' {0} > {3}", text=not is_json)
    elif text.startswith(b"{"):
        found = parse_json(text)
        if isinstance(found, dict) and any(isinstance(found.get(name), dict) for name in TABLE_COLUMNS):
            hint = "write it with DataFrame.to_json({4}, {2})"
            raise _refused(name, "one JSON object of columns, not a row on every line", hint)
        if found is None and (text == b"{" or _goes_on(first, following)):
            raise _refused(name, "JSON over several lines, not a row on every line", "jq -c . {0} > {3}")
    elif name.lower().endswith(TABLE_ENDINGS) or (not is_json and _is_header(text)):
        hint = "write it as JSONL: pandas.read_csv({1}).to_json({4}, {2})"
        raise _refused(name, "a table (CSV)", hint, text=not is_json)


def _refused(name: str, what: str, hint: str, *, text: bool = False) -> InputRejected:
    file = "FILE" if name == STANDARD_INPUT else name
    made = "in.jsonl" if PurePath(file).name != "in.jsonl" else "rows.jsonl"  # the shell would empty the file itself
    hint = hint.format(shlex.quote(file), repr(file), AS_ROWS, made, repr(made))
    return InputRejected(f"{name} is {what}", f"{hint}, or --format text if every line is a prompt" if text else hint)


def parse_json(text: bytes) -> Any:
    """What a line holds in JSON; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _goes_on(first: bytes, following: bytes) -> bool:
    """Whether an object that the first line leaves open is closed by the lines behind it."""
    begun = first.decode("utf-8", "replace").lstrip()
    try:
        _, end = json.JSONDecoder().raw_decode(f"{begun}\n{following.decode('utf-8', 'replace')}")
    except (ValueError, RecursionError):
        return False
    return end > len(begun)


def _is_header(text: bytes) -> bool:
    """Whether a line names columns, one of them a field of our rows."""
    cells = [cell.strip(b" \"'").lower() for cell in re.split(rb"[,;\t]", text)]
    words = [cell.decode("utf-8", "replace") for cell in cells]
    is_plain = all(re.fullmatch(r"[\w .-]{1,40}", word) for word in words)
    return len(words) > 1 and is_plain and any(column in words for column in TABLE_COLUMNS)
