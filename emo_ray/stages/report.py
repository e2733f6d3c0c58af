"""report: the front page of a store, with links to everything in it that a person looks at."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from emo_ray import cluster, parquet, store
from emo_ray.config import Config
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data.prepared import MANIFEST
from emo_ray.progress import say
from emo_ray.reports import front_page
from emo_ray.reports.front_page import Entry, Section
from emo_ray.reports.wording import SCORES, percent, plural
from emo_ray.stages.result import Result
from emo_ray.stages.store_files import check_store, is_artefact

_UNFINISHED = "not finished: the command that makes it goes on with it"
_DAMAGED = "cannot be read: jobs/verify.py says what is damaged"
_READ = (".json", ".html", f"/{MANIFEST}")  # of a store in a bucket
_MOST_NAMES = 8  # in a line
_LETTERS = {name[0].upper(): name for name in MODALITIES}
# Where the page of an artefact is looked for; others, such as that of a report's mistakes, lie beside it.
_PAGES = ("report.html", "predictions.html", "*.html", "*/report.html", "*/*.html")


class Words(NamedTuple):
    """What is said of an artefact; an empty name is that of its folder."""

    about: str = ""
    score: str = ""
    name: str = ""


def report(config: Config) -> Result:
    """Write the store's front page. Raises ValueError where there is no store, or a page of somebody else."""
    root = cluster.store_root(config)
    check_store(root)
    sections = sections_of(root)
    path = _written(root, sections)
    content = {section.title: [asdict(entry) for entry in section.entries] for section in sections}
    return Result(path, content, front_page.tables(sections), [front_page.summary(sections), f"page: {path}"])


def refresh(root: Path) -> None:
    """Bring the front page up to date at the end of a job, whose result does not depend on it: no trouble is raised."""
    try:
        if any(root.glob("*/*")):
            _written(root, sections_of(root))
    except Exception as error:  # of any kind: the job's result is there
        say(f"the front page of the store was not brought up to date: {type(error).__name__}: {error}")


def _written(root: Path, sections: Sequence[Section]) -> Path:
    path = root / front_page.PAGE
    if store.exists(path) and not front_page.is_ours(store.local(path)):
        raise ValueError(
            f"{path}: found a page that no job wrote, expected the store's own or none: move it, or give the store a "
            "folder of its own by store.root"
        )
    return front_page.write(sections, _notes(root), path)


def sections_of(root: Path) -> list[Section]:
    """The artefacts of a store by kind, newest first."""
    kinds: list[tuple[str, str, str, Callable[[Path, Mapping[str, Any]], Words]]] = [
        ("Reports", "report", "reports/*", _words_of_report),
        ("Models", "model", "checkpoints/*", _words_of_model),
        ("Self-training runs", "self-training run", "self_train/*", _words_of_rounds),
        ("Sweeps", "sweep", "sweeps/*", _words_of_sweep),
        ("Tables of predictions", "table of predictions", "predictions/*", _words_of_predictions),
        ("Rounds of pseudo-labels", "round of pseudo-labels", "pseudo_labels/*/*", _words_of_pseudo_labels),
        ("Corpora", "corpus", "prepared/*", _words_of_corpus),
        ("Checks of corpora", "check of a corpus", "checks/*", _words_of_check),
        ("Measurements of claims", "measurement of claims", "claims/*", lambda folder, meta: Words()),
        ("Benchmarks", "benchmark", "bench/*", lambda folder, meta: Words()),
    ]
    store.local(root, lambda name: name.endswith(_READ))
    sections = []
    for title, noun, pattern, words_of in kinds:
        entries = [_entry(folder, root, words_of) for folder in _folders(root, pattern)]
        sections.append(Section(title, noun, sorted(entries, key=lambda entry: (-entry.made_s, entry.name))))
    return sections


def _folders(root: Path, pattern: str) -> Iterator[Path]:
    for folder in root.glob(pattern):
        parts = folder.relative_to(root).parts
        if folder.is_dir() and all(map(is_artefact, parts[1:])):
            yield folder


def _entry(folder: Path, root: Path, words_of: Callable[[Path, Mapping[str, Any]], Words]) -> Entry:
    """An artefact in words. Where it is unfinished or damaged that is its state, and no error."""
    words, state = Words(), ""
    try:
        if store.is_complete(folder):
            words = words_of(folder, store.read_meta(folder))
        else:
            state = _UNFINISHED
    except Exception:  # damaged content may be of any shape
        state = _DAMAGED
    meta = folder / store.META
    made_s = (meta if meta.exists() else folder).stat().st_mtime
    return Entry(words.name or folder.name, made_s, _address(folder, root), words.about, words.score, state)


def _address(folder: Path, root: Path) -> str:
    """The artefact's page, the folder of its pages where it has several, or its folder."""
    candidates = (list(islice(folder.glob(pattern), 2)) for pattern in _PAGES)
    pages: list[Path] = next(filter(None, candidates), [])
    target = folder if not pages else pages[0] if len(pages) == 1 else pages[0].parent
    address = quote(target.relative_to(root).as_posix())
    return address if pages and target == pages[0] else f"{address}/"


def _notes(root: Path) -> list[str]:
    stopped = sum(1 for pattern in ("train/[!.]*", "tune/[!.]*") for _ in root.glob(pattern))
    return [f"{plural(stopped, 'run')} unfinished: running now, or stopped; the same command goes on."] * bool(stopped)


def _words_of_report(folder: Path, meta: Mapping[str, Any]) -> Words:
    if meta.get("kind") == "comparison":
        from emo_ray.reports import comparison  # with matplotlib, as below: every job ends with the front page

        return Words(comparison.conclusion(store.read_json(folder / "comparison.json")))
    if meta.get("kind") == "noise ladder":
        from emo_ray.reports import noise

        return Words(noise.summary(store.read_json(folder / "noise.json")))
    content = store.read_json(folder / "report.json")
    if "pairs" in content:
        return Words(f"models of each corpus on each other: {_listed(content['corpora'])}")
    judged = content.get("checkpoint") or f"{len(content.get('folds', []))} folds"
    split = f"{content['split']} split" if content.get("checkpoint") else "cross-validation"
    about = f"{judged} on {plural(content['n_clips'], 'clip')}, {split}, {_classes(content['labels'])}"
    return Words(about, _scores(content.get("available") or {}))


def _words_of_model(folder: Path, meta: Mapping[str, Any]) -> Words:
    best = meta.get("best", {})
    phase = "fusion" if "fusion" in best else "emovclip"
    names = [name for letter, name in _LETTERS.items() if f"{letter}/waf" in best.get("fusion", {})]
    kind = (" + ".join(names) or "fusion head") if phase == "fusion" else "EmoVCLIP, video alone"
    labels = store.read_json(folder / "labels.json")
    score = _scores(best.get(phase, {}))
    return Words(f"{kind}; {_classes(labels)}", f"{score} (validation)" if score else "")


def _words_of_rounds(folder: Path, meta: Mapping[str, Any]) -> Words:
    content = store.read_json(folder / "rounds.json")
    best = next(round_ for round_ in content["rounds"] if round_["number"] == content["best"])
    played = plural(len(content["rounds"]) - 1, "round")
    return Words(f"{played}; the best is round {content['best']}", f"{_scores(best['scores'])} (validation)")


def _words_of_sweep(folder: Path, meta: Mapping[str, Any]) -> Words:
    content = store.read_json(folder / "sweep.json")
    states = Counter(trial["state"] for trial in content["trials"])
    counts = ", ".join(f"{count} {state}" for state, count in states.most_common())
    best = content["best"]
    value = next((trial["value"] for trial in content["trials"] if trial["number"] == best), None)
    score = f"{percent(value)} {content['objective']}" if value is not None else ""
    return Words(f"{plural(len(content['trials']), 'trial')} ({counts}) over {_listed(list(content['space']))}", score)


def _words_of_predictions(folder: Path, meta: Mapping[str, Any]) -> Words:
    counts = Counter(meta["counts"])
    total = sum(counts.values()) + meta["unusable"]
    most = ", ".join(f"{label} {count}" for label, count in counts.most_common(3) if count)
    return Words(f"{plural(total, 'clip')}; most often {most}" if most else plural(total, "clip"))


def _words_of_pseudo_labels(folder: Path, meta: Mapping[str, Any]) -> Words:
    content = store.read_json(folder / "report.json")
    accepted = f"{content['accepted']} of {plural(content['clips'], 'clip')} accepted"
    return Words(f"{accepted} by policy {content['policy']}", name=f"{folder.parent.name}, {folder.name}")


def _words_of_corpus(folder: Path, meta: Mapping[str, Any]) -> Words:
    splits = Counter(parquet.read(folder / MANIFEST, columns=["split"])["split"].to_pylist())
    counts = ", ".join(f"{count} {split}" for split, count in splits.items())
    return Words(f"{plural(sum(splits.values()), 'clip')} ({counts}); {_classes(meta['labels'])}")


def _words_of_check(folder: Path, meta: Mapping[str, Any]) -> Words:
    return Words(str(meta.get("summary", "")))


def _scores(scores: Mapping[str, float]) -> str:
    """WAF, accuracy and UAR, as far as they are there."""
    return ", ".join(f"{percent(scores[key])} {SCORES[key]}" for key in ("waf", "accuracy", "uar") if key in scores)


def _classes(labels: Sequence[str]) -> str:
    return f"{len(labels)} class{'' if len(labels) == 1 else 'es'}"


def _listed(names: Sequence[str]) -> str:
    more = [f"{len(names) - _MOST_NAMES} more"] if len(names) > _MOST_NAMES else []
    return ", ".join([*map(str, names[:_MOST_NAMES]), *more])
