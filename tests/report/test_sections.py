"""The sections on data and training."""

from types import SimpleNamespace

from deepchem_mmsa.report.run import Missing
from deepchem_mmsa.report.sections import missing_views


def test_the_views_that_a_row_lacks_for_one_reason_are_told_together():
    unreadable = [
        Missing(row, smiles, part, view, f"unclosed ring for input: '{smiles}'")
        for row, smiles, part in [(3, "C1CC", "train"), (7, "C1CCC", ""), (3, "C2CC", "test")]
        for view in ("graph", "geometry")
    ]
    flat = Missing(5, "CC", "test", "geometry", "no conformer")
    page = missing_views(SimpleNamespace(missing=[*unreadable, flat]))
    table, _, by_row = page.partition("<details>")
    lines = table.split("<tbody>")[1].split("</tr>")[:-1]
    assert ["graph, geometry" in line for line in lines] == [True, False]
    assert "<td class='num'>3</td><td>unclosed ring</td><td>row 3: <code>C1CC</code>" in lines[0]
    assert "<td class='view'>geometry</td><td class='num'>1</td><td>no conformer</td>" in lines[1]
    assert by_row.count("<tr>") == 1 + 7
    assert "all 7 missing views" in by_row
