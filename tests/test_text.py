"""The summary table and the numbers in it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import models
import torchatlas as ta
from torchatlas.errors import UsageError
from torchatlas.modules import module_tree


def lines(summary):
    return [line for line in str(summary).splitlines() if line]


def test_summary_shows_the_tree_to_the_depth_asked_for(captured):
    graph = captured("resnet18")
    names = [line.split()[0] for line in lines(graph.summary(depth=1))[1:-1]]
    assert names[:4] == ["ResNet", "conv1", "bn1", "relu"]
    assert "fc" in names
    assert len(lines(graph.summary(depth=2))) > len(lines(graph.summary(depth=1)))
    assert len(lines(graph.summary(depth=0))) == 3


def test_sums_of_children_and_own_ops_are_the_whole(captured):
    graph = captured("bert")
    root = module_tree(graph)
    own = [d for _, d in graph.nodes(data=True) if d["module"] == "" and d["kind"] == "op"]
    for key in ("flops", "flops_other"):
        inside = sum(child.sums[key] for child in root.children.values())
        assert root.sums[key] == inside + sum(node[key] or 0 for node in own)
    assert root.sums["flops"] == ta.totals(graph).flops


def test_sort_and_columns(captured):
    text = lines(captured("resnet18").summary(depth=1, sort="params", columns=["params", "ops"]))
    assert text[0].split() == ["module", "params", "ops"]
    assert text[2].split()[0] == "layer4"
    assert text[1].split()[:2] == ["ResNet", "11.7"]


@pytest.mark.parametrize("asked", [{"sort": "beauty"}, {"columns": ["beauty"]}])
def test_unknown_columns_list_the_known(asked, captured):
    with pytest.raises(UsageError, match="flops"):
        captured("tiny").summary(**asked)


def test_unknown_costs_are_marked(captured):
    graph = captured("tiny").copy()
    graph.nodes["mean"]["flops"] = None
    assert "+?" in str(graph.summary())
    assert "+?" not in str(captured("tiny").summary())


def test_totals_name_only_what_is_there(captured):
    line = str(ta.totals(captured("tiny")))
    assert "at the peak" in line
    assert "integers" not in line and "masks skip" not in line and "sent" not in line
    query = torch.zeros(1, 2, 4, 8)
    graph = ta.capture(
        lambda q: nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True), query
    )
    # 2 x 16 scores, of which each row sees one more than the last: 2 x 10
    assert "1.02 kFLOP (640 FLOP without what masks skip)" in str(ta.totals(graph))
    graph = ta.capture(lambda a: torch._int_mm(a, a), torch.zeros(32, 32, dtype=torch.int8))
    assert "0 FLOP, " in str(ta.totals(graph))
    assert "65.5 kOP in integers" in str(ta.totals(graph))


def test_intensity_is_operations_per_byte():
    graph = ta.capture(nn.Linear(16, 16, bias=False), torch.zeros(16, 16))
    table = lines(graph.summary(columns=["flops_effective", "intensity"]))
    # 2 x 16^3 FLOP over 3 x 16^2 x 4 B
    assert table[1].split()[-1] == "2.67"
    assert ta.totals(graph).intensity == 2 * 16**3 / (3 * 16**2 * 4)


def test_long_lines_are_not_cut(captured):
    last = lines(captured("resnet18").summary(depth=0))[-1]
    assert last.endswith("ops counted") and len(last) > 140


def test_hostile_names_stay_text():
    text = str(ta.capture(*models.hostile()).summary())
    assert "[bold]" in text and "<script>" in text
    assert "\x1b" not in text and "\u202e" not in text and "\x00" not in text


def test_progress_is_silent_where_no_one_sees_it(capfd):
    from torchatlas.text import progress

    with progress("working", delay=0):
        pass
    assert capfd.readouterr() == ("", "")
