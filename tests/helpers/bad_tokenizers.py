"""Bad tokenizer files, each with a pattern of the message."""

import base64
import json

# tokenizer.model, by its content.
FOREIGN = [
    (b"", "is empty"),
    (b"\0" * 100, "is full of zeros"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a git-lfs pointer"),
    (b"<!DOCTYPE html><html>", "a web page"),
    (b'{"version": "1.0", "model": {}}', "Hugging Face's tokenizer.json"),
    (b"\x1f\x8b\x08\0\0", "compressed with gzip"),
    (b"PK\x03\x04", "a zip archive"),
    (b"hello world", r"it begins with b'hello world'"),
    (b"\n\xff\xff\xff", "SentencePiece cannot read it"),
]


def lines(n: int = 256) -> list[bytes]:
    return [base64.b64encode(bytes([i])) + b" %d" % i for i in range(n)]


# Changes of good tiktoken lines.
BAD_LINES = [
    (lambda rows: [*rows[:7], b"!!!! 7", *rows[8:]], r"line 8: b'!!!!' is not base64"),
    (lambda rows: [*rows[:7], *rows[8:]], "line 8: the rank must be 7"),
    (lambda rows: [*rows[:7], rows[8], rows[7], *rows[9:]], "line 8: the rank must be 7"),
    (lambda rows: [*rows, b"AAAA"], "line 257: the rank must be 256"),
    (lambda rows: [*rows, b"AAAA -1"], "line 257: the rank must be 256"),
    (lambda rows: [*rows, b"AAAA 256.0"], "line 257: the rank must be 256"),
    (lambda rows: [*rows, b"AA== 256"], r"line 257: token b'\\x00' is there already, as 0"),
    (lambda rows: [*rows, b" 256"], "line 257: the token is empty"),
    (lambda rows: [*rows[:9], b"", *rows[9:]], "line 10: the token is empty"),
    (lambda rows: rows[:255], "no token for 1 of the 256 bytes, 0xff first"),
]

# chars.json.
BAD_CHARACTERS = [
    ("[", "is not JSON"),
    ("[]", "a list of 1 to 65536"),
    ('["ab"]', "entry 0 must be one character"),
    ('["a", 1]', "entry 1 must be one character"),
    ('["a", "a"]', "entry 1, 'a', is out of order or there twice"),
    ('["b", "a"]', "entry 1, 'a', is out of order"),
    ('["a", "\\ud800"]', "entry 1 must be one character"),
    (json.dumps(list(range(70000))), "1 to 65536"),
    ("[" * 100_000, "is not JSON"),
]
