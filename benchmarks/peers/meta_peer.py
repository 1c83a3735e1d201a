"""Meta's own model.py from llama-models, one process on gloo, in bfloat16: FOLDER PROMPT NEW THREADS to JSON."""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed
from fairscale.nn.model_parallel.initialize import initialize_model_parallel
from llama_models.llama3.args import ModelArgs
from llama_models.llama3.model import Transformer


@torch.inference_mode()
def main(folder: str, n_prompt: int, n_new: int, threads: int) -> None:
    torch.set_num_threads(threads)
    store = torch.distributed.FileStore(os.path.join(tempfile.mkdtemp(), "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    initialize_model_parallel(1)
    torch.set_default_dtype(torch.bfloat16)
    params = json.loads((Path(folder) / "params.json").read_text())
    model = Transformer(ModelArgs(max_batch_size=1, max_seq_len=n_prompt + n_new + 1, **params))
    model.load_state_dict(torch.load(Path(folder) / "consolidated.00.pth", mmap=True, weights_only=True), strict=False)
    prompt = torch.randint(0, 128000, (1, n_prompt))
    model(prompt[:, :8], 0)  # warm up
    began = time.perf_counter()
    token = model(prompt, 0)[:, -1:].argmax(-1)
    filled = time.perf_counter()
    for position in range(n_prompt, n_prompt + n_new):
        token = model(token, position)[:, -1:].argmax(-1)
    ended = time.perf_counter()
    print(json.dumps({"prefill": n_prompt / (filled - began), "decode": n_new / (ended - filled)}))


main(sys.argv[1], *map(int, sys.argv[2:]))
