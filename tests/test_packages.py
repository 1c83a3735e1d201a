"""What the wheel and the source distribution hold."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from llama_cli import __version__

ROOT = Path(__file__).parent.parent
DIST_INFO = f"llama_native-{__version__}.dist-info"
in_checkout = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")


def files_of_git():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


def build(folder, kind, out):
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)], cwd=folder, check=True)
    (built,) = out.iterdir()
    return built


def names_in(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return sorted(archive.namelist())


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The files of git, the link among them, with a model that lies beside them."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("checkout")
    for name in files_of_git():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    (folder / "toy-model").mkdir()
    (folder / "toy-model/consolidated.00.pth").write_bytes(b"x")
    return folder


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory):
    return build(checkout, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def unpacked(checkout, tmp_path_factory):
    """The folder in a source distribution."""
    sdist = build(checkout, "sdist", tmp_path_factory.mktemp("sdist"))
    assert sdist.stat().st_size < 25 << 20
    top = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(top, filter="data")
    (folder,) = top.iterdir()
    return folder


@in_checkout
def test_a_wheel_installs_nothing_beside_llama_cli(wheel):
    """A package called `tokenizer` was installed too, over that of another distribution."""
    names = names_in(wheel)
    assert {name.split("/")[0] for name in names} == {"llama_cli", DIST_INFO}
    assert f"{DIST_INFO}/licenses/LICENSE" in names


@in_checkout
def test_a_wheel_holds_every_module(wheel):
    tracked = {name for name in files_of_git() if name.startswith("llama_cli/") and name != "llama_cli/tokenizer"}
    tokenizer = {f"llama_cli/{name}" for name in files_of_git() if name.startswith("tokenizer/")}
    assert {name for name in names_in(wheel) if name.startswith("llama_cli/")} == tracked | tokenizer


@in_checkout
@pytest.mark.slow
def test_a_source_distribution_is_whole(unpacked):
    held = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    expected = {re.sub("^tokenizer/", "llama_cli/tokenizer/", name) for name in files_of_git()}
    assert held == expected - {"llama_cli/tokenizer"} | {"PKG-INFO"}


@in_checkout
@pytest.mark.slow
def test_a_source_distribution_makes_the_same_wheel(unpacked, wheel, tmp_path):
    assert names_in(build(unpacked, "wheel", tmp_path)) == names_in(wheel)


@in_checkout
@pytest.mark.slow
def test_the_tests_of_a_source_distribution_run(unpacked):
    files = ["tests/test_structure.py", "tests/tokenizer/test_spm.py", "tests/cli/test_tokenize.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", *files],
        cwd=unpacked,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
