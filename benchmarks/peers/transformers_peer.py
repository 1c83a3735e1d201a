"""transformers, eager, in bfloat16: FOLDER PROMPT NEW THREADS to one line of JSON."""

import json
import sys
import time

import torch
from transformers import AutoModelForCausalLM


@torch.inference_mode()
def main(folder: str, n_prompt: int, n_new: int, threads: int) -> None:
    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    prompt = torch.randint(0, 128000, (1, n_prompt))
    model(prompt[:, :8])  # warm up
    began = time.perf_counter()
    out = model(prompt, use_cache=True, logits_to_keep=1)
    token = out.logits[:, -1:].argmax(-1)
    filled = time.perf_counter()
    for _ in range(n_new):
        out = model(token, past_key_values=out.past_key_values, use_cache=True)
        token = out.logits[:, -1:].argmax(-1)
    ended = time.perf_counter()
    print(json.dumps({"prefill": n_prompt / (filled - began), "decode": n_new / (ended - filled)}))


main(sys.argv[1], *map(int, sys.argv[2:]))
