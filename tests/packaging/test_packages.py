"""The wheel beside PyPI's packages of the same words; a third party's six entry points."""

import os
import shutil
import subprocess
import sys
import textwrap
import venv
from pathlib import Path

import pytest

from reasoning.registry import KINDS

ROOT = Path(__file__).parents[2]
EXTENSION = '''
from reasoning.allocation.base import Allocator
from reasoning.engines.scripted import ScriptedEngine
from reasoning.evals.tasks import Countdown
from reasoning.strategies.best_of_n import Majority
from reasoning.strategies.chains.plain import Plain
from reasoning.strategy import Rating, Verifier


class Theirs(Majority):
    """A third party's strategy."""

    def verifier_roles(self):
        return ("verifier",)

    async def choose(self, ctx, chains, majority):
        ratings = await ctx.rate(chains)
        best = max(range(len(chains)), key=lambda i: ratings[i].scores[-1])
        return ctx.offer(chains[best], theirs=True)


class TheirPolicy(Plain):
    """A third party's chain policy."""


class TheirVerifier(Verifier):
    """Likes long chains."""

    async def rate(self, problem, chains, engine):
        return [Rating((min(1.0, len(c.ids) / 100),)) for c in chains]


class TheirEngine(ScriptedEngine):
    """Says one of two things."""

    def __init__(self, model):
        super().__init__(model, script=["answer 1+1", "answer 2+2+2"])


class TheirTask(Countdown):
    """Countdown by another name."""

    name = "theirs"


class TheirAllocator(Allocator):
    """Takes the last candidate."""

    def plan(self, problem, budget, candidates):
        return len(candidates) - 1
'''
PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "their-extension"
version = "1"
[tool.setuptools]
py-modules = ["their_extension"]
[project.entry-points."reasoning.strategy"]
theirs = "their_extension:Theirs"
[project.entry-points."reasoning.chain_policy"]
theirs = "their_extension:TheirPolicy"
[project.entry-points."reasoning.verifier"]
theirs = "their_extension:TheirVerifier"
[project.entry-points."reasoning.engine"]
theirs = "their_extension:TheirEngine"
[project.entry-points."reasoning.task"]
theirs = "their_extension:TheirTask"
[project.entry-points."reasoning.allocator"]
theirs = "their_extension:TheirAllocator"
"""
RECIPE = """
name: theirs
task: {name: theirs, numbers: 3, count: 2}
models: {policy: theirs/x}
verifiers: {verifier: theirs}
chain_policy: theirs
strategies:
  - {name: auto, allocator: theirs, candidates: [single, {name: theirs, n: 4}]}
"""


def run(*command: object, **settings: object) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=300,
        **settings,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


def pip(*arguments: object) -> str:
    return run(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)


def test_a_third_party_adds_one_of_each_kind(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    (source / "their_extension.py").write_text(EXTENSION)
    (source / "pyproject.toml").write_text(PYPROJECT)
    pip("install", "--no-deps", "--no-build-isolation", "--target", site, source)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    cli = (sys.executable, "-m", "reasoning.cli")
    listed = run(*cli, "ls", "strategy", env=environment, cwd=tmp_path)
    assert "A third party's strategy." in listed
    out = run(*cli, "run", "recipe.yaml", env=environment, cwd=tmp_path)
    assert "expected 2 = 0 correct + 2 wrong" in out
    journal = (tmp_path / "runs" / "theirs" / "journal.jsonl").read_text()
    assert '"answer 2+2+2"' in journal and '"rate"' in journal


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools writes into its source, which other tests are reading."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("reasoning", "strategies", "verifiers", "evals"):
        unneeded = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=unneeded)
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    (made,) = folder.glob("reasoning-*.whl")
    return made


def test_the_wheel_stands_beside_pypis_verifiers(tmp_path: Path, wheel: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    pip("install", "--no-deps", "--target", site, wheel)
    try:
        pip("install", "--no-deps", "--target", site, "verifiers")
    except AssertionError as error:
        pytest.skip(f"PyPI's verifiers cannot be downloaded: {str(error)[-200:]}")
    code = """
        import importlib.util as u
        theirs = u.find_spec("verifiers").origin
        ours = u.find_spec("reasoning").submodule_search_locations[0]
        import pathlib
        for name in ("strategies", "verifiers", "evals"):
            assert (pathlib.Path(ours) / name / "__init__.py").is_file(), name
        assert not (pathlib.Path(ours) / "verifiers").is_symlink()
        assert "reasoning" not in theirs, theirs
        assert (pathlib.Path(ours) / "py.typed").is_file()
        weights = pathlib.Path(ours) / "models" / "countdown-policy" / "model.safetensors"
        assert weights.stat().st_size > 1_000_000
        print("beside")
    """
    out = run(tmp_path / "venv" / "bin" / "python", "-c", textwrap.dedent(code), cwd=tmp_path)
    assert out.strip() == "beside"


def test_the_core_is_imported_without_what_only_some_of_it_needs() -> None:
    heavy = {"torch", "vllm", "transformers", "numpy", "scipy", "pydantic"}
    code = f"import sys, reasoning; print({heavy} & set(sys.modules))"
    assert run(sys.executable, "-c", code).strip() == "set()"


def test_what_is_registered_says_in_its_first_line_what_it_is() -> None:
    """`reasoning ls KIND` shows that line."""
    for kind, registry in KINDS.items():
        for name in registry:
            first = (registry.get(name).__doc__ or "").strip().split("\n")[0]
            assert first.endswith("."), f"{kind} {name}: {first!r}"
