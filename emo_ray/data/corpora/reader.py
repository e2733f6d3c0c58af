"""A corpus on disk to clips and notes: which importer reads it, and what it leaves out."""

from collections.abc import Callable
from pathlib import Path

from emo_ray.config.data_settings import Data
from emo_ray.data import manifest
from emo_ray.data.corpora import iemocap, media_folders, meld, mer2024, ravdess
from emo_ray.data.corpora.imported import Imported, left_out_notes
from emo_ray.data.corpora.subtitles import FORMAT_OF
from emo_ray.data.folders import Listing, first_of, is_unicode, list_folder, printable
from emo_ray.data.manifest import Clip
from emo_ray.data.manifest.checks import check_files, check_ids, cleaned
from emo_ray.data.roots import check_inside
from emo_ray.data.suffixes import is_media_file

FOLDER_IMPORTERS: dict[str, Callable[[Listing], Imported]] = {
    "ravdess": ravdess.read,
    "mer2024": mer2024.read,
    "meld": meld.read,
    "iemocap": iemocap.read,
    "folder": media_folders.read,
    "class_folders": media_folders.read_class_folders,
}
# The corpora that `auto` recognises, by the first that fits; a function gives the media that do not (see `imported`).
_MISFITS: dict[str, Callable[[Listing], list[str] | None]] = {
    "meld": meld.misfits,
    "iemocap": iemocap.misfits,
    "mer2024": mer2024.misfits,
    "ravdess": ravdess.misfits,
}


def read_corpus(data: Data, bare: bool = False) -> tuple[list[Clip], list[str]]:
    """The clips of `data.manifest`, a table or a folder, by the importer that `data.corpus` names or that fits.

    Beside the clips come notes for the user: what was left out, or understood in a certain way. With `bare`, a clip_id
    alone makes a clip of a table's row (see `manifest.read_table`).

    `auto` takes a media file for a corpus of this file, and any other file for a table; a folder for the first of these
    that shows itself and that all of its media fit: MELD by any `*_sent_emo.csv` below it, IEMOCAP by a table in
    `Session*/dialog/EmoEvaluation`, MER2024 by a CSV directly in it that has the columns name and discrete, RAVDESS by
    a media file's name; and else for plain media.
    Raises ValueError where the path, the layout, a clip_id or a label is wrong, and where rows share a file (with
    `bare` they may: it may not be needed).
    """
    if data.manifest is None or data.corpus == "synthetic":
        sources = f"data.manifest={data.manifest}, data.corpus={data.corpus}"
        raise ValueError(f"found {sources}, expected a corpus on disk: set data.manifest=PATH and data.corpus=auto")
    path = Path(data.manifest)
    if not is_unicode(str(path.absolute())):
        where = printable(str(path.absolute()))
        raise ValueError(f"{where}: found a path that is not UTF-8, which no table can hold: rename its folders")
    if not path.exists():
        raise ValueError(f"{path}: found no such file or folder, expected a corpus: correct data.manifest")
    _check_kind(path, data)
    if path.is_dir():
        advice = "set data.outside_root=true if you know where they lead"
        clips, notes = _read_folder(list_folder(path, advice, data.outside_root), data.corpus)
        if not bare:
            media = manifest.media_by_place({f"clip {clip.clip_id!r}": clip for clip in clips})
            check_inside(media, path, data, str(path))  # tables in the folder name files too
    elif is_media_file(path) and data.corpus == "auto":
        clips, notes = _read_media_file(path, data.outside_root)
    else:
        clips, notes = manifest.read_table(path, data, bare)
    if not bare:
        check_files(clips, str(path))  # before ids: rows of one file have one name too
    check_ids(clips, str(path))
    clips, label_notes = cleaned(clips, data, str(path))
    return clips, [*notes, *label_notes]


def _read_media_file(path: Path, outside_root: bool) -> tuple[list[Clip], list[str]]:
    """The clips of one media file, with the transcript or the subtitles that lie beside it."""
    names = [file.name for file in path.parent.iterdir() if file.name.startswith(f"{path.stem}.")]
    texts = [name for name in names if Path(name).suffix.lower() in (".txt", *FORMAT_OF)]
    imported = media_folders.read(Listing(path.parent, outside_root, sorted([path.name, *texts])))
    return imported.clips, list(imported.notes)


def _check_kind(path: Path, data: Data) -> None:
    """Raises ValueError for a folder where a table is expected, a file where a folder is, or settings of the other."""
    is_media = is_media_file(path) and data.corpus == "auto"
    kind = "folder" if path.is_dir() else "media file" if is_media else "file"
    expected = {"auto": kind, "table": "file"}.get(data.corpus, "folder")
    if kind != expected:
        raise ValueError(
            f"{path}: found a {kind}, expected a {expected} for data.corpus={data.corpus}: set data.corpus=auto"
        )
    of_tables = {name: getattr(data, name) for name in ("root", "schemes", "columns", "encoding", "split_map")}
    if kind != "file" and any(of_tables.values()):
        settings = ", ".join(f"data.{name}={value}" for name, value in of_tables.items() if value)
        raise ValueError(f"{path}: found {settings} with a {kind}, expected none of them: they describe tables only")


def _read_folder(listing: Listing, corpus: str) -> tuple[list[Clip], list[str]]:
    """The clips of a folder, and notes. Raises ValueError where there is no clip."""
    name, notes = _recognise(listing) if corpus == "auto" else (corpus, [])
    imported = FOLDER_IMPORTERS[name](listing)
    notes = [*notes, *imported.notes, *left_out_notes(listing, imported)]
    if not imported.clips:
        reasons = f" ({'; '.join(notes)})" if notes else ""
        raise ValueError(
            f"{listing.path}: found no clips as {name}{reasons}, expected media such as .mp4 or .wav: "
            "correct data.manifest"
        )
    return imported.clips, notes


def _recognise(listing: Listing) -> tuple[str, list[str]]:
    """The importer that `auto` takes for a folder (see `read_corpus`), and a note that says why."""
    reasons = []
    for name, misfits_of in _MISFITS.items():
        misfits = misfits_of(listing)
        if misfits == []:
            return name, [f"data.corpus=auto: the folder is taken for {name}, which all of its media fit"]
        if misfits:
            reasons.append(
                f"and not for {name}: {len(misfits)} of {len(listing.media)} media files do not fit it "
                f"({first_of(misfits)}); move them away if it is that corpus"
            )
    note = "data.corpus=auto: the folder is taken for plain media without labels (data.corpus=folder)"
    notes = [", ".join([note, *reasons])]
    if classes := media_folders.maybe_classes(listing):
        notes.append(f"if its {len(classes)} folders ({first_of(classes)}) are classes: data.corpus=class_folders")
    return "folder", notes
