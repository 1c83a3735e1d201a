"""transformers, eager, in bfloat16."""

import argparse

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache
from turn import read_turn, report


@torch.inference_mode()
def main() -> None:
    turn, _ = read_turn(argparse.ArgumentParser(description=__doc__))
    model = AutoModelForCausalLM.from_pretrained(turn.folder, dtype=torch.bfloat16).to(turn.device)
    cache = DynamicCache()

    def fill(prompt: Tensor) -> Tensor:
        cache.crop(0)
        return step(prompt, 0)

    def step(token: Tensor, position: int) -> Tensor:
        out = model(token, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1:].argmax(-1)

    report(turn, fill, step)


main()
