"""Corpora on disk to clips: one importer per layout, and the choice between them.

No importer decodes media or cuts splits. Hidden files (`._clip.mp4`, `.DS_Store`) are never looked at, and nothing
depends on the order in which the file system lists its files.
"""

import csv
import io
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath

from emo_ray.config.data_settings import Data
from emo_ray.data import labels, manifest
from emo_ray.data.manifest import AUDIO_SUFFIXES, VIDEO_SUFFIXES, Clip

# modality (audio and video, video only, audio only), then the take: channel, emotion, intensity, ..., actor
_RAVDESS_NAME = re.compile(r"(\d\d)-(\d\d-(\d\d)-\d\d-(\d\d)-\d\d-(\d\d))")
_MER_TEXTS = ("chinese", "sentence", "text", "transcript", "transcription", "english")  # first match wins
_MELD = {  # official word -> our split, and the official folder of its media
    "train": ("train", "train_splits"),
    "dev": ("validation", "dev_splits_complete"),
    "test": ("test", "output_repeated_splits_test"),
}
_MELD_TABLE = "_sent_emo.csv"
_MELD_COLUMNS = ("Utterance", "Emotion", "Speaker", "Dialogue_ID", "Utterance_ID")


def read_corpus(data: Data, bare: bool = False) -> list[Clip]:
    """The clips of `data.manifest`, a table or a folder, by the importer that `data.corpus` names or that fits.

    Where `bare`, a table's clips may be but a clip_id.

    `auto` takes a file for a table; a folder for MELD if any `*_sent_emo.csv` lies below it, for MER2024 if a CSV
    directly in it has the columns name and discrete, for RAVDESS if any media file is named that way, else for plain
    media. Raises ValueError where the path, the layout or a clip_id is wrong.
    """
    if data.manifest is None or data.corpus == "synthetic":
        found = f"data.manifest={data.manifest}, data.corpus={data.corpus}"
        raise ValueError(f"found {found}, expected a corpus on disk: set data.manifest=PATH and data.corpus=auto")
    path = Path(data.manifest)
    if not path.exists():
        raise ValueError(f"{path}: found no such file or folder, expected a corpus: correct data.manifest")
    name = _recognised(path) if data.corpus == "auto" else data.corpus
    found, expected = ("folder" if path.is_dir() else "file"), ("file" if name == "table" else "folder")
    if found != expected:
        raise ValueError(f"{path}: found a {found}, expected a {expected} for data.corpus={name}: set data.corpus=auto")
    if name != "table" and (data.root or data.columns):
        found = f"data.root={data.root}, data.columns={data.columns}"
        raise ValueError(f"{path}: found {found} with a {name} folder, expected neither: they describe tables only")
    table = {"root": Path(data.root) if data.root else None, "columns": data.columns, "bare": bare}
    clips = IMPORTERS[name](path, **(table if name == "table" else {}))
    if not clips:
        suffixes = " ".join(sorted(VIDEO_SUFFIXES | AUDIO_SUFFIXES))
        raise ValueError(f"{path}: found no clips as {name}, expected some ({suffixes}): correct data.manifest")
    manifest.check(clips, str(path))
    return clips


def ravdess(path: Path) -> list[Clip]:
    """RAVDESS: `modality-channel-emotion-intensity-statement-repetition-actor.mp4` and the like, anywhere below.

    One clip per take, named without the modality: sight from modality 01, else 02, sound from 03 where it is there; of
    copies in several folders the first is taken. Raises ValueError naming media files that are called otherwise.
    """
    takes: dict[str, dict[str, str]] = {}
    strange = []
    for name in sorted(_media(path), key=lambda name: (PurePosixPath(name).name, name)):
        match = _RAVDESS_NAME.fullmatch(PurePosixPath(name).stem)
        modality, take, emotion, statement, actor = match.groups() if match else [""] * 5
        label, text = labels.RAVDESS_EMOTIONS.get(emotion), labels.RAVDESS_STATEMENTS.get(statement)
        if label is None or text is None or modality not in ("01", "02", "03"):
            strange.append(name)
        else:
            clip = manifest.media_fields(name, path) | {"text": text, "label": label, "speaker": actor}
            takes[take] = clip | takes.get(take, {})
    if strange:
        example = "03-01-05-01-02-01-12.wav: move the others away, or set data.corpus=folder"
        raise ValueError(f"{path}: found {_shown(strange)}, expected only RAVDESS names such as {example}")
    return [Clip(take, **takes[take], language="en") for take in sorted(takes)]


def mer2024(path: Path) -> list[Clip]:
    """MER2024: label and transcript CSVs directly in the folder, media below its subfolders `video*` and `audio*`.

    Clips are the union of labelled names and videos; those without a label are split `unlabelled`. A labelled name
    without a video keeps the path it should have had. Raises ValueError where tables or folders disagree.
    """
    headers, files = _headers(path), _files(path)
    if not any({"name", "discrete"} <= set(header) for header in headers.values()):
        found = _shown([f"{file.name} ({', '.join(header)})" for file, header in headers.items()]) or "no CSV"
        todo = "put the label table (label-disdim.csv) there, or set data.corpus=folder"
        raise ValueError(f"{path}: found {found}, expected a CSV with the columns name and discrete: {todo}")
    label_of, text_of, names = {}, {}, set()
    for file, header in headers.items():
        column = next((c for c in _MER_TEXTS if c in header), "")
        if "name" in header and (column or "discrete" in header):
            # Transcripts are Chinese and circulate in China's own encoding too: a second attempt, for them alone.
            for row in _rows(file, ("utf-8-sig", "gb18030") if column else ("utf-8-sig",)):
                names |= {row["name"].strip()} if "discrete" in header else set()
                _put(label_of, row["name"], row.get("discrete", ""), file)
                _put(text_of, row["name"], row.get(column, ""), file)
    videos = _stems(path, files, "video", VIDEO_SUFFIXES) or _stems(path, files, "", VIDEO_SUFFIXES)
    audios = _stems(path, files, "audio", AUDIO_SUFFIXES)
    home = PurePosixPath(min(videos.values(), default="video/none.mp4")).parent
    clips = []
    for name in sorted(names | videos.keys()):
        video = manifest.resolve(videos.get(name, f"{home}/{name}.mp4"), path)
        audio = manifest.resolve(audios[name], path) if name in audios else None
        split = None if name in label_of else "unlabelled"
        clips.append(Clip(name, video, audio, text_of.get(name), label_of.get(name), split, language="zh"))
    return clips


def meld(path: Path) -> list[Clip]:
    """MELD: the tables `train_sent_emo.csv`, `dev_...` and `test_...`, and `dia0_utt0.mp4` in folders named likewise.

    Clips are the rows of the tables, in their order; an utterance without a file keeps the path it should have had.
    Raises ValueError where a table is doubled, unknown, or lacks a column.
    """
    files = _files(path)
    tables = [name for name in files if name.endswith(_MELD_TABLE)]
    table_of = {PurePosixPath(name).name.removesuffix(_MELD_TABLE): name for name in tables}
    if not tables or len(table_of) != len(tables) or not table_of.keys() <= _MELD.keys():
        found, known = _shown(tables) or f"no *{_MELD_TABLE}", ", ".join(word + _MELD_TABLE for word in _MELD)
        raise ValueError(f"{path}: found {found}, expected one each of {known} at most: move the others away")
    media: dict[str, dict[str, str]] = {word: {} for word in _MELD}
    for name in map(PurePosixPath, files):
        words = re.findall("|".join(_MELD), str(name.parent).lower())
        if words and re.fullmatch(r"dia\d+_utt\d+\.mp4", name.name):
            media[words[-1]].setdefault(name.name, str(name))
    clips = []
    for word, (split, official) in _MELD.items():
        home = next((str(PurePosixPath(name).parent) for name in media[word].values()), official)
        for row in _rows(path / table_of[word], columns=_MELD_COLUMNS) if word in table_of else []:
            text, label, speaker, dialogue, utterance = (row[column].strip() or None for column in _MELD_COLUMNS)
            clip_id, file = f"{word}_dia{dialogue}_utt{utterance}", f"dia{dialogue}_utt{utterance}.mp4"
            video = manifest.resolve(media[word].get(file, f"{home}/{file}"), path)
            clips.append(Clip(clip_id, video, None, text, label, split, speaker, "en"))
    return clips


def folder(path: Path) -> list[Clip]:
    """Media anywhere below a folder: files that differ in suffix alone are one clip, `clip.txt` its transcript.

    The clip_id is the path below the folder without suffix. Raises ValueError for two videos or sounds of one clip.
    """
    texts = {os.path.splitext(name)[0]: name for name in _files(path) if name.lower().endswith(".txt")}
    fields_of: dict[str, dict[str, str]] = {}
    for name in _media(path):
        clip_id = os.path.splitext(name)[0]
        for field, file in manifest.media_fields(name, path).items():
            _put(fields_of.setdefault(clip_id, {}), field, file, path / clip_id)
    for clip_id in sorted(fields_of.keys() & texts.keys()):
        _put(fields_of[clip_id], "text", _decoded(path / texts[clip_id]), path / clip_id)
    return [Clip(clip_id, **fields_of[clip_id]) for clip_id in sorted(fields_of)]


def class_folders(path: Path) -> list[Clip]:
    """As `folder`, with the first folder below `path` as the label: `angry/clip.mp4`."""
    if loose := [name for name in _media(path) if "/" not in name]:
        todo = "move them into the folder of their class, or set data.corpus=folder"
        raise ValueError(f"{path}: found {_shown(loose)} outside of any class folder, expected LABEL/clip.mp4: {todo}")
    return [replace(clip, label=clip.clip_id.partition("/")[0]) for clip in folder(path)]


IMPORTERS: dict[str, Callable[..., list[Clip]]] = {
    "table": manifest.read_table,
    "ravdess": ravdess,
    "mer2024": mer2024,
    "meld": meld,
    "folder": folder,
    "class_folders": class_folders,
}


def _recognised(path: Path) -> str:
    if not path.is_dir():
        return "table"
    if any(name.endswith(_MELD_TABLE) for name in _files(path)):
        return "meld"
    if any({"name", "discrete"} <= set(header) for header in _headers(path).values()):
        return "mer2024"
    return "ravdess" if any(_RAVDESS_NAME.fullmatch(PurePosixPath(n).stem) for n in _media(path)) else "folder"


def _files(path: Path, above: tuple[str, ...] = ()) -> list[str]:
    """All files below a folder, as sorted posix paths relative to it; links are followed, except to a folder above."""
    found, above = [], (*above, os.path.realpath(path))
    for entry in [entry for entry in os.scandir(path) if not entry.name.startswith(".")]:
        if not entry.is_dir():
            found.append(entry.name)
        elif os.path.realpath(entry) not in above:
            found += [f"{entry.name}/{name}" for name in _files(Path(entry), above)]
    return sorted(found)


def _media(path: Path) -> list[str]:
    return [n for n in _files(path) if PurePosixPath(n).suffix.lower() in AUDIO_SUFFIXES | VIDEO_SUFFIXES]


def _stems(path: Path, files: list[str], prefix: str, suffixes: set[str]) -> dict[str, str]:
    """{stem: relative path} of the files below those subfolders whose name starts with `prefix`; without one, all."""
    found: dict[str, str] = {}
    for name in files:
        bare, suffix = os.path.splitext(name)
        inside = not prefix or ("/" in name and name.lower().startswith(prefix))
        if inside and suffix.lower() in suffixes:
            _put(found, os.path.basename(bare), name, path)
    return found


def _put(values: dict[str, str], name: str, value: str, where: Path) -> None:
    name, value = name.strip(), value.strip()
    if value and values.setdefault(name, value) != value:
        raise ValueError(f"{where}: found {values[name]!r} and {value!r} for {name!r}, expected one: remove the other")


def _headers(path: Path) -> dict[Path, list[str]]:
    headers: dict[Path, list[str]] = {}
    for file in sorted(file for file in path.glob("*.csv") if file.is_file() and not file.name.startswith(".")):
        line = file.read_bytes().partition(b"\n")[0]
        headers[file] = next(csv.reader([line.decode("utf-8-sig", errors="replace")]), [])
    return headers


def _rows(path: Path, encodings: Sequence[str] = ("utf-8-sig",), columns: Sequence[str] = ()) -> list[dict[str, str]]:
    reader = csv.DictReader(io.StringIO(_decoded(path, encodings), newline=""), strict=True)
    try:
        found, rows = reader.fieldnames or [], list(reader)
    except csv.Error as error:
        raise ValueError(f"{path}: not readable as csv: {error}") from error
    if missing := [column for column in columns if column not in found]:
        raise ValueError(f"{path}: found columns {', '.join(found)}, expected {', '.join(missing)} too")
    for i, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise ValueError(f"{path}: row {i}: found too few or too many cells, expected {len(found)}: quote commas")
    return rows


def _decoded(path: Path, encodings: Sequence[str] = ("utf-8-sig",)) -> str:
    for encoding in encodings:
        with suppress(UnicodeDecodeError):
            return path.read_bytes().decode(encoding)
    raise ValueError(f"{path}: found bytes that are not {' or '.join(encodings)}, expected text: save it as UTF-8")


def _shown(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
