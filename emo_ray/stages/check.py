"""check: what a person should know of a corpus before training on it, as a table, a page and an exit status."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emo_ray import cluster, durable, parquet, store
from emo_ray.config import Config
from emo_ray.data import clip_tables, corpus_checks
from emo_ray.data.content import Content, content_of
from emo_ray.data.corpus_checks import Checked, Finding, Pair
from emo_ray.data.prepared import Prepared
from emo_ray.failures import USER_ERROR
from emo_ray.progress import progress
from emo_ray.reports import corpus_check as report_page
from emo_ray.reports.corpus_check import CheckReport, Exhibit
from emo_ray.stages.decoding.corpus import prepare_corpus
from emo_ray.stages.result import Result

VERSION = 1
CHECK, CLIPS, PAIRS = "check.json", "clips.csv", "pairs.csv"
_SHOWN_PAIRS, _SHOWN_CLIPS = 12, 4  # on the page; clips of each check
_SHOWN_CHECKS = ("silence", "clipping", "dark pictures", "still pictures", "durations", "faces")


def check(config: Config) -> Result:
    """Check the corpus that `config.data` names, which is prepared first.

    The result's status is 2, as for all that a user can mend, where clips or speakers leak from one split into another.
    Raises ValueError for a manifest that cannot be used.
    """
    prepared = prepare_corpus(config)
    folder = cluster.store_root(config) / "checks" / store.digest(VERSION, prepared.path.name)

    def fill(temporary: Path) -> dict[str, Any]:
        checked = Checked(
            {clip.clip_id: clip for clip in prepared.clips},
            {row["clip_id"]: row for row in prepared.ledger.to_pylist()},
            _contents(prepared),
            prepared.labels,
        )
        pairs = corpus_checks.same_content(checked)
        findings = corpus_checks.findings(checked, pairs)
        content = _report(checked, findings)
        durable.write_json(temporary / CHECK, content)
        _write_csv(temporary, checked, findings, pairs)
        report_page.write(content, _exhibits(prepared, checked, findings, pairs), temporary)
        return {"summary": report_page.summary(content)}

    store.artefact(folder, {"kind": "check", "version": VERSION, "corpus": prepared.path.name}, fill)
    content = store.read_json(folder / CHECK)
    lines = [report_page.summary(content), f"pictures and details: {folder / report_page.PAGE}"]
    leaks = any(outcome["severity"] == "error" for outcome in content["outcomes"])
    return Result(folder, content, report_page.tables(content), lines, USER_ERROR if leaks else 0)


def _contents(prepared: Prepared) -> dict[str, Content]:
    """What is in every clip, read part by part: only one part's media are in memory."""
    contents = {}
    with progress("looking into clips", len(prepared.clips), "clips") as advance:
        for row in _rows(prepared, prepared.parts, {clip.clip_id for clip in prepared.clips}):
            samples_S = np.frombuffer(row["audio"], np.int16) if row["audio"] else None
            contents[row["clip_id"]] = content_of(row["frames"], samples_S)
            advance(1)
    return contents


def _rows(prepared: Prepared, parts: Sequence[str], clip_ids: Collection[str]) -> Iterator[dict[str, Any]]:
    for name in parts:
        table = parquet.read(prepared.shards / name, columns=["clip_id", "frames", "audio"])
        for batch in clip_tables.of_clips(table, clip_ids).to_batches(max_chunksize=1):
            yield from batch.to_pylist()


def _report(checked: Checked, findings: Sequence[Finding]) -> CheckReport:
    durations_s = [row["audio_s"] for row in checked.rows.values() if row["audio_s"]]
    quantiles = np.quantile(durations_s, np.linspace(0, 1, 101)).round(3).tolist() if durations_s else []
    balance = corpus_checks.balance(checked.clips.values())
    order = [*(name for name in corpus_checks.JUDGED if name in balance), *sorted({*balance} - {*corpus_checks.JUDGED})]
    return {
        "clips": len(checked.clips),
        "labels": list(checked.labels),
        "outcomes": [
            {"check": finding.check, "severity": finding.severity, "text": finding.text, "clips": len(finding.details)}
            for finding in findings
        ],
        "balance": {name: {label: balance[name][label] for label in checked.labels} for name in order},
        "durations_s": quantiles,
    }


def _write_csv(folder: Path, checked: Checked, findings: Sequence[Finding], pairs: Sequence[Pair]) -> None:
    """Every clip in question, and every pair, for a spreadsheet."""
    rows: list[Sequence[Any]] = [("clip_id", "split", "label", "check", "severity", "detail", "file")]
    for finding in findings:
        for clip_id, detail in finding.details.items():
            clip = checked.clips[clip_id]
            file = clip.file or ""
            rows.append((clip_id, clip.split, clip.label, finding.check, finding.severity, detail, file))
    durable.write_csv(folder / CLIPS, rows)
    header = [*Pair._fields, "first_split", "second_split"]
    durable.write_csv(folder / PAIRS, [header, *((*pair, *checked.splits_of(pair)) for pair in pairs)])


def _exhibits(
    prepared: Prepared, checked: Checked, findings: Sequence[Finding], pairs: Sequence[Pair]
) -> list[Exhibit]:
    """Pairs that leak first, then clips of the checks that a picture or a number explains."""
    by_leak = sorted(pairs, key=lambda pair: len(set(checked.splits_of(pair))), reverse=True)[:_SHOWN_PAIRS]
    groups = [(f"{pair.kind}: {' and '.join(checked.splits_of(pair))}", [pair.first, pair.second]) for pair in by_leak]
    for finding in findings:
        if finding.check in _SHOWN_CHECKS:
            worst = list(finding.details.items())[:_SHOWN_CLIPS]
            groups += [(f"{finding.check}: {detail}", [clip_id]) for clip_id, detail in worst]
    clip_ids = {clip_id for _, group in groups for clip_id in group}
    rows = _rows(prepared, prepared.parts_with(clip_ids), clip_ids)
    stills = {row["clip_id"]: row["frames"][len(row["frames"]) // 2] for row in rows if row["frames"]}

    def words(clip_id: str) -> str:
        clip = checked.clips[clip_id]
        return " · ".join(filter(None, (clip.split, clip.label or "no label", clip.speaker, clip.text)))

    return [
        Exhibit(title, [(clip_id, words(clip_id), stills.get(clip_id)) for clip_id in group]) for title, group in groups
    ]
