import json
import xml.etree.ElementTree as ET
from collections import Counter
from html.parser import HTMLParser

import numpy as np

import graphopt as go
from graphopt.pipeline import PassReport, Report
from graphopt.pipeline.html import human, macs_text, to_html
from tests.pipeline.passes import small_graph

PIPELINE = "test-double-negation,test-drop-channel,test-only-conv,test-alias{count=0}"


def report():
    return go.optimize(small_graph(), PIPELINE)


def test_text():
    text = str(report())
    assert text.startswith(f"{PIPELINE}: ")
    assert "test-drop-channel: changed" in text
    assert "masked to" in text
    assert "as before" in text
    assert "1 pass had nothing to do" in text


def test_json_reads_back():
    made = report()
    data = json.loads(made.to_json())
    assert data["pipeline"] == PIPELINE
    first, second, third, *_ = data["passes"]
    assert first["counts"] == {"pairs": 1}
    assert second["kept"]["w"]["1"] == list(range(7))
    assert second["before"]["weights"] == 56
    assert second["checks"]["equivalence"]["contract"] == "masked"
    assert third["skipped"] == "the graph has none of Conv"


def test_json_takes_what_passes_put_in():
    entry = PassReport(
        "p", counts=Counter(a=2), kept={"w": {0: [1]}},
        details={"inf": float("inf"), "nan": float("nan"), "np": np.float32(0.5), "tuple": (1, {2: 3}), "odd": {1, 2}},
    )  # fmt: skip
    data = json.loads(Report("p", [entry]).to_json(), parse_constant=lambda word: 1 / 0)
    assert data["passes"][0]["counts"] == {"a": 2}
    details = data["passes"][0]["details"]
    assert (details["inf"], details["nan"], details["np"], details["tuple"]) == ("inf", None, 0.5, [1, {"2": 3}])


def test_kept_is_in_terms_of_the_original():
    made = Report("p", [
        PassReport("a", kept={"w": {0: [0, 2, 4, 6], 1: [1, 2]}}), PassReport("b"),
        PassReport("c", kept={"w": {0: [1, 3]}, "v": {0: [0]}}),
    ])  # fmt: skip
    assert made.kept == {"w": {0: [2, 6], 1: [1, 2]}, "v": {0: [0]}}


def test_human_numbers():
    shown = {0: "0", 7: "7", 999: "999", 1000: "1 k", 1234567: "1.23 M", 4.09e9: "4.09 G", 2e15: "2 P"}
    assert {number: human(number) for number in shown} == shown


class Page(HTMLParser):
    void = frozenset({"meta", "br"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], Counter(), []
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        assert not {"src", "href"} & dict(attrs).keys(), "the page is not self-contained"
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data.strip())


def test_html_holds_every_pass():
    made = report()
    page = Page(to_html(made))
    text = " ".join(" ".join(page.text).split())
    for entry in made.passes:
        assert entry.name in text
    for words in (PIPELINE, "as before", "skipped: the graph has none of Conv", "nothing to do", "1.14x fewer"):
        assert words in text, words
    assert page.tags["svg"] == 2


def test_html_bars_show_the_figures():
    text = to_html(report())
    svg = ET.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])
    bars = [float(each.get("width")) for each in svg.iter("rect") if each.get("class") == "bar"]
    assert bars == [590.0, 516.2]  # 56 and 49 MACs
    assert [title.text for title in svg.iter("title")] == ["original: 56", "test-drop-channel: 49"]


def test_html_of_pruning_lists_the_groups():
    graph = small_graph()
    page = Page(to_html(go.optimize(graph, "prune-channels{ratio=0.25}")))
    rows = " ".join(page.text)
    assert "What prune-channels{ratio=0.25} removed" in rows.replace("  ", " ")
    assert "w, v 8 2 75%" in " ".join(rows.split())


def test_html_of_nothing_and_of_hostile_names():
    Page(to_html(Report("")))
    entry = PassReport("<script>", notes=("a < b & c",), details={"groups": "none"}, skipped="<b>")
    text = to_html(Report("<i>", [entry]))
    assert "<script>" not in text
    assert "a &lt; b &amp; c" in text
    Page(text)


def test_html_marks_broken_promises():
    entry = PassReport("p", modified=True, checks={"equivalence": {"summary": "not exact to 1.0", "max_rel": 1.0}})
    assert 'class="bad" title="max_rel: 1"' in to_html(Report("p", [entry]))


def test_macs_that_cannot_be_told_are_marked():
    graph = small_graph()
    graph.add_output(graph.append(go.Node("Secret", [graph.inputs[0]], domain="my.domain")).output, "secret")
    made = go.optimize(graph, PIPELINE)
    entry = made.of("test-drop-channel")
    assert (entry.before.macs_unknown, entry.after.macs_unknown) == (1, 1)
    assert f"{entry.after.macs:,} MACs and unknown ones" in str(made)
    assert macs_text(entry.after) == f"{entry.after.macs} + ?"
    assert " + ?" in to_html(made)
    assert " + ?" not in to_html(report())


def test_html_folds_away_what_had_nothing_to_do():
    text = to_html(report())
    shown, _, folded = text.partition("<details>")
    assert "test-drop-channel" in shown
    assert "test-only-conv" not in shown.replace(PIPELINE, "")
    assert "test-only-conv" in folded
    assert "count: 0" not in text
    assert "<details open>" in to_html(go.optimize(small_graph(), "test-only-conv"))
    assert "224 B" in text
