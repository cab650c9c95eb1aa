"""The stand-in reward models, written once."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def standin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch", reason="the extra `local` is not installed")
    from tests.verifiers import standins

    folder = tmp_path_factory.mktemp("standins")
    for name, write in standins.ALL.items():
        write(folder / name)
    return folder
