"""gpt-fast from the folder that GPT_FAST names, compiled as its generate.py does with --compile --compile_prefill."""

import argparse
import os
import sys
from dataclasses import asdict

import torch
from torch import Tensor
from turn import Turn, read_turn, report

from llama_cli.checkpoint import open_checkpoint
from llama_cli.checkpoint.params import read_params

sys.path.insert(0, os.environ["GPT_FAST"])

import generate
import model as gpt_fast
import quantize

GREEDY = {"temperature": 0.0, "top_k": 1}


def load(turn: Turn, rounded_to: str | None) -> gpt_fast.Transformer:
    """Its model with a folder's weights in bfloat16, rounded by its own code."""
    checkpoint = open_checkpoint(turn.folder)
    args = read_params(checkpoint.params, vocab_size=checkpoint.vocab_size)
    rope = args.rope_scaling and asdict(args.rope_scaling)
    if rope:
        rope["original_max_position_embeddings"] = rope.pop("original_context")
    with torch.device("meta"):
        model = gpt_fast.Transformer(
            gpt_fast.ModelArgs(
                block_size=turn.max_seq_len,
                vocab_size=args.vocab_size,
                n_layer=args.n_layers,
                n_head=args.n_heads,
                dim=args.dim,
                intermediate_size=args.ffn_dim,
                n_local_heads=args.n_kv_heads,
                rope_base=args.rope_theta,
                norm_eps=args.norm_eps,
                rope_scaling=rope,
            )
        )
    model.load_state_dict({name: tensor.to(torch.bfloat16) for name, tensor in checkpoint.tensors(args)}, assign=True)
    if rounded_to:
        if rounded_to == "int4":
            handler = quantize.WeightOnlyInt4QuantHandler(model, groupsize=32)
        else:
            handler = quantize.WeightOnlyInt8QuantHandler(model)
        weights = handler.create_quantized_state_dict()
        model = handler.convert_for_runtime()
        model.load_state_dict(weights, assign=True)
    return model.to(turn.device).eval()


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quantize", choices=["int8", "int4"])
    turn, arguments = read_turn(parser)
    model = load(turn, arguments.quantize)
    with torch.device(turn.device):
        model.setup_caches(max_batch_size=turn.sizes.rows, max_seq_length=turn.max_seq_len)
    prefill = torch.compile(generate.prefill, fullgraph=True, dynamic=True)
    decode = torch.compile(generate.decode_one_token, mode="reduce-overhead", fullgraph=True)
    size = model.max_seq_length
    mask = generate.create_block_mask(generate.causal_mask, 1, 1, size, size, device=turn.device)

    def fill(prompt: Tensor) -> Tensor:
        return prefill(model, prompt, torch.arange(turn.sizes.prompt, device=turn.device), **GREEDY).clone()

    def step(token: Tensor, position: int) -> Tensor:
        at = torch.tensor([position], device=turn.device, dtype=torch.int)
        return decode(model, token, at, mask, **GREEDY)[0].clone()

    report(turn, fill, step)


main()
