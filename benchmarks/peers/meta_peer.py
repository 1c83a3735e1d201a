"""Meta's own model.py from llama-models, one process on gloo, in bfloat16."""

import argparse
import json
import os
import tempfile

import torch
import torch.distributed
from fairscale.nn.model_parallel.initialize import initialize_model_parallel
from llama_models.llama3.args import ModelArgs
from llama_models.llama3.model import Transformer
from torch import Tensor
from turn import read_turn, report


@torch.inference_mode()
def main() -> None:
    turn, _ = read_turn(argparse.ArgumentParser(description=__doc__))
    store = torch.distributed.FileStore(os.path.join(tempfile.mkdtemp(), "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    initialize_model_parallel(1)
    torch.set_default_dtype(torch.bfloat16)
    params = json.loads((turn.folder / "params.json").read_text())
    model = Transformer(ModelArgs(max_batch_size=turn.sizes.rows, max_seq_len=turn.max_seq_len, **params))
    weights = torch.load(turn.folder / "consolidated.00.pth", mmap=True, weights_only=True)
    model.load_state_dict(weights, strict=False)
    model.to(turn.device)

    def step(token: Tensor, position: int) -> Tensor:
        return model(token, position)[:, -1:].argmax(-1)

    report(turn, lambda prompt: step(prompt, 0), step)


main()
