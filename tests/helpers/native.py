"""Small models on our own kernels."""

from functools import partial

import pytest
import torch
from helpers.models import random_model

from llama_cli.backends.native.decode import NativeSteps
from llama_cli.backends.native.library import native_library
from llama_cli.backends.native.linear import NativeLayers
from llama_cli.backends.place import replace
from llama_cli.engine.runner import ModelRunner
from llama_cli.model.args import ModelArgs
from llama_cli.model.llama import Llama

LIBRARY = native_library()


def native_model(args: ModelArgs, kind: str, seed: int = 0) -> Llama:
    """A random model on our kernels."""
    assert LIBRARY is not None
    if kind in ("int8", "int4") and not LIBRARY.has_int8:  # both have outputs of 8 bits
        pytest.skip("this processor cannot")
    model, layers = random_model(args, seed), NativeLayers(LIBRARY)
    make = {"int8": layers.int8, "int4": layers.int4}.get(kind, lambda weight, role: layers.full(weight))
    dtype = torch.float32 if kind in ("float32", "int8") else torch.bfloat16
    model.to(dtype)
    if kind == "int8":
        model.tok_embeddings.bfloat16()
    for layer in model.layers:
        replace(layer, dict(layer.state_dict()), make)
    model.output = make(model.output.weight, "output")
    return model


def many_rows_model(args: ModelArgs, kind: str) -> Llama:
    """One whose prompts are our kernels' too."""
    model = native_model(args, kind)
    linear = model.layers[0].attention.wq
    if LIBRARY is None or not all(LIBRARY.takes_many(each.matrix.kind) for each in (model.output, linear)):
        pytest.skip("this processor is faster with torch's products of many rows")
    return model


def native_runner(model: Llama, n_slots: int, max_seq_len: int = 256, growth: int = 256) -> ModelRunner:
    """A runner of it whose steps are our kernels'."""
    assert LIBRARY is not None
    steps = partial(NativeSteps, library=LIBRARY)
    return ModelRunner(model, n_slots=n_slots, max_seq_len=max_seq_len, make_steps=steps, growth=growth)
