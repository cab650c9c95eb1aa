"""What a chain's token ids are called in a store."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from reasoning.chain import packed


@given(st.lists(st.integers(0, 2**31 - 1)))
def test_packed_ids_are_32_bit_integers(ids: list[int]) -> None:
    """Stores that exist were written under these names."""
    assert packed(ids) == struct.pack(f"={len(ids)}i", *ids).hex()
