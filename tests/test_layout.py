"""The rooms of the repository: what may import what, what DVC must know, and what no file may hold."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from tests.repository import ROOT, dvc, git

TRACKED = [name for name in git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard").splitlines() if (ROOT / name).is_file()]
SOURCES = [name for name in TRACKED if name.endswith(".py")]
TEXTS = [n for n in TRACKED if n.endswith((".py", ".md", ".yaml", ".toml", ".sh")) or n in ("Makefile", ".ci/run", "LICENSE")]
SCRIPTS = {Path(name).stem for name in SOURCES if Path(name).parent == Path("stages") and not name.endswith("__init__.py")}


def imports(name: str, top_level: bool = False) -> list[str]:
    """Modules that a file imports, in order; `stages.x` for `from stages import x`. With `top_level`, not those inside functions."""
    tree = ast.parse((ROOT / name).read_text())
    found = []
    for node in tree.body if top_level else sorted(ast.walk(tree), key=lambda n: getattr(n, "lineno", 0)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            members = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [m if file_of(m) else node.module for m in members] if node.module.split(".")[0] in ("stages", "app", "tests") else [node.module]
    return found


def file_of(module: str) -> str | None:
    """The file of one of our modules."""
    path = module.replace(".", "/")
    return next((name for name in (f"{path}.py", f"{path}/__init__.py") if (ROOT / name).is_file()), None)


def reaches(name: str, top_level: bool = False) -> tuple[set[str], set[str]]:
    """Our own files that `name` imports, and theirs, and so on; and all modules imported on the way."""
    files, modules, waiting = set(), set(), [name]
    while waiting:
        for module in imports(waiting.pop(), top_level):
            modules.add(module)
            file = file_of(module)
            if file and file not in files:
                files.add(file)
                waiting.append(file)
    return files, modules


@pytest.mark.parametrize("name", [n for n in SOURCES if n.startswith(("stages/", "app/"))])
def test_imports_run_one_way(name: str) -> None:
    for module in imports(name):
        parts = module.split(".")
        if parts[0] == "stages" and len(parts) > 1:
            assert parts[1] not in SCRIPTS, f"{name} imports the script {module}"
        if name.startswith("stages/"):
            assert parts[0] not in ("app", "tests"), f"{name} imports {module}"
        if name.startswith("stages/runtime/"):
            assert parts[0] != "stages" or parts[1] == "runtime", f"{name} imports {module}"


def test_the_cpu_is_fixed_before_torch_and_numpy_load() -> None:
    assert imports("stages/__init__.py") == ["os"], "the package comes first in every stage, and must load nothing that reads these variables"
    shown = "import stages, torch; print(torch.backends.cpu.get_cpu_capability())"
    env = {k: v for k, v in os.environ.items() if k != "ATEN_CPU_CAPABILITY"}
    fixed = subprocess.run([sys.executable, "-c", shown], cwd=ROOT, env=env, check=True, capture_output=True, text=True)
    assert fixed.stdout.strip() == "AVX2"


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_a_script_that_uses_torch_fixes_threads_and_seeds(script: str) -> None:
    name = f"stages/{script}.py"
    if "torch" in {m.split(".")[0] for m in reaches(name)[1]}:
        assert "stages.runtime.determinism" in imports(name), f"{name} uses torch and does not import stages.runtime.determinism"


def test_dvc_knows_every_module_that_a_stage_imports() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    missing = []
    for stage, entry in stages.items():
        if entry.get("frozen"):
            continue
        missing += [f"{stage}: {file}" for file in ("stages/__init__.py", "requirements.lock") if file not in entry["deps"]]
        script = "train" if stage.startswith("train_") else stage
        files, _ = reaches(f"stages/{script}.py")
        missing += [
            f"{stage}: {file}"
            for file in sorted(files)
            if not file.endswith("__init__.py") and not any(file == dep or file.startswith(f"{dep}/") for dep in entry["deps"])
        ]
    assert missing == [], "imported, but not among the deps in dvc.yaml"


def test_the_graph_in_the_readme_is_the_graph() -> None:
    graph = dvc(ROOT, "dag", "--md").strip()
    assert graph in (ROOT / "README.md").read_text(), "put the output of `dvc dag --md` into README.md"


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_a_script_opens_with_its_usage_and_ends_in_run_main(script: str) -> None:
    text = (ROOT / f"stages/{script}.py").read_text()
    usage = ast.get_docstring(ast.parse(text)) or ""
    assert f"python -m stages.{script}" in usage
    assert text.endswith('if __name__ == "__main__":\n    run(main)\n')


@pytest.mark.parametrize("name", SOURCES)
def test_files_stay_short(name: str) -> None:
    assert len((ROOT / name).read_text().splitlines()) <= 450


#: Pieces are joined here, so that this file does not hold what it forbids.
FORBIDDEN = {
    "a note to self": "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X:"]),
    "a pickle": r"torch\.load\(|pickle\.load|allow_pickle=Tr" + "ue",
    "an edit of sys.path": r"sys\.path\.(insert|append)",
    "a bool as a type for argparse": r"type=boo" + r"l\b",
    "an error swallowed": r"except[^\n]*:\s*\n?\s*pas" + r"s\b",
    "a path of one machine": r"/(?:root|home|work|Users)/" + r"\w",
    "the address of a package index": "pypi" + r"\.org|python" + r"hosted|(?<!emit-)index-" + "url[ =]",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what: str) -> None:
    found = []
    for name in TEXTS:
        for match in re.finditer(FORBIDDEN[what], (ROOT / name).read_text()):
            found.append(f"{name}: {match.group()!r}")
    assert found == []


def test_the_lock_names_no_index_and_pins_every_requirement_by_hash() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert not re.search(FORBIDDEN["the address of a package index"], lock)
    pins: dict[str, list[str]] = {}
    for block in re.split(r"\n(?=[A-Za-z0-9])", lock):
        requirement = Requirement(block.split(" \\")[0].split("\n")[0])
        assert "--hash=sha256:" in block, requirement
        pins.setdefault(requirement.name.lower().replace("_", "-"), []).append(next(iter(requirement.specifier)).version)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        wanted = Requirement(text)
        assert all(wanted.specifier.contains(v) for v in pins[wanted.name.lower()]), f"requirements.lock does not satisfy {text}: make lock"


def test_no_weights_or_images_of_patients_are_tracked() -> None:
    large = [n for n in TRACKED if n.endswith((".safetensors", ".parquet", ".npz", ".dcm")) and not n.startswith("models/base/")]
    assert large == []
