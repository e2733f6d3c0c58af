"""The file by which MLflow knows an exported model: `mlflow.pyfunc.load_model(FOLDER)` and `mlflow models serve`."""

from pathlib import Path

MLMODEL = "MLmodel"
_LOADER = "emo_ray.inference.pyfunc"  # has `_load_pyfunc`, which MLflow calls with the folder


def write_mlmodel(folder: Path) -> None:
    """Write it into the folder of a model. Its input are columns of paths and words, each of which may be left out."""
    from mlflow import pyfunc  # 1.4 s to import
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    columns: list[ColSpec | TensorSpec] = [
        ColSpec("string", name, required=False) for name in ("video", "audio", "text")
    ]
    model = Model(signature=ModelSignature(Schema(columns)))
    pyfunc.add_to_model(model, loader_module=_LOADER, data=".")
    model.save(str(folder / MLMODEL))
