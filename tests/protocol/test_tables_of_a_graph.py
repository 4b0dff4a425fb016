"""
What a graph of the client asks of its tables: protocol page 02, section 8.3 and 8.4, with tables in the place of tensors.

The methods are spelled as the client spells them, so that each requirement is met in the shape in which it comes.
"""

import pytest

import support
import tbon
from page02 import TABLE, column, delete
from support import N, OP, R, V, call

APP = "/app/library"
U64 = N + "/uint/64"
BOOKS = [[[column("isbn", U64)], [column("author_id", U64), column("title", V + "/string", 64)]], [["by_author", ["author_id"]]]]
WROTE = [[[column("author_id", U64), column("isbn", U64)], [column("is", N + "/bool")]], []]

ref = lambda name: {f"${name}": []}
IF = R + "/if"
AFTER = R + "/after"


def closure(names, op):
    return {R + "/with": [[ref(name) for name in names], op]}


# Section 8.3, `insert`: the relations of the old row go, the row is written, and then a relation for each row within the
# bounds, which were named before it was.
INSERT = {OP + "/post": [
    ["R", {"$self/books": [[ref("isbn")]]}], ["Z", {"$R/is_none": [None]}],
    ["W", {"$self/books": {"bounds": {"author_id": ref("author_id")}}}], ["Q", {"$W/rows": {}}],
    ["P", {"$Q/map": {"op": closure(["author_id"], {OP + "/get": [
        "row", [["T", ref("row")], ["_return", [ref("author_id"), {"$T": [0]}]]]]})}}],
    ["old", {"$R": ["author_id"]}],
    ["I", {IF: [{"$Z/not": [None]}, delete("$self/wrote", [ref("old"), ref("isbn")]), None]}],
    ["_return", {IF: [
        {"$refuse/eq": [True]}, {"/error/bad_request": ["refused"]},
        {AFTER: [
            {"$self/books": [[ref("isbn")], [ref("author_id"), ref("title")]]},
            [{AFTER: [ref("I"), {"$P/for_each": {"op": closure(["self"], {OP + "/put": [
                "new_id", "key", [["_return", {"$self/wrote": [[ref("new_id"), ref("key")], [True]]}]]]})}}]}]]}]}]]}

METHODS = {
    "insert": INSERT,
    # Requirement 7: the cluster with the name of a member as key.
    "member": {OP + "/post": [
        ["A", {"$self": ["wrote"]}], ["w", {"$A": [[ref("x"), ref("y")], [True]]}],
        ["_return", {AFTER: [ref("w"), {"$A/count": [None]}]}]]},
    "max_id": {OP + "/get": ["_", [
        ["A", {"$self/books/order": [[["isbn"], True]]}], ["B", {"$A/select": [["isbn"]]}], ["C", {"$B/rows": {}}],
        ["D", {"$C/first": [None]}], ["_return", {IF: [{"$D/is_none": [None]}, 0, {"$D": [0]}]}]]]},
    # Requirement 9: a stream of rows, each found by a GET of its own.
    "read": {OP + "/get": ["author", [
        ["v", {"$self/books": {"bounds": {"author_id": ref("author")}}}], ["k", {"$v/select": [["isbn"]]}], ["A", {"$k/rows": {}}],
        ["_return", {"$A/map": {"op": closure(["self"], {OP + "/get": [
            "row", [["_return", {"$self/books": [[{"$row": [0]}]]}]]]})}}]]]},
    # Requirement 10: a branch that is a list of writes, or null.
    "choose": {OP + "/post": [
        ["w", {IF: [{"$yes/eq": [True]}, [
            {"$self/books": [[1], [1, "a"]]}, {IF: [{"$yes/eq": [True]}, {"$self/books": [[2], [1, "b"]]}, None]}], None]}],
        ["_return", {AFTER: [ref("w"), {"$self/books/count": [None]}]}]]},
    # Requirement 2: what only the other branch needs is never evaluated, writes least of all.
    "unchosen": {OP + "/post": [
        ["bad", {"/error/conflict": ["evaluated"]}], ["write", {"$self/books": [[99], [9, "never"]]}],
        ["_return", {IF: [{"$yes/eq": [False]}, [ref("bad"), ref("write")], "chosen"]}]]},
    # Requirement 4: the first part of `after`, with all that is in it, before the second.
    "sequence": {OP + "/post": [
        ["_return", {AFTER: [
            [{"$self/books": [[1], [1, "a"]]}, {AFTER: [{"$self/books": [[2], [1, "b"]]}, {"$self/books": [[3], [1, "c"]]}]}],
            {"$self/books/count": [None]}]}]]},
}


@pytest.fixture(params=["sync", "block"])
def library(serve, request):
    chain = "/state/chain/" + request.param
    host = serve({APP: {"books": {chain: [{TABLE: [BOOKS]}]}, "wrote": {chain: [{TABLE: [WROTE]}]}, **METHODS}})
    host.kind = request.param
    return host


def insert(host, isbn, author_id, title="t", refuse=False):
    return call(host, "POST", APP + "/insert", {"isbn": isbn, "author_id": author_id, "title": title, "refuse": refuse})


def wrote(host):
    return [row[:2] for row in host.get(APP + "/wrote/rows")]


def test_insert_relates_every_row_within_its_bounds_the_new_one_too(library):
    for isbn, author in [(10, 1), (11, 1), (20, 2)]:
        status, reply = insert(library, isbn, author)
        assert status == 200, reply

    assert wrote(library) == [[1, 10], [1, 11], [2, 20]]
    support.kill(library)
    support.start(library)
    assert wrote(library) == [[1, 10], [1, 11], [2, 20]]
    assert library.get(APP + "/read", 1) == [[10, 1, "t"], [11, 1, "t"]]


def test_insert_over_a_row_clears_what_its_columns_say_by_name(library):
    for author in (1, 2):
        status, reply = insert(library, 10, author)
        assert status == 200, reply

    assert wrote(library) == [[2, 10]]
    assert library.get(APP + "/books/rows") == [[10, 2, "t"]]
    if library.kind == "block":
        chain = lambda name: tbon.verify(library.get(f"{APP}/{name}/chain")["/state/chain/block"][1])
        assert chain("wrote") == [["/", [1, 10], [True]], ["/", [1, 10]], ["/", [2, 10], [True]]]
        assert chain("books") == [["/", [10], [1, "t"]], ["/", [10], [2, "t"]]]


def test_insert_that_is_refused_leaves_nothing(library):
    support.assert_reply(insert(library, 10, 1, refuse=True), 400)
    assert library.get(APP + "/books/rows") == wrote(library) == []


def test_a_member_by_its_name_is_the_live_one(library):
    assert library.post(APP + "/member", {"x": 1, "y": 2}) == 1
    assert wrote(library) == [[1, 2]]


def test_the_greatest_id(library):
    assert library.get(APP + "/max_id") == 0
    for isbn in (3, 2**63, 7):
        assert insert(library, isbn, 1)[0] == 200

    assert library.get(APP + "/max_id") == 2**63


@pytest.mark.parametrize("yes, count", [(True, 2), (False, 0)])
def test_a_branch_may_be_a_list_of_writes_or_nothing(library, yes, count):
    assert library.post(APP + "/choose", {"yes": yes}) == count


def test_what_only_the_other_branch_needs_is_not_evaluated(library):
    assert library.post(APP + "/unchosen", {"yes": True}) == "chosen"
    assert library.get(APP + "/books/rows") == []


def test_a_sequence_is_done_in_order(library):
    assert library.post(APP + "/sequence", {}) == 3


def test_every_row_has_its_relation_while_many_insert(library):
    import concurrent.futures

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda isbn: insert(library, isbn, isbn % 3), range(60)))

    assert [status for status, _ in replies] == [200] * 60, replies
    assert wrote(library) == sorted([isbn % 3, isbn] for isbn in range(60))
