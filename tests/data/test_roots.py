"""A corpus names the files inside its root, and others only where its user allows it."""

from pathlib import Path

import pytest
from tables_on_disk import clips_of, table

from emo_ray.config.data_settings import Data
from emo_ray.data.corpora.reader import read_corpus
from emo_ray.data.roots import resolve


@pytest.fixture
def corpus(tmp_path):
    """A folder `corpus` beside others: with a clip, links that stay inside and links that lead out."""
    for name in ("corpus/x/a.mp4", "private/a.mp4", "corpus-2/a.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "corpus" / "inside.mp4").symlink_to("x/a.mp4")
    (tmp_path / "corpus" / "absolute.mp4").symlink_to(tmp_path / "corpus" / "x" / "a.mp4")
    (tmp_path / "corpus" / "out.mp4").symlink_to("../private/a.mp4")
    (tmp_path / "corpus" / "out").symlink_to("../private")
    (tmp_path / "corpus" / "x" / "gone.mp4").symlink_to("../../private/gone.mp4")
    (tmp_path / "alias").symlink_to("corpus")
    return tmp_path / "corpus"


INSIDE = ["x/a.mp4", "x/../x/a.mp4", "ROOT/x/a.mp4", "ALIAS/x/a.mp4", "inside.mp4", "absolute.mp4", "x/none.mp4", "..a"]
INSIDE += ["file://ROOT/x/a.mp4", "file://localhost/ROOT/x/%61.mp4", "a\x01.mp4", "x", "x/..%2f/../../private/a.mp4"]
OUTSIDE = [
    "../private/a.mp4",
    "x/../../private/a.mp4",
    "../corpus-2/a.mp4",
    "/etc/passwd",
    "out.mp4",
    "out/a.mp4",
    "..",
]
OUTSIDE += ["x/gone.mp4", "../none.mp4", "ROOT/../private/a.mp4", "file:///etc/passwd", "FILE:///etc/passwd", "out/.."]
OUTSIDE += ["file://ROOT/%2e%2e/private/a.mp4", "/", "//etc/passwd"]


def clips(corpus: Path, name: str, **settings):
    name = name.replace("ROOT", str(corpus)).replace("ALIAS", str(corpus.parent / "alias"))
    path = table(corpus / "clips.csv", f"clip_id,video\na,x/a.mp4\nb,{name}\n")
    return clips_of(path, **settings)


@pytest.mark.parametrize("name", INSIDE)
@pytest.mark.parametrize("root", [None, "corpus", "alias"])
def test_what_lies_inside_may_be_named(name, root, corpus):
    assert len(clips(corpus, name, root=root and corpus.parent / root)) == 2


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("root", [None, "corpus", "alias"])
def test_what_leads_out_is_one_message_unless_it_is_allowed(name, root, corpus):
    settings = {"root": root and corpus.parent / root}
    with pytest.raises(ValueError, match=r"clips\.csv: row 2, video: found .*data\.outside_root=true.*data\.root"):
        clips(corpus, name, **settings)
    assert len(clips(corpus, name, **settings, outside_root=True)) == 2


def test_a_root_elsewhere_holds_the_media_and_many_problems_are_counted(corpus):
    path = table(corpus / "clips.csv", "video,audio\n" + "".join(f"{i}.mp4,../{i}.wav\n" for i in range(9)))
    with pytest.raises(ValueError, match=r"row 3, audio: found .*/2\.wav, .*; and 6 more"):
        clips_of(path)
    assert len(clips_of(path, corpus / "x", outside_root=True)) == 9
    assert len(clips_of(table(corpus / "b.csv", f"video\n{corpus.parent}/private/a.mp4\n"), corpus.parent)) == 1


@pytest.mark.parametrize("address", ["s3://bucket/a.mp4", "S3://bucket/a.mp4", "s3://bucket/a%20b.mp4"])
def test_storage_is_read_where_its_scheme_is_named(address, corpus):
    assert clips(corpus, address, schemes=("s3",))[1].video == address
    for settings in ({}, {"outside_root": True}, {"schemes": ("gs",)}):
        with pytest.raises(ValueError, match=r"row 2, video: found .*data\.schemes"):
            clips(corpus, address, **settings)


@pytest.mark.parametrize(
    "address",
    ["s3://bucket/a.mp4?endpoint_override=127.0.0.1:80&scheme=http", "s3://key:secret-word@bucket/a.mp4"],
)
def test_addresses_that_may_lead_to_any_host_are_refused_without_showing_their_login(address, corpus):
    with pytest.raises(ValueError, match=r"row 2, video: found s3://bucket/a\.mp4 with .*data\.outside_root") as error:
        clips(corpus, address, schemes=("s3",))
    assert "secret-word" not in str(error.value)
    assert clips(corpus, address, schemes=("s3",), outside_root=True)[1].video == address


@pytest.mark.parametrize("scheme", ["http", "https", "rtp", "concat", "mock", "file://host", "x/s3", ""])
def test_other_schemes_are_refused_whatever_is_allowed(scheme, corpus):
    with pytest.raises(ValueError, match=r"row 2, video: found .*expected a scheme"):
        clips(corpus, f"{scheme}://host/a.mp4".replace("://host://", "://host/"), schemes=("s3",), outside_root=True)


@pytest.mark.parametrize(
    "setting",
    [
        {"schemes": ["http"]},
        {"root": "s3://key:hidden@bucket"},
        {"root": "hdfs://host/a"},
        {"root": " "},
        {"root": "a\0"},
    ],
)
def test_settings_that_nothing_could_be_read_with_are_refused(setting):
    with pytest.raises(ValueError, match=f"{next(iter(setting))}"):
        Data(**setting)


def test_uris_of_local_files_are_paths():
    assert resolve("file:///a/b%20c%23.mp4", Path("/root")) == "/a/b c#.mp4"
    assert resolve("file://host/a.mp4", Path("/root")) == "file://host/a.mp4"


def test_media_that_feature_tables_replace_are_not_looked_at(corpus):
    path = table(corpus / "clips.csv", "clip_id,video\na,/elsewhere/a.mp4\n")
    assert len(read_corpus(Data(manifest=str(path)), bare=True)[0]) == 1
    with pytest.raises(ValueError, match=r"row 1, video: found /elsewhere/a\.mp4"):
        read_corpus(Data(manifest=str(path)))
