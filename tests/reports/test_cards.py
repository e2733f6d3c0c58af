"""What a person should look at first, and what is said of a clip in words and in the terminal."""

import pytest
from reading import terminal, texts

from emo_ray.reports.cards import Answer, ranked, status_words, table

LABELS = ("neutral", "happy", "sad")
OK = dict.fromkeys(("video", "audio", "text"), "ok")
NOTHING = dict.fromkeys(OK)


def answer(together=(0.1, 0.7, 0.2), alone=((0.1, 0.7, 0.2),) * 3, statuses=OK, **changes):
    of_modalities = dict(zip(OK, alone, strict=True))
    values = {"clip_id": "talk", "file": "/data/talk.mp4", "without": of_modalities, **changes}
    return Answer(labels=LABELS, together=together, alone=of_modalities, statuses=statuses, **values)


def test_doubt_grows_as_the_lead_shrinks_modalities_dissent_and_media_break():
    sure, unsure = answer((0.0, 1.0, 0.0)), answer((0.0, 0.5, 0.5))
    assert (sure.doubt, unsure.doubt) == (0, 1)
    dissenting = answer((0.0, 1.0, 0.0), ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), None))
    assert (dissenting.dissenting, dissenting.doubt) == (["video"], 0.5)
    broken = answer((0.0, 1.0, 0.0), statuses=OK | {"video": "corrupt: cut"})
    assert broken.doubt == 1
    gone = answer(None, (None,) * 3, statuses=OK | {"video": "missing: no such file"})
    assert (gone.prediction, gone.doubt) == (None, 2)
    silent = answer((0.0, 1.0, 0.0), statuses=OK | {"audio": "missing: no sound"})
    assert silent.doubt == 0  # what never existed is not broken


def test_a_label_of_the_manifest_tells_what_is_wrong():
    assert answer(truth="sad").is_wrong
    assert not answer(truth="happy").is_wrong
    assert not answer().is_wrong
    assert not answer(None, (None,) * 3, truth="sad").is_wrong


def test_statuses_are_words():
    statuses = {"video": "corrupt: cut", "audio": "ok: mono", "text": "missing: empty"}
    assert status_words(answer(alone=(None, (1.0, 0.0, 0.0), None), statuses=statuses)) == [
        "picture broken: cut", "sound used, mono", "no words: empty",
    ]  # fmt: skip
    assert status_words(answer(alone=((1.0, 0.0, 0.0), None, (1.0, 0.0, 0.0)))) == ["sound not used by this model"]
    assert status_words(answer()) == []


def test_a_terminal_gets_a_row_a_clip_and_no_more_than_it_can_show():
    wrong = answer(
        truth="sad", statuses=OK | {"text": "missing"}, notes=["unlike the training clips"], file="/data/film.mp4"
    )
    lost = answer(None, (None,) * 3, statuses=NOTHING.fromkeys(OK, "missing"), file="")
    shown = table([wrong, lost, *[answer()] * 30], 500, is_calibrated=False)
    assert len(shown.rows) == 20
    first, second = texts(shown)[:2]
    assert first[:4] == ["film.mp4", "sad", "happy", "70 %"]
    assert first[4] == "happy 70 %"
    assert "no words; unlike the training clips" in first[-1]
    assert texts(shown)[-1][0] == "talk"  # its clip_id, for the file is that of others too
    assert second[:4] == ["talk", "–", "no prediction", "–"]
    assert "20 of 500 clips" in shown.note
    assert "not calibrated" in shown.note
    assert "label" not in table([answer()], 1, is_calibrated=True).header
    namesakes = [answer(file="/a/clip.mp4"), answer(file="/b/clip.mp4")]
    assert [row[0] for row in texts(table(namesakes, 2, is_calibrated=True))] == ["/a/clip.mp4", "/b/clip.mp4"]
    part = table([answer(is_part=True)], 2, is_calibrated=True)
    assert texts(part)[0][0] == "talk"  # alone of its recording among those shown
    assert "film.mp4" in terminal([shown], 120)


def test_ranked_orders_classes():
    assert ranked(LABELS, (0.1, 0.7, 0.2)) == [("happy", 0.7), ("sad", 0.2), ("neutral", 0.1)]
    assert ranked(LABELS, None) == []
    with pytest.raises(ValueError, match="zip"):
        ranked(LABELS, (1.0,))
