"""Tables and links of pages, and how they fit on a phone."""

from __future__ import annotations

import re

from keras_resnet.support.pages import Html, link, links, page, table


def test_cells_are_escaped_but_for_html() -> None:
    found = table(("a", "b"), [("<i>", Html("<b>x</b>"))])
    assert '<td data-label="a">&lt;i&gt;</td><td data-label="b"><b>x</b></td>' in found
    assert "<dl>" not in found


def test_columns_are_explained_on_hover_and_below() -> None:
    found = table(("name", "p50"), [("x", "1")], {"p50": 'the "median"'})
    assert "<th>name</th>" in found
    assert '<th title="the &quot;median&quot;">p50</th>' in found
    assert "<dt>p50</dt><dd>the &quot;median&quot;</dd>" in found


def test_wide_tables_are_stacked_on_phones_and_rows_may_end_early() -> None:
    narrow = table(("a", "b", "c"), [("1", "2", "3")])
    assert '<table class="">' in narrow
    wide = table(tuple("abcd"), [("1", "2", "3", "4"), ("5", "not run")], styles=["", "failed"])
    assert '<table class="stacked">' in wide
    assert (
        '<tr class="failed"><td data-label="a">5</td><td data-label="b">not run</td></tr>' in wide
    )
    style = page("x", [])
    (phone,) = re.findall(r"@media \(max-width: 40rem\) \{(.*?)\n\}", style, re.DOTALL)
    assert ".stacked tr:first-child { display: none }" in phone
    assert "content: attr(data-label)" in phone
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in style


def test_links_lead_to_files_of_any_name() -> None:
    assert link("a b#1.tflite", "<x>") == '<a href="a%20b%231.tflite">&lt;x&gt;</a>'
    assert links(["a.json", "b/c.csv"]) == (
        '<p>Files: <a href="a.json">a.json</a>, <a href="b/c.csv">b/c.csv</a></p>'
    )
