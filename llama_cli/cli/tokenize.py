"""`llama-cli tokenize`: which ids a text becomes, and which text ids were."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputRejected, UsageError
from ..files.quoting import plural
from .options import FromFile, MessageOptions, OneJsonObject, UseStdin, WhichModel, with_options
from .panels import OUTPUT_PANEL
from .prompts import parse_ids, read_prompt
from .terminal import Terminal

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer

LINES_AT_ONCE = 4096


@with_options("model", "decode", "count")
def tokenize(
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="The text, or with --decode the ids; - reads standard input.")
    ] = None,
    *,
    file: FromFile = None,
    stdin: UseStdin = True,
    decode: Annotated[bool, typer.Option("--decode", "-d", help="Turn ids into a text.")] = False,
    bos: Annotated[bool, typer.Option("--bos", help="Put the begin token in front, as prompts have it.")] = False,
    eos: Annotated[bool, typer.Option("--eos", help="Put the end token behind.")] = False,
    special: Annotated[
        bool, typer.Option("--special", help="Let names such as <|eot_id|> in the text be the tokens they name.")
    ] = False,
    model: WhichModel,
    ids_only: Annotated[
        bool, typer.Option("--ids", help="Print the ids alone, for --prompt-ids.", rich_help_panel=OUTPUT_PANEL)
    ] = False,
    count: Annotated[
        bool, typer.Option("--count", help="Print the number of tokens alone.", rich_help_panel=OUTPUT_PANEL)
    ] = False,
    as_json: OneJsonObject = False,
    messages: MessageOptions,
) -> None:
    """Show the tokens of a text.

    Id, bytes and piece, a line each, and how many there are. Text that looks like a special token stays text, as in
    a prompt. --decode turns ids back into text.

    Examples:
      llama-cli tokenize -m Llama3.2-1B "Hello world"
      llama-cli tokenize -m Llama3.2-1B -f book.txt --count
      llama-cli tokenize -m Llama3.2-1B --decode "9906 1917"
    """
    messages.apply()
    if decode and (bos or eos or special):
        raise UsageError("--bos, --eos and --special are for texts", "leave them out, or --decode")
    if ids_only + count + as_json > 1:
        raise UsageError("--ids, --count and --json exclude each other", "give one of them")
    content = read_prompt(text, file, None, stdin=stdin, note=messages.note)
    assert isinstance(content, str), "no ids were given as such"
    if model.model is None and model.tokenizer is None:
        messages.note("no --model given: the bundled toy's characters")

    from ..checkpoint.folders import TOY
    from ..checkpoint.tokenizer_file import tokenizer_of
    from ..tokenizer import decode_text

    tokenizer = tokenizer_of(TOY if model.model is None else model.model, model.tokenizer)
    if decode:
        ids = _checked(parse_ids(content, "--decode"), tokenizer)
        content = decode_text(tokenizer, ids)
    else:
        ids = _encode(tokenizer, content, bos=bos, eos=eos, special=special)
    terminal = Terminal()
    if as_json:
        terminal.write_json(_describe(tokenizer, ids, content))
    elif count:
        terminal.write(f"{len(ids)}\n")
    elif ids_only:
        terminal.write(",".join(map(str, ids)) + "\n")
    elif decode:
        terminal.write(content + "\n")
    else:
        _write_rows(terminal, tokenizer, ids)
        terminal.write(_summary(ids, content))


def _write_rows(terminal: Terminal, tokenizer: Tokenizer, ids: list[int]) -> None:
    for lines in _in_blocks(_rows(tokenizer, ids)):
        terminal.write(lines)


def _encode(tokenizer: Tokenizer, text: str, *, bos: bool, eos: bool, special: bool) -> list[int]:
    from ..tokenizer import EncodeError

    for name, asked, token_id in (("begin", bos, tokenizer.bos_id), ("end", eos, tokenizer.eos_id)):
        if asked and token_id is None:
            raise UsageError(f"this tokenizer ({tokenizer.kind}) has no {name} token", "leave the flag out")
    try:
        if not special or not tokenizer.special_tokens:
            return tokenizer.encode(text, bos=bos, eos=eos)
        return _encode_with_special(tokenizer, text, bos=bos, eos=eos)
    except EncodeError as error:
        raise InputRejected(error.message, error.hint) from None


def _encode_with_special(tokenizer: Tokenizer, text: str, *, bos: bool, eos: bool) -> list[int]:
    """A text begins at the very beginning and behind a begin token; behind any other special token it goes on."""
    names = sorted(tokenizer.special_tokens, key=len, reverse=True)
    ids = [tokenizer.bos_id] if bos and tokenizer.bos_id is not None else []
    for part in re.split(f"({'|'.join(map(re.escape, names))})", text):
        if part in tokenizer.special_tokens:
            ids.append(tokenizer.special_tokens[part])
        elif part:
            begins = not ids or ids[-1] == tokenizer.bos_id
            ids += tokenizer.encode(part) if begins else tokenizer.encode_more(part)
    return [*ids, tokenizer.eos_id] if eos and tokenizer.eos_id is not None else ids


def _checked(ids: list[int], tokenizer: Tokenizer) -> list[int]:
    for place, token_id in enumerate(ids):
        if not 0 <= token_id < tokenizer.vocab_size:
            raise InputRejected(
                f"id {token_id} (number {place + 1}) is outside the vocabulary of {tokenizer.vocab_size:,}",
                "ids of another model? give the right one with -m",
            )
    return ids


def _rows(tokenizer: Tokenizer, ids: Iterable[int]) -> Iterator[str]:
    """`     9906  48 65 6c 6c 6f           'Hello'` for each id."""
    from ..tokenizer import names_of

    specials = names_of(tokenizer)
    width = len(str(tokenizer.vocab_size))
    known: dict[int, str] = {}  # a text has few tokens, often
    for token_id in ids:
        row = known.get(token_id)
        if row is None:
            raw = tokenizer.token_bytes(token_id)
            shown, piece = (raw.hex(" "), _quoted(raw)) if token_id not in specials else ("special", specials[token_id])
            row = known[token_id] = f"{token_id:>{width}}  {shown:<24}  {piece}\n"
        yield row


def _quoted(raw: bytes) -> str:
    """A piece in quotes, on one line; part of a character is shown by its bytes alone."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return "part of a character"
    return repr(text)


def _in_blocks(rows: Iterator[str]) -> Iterator[str]:
    block: list[str] = []
    for row in rows:
        block.append(row)
        if len(block) == LINES_AT_ONCE:
            yield "".join(block)
            block.clear()
    yield "".join(block)


def _summary(ids: list[int], text: str) -> str:
    counts = {"token": len(ids), "character": len(text), "byte": len(text.encode())}
    return ", ".join(f"{n:,} {plural(n, noun)}" for noun, n in counts.items()) + "\n"


def _describe(tokenizer: Tokenizer, ids: list[int], text: str) -> dict[str, Any]:
    from ..tokenizer import names_of

    specials = names_of(tokenizer)
    raws = [tokenizer.token_bytes(token_id) for token_id in ids]
    return {
        "tokens": [
            {
                "id": token_id,
                "piece": raw.decode("utf-8", errors="replace"),
                "bytes": list(raw),
                "special": specials.get(token_id),
            }
            for token_id, raw in zip(ids, raws, strict=True)
        ],
        "token_ids": ids,
        "text": text,
        "n_tokens": len(ids),
        "n_characters": len(text),
        "n_bytes": len(text.encode()),
        "tokenizer": {"kind": tokenizer.kind, "n_words": tokenizer.vocab_size},
    }
