import copy
import itertools
import re

import numpy as np
import pytest
from PIL import Image
from reading import embedded, loaded, terminal, texts, visible

from emo_ray.reports import claims

SUBSETS = ["V", "A", "T", "VA", "VT", "AT", "VAT", "incomplete"]
METHODS = [
    "EmoVCLIP",
    "zero-shot CLIP",
    "linear probe, mean + deviation + slope",
    "+ text context",
    "c 5",
    "c 6",
    "c 7",
]
RATES = ["0", "0.2", "0.4", "0.6", "0.8"]
EVIL = "<script>a&amp;b</script> $x_1$ [bold]|`*c*` $\\frac$"


def example(worlds=3, seed=0):
    """Five claims: the second failing, the fifth empty; every number is written differently from all others."""
    rng = np.random.default_rng(seed)
    tenths_of_percent = itertools.cycle(rng.permutation(np.arange(101, 999)))

    def share():
        return int(next(tenths_of_percent)) / 1000

    def error():
        return share() if worlds > 1 else None

    def table(claim, columns, first, names):
        rows = [{"name": n, "cells": [{"mean": share(), "se": error()} for _ in columns]} for n in names]
        return {
            "claim": claim,
            "title": f"table of {claim}",
            "note": "",
            "columns": columns,
            "first": first,
            "rows": rows,
        }

    def difference(claim, holds):
        ends = {"mean": share(), "se": error(), "low": error(), "high": error()}
        judged = holds if worlds > 1 else None
        return {"claim": claim, "what": f"difference of {claim}", **ends, "target": "above 0", "holds": judged}

    return {
        "title": "What the paper claims",
        "metric": "WAF",
        "worlds": worlds,
        "seeds": 7,
        "setup": "Few clips.",
        "chance": share(),
        "tables": [
            table(1, ["video"], "method", METHODS[:2]),
            table(2, ["video"], "method", METHODS),
            table(2, ["video", "audio"], "method", METHODS),
            table(4, SUBSETS, "dropout rate", RATES),
        ],
        "differences": [difference(1, True), difference(2, False), difference(4, True), difference(10, True)],
        "empty": [{"claim": 5, "why": "not landed yet"}],
    }


def numbers(tree):
    """All shares, as they are to be read; signs apart."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list):
        return [text for branch in tree for text in numbers(branch)]
    return [f"{100 * tree:.1f}"] if isinstance(tree, float) else []


def printed(content, width=120):
    """The tables and the notes below them."""
    return terminal(claims.tables(content), width) + "\n".join(claims.notes(content))


def written(content, folder):
    return claims.write(content, folder).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Contents, and the folders of their pages; a page takes half a second to draw."""
    contents = {"three worlds": example(), "one world": example(worlds=1), "evil": evil()}
    contents["three worlds"]["tables"][0]["note"] = "A note."
    folders = {name: tmp_path_factory.mktemp("claims") for name in contents}
    for name, content in contents.items():
        claims.write(content, folders[name])
    return {name: (contents[name], folders[name]) for name in contents}


@pytest.fixture
def folder(pages):
    return pages["three worlds"][1]


@pytest.fixture
def html(folder):
    return (folder / claims.PAGE).read_text(encoding="utf-8")


def forms(content, folder):
    """The three forms as text: terminal, HTML, Markdown."""
    html = (folder / claims.PAGE).read_text(encoding="utf-8")
    return printed(content), visible(html), claims.as_markdown(content)


def with_one_table(content):
    """The content with its first table alone, which has few rows: fewer pictures are drawn."""
    return content | {"tables": content["tables"][:1]}


@pytest.mark.parametrize("name", ["one world", "three worlds"])
def test_every_number_is_in_all_three_forms(pages, name):
    content, _ = pages[name]
    expected = [*numbers(content), str(content["worlds"]), str(content["seeds"])]
    for text in forms(*pages[name]):
        words = set(re.findall(r"\d+(?:\.\d+)?", text))
        assert not [number for number in expected if number not in words]


def test_every_word_is_in_all_three_forms(pages, html):
    content, folder = pages["three worlds"]
    assert "What the paper claims" in visible(html)
    assert "# What the paper claims" in claims.as_markdown(content)
    for text in forms(content, folder):
        for word in ("WAF", "Few clips.", "A note.", "not landed yet", "95 % interval"):
            assert word in text
        for name in (*SUBSETS, *METHODS, *RATES, "dropout rate", "method"):
            assert name in text
        for entry in content["differences"]:
            assert re.search(rf"difference of {entry['claim']}\W.*above 0", text, re.DOTALL)


def test_a_narrow_terminal_loses_no_number():
    content = example()
    assert set(numbers(content)) <= set(re.findall(r"\d+\.\d", printed(content, width=80)))


def test_a_failing_claim_is_named_in_the_summary_of_all_three_forms(html):
    content = example()
    points = f"{100 * content['differences'][1]['mean']:+.1f}"
    summary = claims.summary(content)
    assert all(part in summary for part in ("3 of 4", "FAILS: claim 2, difference of 2", f"{points} points"))
    for text in (printed(content), visible(html), claims.as_markdown(content)):
        assert summary in " ".join(text.replace("\\", "").split())
        assert text.count("FAILS") == 2  # the summary and the verdict
    assert "holds" in printed(content)


def test_verdicts_have_styles(html):
    content = example()
    assert html.count('<td class="good">holds</td>') == 3
    assert html.count('<td class="bad">FAILS</td>') == 1
    assert 'class="summary bad"' in html
    verdicts = [
        (row[-1].text, row[-1].style) for table in claims.tables(content) for row in table.cells() if row[-1].style
    ]
    assert sorted(verdicts) == [("FAILS", "bad"), *[("holds", "good")] * 3]


def test_when_all_targets_hold_nothing_fails(tmp_path):
    content = with_one_table(example() | {"empty": []})
    content["differences"][1]["holds"] = True
    assert claims.summary(content) == "4 of 4 targets hold."
    claims.write(content, tmp_path)
    assert not any("FAILS" in text for text in forms(content, tmp_path))


def test_without_a_target_there_is_no_verdict():
    content = example() | {"empty": []}
    content["differences"][0] |= {"target": "", "holds": None}
    content["differences"][3] |= {"holds": None}
    assert claims.summary(content).startswith("1 of 2 targets hold; FAILS: claim 2")
    assert "Not judged: claim 10, difference of 10" in claims.summary(content)
    assert printed(content).count("not judged") == 1
    assert claims.summary(content | {"differences": []}) == "No target was judged."


def test_one_world_has_no_standard_error(pages):
    for text in forms(*pages["one world"]):
        assert not re.search(r"\d ± ?\d", text)
        assert "1 world with 7 seeds" in " ".join(text.split())
        assert not re.search("none|nan", text, re.IGNORECASE)
        assert text.count("not judged") == 4


def test_a_table_without_rows(tmp_path):
    content = example()
    for table in content["tables"]:
        table["rows"] = []
    assert written(content, tmp_path)


def test_claims_come_in_the_order_of_their_numbers(pages):
    for text in forms(*pages["three worlds"]):
        headings = re.findall(r"Claim (\d+)(?!, nothing)", text)
        assert headings == ["1", "1", "2", "2", "2", "4", "4", "10"]


def test_differences_follow_the_tables_of_their_claim():
    titles = [table.title for table in claims.tables(example())]
    words = ["1: table of 1", "1: differences", "2: table of 2", "2: table of 2", "2: differences", "4: table of 4"]
    assert titles == [f"Claim {w}" for w in [*words, "4: differences", "10: differences"]]


def evil():
    """Hostile text wherever there is text."""

    def spoil(tree):
        if isinstance(tree, dict):
            return {key: spoil(value) for key, value in tree.items()}
        if isinstance(tree, list):
            return [spoil(value) for value in tree]
        return f"{EVIL}{tree}" if isinstance(tree, str) else tree

    return spoil(example())


def test_text_survives_and_is_escaped(pages):
    folder = pages["evil"][1]
    html = (folder / claims.PAGE).read_text(encoding="utf-8")
    assert "<script" not in html
    for word in ("What the paper claims", "video", "EmoVCLIP", "0.4", "method", "above 0", "not landed yet", "WAF"):
        assert EVIL + word in visible(html)
    assert re.sub(r"\s", "", EVIL) in re.sub(r"\s", "", printed(evil(), width=4000))
    text = (folder / "claims.md").read_text(encoding="utf-8")
    assert EVIL + "EmoVCLIP" in re.sub(r"\\([\\`*_\[\]<>&$|~])", r"\1", text)
    assert not re.search(r"(?<!\\)[<&$`]", text)


def test_the_page_loads_nothing(html):
    assert not loaded(html)


@pytest.mark.parametrize("name", ["three worlds", "one world", "evil"])
def test_one_sharp_picture_for_each_table_which_the_page_holds(pages, name):
    content, folder = pages[name]
    html = (folder / claims.PAGE).read_text(encoding="utf-8")
    files = sorted(folder.glob("*.png"))
    assert len(files) == len(content["tables"])
    assert sorted(embedded(html)) == sorted(path.read_bytes() for path in files)
    for path in files:
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG"
            assert round(image.info["dpi"][0]) == 150
            assert 1000 <= image.width <= 1500
            assert np.asarray(image.convert("L")).std() > 10  # something is drawn


def test_pictures_have_the_names_of_their_claims(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        *("claim-1.png", "claim-2-2.png", "claim-2.png", "claim-4.png", claims.PAGE, claims.MARKDOWN)
    ]


def test_same_content_same_bytes_and_the_content_is_left_alone(pages, tmp_path):
    content, folder = pages["three worlds"]
    before = copy.deepcopy(content)
    claims.write(content, tmp_path)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()
    assert content == before
    assert (folder / claims.MARKDOWN).read_text(encoding="utf-8") == claims.as_markdown(content)


def test_a_difference_by_hand():
    difference = {"claim": 1, "what": "a − b", "mean": 0.12, "se": 0.01, "low": -0.08, "high": 0.16}
    content = example() | {"tables": [], "differences": [difference | {"target": "above 0", "holds": True}]}
    assert texts(claims.tables(content)[0]) == [["a − b", "+12.0", "1.0", "−8.0 to +16.0", "above 0", "holds"]]
