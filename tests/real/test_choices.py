"""`score --choices` gives what lm-evaluation-harness gives: its cut of context and continuation, another's logits."""

import pytest
from helpers.models import needs_kit
from real.judges import judge
from real.shell import answers, rows_of, run, write_rows

from llama_cli.checkpoint.tokenizer_file import tokenizer_of

NAMED = "Once upon a time, there was a little girl named"
CASES = [
    (NAMED, [" Lily", " Sue", " Tim"]),
    (NAMED + " ", ["Lily", "Sue", "Tim"]),
    ("Lily had a", [" dog", " doll", " dress and a hat"]),
    ("One day, Tim went to the park.\n", ["He saw a dog.", "She", "\nThe end"]),
    ("The number is 1", ["2", "0 and", "."]),
]


def cut(encode, context, continuation):
    """lm_eval.api.model.TemplateLM._encode_pair, lm-eval 0.4.13, in words of ours.

    White space at the context's end is moved to the continuation. What lies behind as many ids as the context alone
    has, among the ids of the whole, is the continuation. (Inside a word that may be nothing: see docs/score.md.)
    """
    bare = context.rstrip()
    continuation = context[len(bare) :] + continuation
    before, whole = encode(bare), encode(bare + continuation)
    return whole, len(before)


@needs_kit
@pytest.mark.parametrize(("choice", "nats"), [(" Lily", 0.0766), (" Sue", 4.4341), (" Tim", 8.1189)])
def test_the_girls_name(choice, nats, models):
    """In float32, on a trained SentencePiece model: the nats of lm-eval on transformers."""
    (row,) = answers("score", NAMED, "--choices", choice, "--choices", " x", "-m", models["stories"], "-q")
    assert row["choices"][0]["nats"] == pytest.approx(nats, abs=2e-4)


@pytest.mark.real
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["smollm2", "stories"])
def test_choices_are_lm_evals(name, models, tmp_path):
    torch, transformers = judge("torch"), judge("transformers")
    ours = models["smollm2-fp32" if name == "smollm2" else "stories"]
    theirs = models["smollm2-hf-fp32" if name == "smollm2" else "pieces-hf-fp32"]
    model = transformers.AutoModelForCausalLM.from_pretrained(theirs, dtype=torch.float32).eval()
    tokenizer = tokenizer_of(ours)
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    rows = [{"prompt": context, "choices": choices} for context, choices in CASES]
    printed = rows_of(run("score", "--rows", write_rows(tmp_path / "in.jsonl", rows), "-m", ours, "-q"))
    for (context, choices), row in zip(CASES, printed, strict=True):
        for choice, one in zip(choices, row["choices"], strict=True):
            whole, n_before = cut(lambda text: begin + tokenizer.encode(text), context, choice)
            with torch.inference_mode():
                logprobs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            nats = -sum(logprobs[place - 1, whole[place]].item() for place in range(n_before, len(whole)))
            assert one["nats"] == pytest.approx(nats, abs=2e-3), (context, choice)
