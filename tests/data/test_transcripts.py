"""Which transcripts are believed, and how clips take them: rules as pure functions."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emo_ray.data import transcripts
from emo_ray.data.transcripts import SCHEMA, Transcription, filled, hallucination, joined, judged, unjudged, words

FINE = (
    ("Kids are talking by the door.", 3.3),
    ("No, no, no, no!", 1.2),
    ("I said I said it, and I said it again.", 3.0),
    ("you", 0.4),
    ("\u6211\u4eca\u5929\u975e\u5e38\u9ad8\u5174\uff0c\u8c22\u8c22\u4f60\u4eec\u3002", 2.0),  # six syllables a second
    ("\u54c8\u54c8\u54c8\u54c8", 1.0),  # laughter
    ("It was about twenty-five past eleven when they told me what had happened in the kitchen.", 4.0),
)
INVENTED = (
    ("Thank you. Thank you. Thank you. Thank you. Thank you.", 8.0, "thank you"),
    ("the the the the the door", 5.0, "the"),
    ("and so on and so on and so on and so on and so on", 12.0, "and so on"),
    ("\u597d\u7684\u597d\u7684\u597d\u7684\u597d\u7684\u597d\u7684", 9.0, "\u597d"),
    ("Subscribe to my channel and press the bell to hear of every new video that I make", 1.0, "letters in 1.0 s"),
    ("\u8bf7\u4e0d\u541d\u70b9\u8d5e\u8ba2\u9605\u8f6c\u53d1\u6253\u8d4f\u652f\u6301\u660e\u955c", 1.0, "letters"),
)


@pytest.mark.parametrize(("text", "sound_s"), FINE)
def test_what_people_say_is_believed(text, sound_s):
    assert hallucination(text, sound_s) is None


@pytest.mark.parametrize(("text", "sound_s", "why"), INVENTED)
def test_words_that_nobody_says_have_a_reason(text, sound_s, why):
    assert why in hallucination(text, sound_s)
    assert judged("a", Transcription(text), sound_s)["status"].startswith("hallucination: ")


def test_words_are_in_lower_case_and_an_ideograph_is_one():
    assert words("Don't STOP, 3 times!") == ["don't", "stop", "3", "times"]
    assert words("\u4f60\u597dOK\u3002") == ["\u4f60", "\u597d", "ok"]
    assert words("... !") == []


def test_a_judgement_looks_for_errors_then_for_silence_then_at_the_words():
    def status(**said):
        return judged("a", Transcription(**said), 3.0)["status"]

    assert status(text=" Kids are talking. ", no_speech=0.1) == status(text="you", no_speech=0.5) == "ok"
    assert status(text="you", no_speech=0.95, log_prob=-0.1) == "no speech"
    assert status(text="the the the the the", no_speech=0.95) == "no speech"
    assert status(text=" ") == "no speech"
    assert status(text="words", error="no answer") == "error: no answer"
    row = judged("a", Transcription(" Kids. ", "en", -0.2, 0.1), 3.0)
    assert row == dict(zip(SCHEMA.names, ("a", "Kids.", "en", -0.2, 0.1, "ok"), strict=True))


def test_a_clips_own_language_wins_and_regions_are_left_out():
    languages = [transcripts.spoken_language(*pair) for pair in (("zh-CN", "en"), (None, "en_US"), ("German", None))]
    assert languages == ["zh", "en", "German"]
    assert transcripts.spoken_language(None, None) is None


def test_pieces_without_speech_are_left_out_of_a_long_sound():
    first, silence = Transcription("one", "en", -0.2, 0.1), Transcription("you", "en", -0.7, 0.9)
    last = Transcription(" two ", "en", -0.4, 0.3)
    assert joined([silence]) == silence
    assert joined([silence, silence]) == silence
    whole = joined([first, silence, last])
    assert (whole.text, whole.language, whole.no_speech) == ("one two", "en", 0.1)
    assert whole.log_prob == pytest.approx(-0.3)
    assert joined([first, Transcription(error="why")]).error == "why"
    assert joined([Transcription("a"), Transcription("b")]) == Transcription("a b")


@pytest.fixture
def table(tmp_path):
    """A table of transcripts of the clips a to d, of which b and c are not believed."""
    rows = [judged(name, Transcription(f"said by {name}"), 3.0) for name in "ad"]
    rows += [judged("b", Transcription("you", no_speech=0.9), 3.0), unjudged("c", "error: why")]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), tmp_path / "transcripts.parquet")
    return tmp_path / "transcripts.parquet"


def test_clips_without_text_take_what_is_believed_and_no_text_is_replaced(table):
    rows = pa.table(
        {
            "clip_id": list("abcde"),
            "text": [None, None, None, "given", None],
            "text_status": ["missing", "missing: empty", "missing", "ok", "missing"],
        }
    )
    columns = filled(rows, table).to_pydict()
    assert columns["text"] == ["said by a", None, None, "given", None]
    assert columns["text_status"] == [transcripts.TRANSCRIBED, "missing: empty", "missing", "ok", "missing"]
    assert filled(filled(rows, table), table).equals(filled(rows, table))
    ledger = rows.drop_columns(["text"])
    assert filled(ledger, table).to_pydict()["text_status"] == columns["text_status"]
    assert filled(rows, None) is rows
