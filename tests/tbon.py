"""TBON as far as block hashes need it (protocol page 04, section 4.3), written from the page, not from the host."""

import base64
import hashlib
import struct


def text(string):
    return b'"' + string.encode().replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def raw_bytes(data):
    return b"<" + data.replace(b"\\", b"\\\\").replace(b"<", b"\\<").replace(b">", b"\\>") + b">"


def encode(value):
    """Encode decoded JSON. Every integer counts as i64 if it fits, else as u64."""

    if value is None:
        return b"\x01"
    elif isinstance(value, bool):
        return b"\x02" + bytes([value])
    elif isinstance(value, int):
        return b"\x08" + struct.pack(">q", value) if value < 2**63 else b"\x0c" + struct.pack(">Q", value)
    elif isinstance(value, float):
        return b"\x04" + struct.pack(">d", value)
    elif isinstance(value, str):
        return text(value)
    elif isinstance(value, list):
        return b"[" + b"".join(map(encode, value)) + b"]"
    elif isinstance(value, dict):
        return b"{" + b"".join(encode(name) + encode(value[name]) for name in value) + b"}"
    else:
        raise TypeError(value)


def order(txn_id):
    nanos, nonce = txn_id.split("-")
    return int(nanos), int(nonce)


def encode_block(block):
    previous, transactions = block
    ids = sorted(transactions, key=order)
    content = b"".join(text(txn_id) + encode(transactions[txn_id]) for txn_id in ids)
    return b"[" + raw_bytes(base64.b64decode(previous)) + b"{" + content + b"}]"


def block_hash(block):
    return hashlib.sha256(encode_block(block)).digest()


def verify(blocks):
    """Check every hash link and the order of transactions. Returns all mutations, oldest first."""

    assert blocks[0][0] == "", "the first block has a predecessor"
    ids = []
    mutations = []
    for i, (previous, transactions) in enumerate(blocks):
        if i > 0:
            assert base64.b64decode(previous, validate=True) == block_hash(blocks[i - 1]), f"block {i} is not linked"

        for txn_id in sorted(transactions, key=order):
            ids.append(txn_id)
            mutations.extend(transactions[txn_id])

    assert [order(txn_id) for txn_id in ids] == sorted(set(map(order, ids))), "transactions are out of order"
    return mutations
