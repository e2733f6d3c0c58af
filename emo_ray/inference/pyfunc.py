"""An exported model as MLflow's pyfunc: a table of paths and words in, a table of probabilities out."""

from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-untyped] # its types are a package of their own

from emo_ray.config.model_settings import MODALITIES
from emo_ray.inference.model import Model, load
from emo_ray.inference.sources import PARTS


class PyfuncModel:
    """What MLflow calls. Paths are those of the machine that it runs on."""

    def __init__(self, model: Model):
        self.model = model

    def predict(self, data: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Rows of `video`, `audio` and `text`, any of which may be absent, to a row each.

        It has `label`, `confidence`, `p_CLASS` for every class, `MODALITY_status`, and `MODALITY_unfamiliar` (see
        `Prediction.unfamiliar`).
        """
        rows = data.reindex(columns=list(PARTS)).to_dict("records")
        clips = [{name: value for name, value in row.items() if isinstance(value, str) and value} for row in rows]
        predictions = self.model.predict(clips) if clips else []
        assert isinstance(predictions, list)
        return pd.DataFrame(
            [
                {
                    "label": said.label,
                    "confidence": said.confidence,
                    **{f"p_{label}": said.probabilities.get(label) for label in self.model.labels},
                    **{f"{name}_status": said.statuses[name] for name in MODALITIES},
                    **{f"{name}_unfamiliar": said.unfamiliar.get(name) for name in MODALITIES},
                }
                for said in predictions
            ]
        )


def _load_pyfunc(path: str) -> PyfuncModel:
    """The model in a folder: MLflow's entry point."""
    return PyfuncModel(load(Path(path)))
