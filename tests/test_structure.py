"""The pages show what is there, and the rules of the sources hold."""

import ast
import re
from pathlib import Path

from llama_cli import __version__

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
SOURCES = [*(ROOT / "llama_cli").rglob("*.py"), *(ROOT / "llama_cli/tokenizer").glob("*.py")]  # the latter is a link


def tree_of_folders():
    """The paths of the tree in docs/architecture.md, each with its comment."""
    block = next(part for part in ARCHITECTURE.split("```text\n") if part.startswith("llama_cli/ "))
    paths, stack = {}, []
    for line in block.partition("```")[0].strip("\n").splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, comment = line.strip().partition(" ")
        stack[depth:] = [name]
        paths["".join(stack)] = comment.strip()
    return paths


def test_the_tree_has_every_folder_and_every_loose_module():
    shown = tree_of_folders()
    for path, comment in shown.items():
        homes = (ROOT, ROOT / "llama_cli")  # a source distribution has tokenizer/ where the link to it stands
        assert any((home / path).exists() for home in homes), f"docs/architecture.md shows {path}"
        assert comment, f"{path} has no comment"
    folders = {f"{path.parent.relative_to(ROOT)}/" for path in SOURCES} - {"llama_cli/tokenizer/"}
    loose = {f"llama_cli/{path.name}" for path in (ROOT / "llama_cli").glob("[!_]*.py")} - {"llama_cli/worker.py"}
    assert not (folders | loose) - shown.keys()


def test_every_file_says_in_its_docstring_what_it_owns():
    silent = [
        str(path) for path in SOURCES if path.stat().st_size and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent


def test_the_readme_is_one_screen_or_two():
    """It was a manual, a design document and a lab report in one: these have pages of their own."""
    assert len(README.splitlines()) <= 140


def test_the_citation_names_the_version_that_is_here():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_site_leads_to_every_page():
    shown = set(re.findall(r'"([\w/-]+\.md)"', (ROOT / "zensical.toml").read_text()))
    assert shown == {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}


def anchors_of(page):
    """What its headings are called in links, on a site and where repositories are shown."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            name, _, anchor = target.partition("#")
            if not name.startswith("http"):
                leads_to = page.parent / name if name else page
                assert leads_to.exists(), f"{page.name}: {target}"
                assert not anchor or anchor in anchors_of(leads_to), f"{page.name}: {target}"


def test_the_readme_names_every_command():
    table = README.partition("\n## Commands\n")[2].partition("\n## ")[0]
    commands = {path.stem for path in (ROOT / "docs/reference").glob("*.md")} - {"index", "help"}
    assert not [name for name in commands if f"`{name}`" not in table]


def test_lines_of_pages_are_short():
    """But for those of tables, which cannot be broken."""
    long = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in PAGES
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if len(line) > 120 and not line.startswith("|")
    ]
    assert not long


def test_all_import_the_tokenizer_by_the_name_that_is_installed():
    """`import tokenizer` works in a checkout alone, and there its classes would exist twice."""
    named = re.compile(r"^\s*(?:from|import) tokenizer\b", re.MULTILINE)
    folders = ("llama_cli", "llama_cli/tokenizer", "tests", "benchmarks", "examples")
    assert not [path for name in folders for path in (ROOT / name).rglob("*.py") if named.search(path.read_text())]


def test_no_test_imports_another():
    """What several need lies in tests/helpers, which imports none of them."""
    files = (ROOT / "tests").rglob("*.py")
    folders = "|".join(path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "helpers")
    of_a_test = re.compile(rf"^\s*(?:from|import) (?:tests\b|test_|(?:{folders})\.test_)", re.MULTILINE)
    assert not [path for path in files if of_a_test.search(path.read_text())]


def test_no_pickle_is_loaded():
    """A bare torch.load would run the pickle under TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1."""
    assert not [path.name for path in SOURCES if re.search(r"torch\.load\(|pickle\.loads?\(", path.read_text())]


def test_nothing_of_the_building_machine_is_named():
    for path in [*PAGES, ROOT / "Makefile", ROOT / "pyproject.toml", *SOURCES]:
        assert not re.search(r"/work/|/tmp/w/|pypi\.org|files\.pythonhosted", path.read_text()), path


def spelled(tree, names):
    """Which of `names` stand in the code as attributes or in texts, docstrings aside."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None
    }
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    ]
    return {name for name in names if name in attributes or any(re.search(rf"\b{name}\b", text) for text in texts)}


def test_a_layers_weights_are_spelled_by_the_table_the_model_and_a_column_for_each_format():
    """More places would each have to learn a new kind of layer; the kernels' structure is compared with the table."""
    from llama_cli.model.weights import LLAMA_LAYER

    names = {spec.module for spec in LLAMA_LAYER}
    found = {str(path.relative_to(ROOT / "llama_cli")): spelled(ast.parse(path.read_text()), names) for path in SOURCES}
    assert {path for path, several in found.items() if len(several) > 3} == {
        "model/weights.py",
        "model/llama.py",
        "checkpoint/huggingface.py",
        "convert/gguf.py",
    }
    few = {path: several for path, several in found.items() if 0 < len(several) <= 3}
    assert few.keys() <= {"toy/train.py"}, few


def test_the_kernels_structure_has_the_weights_of_the_table_in_its_order():
    from llama_cli.model.weights import LLAMA_LAYER

    source = (ROOT / "llama_cli/backends/native/attention.h").read_text()
    fields = source.partition("struct Layer {")[2].partition("};")[0]
    names = re.findall(r"\w+", re.search(r"Matrix ([^;]*);", fields)[1]) + re.findall(r"const float\* (\w+);", fields)
    assert names == [spec.module for spec in sorted(LLAMA_LAYER, key=lambda spec: not spec.is_linear)]
