"""The tree and the table of protocol page 02 (sections 1.3, 4 and 5.1), as literals, as replies, and calls on them."""

from support import N, R, V

BTREE = "/state/collection/btree"
TABLE = "/state/collection/table"
STREAM = "/state/stream"


def column(name, path, *max_len):
    """A column as the client sends it, which is also how a collection in a reply spells it."""

    return [name, {path: {}}, *max_len]


def as_value(column):
    """The same column as `schema`, `columns` and `key_columns` answer it."""

    [name, dtype, *max_len] = column
    [path] = dtype
    return [{name: []}, {path: []}, max_len[0] if max_len else None]


CITY = column("city", V + "/string", 64)
POP = column("pop", N + "/uint/32")
TREE_SCHEMA = [CITY, POP]
KEYS = [["Bergen", 3], ["Oslo", 1], ["Oslo", 5], ["Oslo", 9], ["Paris", 2]]

SKU = column("sku", N + "/uint/64")
COLOR = column("color", V + "/string", 32)
QTY = column("qty", N + "/int/32")
TABLE_SCHEMA = [[[SKU], [COLOR, QTY]], [["by_color", ["color"]]]]
ROWS = [[1, "red", 10], [2, "blue", 20], [3, "red", 30]]
ROW_1, ROW_2, ROW_3 = ROWS


def tree(keys=KEYS, schema=TREE_SCHEMA):
    """A tree as a literal; with its keys in order, it is also how the tree is answered."""

    return {BTREE: [schema, keys]}


def table(rows=ROWS, schema=TABLE_SCHEMA):
    """A table as a literal; with its rows in order, it is also how the table, and any view but a selection, is answered."""

    return {TABLE: [schema, rows]}


def selection(key, values, rows):
    """How a selection of columns is answered."""

    return table(rows, [[key, values], []])


def delete(subject, key=None):
    return {R + "/op/delete": [{subject: []}, key]}


def after(*steps):
    """One step after the other; the last one is the result."""

    *steps, result = steps
    for step in reversed(steps):
        result = {R + "/after": [step, result]}

    return result


def capture(names, op):
    """A closure over these names."""

    return {R + "/with": [[{f"${name}": []} for name in names], op]}
