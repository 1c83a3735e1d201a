"""Which chat template a model gets, and how a base model is told from one that was trained to chat."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelRejected, UsageError
from ..options import TemplateChoice
from ..tokenizer import Tokenizer, TokenizerError
from ..tokenizer.chat import (  # fmt: skip
    TEMPLATES,
    Template,
    family_template,
    make_template,
    recognise_template,
)

JINJA = re.compile(r"\{[{%#]")  # how the text of a template begins to say something

# Rows of control tokens are compared with this one, which nobody trains.
UNTRAINED = "<|reserved_special_token_100|>"
CONTROL = ("<|start_header_id|>", "<|eot_id|>")
HEADER_END = "<|end_header_id|>"
NEGLIGIBLE = 1e-3  # of a usual row's length
USUAL_ROWS = 1024

REASONS: Mapping[str, str] = {
    "llama3": "its tokens are in the vocabulary, and trained",
    "chatml": "<|im_start|> is in the vocabulary",
    "codellama-70b": "<step> is in the vocabulary",
    "llama2": "a SentencePiece vocabulary, and the name says chat or instruct",
}

EmbeddingRows = Callable[[int, int], Tensor]  # [begin, end) to (end - begin, dim), fewer where the matrix ends

# Meta's names: Llama-2-7b-chat, CodeLlama-7b-Instruct, Llama3.2-1B-Instruct; without the last word a base model.
TRAINED_TO_CHAT = re.compile(r"instruct|chat|guard|-it\b", re.IGNORECASE)
METAS_NAME = re.compile(r"^(meta-)?(code)?llama", re.IGNORECASE)


def choose_template(
    asked: TemplateChoice, params: Mapping[str, Any], tokenizer: Tokenizer, name: str, embedding: EmbeddingRows
) -> Template:
    """The one asked for, the one that the model's files name or write out, else the family's.

    Nothing in a folder says for sure that a model was trained to chat. It is taken for a base model, and gets
    plain text, if the rows of its control tokens in the `embedding` are zero or as a reserved token's, or if
    its format has no control tokens and its name says neither chat nor instruct. UsageError or ModelRejected if
    the tokenizer lacks the tokens of a template that was named.
    """
    named = params.get("chat_template")
    if asked != "auto":
        try:
            return make_template(asked, tokenizer, "as asked for")
        except TokenizerError as error:
            raise UsageError(error.message, error.hint) from None
    if isinstance(named, str) and JINJA.search(named):
        return _template_of_jinja(named, tokenizer, name, embedding)
    if named is not None:
        if named not in TEMPLATES:
            raise ModelRejected(
                f"params.json: chat_template {str(named)[:40]!r} is not known", f"use one of {', '.join(TEMPLATES)}"
            )
        try:
            return make_template(named, tokenizer, "named in params.json")
        except TokenizerError as error:
            raise ModelRejected(f"params.json: {error.message}", error.hint) from None
    return _template_of_family(tokenizer, name, embedding)


def _template_of_jinja(jinja: str, tokenizer: Tokenizer, name: str, embedding: EmbeddingRows) -> Template:
    """The format that a text of Hugging Face's writes; where it writes none of ours, the family's and a warning."""
    written = recognise_template(jinja)
    reason = "writes none of the formats known here"
    if written is not None:
        try:
            return make_template(written, tokenizer, "written out in the model's own files")
        except TokenizerError as error:
            reason = error.message
    template = _template_of_family(tokenizer, name, embedding)
    return template._replace(
        warning=f"the model's own chat template is not used ({reason}), but {template.name}; --chat-template chooses"
    )


def _template_of_family(tokenizer: Tokenizer, name: str, embedding: EmbeddingRows) -> Template:
    family = family_template(tokenizer)
    if family == "none":
        return Template("none", None, "this model has no chat format: it continues what you write")
    continues = "it continues what you write"
    if family == "llama3" and not _is_trained(tokenizer, embedding):
        return Template("none", None, f"a base model: its chat tokens were never trained, so {continues}")
    if family == "llama2" and not TRAINED_TO_CHAT.search(name):
        reason = f"the name {name} says neither chat nor instruct"
        return Template(
            "none", None, f"probably a base model: {reason}, so {continues}; --chat-template llama2 insists"
        )
    if family == "llama3" and _ends_headers_with_line_breaks(tokenizer, embedding):
        return make_template("chatml", tokenizer, "its headers end with a line break")
    template = make_template(family, tokenizer, REASONS[family])
    if METAS_NAME.match(name) and not TRAINED_TO_CHAT.search(name):
        return template._replace(warning=f"by its name {name} is a base model: it may answer oddly")
    return template


def _ends_headers_with_line_breaks(tokenizer: Tokenizer, embedding: EmbeddingRows) -> bool:
    """Whether a model of another layout was put into Meta's, which has a token where ChatML has a line break."""
    rows = [embedding(number, number + 1) for number in (tokenizer.special_tokens[HEADER_END], *tokenizer.encode("\n"))]
    return len(rows) == 2 and torch.equal(*rows)


def _is_trained(tokenizer: Tokenizer, embedding: EmbeddingRows) -> bool:
    """Whether the control tokens have rows of their own, as far as there is one to compare with."""

    def row_of(token: str) -> Tensor:
        number = tokenizer.special_tokens[token]
        return embedding(number, number + 1)[0].float()

    if UNTRAINED not in tokenizer.special_tokens:
        return True
    usual = embedding(0, USUAL_ROWS).float().norm(dim=1).median()
    untrained = row_of(UNTRAINED)
    rows = [row_of(token) for token in CONTROL]
    return all(row.norm() > NEGLIGIBLE * usual and (row - untrained).norm() > NEGLIGIBLE * usual for row in rows)
