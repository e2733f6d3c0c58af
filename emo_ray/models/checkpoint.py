"""Checkpoints: a folder with `model.safetensors` (trained weights only), `config.yaml`, `labels.json` and a model card.

A model's folder holds the fusion head; the EmoVCLIP that made its video features lies in `emovclip/` inside it, in the
same form, so that the folder can be copied, shared and loaded without the store (and without Ray).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from emo_ray import store
from emo_ray.config import Config, dump, load
from emo_ray.models import emovclip
from emo_ray.models.fusion import FusionHead
from emo_ray.models.state import load_trained
from emo_ray.settings import MODALITIES, Tracking

WEIGHTS, CONFIG, LABELS, CARD, EMOVCLIP = "model.safetensors", "config.yaml", "labels.json", "README.md", "emovclip"
SEEN = "seen_clips.json"  # clip_id -> split of what it was trained and selected on: never to be tested on


def write(folder: Path, state: Mapping[str, torch.Tensor], config: Config, labels: Sequence[str], card: str) -> None:
    """Write a trained state and what is needed to use it into a folder that exists."""
    save_file({name: value.contiguous() for name, value in state.items()}, folder / WEIGHTS)
    shareable = config.model_copy(update={"tracking": Tracking()})  # a tracking URI may hold credentials
    store.write_text(folder / CONFIG, dump(shareable))
    store.write_text(folder / LABELS, json.dumps(list(labels), ensure_ascii=False))
    store.write_text(folder / CARD, card)


def read_config(folder: Path) -> tuple[Config, tuple[str, ...]]:
    """The config and labels of a checkpoint. Raises ValueError where the folder is none."""
    if not all((folder / name).is_file() for name in (WEIGHTS, CONFIG, LABELS)):
        raise ValueError(f"{folder}: found no checkpoint, expected {WEIGHTS}, {CONFIG} and {LABELS} in it")
    return load(str(folder / CONFIG)), tuple(json.loads((folder / LABELS).read_text(encoding="utf-8")))


def load_emovclip(folder: Path) -> emovclip.EmoVCLIP:
    """The EmoVCLIP of a checkpoint folder, on the frozen CLIP that its config names, in evaluation mode."""
    config, labels = read_config(folder)
    model = emovclip.build(config, labels)
    load_trained(model, load_file(folder / WEIGHTS))
    return model.eval()


def load_fusion(folder: Path) -> FusionHead:
    """The fusion head of a checkpoint folder, in evaluation mode. Raises ValueError where the folder has none."""
    config, labels = read_config(folder)
    state = load_file(folder / WEIGHTS)
    scaling = {name: state[f"scaling_{name}"] for name in MODALITIES if f"scaling_{name}" in state}
    if not scaling:
        raise ValueError(f"{folder}: found no fusion head, expected a whole model: the folder that jobs/train.py names")
    head = FusionHead(config.fusion, scaling, len(labels))
    load_trained(head, state)
    return head.eval()
