"""The neighbours of clips that are predicted part by part: their features, which may lie in other parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from emo_ray import parquet
from emo_ray.config import Config
from emo_ray.data.dialogues import Windows
from emo_ray.inference.encoders import EncoderSpec
from emo_ray.stages.decoding.shard_plan import ShardPlan
from emo_ray.stages.encoding.feature_tables import encode_corpus


@dataclass(frozen=True)
class Near:
    """Where the neighbours of a part's clips are: in which parts, whose features lie in a folder for each modality."""

    windows: Windows
    folders: Mapping[str, Path]
    parts: Sequence[str]

    def features(self) -> pa.Table:
        """The features of the neighbours, in the form of `feature_tables.load`."""
        chosen = pc.field("clip_id").isin(list(self.windows.ids()))
        columns: dict[str, Any] = {"clip_id": pa.array([], pa.string())}
        for modality, folder in self.folders.items() if self.parts else ():
            rows = pa.concat_tables([parquet.read(folder / name, filters=chosen) for name in self.parts])
            columns |= {"clip_id": rows["clip_id"], modality: rows["feature"], f"has_{modality}": rows["present"]}
        return pa.table(columns)


def near_parts(
    config: Config, encoders: Sequence[EncoderSpec], plan: ShardPlan, names: Sequence[str], windows: Windows
) -> dict[str, Near]:
    """Where the neighbours of the clips of some decoded parts are, by part.

    Unlike those of a model without context, features are kept: a clip is encoded once, and not for each neighbour.
    """
    windows_in = {name: windows.only(row.clip.clip_id for row in plan.clips_of[name]) for name in names}
    parts_near = {name: sorted({plan.part_of[clip_id] for clip_id in windows_in[name].ids()}) for name in names}
    needed = {*names, *(part for parts in parts_near.values() for part in parts)}
    folders = encode_corpus(config, plan, encoders, [part for part in plan.parts if part in needed])
    return {name: Near(windows_in[name], folders, parts_near[name]) for name in names}
