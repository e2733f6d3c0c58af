"""Corpora on disk to clips: an importer for each layout, and the choice between them.

No importer decodes media or cuts splits. Hidden files (`._clip.mp4`, `.DS_Store`) are ignored, and nothing depends on
the order in which the file system lists its files.
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
_MER_TEXT_COLUMNS = ("chinese", "sentence", "text", "transcript", "transcription", "english")  # first match wins
_MELD = {  # official word -> our split, and the official folder of its media
    "train": ("train", "train_splits"),
    "dev": ("validation", "dev_splits_complete"),
    "test": ("test", "output_repeated_splits_test"),
}
_MELD_TABLE = "_sent_emo.csv"
_MELD_COLUMNS = ("Utterance", "Emotion", "Speaker", "Dialogue_ID", "Utterance_ID")


def read_corpus(data: Data, bare: bool = False) -> tuple[list[Clip], list[str]]:
    """The clips of `data.manifest`, a table or a folder, by the importer that `data.corpus` names or that fits.

    Beside the clips come notes for the user: what was left out, or understood in a certain way. With `bare`, a clip_id
    alone makes a clip of a table's row (see `manifest.read_table`).

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
    name = _recognise(path) if data.corpus == "auto" else data.corpus
    _check_kind(path, name, data)
    notes: list[str] = []
    if name == "table":
        clips = manifest.read_table(path, Path(data.root) if data.root else None, data.columns, bare)
    else:
        clips = FOLDER_IMPORTERS[name](path)
    if not clips:
        suffixes = " ".join(sorted(VIDEO_SUFFIXES | AUDIO_SUFFIXES))
        raise ValueError(f"{path}: found no clips as {name}, expected some ({suffixes}): correct data.manifest")
    manifest.check(clips, str(path))
    return clips, notes


def _check_kind(path: Path, name: str, data: Data) -> None:
    """Raises ValueError for a folder where a table is expected, a file where a folder is, or settings of the other."""
    kind = "folder" if path.is_dir() else "file"
    expected = "file" if name == "table" else "folder"
    if kind != expected:
        raise ValueError(f"{path}: found a {kind}, expected a {expected} for data.corpus={name}: set data.corpus=auto")
    if name != "table" and (data.root or data.columns):
        found = f"data.root={data.root}, data.columns={data.columns}"
        raise ValueError(f"{path}: found {found} with a {name} folder, expected neither: they describe tables only")


def ravdess(path: Path) -> list[Clip]:
    """RAVDESS: `modality-channel-emotion-intensity-statement-repetition-actor.mp4` and the like, anywhere below.

    A take is one clip, named without the modality. Its video is the file of modality 01, else of 02; its audio the
    file of modality 03, if there is one. Of copies in several folders the first is taken. Raises ValueError naming
    media files that are called otherwise.
    """
    takes: dict[str, dict[str, str]] = {}
    other_names = []
    for name in sorted(_media(path), key=lambda name: (PurePosixPath(name).name, name)):
        match = _RAVDESS_NAME.fullmatch(PurePosixPath(name).stem)
        modality, take, emotion, statement, actor = match.groups() if match else [""] * 5
        label = labels.RAVDESS_EMOTIONS.get(emotion)
        text = labels.RAVDESS_STATEMENTS.get(statement)
        if label is None or text is None or modality not in ("01", "02", "03"):
            other_names.append(name)
        else:
            clip_fields = manifest.media_fields(name, path) | {"text": text, "label": label, "speaker": actor}
            takes[take] = clip_fields | takes.get(take, {})
    if other_names:
        example = "03-01-05-01-02-01-12.wav: move the others away, or set data.corpus=folder"
        raise ValueError(f"{path}: found {_first_of(other_names)}, expected only RAVDESS names such as {example}")
    return [Clip(take, **takes[take], language="en") for take in sorted(takes)]


def mer2024(path: Path) -> list[Clip]:
    """MER2024: label and transcript CSVs directly in the folder, media below its subfolders `video*` and `audio*`.

    Every labelled name and every video is a clip; those without a label are split `unlabelled`. A labelled name
    without a video keeps the path it should have had. Raises ValueError where tables or folders disagree.
    """
    files = _files(path)
    label_of, text_of, labelled_names = _mer_tables(path)
    videos = _stems(path, files, "video", VIDEO_SUFFIXES) or _stems(path, files, "", VIDEO_SUFFIXES)
    audios = _stems(path, files, "audio", AUDIO_SUFFIXES)
    video_folder = PurePosixPath(min(videos.values(), default="video/none.mp4")).parent
    clips = []
    for name in sorted(labelled_names | videos.keys()):
        video = manifest.resolve(videos.get(name, f"{video_folder}/{name}.mp4"), path)
        audio = manifest.resolve(audios[name], path) if name in audios else None
        split = None if name in label_of else "unlabelled"
        clips.append(Clip(name, video, audio, text_of.get(name), label_of.get(name), split, language="zh"))
    return clips


def _mer_tables(path: Path) -> tuple[dict[str, str], dict[str, str], set[str]]:
    """Label and transcript by name, and all names of the label tables, from the CSVs directly in the folder."""
    headers = _headers(path)
    if not any({"name", "discrete"} <= set(header) for header in headers.values()):
        found = _first_of([f"{file.name} ({', '.join(header)})" for file, header in headers.items()]) or "no CSV"
        todo = "put the label table (label-disdim.csv) there, or set data.corpus=folder"
        raise ValueError(f"{path}: found {found}, expected a CSV with the columns name and discrete: {todo}")
    label_of: dict[str, str] = {}
    text_of: dict[str, str] = {}
    labelled_names: set[str] = set()
    for file, header in headers.items():
        text_column = next((column for column in _MER_TEXT_COLUMNS if column in header), "")
        if "name" not in header or not (text_column or "discrete" in header):
            continue
        # Transcripts are Chinese and also circulate in GB 18030, labels do not.
        for row in _rows(file, ("utf-8-sig", "gb18030") if text_column else ("utf-8-sig",)):
            labelled_names |= {row["name"].strip()} if "discrete" in header else set()
            _put(label_of, row["name"], row.get("discrete", ""), file)
            _put(text_of, row["name"], row.get(text_column, ""), file)
    return label_of, text_of, labelled_names


def meld(path: Path) -> list[Clip]:
    """MELD: the tables `train_sent_emo.csv`, `dev_...` and `test_...`, and `dia0_utt0.mp4` in folders named likewise.

    Clips are the rows of the tables, in their order; an utterance without a file keeps the path it should have had.
    Raises ValueError where a table is doubled, unknown, or lacks a column.
    """
    files = _files(path)
    table_of = _meld_tables(path, files)
    media = _meld_media(files)
    clips = []
    for word, (split, official_folder) in _MELD.items():
        media_folder = next((str(PurePosixPath(name).parent) for name in media[word].values()), official_folder)
        for row in _rows(path / table_of[word], columns=_MELD_COLUMNS) if word in table_of else []:
            text, label, speaker, dialogue, utterance = (row[column].strip() or None for column in _MELD_COLUMNS)
            file = f"dia{dialogue}_utt{utterance}.mp4"
            video = manifest.resolve(media[word].get(file, f"{media_folder}/{file}"), path)
            clip_id = f"{word}_dia{dialogue}_utt{utterance}"
            clips.append(Clip(clip_id, video, None, text, label, split, speaker, "en"))
    return clips


def _meld_tables(path: Path, files: list[str]) -> dict[str, str]:
    """The relative path of the table for each of MELD's words for a split."""
    tables = [name for name in files if name.endswith(_MELD_TABLE)]
    table_of = {PurePosixPath(name).name.removesuffix(_MELD_TABLE): name for name in tables}
    if not tables or len(table_of) != len(tables) or not table_of.keys() <= _MELD.keys():
        found = _first_of(tables) or f"no *{_MELD_TABLE}"
        official = ", ".join(word + _MELD_TABLE for word in _MELD)
        raise ValueError(f"{path}: found {found}, expected one each of {official} at most: move the others away")
    return table_of


def _meld_media(files: list[str]) -> dict[str, dict[str, str]]:
    """For each of MELD's words: the relative paths by file name, as the nearest folder that has the word in it says."""
    media: dict[str, dict[str, str]] = {word: {} for word in _MELD}
    for name in map(PurePosixPath, files):
        words = re.findall("|".join(_MELD), str(name.parent).lower())
        if words and re.fullmatch(r"dia\d+_utt\d+\.mp4", name.name):
            media[words[-1]].setdefault(name.name, str(name))
    return media


def folder(path: Path) -> list[Clip]:
    """Media anywhere below a folder: files that differ in suffix alone are one clip, `CLIP.txt` is its transcript.

    The clip_id is the path below the folder without suffix. Raises ValueError for two videos or sounds of one clip.
    """
    texts = {os.path.splitext(name)[0]: name for name in _files(path) if name.lower().endswith(".txt")}
    fields_of: dict[str, dict[str, str]] = {}
    for name in _media(path):
        clip_id = os.path.splitext(name)[0]
        for field, file in manifest.media_fields(name, path).items():
            _put(fields_of.setdefault(clip_id, {}), field, file, path / clip_id)
    for clip_id in sorted(fields_of.keys() & texts.keys()):
        _put(fields_of[clip_id], "text", _decode(path / texts[clip_id]), path / clip_id)
    return [Clip(clip_id, **fields_of[clip_id]) for clip_id in sorted(fields_of)]


def class_folders(path: Path) -> list[Clip]:
    """Clips as from `folder`, with the first folder below `path` as the label: `angry/clip.mp4`."""
    if loose := [name for name in _media(path) if "/" not in name]:
        todo = "move them into the folder of their class, or set data.corpus=folder"
        raise ValueError(
            f"{path}: found {_first_of(loose)} outside of any class folder, expected LABEL/clip.mp4: {todo}"
        )
    return [replace(clip, label=clip.clip_id.partition("/")[0]) for clip in folder(path)]


FOLDER_IMPORTERS: dict[str, Callable[[Path], list[Clip]]] = {
    "ravdess": ravdess,
    "mer2024": mer2024,
    "meld": meld,
    "folder": folder,
    "class_folders": class_folders,
}


def _recognise(path: Path) -> str:
    """The importer that `auto` takes: see `read_corpus`."""
    if not path.is_dir():
        return "table"
    if any(name.endswith(_MELD_TABLE) for name in _files(path)):
        return "meld"
    if any({"name", "discrete"} <= set(header) for header in _headers(path).values()):
        return "mer2024"
    is_ravdess = any(_RAVDESS_NAME.fullmatch(PurePosixPath(name).stem) for name in _media(path))
    return "ravdess" if is_ravdess else "folder"


def _files(path: Path, above: tuple[str, ...] = ()) -> list[str]:
    """All files below a folder, as sorted posix paths relative to it; links are followed, except to a folder above."""
    names = []
    above = (*above, os.path.realpath(path))
    for entry in [entry for entry in os.scandir(path) if not entry.name.startswith(".")]:
        if not entry.is_dir():
            names.append(entry.name)
        elif os.path.realpath(entry) not in above:
            names += [f"{entry.name}/{name}" for name in _files(Path(entry), above)]
    return sorted(names)


def _media(path: Path) -> list[str]:
    suffixes = AUDIO_SUFFIXES | VIDEO_SUFFIXES
    return [name for name in _files(path) if PurePosixPath(name).suffix.lower() in suffixes]


def _stems(path: Path, files: list[str], prefix: str, suffixes: set[str]) -> dict[str, str]:
    """{stem: relative path} of the files with these suffixes below those subfolders whose name starts with `prefix`.

    An empty prefix takes all files.
    """
    path_of: dict[str, str] = {}
    for name in files:
        base, suffix = os.path.splitext(name)
        inside = not prefix or ("/" in name and name.lower().startswith(prefix))
        if inside and suffix.lower() in suffixes:
            _put(path_of, os.path.basename(base), name, path)
    return path_of


def _put(values: dict[str, str], name: str, value: str, where: Path) -> None:
    """Store a value that is not blank. Raises ValueError where the name has another value already."""
    name = name.strip()
    value = value.strip()
    if value and values.setdefault(name, value) != value:
        raise ValueError(f"{where}: found {values[name]!r} and {value!r} for {name!r}, expected one: remove the other")


def _headers(path: Path) -> dict[Path, list[str]]:
    """The first line of every CSV directly in a folder, in order of their names."""
    headers: dict[Path, list[str]] = {}
    for file in sorted(file for file in path.glob("*.csv") if file.is_file() and not file.name.startswith(".")):
        first_line = file.read_bytes().partition(b"\n")[0]
        headers[file] = next(csv.reader([first_line.decode("utf-8-sig", errors="replace")]), [])
    return headers


def _rows(path: Path, encodings: Sequence[str] = ("utf-8-sig",), columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """A CSV's rows. Raises ValueError where it cannot be read, lacks a column, or a row has another length."""
    reader = csv.DictReader(io.StringIO(_decode(path, encodings), newline=""), strict=True)
    try:
        header = reader.fieldnames or []
        rows = list(reader)
    except csv.Error as error:
        raise ValueError(f"{path}: not readable as csv: {error}") from error
    if missing := [column for column in columns if column not in header]:
        raise ValueError(f"{path}: found columns {', '.join(header)}, expected {', '.join(missing)} too")
    for i, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise ValueError(f"{path}: row {i}: found too few or too many cells, expected {len(header)}: quote commas")
    return rows


def _decode(path: Path, encodings: Sequence[str] = ("utf-8-sig",)) -> str:
    """A file's text in the first of the encodings that fits."""
    for encoding in encodings:
        with suppress(UnicodeDecodeError):
            return path.read_bytes().decode(encoding)
    raise ValueError(f"{path}: found bytes that are not {' or '.join(encodings)}, expected text: save it as UTF-8")


def _first_of(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
