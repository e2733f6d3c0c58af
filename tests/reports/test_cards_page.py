"""The page of cards: all in words too, nothing loaded, small whatever it holds; its script in a browser."""

import csv
import io
import json
import re
import shutil
import subprocess
from html import unescape

import numpy as np
import pytest
from pages import flaws
from reading import jpegs, visible

from emo_ray.config import load
from emo_ray.data.manifest import Clip, read_table
from emo_ray.reports import cards_page
from emo_ray.reports.cards import Answer, Card, ClipMedia
from emo_ray.reports.cards_page import CARDS_PER_PAGE, COLUMNS, CardSet, page_count
from emo_ray.reports.drawings import strip

LABELS = ("neutral", "happy", "sad")
HOSTILE = '</script><script>it\'s & "this"</script>{{ x }}, =1+1'
STATUSES = dict.fromkeys(("video", "audio", "text"), "ok")


def row(top, share=0.6, labels=LABELS):
    return [share if label == top else (1 - share) / (len(labels) - 1) for label in labels]


def card(number=1, top="happy", words="the words", place="talk.mp4", labels=LABELS, **changes):
    parts = {"video": row(top, labels=labels), "audio": row(labels[-1], labels=labels), "text": None}
    values = {"truth": None, "attention": [0.1, 0.6, 0.3], "notes": [], **changes}
    answer = Answer(f"clip-{number}", f"/data/{number}.mp4", labels, row(top, labels=labels), parts,
                    {**parts, "video": row(labels[-1], 0.9, labels)}, STATUSES, **values)  # fmt: skip
    pictures = strip([np.full((48, 48, 3), 90, np.uint8)] * 3)
    media = ClipMedia(pictures, 3, [0.1, 0.5, 0.2], 1.5, words)
    clip = Clip(answer.clip_id, video=answer.file, text=words, start_s=0.5 * number, end_s=9.0)
    values = (getattr(clip, name) for name in COLUMNS)
    return Card(answer, place, media, ["" if value is None else str(value) for value in values])


def written(cards, tmp_path, labels=LABELS, **place):
    about = CardSet("predictions", "Predictions", "A summary.", labels, ["A paragraph."], "A footer")
    return cards_page.write(cards, about, tmp_path, **place).read_text("utf-8")


def test_a_card_says_all_in_words(tmp_path):
    text = written([card(truth="sad", notes=["unlike the training clips"])], tmp_path)
    words = " ".join(visible(text).split())
    assert "happy 60 %, next neutral 20 % · label: sad" in words
    assert "the words" in words
    assert "unlike the training clips" in words
    assert 'aria-label="attention over 3 frames: most on frame 2, 60 %"' in text
    assert 'aria-label="sound of 1.5 s, loudest at 0:00"' in text
    assert "class all it has video alone audio alone no video no audio happy 60 % 60 % 20 % −55 −40" in words
    assert jpegs(text)
    assert not flaws(text)


def test_all_text_is_escaped(tmp_path):
    hostile = card(words=HOSTILE, place=HOSTILE, labels=(HOSTILE, "b"), top=HOSTILE, truth="b", notes=[HOSTILE])
    text = written([hostile], tmp_path, labels=(HOSTILE, "b"))
    assert not flaws(text)
    assert text.count("<script>") == 1
    assert HOSTILE in visible(text)


def test_many_cards_are_pages_of_bounded_size(tmp_path):
    assert [page_count(n) for n in (0, 1, CARDS_PER_PAGE, CARDS_PER_PAGE + 1, 10**6)] == [1, 1, 1, 2, 20]
    text = written([card(i) for i in range(CARDS_PER_PAGE)], tmp_path, number=2, pages=3)
    assert (tmp_path / "predictions-2.html").is_file()
    assert re.findall('<a href="([^"]*)"', text) == ["predictions.html", "predictions-3.html"]
    assert len(text) < 10e6
    assert "corrections-2.csv" in text


def test_a_page_without_cards_or_without_classes_to_choose_is_whole(tmp_path):
    assert not flaws(written([], tmp_path))
    text = written([card()], tmp_path, labels=())
    assert "right label" not in text
    assert "download" not in re.sub("<script>.*</script>", "", text, flags=re.DOTALL)


def clips_of(csv_text, tmp_path):
    """The clips that data.manifest reads in a CSV file."""
    (tmp_path / "corrections.csv").write_text(csv_text, encoding="utf-8", newline="")
    data = load("mini").data.model_copy(update={"outside_root": True})
    return read_table(tmp_path / "corrections.csv", data)[0]


def corrected(number, words, label):
    return Clip(f"clip-{number}", video=f"/data/{number}.mp4", text=words, start_s=0.5 * number, end_s=9.0, label=label)


def test_columns_of_a_card_are_a_manifest_with_a_label(tmp_path):
    text = written([card(1, words=HOSTILE), card(2, words="two\nlines")], tmp_path)
    columns = json.loads(unescape(re.search(r'data-columns="([^"]*)"', text)[1]))
    rows = [json.loads(unescape(values)) for values in re.findall(r'data-clip="([^"]*)"', text)]
    buffer = io.StringIO()
    csv.writer(buffer).writerows([[*columns, "label"], *([*values, "sad"] for values in rows)])
    assert clips_of(buffer.getvalue(), tmp_path) == [corrected(1, HOSTILE, "sad"), corrected(2, "two\nlines", "sad")]


CHOOSING = """
const result = {};
get("below").value = "0.5"; filter(); result.below = get("count").textContent;
get("below").value = "2"; get("class").value = "sad"; filter(); result.sad = get("count").textContent;
get("order").value = "name"; get("order").dispatchEvent(new Event("change"));
result.order = [...list.children].map((card) => card.dataset.name);
for (const [number, label] of [[0, "sad"], [2, "happy"]]) {
  const select = cards[number].querySelector(".right");
  select.value = label; select.dispatchEvent(new Event("change", { bubbles: true }));
}
result.button = get("download").textContent;
result.csv = corrections();
const out = document.createElement("pre");
out.id = "result"; out.textContent = JSON.stringify(result); document.body.append(out);
"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
def test_labels_chosen_in_a_browser_are_a_manifest(tmp_path):
    cards = [
        card(1, place="b.mp4", words=HOSTILE), card(2, "sad", place="a10.mp4"), card(3, place="a9.mp4", words=" 门,\n"),
    ]  # fmt: skip
    text = re.sub("<meta http-equiv[^>]*>", "", written(cards, tmp_path))  # which would let no test run in the page
    (tmp_path / "page.htm").write_text(text.replace("</script>\n</body>", CHOOSING + "</script>\n</body>"), "utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"--user-data-dir={tmp_path}/u"]
    page = subprocess.run([*command, f"file://{tmp_path}/page.htm"], capture_output=True, timeout=60, check=True)
    result = json.loads(unescape(re.search('<pre id="result">(.*?)</pre>', page.stdout.decode(), re.DOTALL)[1]))
    assert (result["below"], result["sad"]) == ("0 of 3 clips", "1 of 3 clips")
    assert result["order"] == ["a9.mp4", "a10.mp4", "b.mp4"]
    assert result["button"] == "corrections.csv (2)"
    assert clips_of(result["csv"], tmp_path) == [corrected(1, HOSTILE, "sad"), corrected(3, " 门,\n", "happy")]
