"""The Python API of llama-cli under Ray Data: many machines, one input, one output.

    pip install 'llama-native[ray]'
    python examples/ray_batch.py prompts.jsonl answers/ --model MODEL --actors 2

Every actor loads the model once and runs blocks of rows with continuous batching. Seeds follow from the run's
seed and the row's id, so a row that Ray runs again after a crash gives the same text.
"""

import argparse
from typing import Any

import numpy as np
import ray

from llama_cli.jobs.rows import seed_of


class Completer:
    """One actor: a session, and the settings of the run."""

    def __init__(self, model: str | None, max_tokens: int, temperature: float, seed: int, batch_size: int) -> None:
        import llama_cli

        self.session = llama_cli.load(model, batch_size=batch_size, dtype="fp32", threads=1)
        self.settings = {"max_tokens": max_tokens, "temperature": temperature}
        self.seed = seed

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, Any]:
        from llama_cli import Prompt, Sampling

        prompts = [
            Prompt(str(prompt), Sampling(seed=seed_of(self.seed, str(custom_id)), **self.settings))
            for custom_id, prompt in zip(block["id"], block["prompt"], strict=True)
        ]
        answers = self.session.complete(prompts)
        return {
            "id": block["id"],
            "prompt": block["prompt"],
            "text": np.array([answer.text for answer in answers], dtype=object),
            "finish_reason": np.array([answer.finish_reason for answer in answers], dtype=object),
        }


def complete_rows(
    rows: ray.data.Dataset,
    *,
    model: str | None = None,
    max_tokens: int = 64,
    temperature: float = 0.6,
    seed: int = 0,
    actors: int = 2,
    batch_size: int = 16,
    completer: type[Completer] = Completer,
) -> ray.data.Dataset:
    """Rows with `id` and `prompt` get `text` and `finish_reason`."""
    return rows.map_batches(
        completer,
        fn_constructor_args=(model, max_tokens, temperature, seed, batch_size),
        batch_size=4 * batch_size,
        # Half a processor each: Ray waits for ever, without a word, where actors take all there are.
        num_cpus=0.5,
        compute=ray.data.ActorPoolStrategy(size=actors),
        max_restarts=3,
        max_task_retries=3,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("input", help="JSONL with id and prompt")
    parser.add_argument("output", help="a folder for JSONL parts")
    parser.add_argument("--model")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--actors", type=int, default=2)
    options = parser.parse_args()
    complete_rows(
        ray.data.read_json(options.input),
        model=options.model,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        seed=options.seed,
        actors=options.actors,
    ).write_json(options.output)


if __name__ == "__main__":
    main()
