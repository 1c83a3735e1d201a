"""How a model is loaded: each setting said once, with its flag, its key in config.toml, its keyword and its default."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from pydantic.functional_validators import ModelWrapValidatorHandler  # older ones have it there alone

from .errors import UsageError
from .tokenizer.chat import TemplateName

DtypeName = Literal["auto", "bf16", "fp16", "fp32"]
Kernels = Literal["auto", "torch", "plain"]
Quantization = Literal["int8", "int4"]
TemplateChoice = Literal["auto", TemplateName]
OnLayer = Callable[[int, int], None]  # with how many layers are in place, and of how many


class SettingRejected(UsageError):
    """One setting of a group is wrong. Flags and rows call it by names of their own."""

    def __init__(self, error: ValidationError, known: Iterable[str], call: str | None = None) -> None:
        """`call` is the function of which the settings are the arguments, if people know them as such."""
        first = error.errors(include_url=False)[0]
        self.name = str(first["loc"][0])
        self.place = ".".join(map(str, first["loc"]))  # within the setting, where that is a list
        value = ascii(first["input"])
        self.reason = (
            f"{first['msg'].removeprefix('Value error, ')}, is {value if len(value) <= 60 else value[:57] + '...'}"
        )
        if first["type"] == "unexpected_keyword_argument":
            close = get_close_matches(self.name, known, n=1)
            message = f"{call}() has no argument {self.name}" if call else f"there is no setting {self.name}"
            super().__init__(message, f"did you mean {close[0]}?" if close else None)
        elif first["type"] == "unexpected_positional_argument" and call:
            super().__init__(f"{call}() takes its arguments by name, but for the first", f"{call}(..., dtype=...)")
        else:
            super().__init__(f"{call}(): {self.name}: {self.reason}" if call else f"{self.place}: {self.reason}")


# Python 3.10 reads no annotations of a class that has the mark KW_ONLY among its fields.
@dataclass(frozen=True, kw_only=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
class LoadOptions:
    """Which model, and how to run it. What is left open is settled when it is loaded.

    `batch_size` None means as many rows as memory holds, at most 16. `max_seq_len` is the context in tokens; the
    default is what the family was trained for, or what fits into memory. `dtype` auto is the dtype that the weights
    are stored in, float32 for a toy on a CPU. `quantize` rounds the weights of linear layers to int8 or int4; a folder
    that `convert` has quantized runs so without it. `compile` takes half a minute and is for GPUs and long runs.
    `tp` processes share the model, each with a part of every layer, and `dp` groups of them share the prompts; they
    are started here, or by torchrun, and end with the model. `tp` None is one, or all that torchrun has started.
    """

    model: Annotated[
        str | Path | None,
        Field(description="A name that `llama-cli models` lists, or a folder. Default: the bundled toy."),
    ] = field(default=None, kw_only=False)
    tokenizer: Annotated[
        str | Path | None,
        Field(description="The tokenizer's file. Default: the one beside the model."),
    ] = None
    max_seq_len: Annotated[
        int | None,
        Field(
            ge=1, le=2**31 - 1, description="Context in tokens. Default: what the model was trained for, if that fits."
        ),
    ] = None
    batch_size: Annotated[
        int | None, Field(ge=1, le=4096, description="Rows at a time. Default: as many as fit into memory, at most 16.")
    ] = 1
    dtype: Annotated[
        DtypeName, Field(description="Of weights and arithmetic; auto: as stored, a toy on a CPU in fp32.")
    ] = "auto"
    device: Annotated[
        str, Field(description="cpu, cuda, cuda:N or mps; auto: cuda where there is a GPU, else cpu.")
    ] = "auto"
    threads: Annotated[
        int | None, Field(ge=1, le=4096, description="CPU threads. Default: one for each core; one for a small model.")
    ] = None
    quantize: Annotated[
        Quantization | None,
        Field(description="Round the weights of linear layers; int8 is fastest, int4 smallest. Default: as stored."),
    ] = None
    kernels: Annotated[
        Kernels,
        Field(description="auto: llama-cli's own, compiled on first use; torch: torch's fastest; plain: F.linear."),
    ] = "auto"
    compile: Annotated[
        bool,
        Field(
            description="Let torch.compile make the layers' kernels, which takes half a minute: for GPUs and long runs."
        ),
    ] = False
    rope_scale_factor: Annotated[
        float | None,
        Field(
            ge=1, description="Factor of Llama 3.1's RoPE where params.json has none. Default: 8; 32 for 3.2 1B and 3B."
        ),
    ] = None
    mmap: Annotated[bool, Field(description="Map the model's files; --no-mmap reads them into memory first.")] = True
    chat_template: Annotated[
        TemplateChoice, Field(description="Format of dialogs; auto: what the folder or the family says.")
    ] = "auto"
    tp: Annotated[
        int | None,
        Field(
            ge=1,
            le=1024,
            description="Processes that share every layer of the model. Default: 1, or all of torchrun.",
        ),
    ] = None
    dp: Annotated[
        int, Field(ge=1, le=1024, description="Groups of processes, each with a whole model; rows go to any.")
    ] = 1
    on_layer: OnLayer | None = None  # told of every layer that is in place

    @model_validator(mode="wrap")
    @classmethod
    def _refuse(cls, values: Any, validate: ModelWrapValidatorHandler[LoadOptions]) -> LoadOptions:
        """What is wrong is an error of this program, also for who calls it from Python."""
        try:
            return validate(values)
        except ValidationError as error:
            raise SettingRejected(error, [each.name for each in fields(cls)], call="load") from None
