"""Where the text of /copy goes."""

import base64

import pytest

from llama_cli.cli.clipboard import copy_to_clipboard
from llama_cli.cli.terminal import Terminal

TEXT = "```\ncode  \n```\n漢字 \x1b[31m"


class Asked:
    """A terminal that is asked."""

    def __init__(self):
        self.texts = []

    def copy(self, text):
        self.texts.append(text)


@pytest.fixture(name="programs")
def _programs(tmp_path, monkeypatch):
    """Clipboard programs that write what they get into a file, and no desktop."""
    for name in ("SSH_CONNECTION", "WAYLAND_DISPLAY", "DISPLAY", "WSL_DISTRO_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("wl-copy", "xclip", "clip.exe"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\n[ -z "$FAILS" ] && exec /bin/cat > "{tmp_path}/copied-{name}"\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_a_desktop_has_a_program_for_it(programs, monkeypatch):
    asked = Asked()
    for variable, name in (("WSL_DISTRO_NAME", "clip.exe"), ("DISPLAY", "xclip"), ("WAYLAND_DISPLAY", "wl-copy")):
        monkeypatch.setenv(variable, "x")
        assert copy_to_clipboard(TEXT, asked) == f"with {name}"
        assert (programs / f"copied-{name}").read_text() == TEXT
    assert asked.texts == []


def test_elsewhere_the_terminal_is_asked(programs, monkeypatch):
    """Without a desktop, far away over ssh, and where the program cannot do it."""
    asked = Asked()
    assert "OSC 52" in copy_to_clipboard(TEXT, asked)
    monkeypatch.setenv("DISPLAY", "x")
    monkeypatch.setenv("FAILS", "1")
    assert "OSC 52" in copy_to_clipboard(TEXT, asked)
    monkeypatch.delenv("FAILS")
    monkeypatch.setenv("SSH_CONNECTION", "here there")
    assert "OSC 52" in copy_to_clipboard(TEXT, asked)
    assert asked.texts == [TEXT] * 3
    assert not list(programs.glob("copied-*"))


def test_what_is_sent_holds_nothing_but_base64(capfdbinary):
    """The text itself cannot end the sequence and begin another."""
    Terminal().copy("\x07\x1b]0;title\x07 漢")
    sent = capfdbinary.readouterr().out
    assert sent.startswith(b"\x1b]52;c;")
    assert sent.endswith(b"\x07")
    assert base64.b64decode(sent[7:-1]).decode() == "\x07\x1b]0;title\x07 漢"
