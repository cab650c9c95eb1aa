"""vLLM, and the torch it brings, warn of their own future and leave sockets to the collector."""

import pytest

ignored = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
