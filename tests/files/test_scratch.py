"""Folders of a process: private, gone at its end, and cleared by the next one where it was killed."""

import os
import stat

from llama_cli.files.own import lock
from llama_cli.files.scratch import Scratch

PREFIX = "working-"


def test_it_is_there_as_long_as_it_is_used(tmp_path):
    with Scratch(tmp_path, PREFIX) as folder:
        (folder / "file").touch()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert os.listdir(tmp_path) == []


def test_what_a_killed_program_left_is_cleared(tmp_path):
    names = ["killed", "young", "held", "open-to-others", "link"]
    killed, young, held, others, link = (tmp_path / f"{PREFIX}{name}" for name in names)
    elsewhere = tmp_path / "elsewhere"
    for folder in (killed, young, held, others, elsewhere):
        folder.mkdir(0o700)
        (folder / "store").touch()
    link.symlink_to(elsewhere)
    others.chmod(0o777)
    for folder in (killed, held, others, elsewhere):
        os.utime(folder, (0, 0))
    handle = os.open(held, os.O_RDONLY)
    assert lock(handle)
    with Scratch(tmp_path, PREFIX):
        pass
    os.close(handle)
    assert sorted(os.listdir(tmp_path)) == sorted([young.name, held.name, others.name, link.name, elsewhere.name])
    assert (elsewhere / "store").exists()
