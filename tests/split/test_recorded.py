"""The parts of a seeded crowd, as the split of whole rows gave them at commit 0d10ab3, before rows were columns.

A hash covers parts, purged rows with reason and neighbour, Merkle roots and similarities. They were recorded from rows
whose groups had the names a table gives them: groups are drawn in the order of their names. A changed hash is a changed
split: say in the commit why.
"""

from __future__ import annotations

import pytest

from metier.core.hashing import value_hash
from metier.core.table import table_of
from metier.split import split_rows
from tests.split.build import KEY
from tests.split.crowd import CONFIGS, NEAR, crowd

RECORDED = {
    ("later", True, 0): "b4d4b3ca35e3bdac",
    ("later", True, 1): "0f931b4fb220f2b3",
    ("new_groups", True, 0): "4a6f5e0a064a6366",
    ("new_groups", True, 1): "12ece2aabad1861a",
    ("stratified", True, 0): "b539f31c3b4f0b07",
    ("stratified", True, 1): "dc67dfb5c58b5357",
    ("by label", True, 0): "fea8a0ffcf935366",
    ("by label", True, 1): "c07198ac6dc0f68c",
    ("both", True, 0): "4a15b880ca24efc7",
    ("both", True, 1): "d82351c7a27896ac",
    ("given, new_groups", True, 0): "c7eb431c57fdd310",
    ("given, new_groups", True, 1): "be87ce29391d4e06",
    ("given, both", True, 0): "0ab354848f5aa16c",
    ("given, both", True, 1): "e3807f50da34bb01",
    ("later", False, 0): "b4d4b3ca35e3bdac",
    ("later", False, 1): "0f931b4fb220f2b3",
    ("new_groups", False, 0): "aa155ad4344c9850",
    ("new_groups", False, 1): "eab768ab72723e71",
    ("stratified", False, 0): "bc61e28476dff602",
    ("stratified", False, 1): "a886584c58925619",
    ("by label", False, 0): "90a0ce1b0858a1f3",
    ("by label", False, 1): "38befd0e8282167a",
    ("given, new_groups", False, 0): "d72471ba972f3310",
    ("given, new_groups", False, 1): "6c7593c5bdb6dfa1",
}
TABLES = {grouped: table_of(crowd(grouped=grouped), key=KEY) for grouped in (True, False)}


@pytest.mark.parametrize(("name", "grouped", "seed"), RECORDED)
def test_columns_are_split_as_rows_were(name: str, grouped: bool, seed: int) -> None:
    table = TABLES[grouped]
    result = split_rows(table, CONFIGS[name], seed=seed, near_dup=NEAR)
    told = value_hash([
        {part: [table.origin(row) for row in index.tolist()] for part, index in result.parts.items()},
        [[table.origin(row), reason, other] for row, reason, other in result.purged],
        dict(result.certificate.roots),
        dict(result.certificate.similarity),
    ])  # fmt: skip
    assert told[:16] == RECORDED[name, grouped, seed]
