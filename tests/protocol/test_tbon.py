"""The checker of block hashes agrees with the self-check of protocol page 04, section 4.3, and sees tampering."""

import base64

import pytest

import tbon

FIRST = ["", {"1-1": [["/", None, [1, "a"]]]}]


def link(block):
    return base64.b64encode(tbon.block_hash(block)).decode()


def test_the_documented_block_has_the_documented_bytes_and_hash():
    assert tbon.encode_block(FIRST).hex() == "5b3c3e7b22312d31225b5b222f22015b0800000000000000012261225d5d5d7d5d"
    assert tbon.block_hash(FIRST).hex() == "f2dc4b2ab4a1523fda9a0c764a020e9362c997f29f2dc68b0eeaf6325b5abb3c"
    assert link(FIRST) == "8txLKrShUj/amgx2SgIOk2LJl/KfLcaLDur2Mltauzw="


def test_linked_blocks_verify():
    assert tbon.verify([FIRST, [link(FIRST), {"2-1": [["/", None]]}]]) == [["/", None, [1, "a"]], ["/", None]]


def test_a_changed_block_does_not_verify():
    changed = ["", {"1-1": [["/", None, [1, "b"]]]}]
    with pytest.raises(AssertionError):
        tbon.verify([changed, [link(FIRST), {"2-1": [["/", None]]}]])


def test_a_repeated_transaction_does_not_verify():
    with pytest.raises(AssertionError):
        tbon.verify([FIRST, [link(FIRST), {"1-1": [["/", None]]}]])
