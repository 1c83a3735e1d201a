"""A saved cache is used as it was written, or not at all."""

import os
import random

import pytest
import torch
from helpers.models import DATA
from safetensors.torch import load, save

import llama_cli
from llama_cli.chat.cache_file import _checksum, load_cache, save_cache
from llama_cli.errors import InputRejected, OutputRefused

SAMPLING = llama_cli.Sampling(max_tokens=4, temperature=0)


@pytest.fixture(scope="module")
def session():
    return llama_cli.load(DATA / "tiny/gqa", max_seq_len=64, dtype="fp32")


@pytest.fixture
def saved(session, tmp_path):
    session.complete("Hello", SAMPLING)
    path = tmp_path / "talk.cache"
    save_cache(path, session)
    return path


def held(session):
    return list(session.engine.scheduler.slots[0].held)


def forget(session):
    session.engine.scheduler.slots[0].held = []
    session.engine.runner.clear(0)


def test_there_and_back(session, saved):
    before, keys = held(session), session.engine.runner.cache.read(0, 3)[0]
    forget(session)
    assert load_cache(saved, session) == len(before)
    assert held(session) == before
    assert torch.equal(session.engine.runner.cache.read(0, 3)[0], keys)


@pytest.mark.promise("P23")
def test_no_mutation_is_believed(session, saved, mutations, record_property):
    """26 of 250 changed the answer, 15 ended every start."""
    record_property("cases", mutations)
    whole, random_ = saved.read_bytes(), random.Random(7)
    forget(session)
    for _ in range(mutations):
        data = bytearray(whole)
        match random_.randrange(4):
            case 0:
                data[random_.randrange(len(data))] ^= 1 << random_.randrange(8)
            case 1:
                del data[random_.randrange(len(data)) :]
            case 2:
                place = random_.randrange(len(data))
                data[place:place] = random_.randbytes(random_.randrange(1, 40))
            case 3:
                data[random_.randrange(min(600, len(data)))] = random_.randrange(256)
        if data == whole:
            continue
        saved.write_bytes(data)
        with pytest.raises(InputRejected) as caught:
            load_cache(saved, session)
        assert caught.value.hint == "the conversation goes on without it"
        assert held(session) == []


@pytest.fixture(params=[250, pytest.param(2000, marks=pytest.mark.slow)])
def mutations(request):
    return request.param


def rewrite(path, session, **changed):
    """The same with other tensors, and a checksum that is theirs."""
    tensors = {**load(path.read_bytes()), **changed}
    about = {"fingerprint": session.info.fingerprint}
    path.write_bytes(save(tensors, about | {"sha256": _checksum(tensors, about)}))


def test_whole_files_that_do_not_fit(session, saved):
    keys = load(saved.read_bytes())["keys"]
    rewrite(saved, session, keys=keys.bfloat16())
    with pytest.raises(InputRejected, match="has not the shape"):
        load_cache(saved, session)
    rewrite(saved, session, keys=keys[:, :, :2].contiguous())
    with pytest.raises(InputRejected, match="has not the shape"):
        load_cache(saved, session)
    rewrite(saved, session, keys=keys * torch.nan)
    with pytest.raises(InputRejected, match="NaN or infinity"):
        load_cache(saved, session)


def test_what_is_planted_is_not_followed(session, saved, tmp_path):
    real = tmp_path / "real"
    saved.rename(real)
    saved.symlink_to(real)
    with pytest.raises(InputRejected, match="not a plain file of yours"):
        load_cache(saved, session)
    saved.unlink()
    os.mkfifo(saved)
    with pytest.raises(InputRejected, match="not a plain file of yours"):
        load_cache(saved, session)
    with pytest.raises(OutputRefused, match="not a plain file of yours"):
        save_cache(saved, session)
