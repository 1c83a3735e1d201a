"""Settings: flag > environment > config.toml > model > default, and nothing misspelt passes."""

import dataclasses
import json
import os

import pytest
from helpers.models import DATA

from llama_cli.cli.app import main
from llama_cli.cli.options import is_setting
from llama_cli.cli.settings import config_file, schema
from llama_cli.engine.request import Sampling
from llama_cli.options import LoadOptions

TINY = str(DATA / "tiny/bpe1024")


@pytest.fixture(name="file")
def _file(tmp_path, monkeypatch):
    """An own config.toml, and no variable but that which names it."""
    for name in [name for name in os.environ if name.startswith("LLAMA_CLI_")]:
        monkeypatch.delenv(name)
    path = tmp_path / "config.toml"
    path.write_text("")
    monkeypatch.setenv("LLAMA_CLI_CONFIG", str(path))
    return path


@pytest.fixture(name="run")
def _run(capfdbinary, file):
    def run(*arguments):
        code = main(list(map(str, arguments)))
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return run


@pytest.fixture(name="settings")
def _settings(run):
    """What `config --json` shows: each setting as (value, source)."""

    def settings(*arguments):
        code, out, _ = run("config", "--json", *arguments)
        assert code == 0
        return {name: (each["value"], each["source"]) for name, each in json.loads(out)["settings"].items()}

    return settings


def test_the_order(settings, file, monkeypatch):
    assert settings()["temperature"] == (0.6, "default")
    file.write_text("temperature = 0.1\n")
    assert settings()["temperature"] == (0.1, str(file))
    monkeypatch.setenv("LLAMA_CLI_TEMPERATURE", "0.2")
    assert settings()["temperature"] == (0.2, "LLAMA_CLI_TEMPERATURE")
    assert settings("--temperature", 0.3)["temperature"] == (0.3, "flag")


def test_what_is_left_open_comes_from_the_model(settings, file):
    length, source = settings("-m", TINY)["max_seq_len"]
    assert source.startswith("model: ")
    assert settings("-m", TINY)["dtype"] == ("auto", "model: stored as bfloat16")
    file.write_text(f"max_seq_len = {length - 1}\n")
    assert settings("-m", TINY)["max_seq_len"] == (length - 1, str(file))


def test_every_field_of_the_flags_is_a_setting(settings):
    fields = [*dataclasses.fields(LoadOptions), *dataclasses.fields(Sampling)]
    wanted = {field.name for field in fields if is_setting(field.name)} | {"stdin", "keep_session"}
    assert set(settings()) == wanted == set(schema().model_fields)


@pytest.mark.parametrize("name", sorted(schema().model_fields))
def test_every_setting_can_be_made_in_each_way(name, settings, file, monkeypatch):
    values = {"model": TINY, "tokenizer": TINY + "/tokenizer.model", "dtype": "fp32", "device": "cpu"}
    values |= {"mmap": False, "ignore_eos": True, "rope_scale_factor": 4.0, "quantize": "int8", "kernels": "plain"}
    values |= {"compile": True, "stdin": False, "keep_session": False}
    value = values.get(name, 1)
    text = str(value).lower() if isinstance(value, bool) else value
    monkeypatch.setenv(f"LLAMA_CLI_{name.upper()}", str(text))
    assert settings()[name] == (value, f"LLAMA_CLI_{name.upper()}")
    monkeypatch.delenv(f"LLAMA_CLI_{name.upper()}")
    file.write_text(f"{name.replace('_', '-')} = {json.dumps(value)}\n")
    assert settings()[name] == (value, str(file))


def test_commands_obey(run, file, monkeypatch):
    file.write_text(f'model = "{TINY}"\ntemperature = 0\nmax_tokens = 7\nseed = 5\n')
    code, out, err = run("complete", "Hello", "--json")
    answer = json.loads(out)
    assert (code, err) == (0, "")
    assert (answer["model"], answer["seed"], len(answer["token_ids"])) == ("bpe1024", 5, 7)
    monkeypatch.setenv("LLAMA_CLI_MAX_TOKENS", "3")
    assert len(json.loads(run("complete", "Hello", "--json")[1])["token_ids"]) == 3
    assert len(json.loads(run("complete", "Hello", "--json", "-n", 2)[1])["token_ids"]) == 2
    assert run("tokenize", "Hello", "--count")[::2] == (0, "")


def test_a_setting_is_for_the_flag_it_means(run, file):
    """score has a --max-tokens too, and means another thing by it."""
    file.write_text("max_tokens = 2\n")
    assert json.loads(run("score", "-m", TINY, "Hello there, world", "--json")[1])["tokens"] > 2


@pytest.mark.parametrize(
    ("text", "fragment", "hint"),
    [
        ("temprature = 1", "'temprature' is no setting", "did you mean temperature?"),
        ("max_token = 1", "'max_token' is no setting", "did you mean max_tokens?"),
        ("stop = ['a']", "'stop' is no setting", "it belongs to one request"),
        ("[chat]\nx = 1", "'chat' is no setting", "llama-cli config lists all settings"),
        ('stop = "x"', "'stop' is no setting", ""),
        ("temperature = 99", "temperature: Input should be less than or equal to 10, is 99", "edit it"),
        ("temperature = 0.001", "temperature must be 0 (greedy) or between", "edit it"),
        ('temperature = "1"', "temperature: Input should be a valid number, is 1", "edit it"),
        ("threads = 0", "threads: Input should be greater than or equal to 1, is 0", "edit it"),
        ("rope_scale_factor = inf", "rope_scale_factor: Input should be a finite number, is inf", "edit it"),
        ("tp = 1025", "tp: Input should be less than or equal to 1024, is 1025", "edit it"),
        ("batch-size = 4097", "batch_size: Input should be less than or equal to 4096", "edit it"),
        ("chat_template = 'llama2'", "'chat_template' is no setting", ""),
        ("top_k = 1.5", "top_k: Input should be a valid integer", "edit it"),
        ('dtype = "int3"', "dtype: Input should be 'auto', 'bf16', 'fp16' or 'fp32'", "edit it"),
        ("max_tokens = 1\nmax-tokens = 2", "there twice", "edit it"),
        ("temperature 1", "line 1", "LLAMA_CLI_CONFIG=/dev/null"),
        ("temperature = 1\ntemperature = 2", "overwrite a value", "edit it"),
        (b"\xff", "it is not valid UTF-8 at byte 0", "edit it"),
        ("#" * (1 << 20) + "\n", "it has more than", "edit it"),
    ],
)
def test_a_broken_file_is_refused_with_its_name(text, fragment, hint, run, file):
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    for arguments in (["complete", "x"], ["config"], ["models"]):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith(f"llama-cli: error: {file}: ")
        assert fragment in err
        assert hint in err
        assert len(err.splitlines()) == 2


def test_help_comes_even_then(run, file):
    file.write_text("no toml")
    assert run("complete", "--help")[0] == 0
    assert run("--version")[0] == 0


def test_a_file_that_is_named_must_be_there(run, file, monkeypatch):
    file.unlink()
    code, _, err = run("config")
    assert (code, "there is no" in err) == (2, True)
    monkeypatch.setenv("LLAMA_CLI_CONFIG", os.devnull)
    assert run("config")[0] == 0


def test_where_the_file_is(file, monkeypatch, tmp_path):
    assert config_file() == file
    monkeypatch.delenv("LLAMA_CLI_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config_file().name == "config.toml"
    assert config_file().parent.name == "llama-cli"
    assert tmp_path in config_file().parents


def test_a_variable_that_nothing_looks_at(run, monkeypatch):
    monkeypatch.setenv("LLAMA_CLI_TEMPRATURE", "1")
    told = "llama-cli: LLAMA_CLI_TEMPRATURE is no setting: did you mean LLAMA_CLI_TEMPERATURE?"
    assert run("config")[2].splitlines() == [told]
    assert run("models")[2].splitlines() == [told], "it set nothing, without a word"
    assert run("models", "-q")[2] == ""
    monkeypatch.delenv("LLAMA_CLI_TEMPRATURE")
    monkeypatch.setenv("LLAMA_CLI_KITT", "1")
    assert "nothing looks at it" in run("config")[2], "what all names begin with is not near"


def test_a_variable_with_a_bad_value_is_named(run, monkeypatch):
    monkeypatch.setenv("LLAMA_CLI_TEMPERATURE", "hot")
    code, _, err = run("complete", "x")
    assert code == 2
    assert "LLAMA_CLI_TEMPERATURE" in err


def test_a_value_of_the_file_that_no_flag_takes_is_named(run, file):
    file.write_text("threads = 0\n")
    code, _, err = run("complete", "x")
    assert code == 2
    assert str(file) in err


@pytest.mark.parametrize(("name", "value"), [("threads", "0"), ("temperature", "99"), ("tp", "2000"), ("top_p", "-1")])
def test_a_value_of_the_environment_that_no_flag_takes_is_named(name, value, run, file, monkeypatch):
    monkeypatch.setenv(f"LLAMA_CLI_{name.upper()}", value)
    code, _, err = run("complete", "x")
    assert code == 2
    assert err.splitlines()[0].endswith(f" (from LLAMA_CLI_{name.upper()})")
    assert f", is {value}" in err


def test_a_model_that_cannot_be_read(run):
    code, out, err = run("config", "-m", "/nowhere")
    assert (code, err.count("\n")) == (0, 1)
    assert "/nowhere" in out
    assert "of the model nothing is known" in err


@pytest.mark.usefixtures("file")
def test_a_pipe_in_the_place_of_the_file_is_not_waited_for(run, tmp_path, monkeypatch):
    """Every command waited for ever for somebody to write into it."""
    monkeypatch.delenv("LLAMA_CLI_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "llama-cli").mkdir()
    os.mkfifo(tmp_path / "llama-cli/config.toml")
    code, _, err = run("config")
    assert (code, "it is a pipe" in err) == (2, True), err
