"""Which file the last conversation with a model is kept in."""

import stat

import pytest

from llama_cli.chat.kept_conversations import claim_last, claim_new, forget_older
from llama_cli.errors import InputRejected, OutputFailed
from llama_cli.files.claim import InUse


@pytest.fixture(name="models")
def _models(tmp_path, monkeypatch):
    """Two folders of one name."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return [tmp_path / place / "Llama3.2-1B" for place in "ab"]


def keep(claim, text="x"):
    claim.path.write_text(text)
    claim.renew(claim.path)


def test_each_model_has_its_own(models):
    first, second = models
    with claim_new(first) as claim:
        keep(claim)
    with pytest.raises(InputRejected, match="no conversation with Llama3"):
        claim_last(second)
    with claim_last(first) as again:
        assert again.path == claim.path
        with pytest.raises(InUse):
            claim_last(first)
    assert stat.S_IMODE(claim.path.parent.stat().st_mode) == 0o700


def test_two_at_once_and_what_is_left_of_them(models):
    with claim_new(models[0]) as first, claim_new(models[0]) as second:
        keep(first)
        keep(second)
        assert first.path != second.path
        forget_older(first)
        assert second.path.exists()
    forget_older(second)
    assert not first.path.exists()
    with claim_last(models[0]) as last:
        assert last.path == second.path


def test_nothing_is_left_where_nothing_was_said(models):
    with claim_new(models[0]) as claim:
        pass
    assert list(claim.path.parent.iterdir()) == []


@pytest.mark.parametrize("mode", [0o777, 0o755])
def test_a_folder_that_others_may_look_into(models, tmp_path, mode):
    folder = tmp_path / "state/llama-cli/conversations"
    folder.mkdir(parents=True)
    folder.chmod(mode)
    with pytest.raises(OutputFailed, match="others may"):
        claim_new(models[0])


def test_a_folder_that_cannot_be_made(models, tmp_path):
    (tmp_path / "state").write_text("")
    with pytest.raises(OutputFailed) as caught:
        claim_new(models[0])
    assert caught.value.hint == "--no-session"
