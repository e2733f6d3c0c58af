"""Generated conversations: clips as features, without media, whose class does or does not depend on another turn.

Every turn has a mood, which all of its modalities show with noise. Its class is a mood: by the kind of the corpus the
turn's own, that of the turn before, or that of the last turn in which the other person speaks. As moods are drawn
independently, a turn alone then tells nothing of its class.

    PYTHONPATH=. python tests/conversations.py

prints the table of docs/conversations.md.
"""

import numpy as np
import torch

from emo_ray.config import load
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data.batch import FeatureBatch, with_context
from emo_ray.data.dialogues import windows_of
from emo_ray.data.manifest import Clip
from emo_ray.training.in_memory import fit_head, one_thread

MOODS, WIDTH, TURNS, SWITCH = 4, 8, 15, 0.7
KINDS = ("own", "before", "other")


def conversations(kind, dialogues, seed, noise=2.0):
    """Labelled clips of two people each, who take turns at random, and their features by modality (n, WIDTH)."""
    draw = np.random.default_rng([seed, KINDS.index(kind)])
    looks = np.random.default_rng(0).normal(size=(len(MODALITIES), MOODS, WIDTH))  # the same in every corpus
    clips, moods = [], []
    for dialogue in range(dialogues):
        mood_T = draw.integers(0, MOODS, TURNS)
        who_T = (draw.random(TURNS) < SWITCH).cumsum() % 2
        for turn in range(TURNS):
            others = [t for t in range(turn) if kind == "before" or who_T[t] != who_T[turn]]
            decisive = turn if kind == "own" or not others else others[-1]
            name = f"{seed}-{dialogue}"
            clips.append(
                Clip(
                    f"{name}-{turn}",
                    label=f"mood {mood_T[decisive]}",
                    speaker=f"{name}-{who_T[turn]}",
                    dialogue=name,
                    turn=turn,
                )
            )
        moods += mood_T.tolist()
    shape = len(clips), WIDTH
    features = {
        name: (looks[m, moods] + noise * draw.normal(size=shape)).astype(np.float32)
        for m, name in enumerate(MODALITIES)
    }
    return clips, features


def batch_of(clips, features, offsets):
    """The clips as a batch, with their neighbours where there are offsets."""
    batch = FeatureBatch(
        clip_ids=tuple(clip.clip_id for clip in clips),
        present_BM=torch.ones(len(clips), len(MODALITIES), dtype=torch.bool),
        label_B=torch.tensor([int(clip.label.removeprefix("mood ")) for clip in clips]),
        features={name: torch.from_numpy(values) for name, values in features.items()},
    )
    windows = windows_of(clips, offsets)
    return batch if windows is None else with_context(batch, batch, windows)


def accuracy(kind, dialogues, seed, **settings):
    """The accuracy on 40 new dialogues of a head trained on some."""
    config = load(
        "mini", {"seed": seed, "train.heads": 1, **{f"fusion.{key}": value for key, value in settings.items()}}
    )
    offsets = config.fusion.context.offsets
    with one_thread():
        head = fit_head(batch_of(*conversations(kind, dialogues, seed), offsets), None, config, MOODS)
    tested = batch_of(*conversations(kind, 40, 1000 + seed), offsets)
    with torch.inference_mode():
        return float((head(tested).logits_BK.argmax(dim=1) == tested.label_B).float().mean())


def main():
    """Print mean accuracy over seeds, and the mean and standard error of the paired difference to no context."""
    seeds, dialogues = range(5), 20
    for kind in KINDS:
        alone = np.array([accuracy(kind, dialogues, seed) for seed in seeds])
        row = [f"{100 * alone.mean():.1f}"]
        for before, after in ((1, 0), (3, 0), (3, 1)):
            settings = {"context.before": before, "context.after": after}
            each = np.array([accuracy(kind, dialogues, seed, **settings) for seed in seeds])
            gain = 100 * (each - alone)
            row.append(f"{100 * each.mean():.1f} ({gain.mean():+.1f} ± {gain.std(ddof=1) / len(gain) ** 0.5:.1f})")
        print(f"| {kind} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
