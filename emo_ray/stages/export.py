"""export: a checkpoint to a folder that works by itself, for `emo_ray.load`, MLflow, ONNX and the Hugging Face hub."""

from pathlib import Path
from typing import Any

from emo_ray import cluster, durable, store, tracking
from emo_ray.config import Config
from emo_ray.inference.encoders import of_checkpoint
from emo_ray.models import checkpoint_files, portable
from emo_ray.models.checkpoint_files import CARD, EMOVCLIP, WEIGHTS, read_calibration, read_config
from emo_ray.reports import evaluation
from emo_ray.reports.table import markdown
from emo_ray.stages.result import Result

VERSION = 1  # of the folder's form
ONNX = "onnx"
_REPORT = "report.json"


def export(config: Config) -> Result:
    """The folder of the model that `checkpoint` names. It is registered where `tracking.register` gives a name.

    Raises ValueError without a checkpoint.
    """
    path = checkpoint_files.folder_of(config)
    folder = export_model(config, path)
    files = sorted(file.relative_to(folder).as_posix() for file in store.local(folder).rglob("*") if file.is_file())
    lines = [f"in Python: emo_ray.load({str(folder)!r})"]
    if config.tracking.register is not None and config.tracking.enabled:
        lines.append(f"in MLflow: models:/{config.tracking.register}@{tracking.ALIAS}")
    return Result(folder, {"files": files}, lines=lines)


def export_model(config: Config, path: Path) -> Path:
    """Export a checkpoint, and register it where `tracking.register` gives a name; the folder."""
    model_config = of_checkpoint(config, path)
    checkpoint_files.check(path)
    root = cluster.store_root(config)
    report = _latest_report(root, path.name)
    weights = store.digest_path(path / WEIGHTS)
    decides = {"version": VERSION, "weights": weights, "licence": config.export.licence, "onnx": config.export.onnx}
    meta = {"kind": "export", **decides, "report": report and report.parent.name}
    folder = root / "exports" / f"{path.name}-{store.digest(meta)}"

    def fill(temporary: Path) -> dict[str, Any]:
        entries = portable.write(path, temporary)
        durable.write_text(temporary / CARD, _card(path, config.export.licence, report))
        tracking.write_mlmodel(temporary)
        if config.export.onnx:
            _write_onnx(path, temporary / ONNX)
        return {**entries, **meta}

    store.artefact(folder, meta, fill)
    if config.tracking.register is not None:
        tracking.check(config, root)
        run = tracking.open_run(model_config, root, path.name.rpartition("-")[2], path.name)
        with run.running():
            run.model(folder, config.tracking.register, folder.name)
    return folder


def _latest_report(root: Path, name: str) -> Path | None:
    """The newest report on a checkpoint in the store; None where there is none."""
    store.local(root / "reports", lambda name: name.endswith(_REPORT))
    reports = sorted((root / "reports").glob(f"*/{_REPORT}"), key=lambda path: path.stat().st_mtime, reverse=True)
    return next((path for path in reports if store.read_json(path).get("checkpoint") == name), None)


def _write_onnx(path: Path, folder: Path) -> None:
    from emo_ray.models import checkpoint, onnx_export  # seconds to import

    fitted = read_calibration(path)
    head = checkpoint.load_fusion(path)
    if not read_config(path)[0].fusion.is_classical:  # those choose a classifier for each clip, which is no graph
        onnx_export.write_head(head, 1.0 if fitted is None else fitted["temperature"], folder / onnx_export.HEAD)
    if (path / EMOVCLIP).is_dir():
        onnx_export.write_video(checkpoint.load_emovclip(path / EMOVCLIP), folder / onnx_export.VIDEO)


def _card(path: Path, licence: str, report: Path | None) -> str:
    """The model card in the form of the Hugging Face hub: front matter, use, limits, scores, facts of training."""
    _, labels = read_config(path)
    trained = (path / CARD).read_text(encoding="utf-8") if (path / CARD).is_file() else ""
    facts = [line for line in trained.splitlines() if line.startswith("- ")]
    return "\n".join(
        [
            "---",
            f"license: {licence}",
            "library_name: emo_ray",
            "pipeline_tag: video-classification",
            "tags: [emotion-recognition, multimodal, video, audio, text]",
            "---",
            "",
            f"# {path.name}",
            "",
            f"Emotion of a clip from video, sound and words, as one of {', '.join(labels)}.",
            "",
            "```python",
            "import emo_ray",
            "",
            'emo_ray.load("THIS_FOLDER_OR_NAME").predict("clip.mp4")',
            "```",
            "",
            "## Intended use and limits",
            "",
            "Research on perceived emotion in clips like those of the training corpus. Labels are what its annotators",
            "perceived, not what somebody felt. The model was not tested on languages, recording conditions or groups",
            "of people beyond that corpus. It must not be used to judge individuals, nor where the law forbids emotion",
            "recognition, as at work and in schools in the European Union.",
            "",
            f"Licence: {licence}. Encoders and corpus have licences of their own, which may not allow every use.",
            "",
            _scorecard(report),
            "",
            "## Training",
            "",
            *facts,
            "",
        ]
    )


def _scorecard(report: Path | None) -> str:
    if report is None:
        return "## Scores\n\nNo report on this model lay in its store: jobs/evaluate.py makes one."
    try:
        return markdown(evaluation.tables(store.read_json(report))[0])
    except KeyError:  # of an earlier version
        return f"## Scores\n\nThe report {report.parent.name} is of an earlier version: run jobs/evaluate.py again."
