"""What `make install` takes: versions that are tested, files by their hashes."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\\n]+)", re.MULTILINE)


def pinned(name):
    """The versions that a file names, by the names of the packages as indexes spell them."""
    return {package.lower().replace("_", "-"): version for package, version in PIN.findall((ROOT / name).read_text())}


@pytest.mark.parametrize("name", ["requirements-ci.txt", "requirements-build.txt"])
def test_all_that_is_installed_has_hashes_but_torch(name):
    whole = re.split(r"(?<!\\)\n", (ROOT / name).read_text().strip())
    asked = [requirement for requirement in whole if not requirement.startswith("#")]
    assert len(asked) > 5
    assert all(re.search(r"==.*--hash=sha256:[0-9a-f]{64}", requirement, re.DOTALL) for requirement in asked)
    assert "torch" not in pinned(name)


def test_hashes_are_of_the_versions_that_are_tested():
    hashed, tested = pinned("requirements-ci.txt"), pinned("constraints.txt")
    assert {name: hashed[name] for name in hashed.keys() & tested.keys()} == {
        name: tested[name] for name in hashed.keys() & tested.keys()
    }
    judges = {"jq", "openai", "pandas", "protobuf", "transformers", "xllamacpp"}  # of `make test-real`
    assert tested.keys() - hashed.keys() == {"torch", "tomli"} | judges
