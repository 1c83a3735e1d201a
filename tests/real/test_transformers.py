"""transformers reads the folders that `convert --format hf` writes: the same ids, logits and greedy texts."""

import re
import warnings

import pytest
from helpers.models import needs_kit
from real.judges import judge
from real.shell import answers, ended, write_rows
from real.texts import PROMPTS, two_hundred

from llama_cli.checkpoint.tokenizer_file import tokenizer_of

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore")]
NAMES = ["smollm2", "pieces"]
DIALOG = [
    {"role": "system", "content": "You are a helpful AI assistant."},
    {"role": "user", "content": "What is gravity?"},
    {"role": "assistant", "content": "A force."},
    {"role": "user", "content": "Who found it?"},
]


@pytest.fixture(scope="module", params=NAMES, name="name")
def _name(request):
    return request.param


@pytest.fixture(scope="module", name="ours")
def _ours(name, models):
    """The model in float32 as it was before."""
    return models["smollm2-fp32" if name == "smollm2" else "stories"]


@pytest.fixture(scope="module", name="folder")
def _folder(name, models):
    return models[f"{name}-hf-fp32"]


@pytest.fixture(scope="module", name="tokenizer")
def _tokenizer(folder):
    return judge("transformers").AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module", name="model")
def _model(folder):
    torch, transformers = judge("torch"), judge("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_the_same_ids(ours, tokenizer):
    """Of 200 texts, the begin token included where there is one."""
    vocabulary = tokenizer_of(ours)
    begin = [] if vocabulary.bos_id is None else [vocabulary.bos_id]
    for text in two_hundred():
        assert tokenizer(text)["input_ids"] == begin + vocabulary.encode(text), repr(text)


def test_the_same_text_of_ids(ours, tokenizer):
    vocabulary = tokenizer_of(ours)
    for text in two_hundred():
        ids = vocabulary.encode(text)
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_same_logits_and_greedy_text(prompt, ours, model):
    """Log-probabilities of every token of the prompt, of the likeliest beside it, and 16 greedy tokens."""
    torch = judge("torch")
    flags = ["-n", "16", "-t", "0", "--prompt-logprobs", "--top-logprobs", "5", "--logprobs"]
    (answer,) = answers("complete", prompt, "-m", ours, *flags)
    ids = answer["prompt_token_ids"]
    with torch.inference_mode():
        known = torch.tensor([ids + answer["token_ids"]])
        theirs = model(known).logits[0].log_softmax(-1)
        made = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            generation_config=judge("transformers").GenerationConfig(
                max_new_tokens=16, do_sample=False, pad_token_id=0
            ),
        )
    assert made[0, len(ids) :].tolist() == answer["token_ids"]
    reported = answer["prompt_logprobs"][1:] + answer["logprobs"]
    assert len(reported) == known.shape[1] - 1
    for place, one in enumerate(reported):
        for each in [one, *one["top_logprobs"]]:
            assert each["logprob"] == pytest.approx(theirs[place, each["token_id"]].item(), abs=1e-3)


@pytest.mark.parametrize(
    ("name", "template"), [("smollm2-hf-fp32", "chatml"), pytest.param("pieces-chat-hf", "llama2", marks=needs_kit)]
)
def test_the_same_dialog(name, template, models, tmp_path):
    """Their template makes the ids of ours."""
    tokenizer = judge("transformers").AutoTokenizer.from_pretrained(models[name])
    talk = write_rows(tmp_path / "talk.jsonl", [{"messages": DIALOG[:-1]}])
    asked = ["chat", DIALOG[-1]["content"], "-m", models[name.partition("-hf")[0]], "--chat-template", template]
    shown = ended(*asked, "--session", talk, "--continue", "--show-prompt", "-n", "1").stderr.decode()
    ids = [int(number) for number in re.search(r"its ids: ([\d ]+)", shown)[1].split()]
    assert ids == tokenizer.apply_chat_template(DIALOG, add_generation_prompt=True, return_dict=False)
