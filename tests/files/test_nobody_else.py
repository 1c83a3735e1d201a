"""What is the owner's alone is so at every moment: another user tries all the time, and gets nothing."""

import os
import signal
import stat
import tempfile
from pathlib import Path

import pytest
from helpers.models import DATA

from llama_cli.chat.conversation import Branch, Conversation
from llama_cli.chat.transcript import Origin, write_conversation
from llama_cli.files.private import make_private
from llama_cli.files.write import replace_file
from llama_cli.tokenizer import load_tokenizer
from llama_cli.tokenizer.chat import Message

pytestmark = [
    pytest.mark.promise("P25"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user"),
]
ANOTHER = 65534
SAVES = 200


def spy(folder, told):
    """Open whatever is in a folder for reading and for writing, until told to end; tell of the first success."""
    os.setgid(ANOTHER)
    os.setuid(ANOTHER)
    while True:
        for entry in os.scandir(folder):
            for flags in (os.O_RDONLY, os.O_WRONLY):
                try:
                    handle = os.open(entry.path, flags)
                except OSError:
                    continue
                if stat.S_ISREG(os.fstat(handle).st_mode):
                    os.write(told, entry.name.encode() + b"\n")
                    os._exit(1)
                os.close(handle)


@pytest.fixture
def watched():
    """A folder that everybody may look into, with somebody who does; a umask of nothing."""
    before = os.umask(0)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o755)
        reading, telling = os.pipe()
        child = os.fork()
        if not child:
            spy(folder, telling)
        os.close(telling)
        yield folder
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = os.read(reading, 1000)
        os.close(reading)
        os.umask(before)
        assert not found, f"another user opened {found.decode()}"


def test_a_session(watched, record_property):
    """Another user read it after 33 saves: it was made private after it was made."""
    record_property("cases", SAVES)
    origin = Origin("m", "f", load_tokenizer(DATA / "tiny/gqa/tokenizer.model"))
    talk = Conversation({"main": Branch((Message("user", "secret" * 100), Message("assistant", "x")))}, "main")
    for _ in range(SAVES):
        write_conversation(watched / "talk.jsonl", talk, origin)


def test_any_private_file(watched, record_property):
    record_property("cases", SAVES)
    for _ in range(SAVES):
        replace_file(watched / "talk.cache", iter([b"secret"] * 100), private=True)
        (watched / "talk.cache").unlink()


def test_a_private_folder(watched, record_property):
    record_property("cases", SAVES)
    for number in range(SAVES):
        folder = make_private(watched / f"a{number}" / "b")
        assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
