"""What the help says of each model, held against the nodes."""

import pytest

from support import network_table
from support.rare_models import EVERY_BY_NAME
from support.weakening import CAN_REPLACE


@pytest.mark.skipif(
    not CAN_REPLACE, reason="the help is for releases that let attention be replaced"
)
def test_help_says_what_the_nodes_do(pack, comfy_nodes, models):
    table = network_table.of_pack(pack, comfy_nodes, lambda name: models(EVERY_BY_NAME[name]))
    wanted = network_table.text(table)
    there = network_table.FILE.read_text(encoding="utf-8")
    assert set(wanted.splitlines()) <= set(there.splitlines()), "Run: make networks"
    if network_table.MODELS.keys() <= EVERY_BY_NAME.keys():
        assert wanted == there, "Run: make networks"
