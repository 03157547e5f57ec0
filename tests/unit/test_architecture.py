"""The house: import direction, packages that stay free of torch, public names, packaging."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "sharpose_rt"

# Lower levels never import higher ones. Packages of levels 4 and 5 do not import each other but for NEIGHBOURS.
LEVELS = {
    **dict.fromkeys(("errors", "skeleton", "machine"), 1),
    **dict.fromkeys(("types", "runtime"), 2),
    **dict.fromkeys(("geometry", "config", "compute"), 3),
    **dict.fromkeys(("models", "engine", "detection", "tracking", "media", "skeletons", "labels"), 4),
    **dict.fromkeys(("stages", "training", "evaluation", "export", "live"), 5),
    **dict.fromkeys(("graph", "outputs", "app", "several", "replay", "collect", "api", "bench"), 6),
    **dict.fromkeys(("cli", "commands", "__main__", "__init__"), 7),
}
NEIGHBOURS = {
    ("engine", "models"),
    ("detection", "labels"),
    ("detection", "models"),
    ("labels", "media"),
    ("live", "stages"),
    ("skeletons", "labels"),
}
FOLDERS = {"sharpose_rt", "pipelines", "configs", "tests", "samples"}
FILES = {"pyproject.toml", "README.md", "BENCHMARKS.md", "CHANGELOG.md", "LICENSE"}
TORCH_FREE = ("errors", "skeleton", "machine", "types", "runtime", "config", "tracking", "media", "skeletons", "labels")


def _modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _home(path: Path) -> str:
    part = path.relative_to(PACKAGE).parts[0]
    return part.removesuffix(".py")


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names if node.module == "sharpose_rt")
        elif isinstance(node, ast.ImportFrom):
            raise AssertionError(f"{path} uses a relative import; name the whole package")
    return names


def test_nothing_strays_into_the_top_level() -> None:
    kept = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not kept:
        pytest.skip("not a git checkout")
    assert {name.split("/")[0] for name in kept if not name.startswith(".")} == FOLDERS | FILES


def test_every_module_has_a_level() -> None:
    assert {_home(p) for p in _modules()} - {"weights", "configs"} <= set(LEVELS)


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_import_direction(path: Path) -> None:
    home = _home(path)
    if home == "__init__":  # the public names, looked up late
        return
    for name in _imports(path):
        head, _, rest = name.partition(".")
        if head != "sharpose_rt" or not rest:
            continue
        other = rest.partition(".")[0]
        if other == home or other not in LEVELS:
            continue
        assert LEVELS[other] <= LEVELS[home], f"{path} ({home}) imports {other}, which stands higher"
        if LEVELS[other] == LEVELS[home] and LEVELS[home] in (4, 5):
            assert (home, other) in NEIGHBOURS, f"{path} ({home}) imports its neighbour {other}"


@pytest.mark.parametrize("path", [p for p in _modules() if _home(p) in TORCH_FREE], ids=lambda p: p.stem)
def test_no_torch_where_it_is_not_needed(path: Path) -> None:
    heavy = {name for name in _imports(path) if name.split(".")[0] in ("torch", "torchvision", "ultralytics")}
    assert not heavy


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys; from sharpose_rt.cli import build_parser; build_parser(); "
        "print([m for m in ('torch', 'cv2', 'av', 'ultralytics', 'matplotlib', 'scipy', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_public_names_exist() -> None:
    import sharpose_rt

    assert sorted(sharpose_rt.__all__) == ["Frame", "PoseTracker", "Poses", "SHaRPose", "TrackedFrame", "open_source"]
    for name in sharpose_rt.__all__:
        assert getattr(sharpose_rt, name) is not None
        assert name in dir(sharpose_rt)  # which Jupyter completes from
    with pytest.raises(AttributeError):
        _ = sharpose_rt.nothing_of_the_kind  # type: ignore[attr-defined]


def test_every_package_is_installed() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    packages = {".".join(p.parent.relative_to(ROOT).parts) for p in PACKAGE.rglob("__init__.py")}
    assert packages <= set(setup["packages"])


def test_torch_is_pinned_to_what_was_measured() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert "torch>=2.13,<2.14" in wanted
    assert "torchvision>=0.28,<0.29" in wanted
