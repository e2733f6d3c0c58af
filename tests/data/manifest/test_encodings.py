"""Tables in encodings other than UTF-8: the likely ones are named, and the one that is set is used."""

import json

import pytest

from emo_ray.config import Config, override
from emo_ray.config.data_settings import Data
from emo_ray.data import manifest
from emo_ray.data.manifest.encodings import likely_encodings, read_text

TEXTS = {
    "gb18030": ["今天我很高兴,我们去吃饭吧", "你为什么不告诉我", "愤怒"],
    "big5": ["今天我很高興,我們去吃飯吧", "你為什麼不告訴我", "憤怒"],
    "cp932": ["今日はとても嬉しいです", "どうして言ってくれなかったの", "怒り"],
    "euc_jp": ["今日はとても嬉しいです", "どうして言ってくれなかったの"],
    "cp949": ["오늘은 정말 행복해요", "왜 말하지 않았어", "분노"],
    "cp1251": ["Сегодня я очень счастлив", "Почему ты мне не сказал", "гнев"],
    "cp1252": [
        "Ärger",
        "ÜBERRASCHUNG und ÄRGER",
        "Je suis très fâché, c’est fini",
        "Fröhlich und müde",
        "él está aquí",
    ],
    "utf-16": ["今天", "today", "Сегодня"],
}
CASES = [(encoding, text) for encoding, texts in TEXTS.items() for text in texts]


def csv_of(text):
    return f'clip_id,text,label\nc1,"{text}",happy\nc2,so,sad\n'


@pytest.mark.parametrize(("encoding", "text"), CASES)
def test_the_encoding_is_among_the_likely_ones_and_is_then_honoured(tmp_path, encoding, text):
    for name, content in (("clips.csv", csv_of(text)), ("clips.jsonl", json.dumps({"text": text}, ensure_ascii=False))):
        path = tmp_path / name
        path.write_bytes(content.encode(encoding))
        with pytest.raises(ValueError, match=rf"{name}.* not UTF-8, .*data\.encoding.*{encoding} \("):
            manifest.read_table(path, Data())
        clips, _ = manifest.read_table(path, Data(encoding=encoding))
        assert clips[0].text == text


@pytest.mark.parametrize("encoding", ["gb18030", "cp932"])
def test_of_whole_transcripts_the_right_encoding_comes_first(encoding):
    assert next(iter(likely_encodings(csv_of(" ".join(TEXTS[encoding])).encode(encoding)))) == encoding


def test_bytes_that_are_no_text_have_no_likely_encoding():
    assert likely_encodings(bytes(range(256))) == {}
    assert likely_encodings(b"\xff\xfe\x00\xd8") == {}
    assert likely_encodings(b"plain") == {}


def test_an_encoding_that_does_not_fit_is_named(tmp_path):
    (tmp_path / "clips.csv").write_bytes(csv_of(TEXTS["cp932"][0]).encode("cp932"))
    with pytest.raises(ValueError, match=r"not euc_kr, .*cp932 \("):
        read_text(tmp_path / "clips.csv", "euc_kr")


def test_a_byte_order_mark_is_no_text_whoever_names_the_encoding(tmp_path):
    for encoding, written in (
        (None, "utf-8-sig"),
        ("utf-8", "utf-8-sig"),
        ("utf-16", "utf-16"),
        ("gbk", "gbk"),
    ):
        (tmp_path / "x.txt").write_bytes("a\r\nb".encode(written))
        assert read_text(tmp_path / "x.txt", encoding) == "a\r\nb"


@pytest.mark.parametrize("encoding", ["gbk2", "base64", "rot13", "", "\0", "x" * 999])
def test_what_is_no_encoding_of_text_is_an_error_of_the_setting(encoding):
    with pytest.raises(ValueError, match=r"data\.encoding"):
        override(Config(), {"data.encoding": encoding})


def test_parquet_has_no_encoding_to_set(tmp_path):
    manifest.write(tmp_path / "clips.parquet", [manifest.Clip("a", text="x")])
    with pytest.raises(ValueError, match=r"clips\.parquet.*data\.encoding=cp932"):
        manifest.read_table(tmp_path / "clips.parquet", Data(encoding="cp932"))
