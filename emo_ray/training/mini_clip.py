"""The mini CLIP: an open_clip model pre-trained on stills and captions of the synthetic world, with people of its own.

It stands in for CLIP's pre-training on the web, so that prompting a frozen CLIP can be tried without a download.
`python -m emo_ray.training.mini_clip` makes the shipped files anew. Captions name the expression and the features of a
face, never hair, skin or background: by those a contrastive loss would fall while expressions stayed unlearnt. A probe
on people whom the model has not seen tells whether it has learnt them; the loss does not.
"""

import base64
import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from rich.progress import track
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn

from emo_ray import store
from emo_ray.config import RECIPES
from emo_ray.data.synthetic import DURATION_S, LABELS
from emo_ray.data.synthetic.candid import posed_act
from emo_ray.data.synthetic.face import EXPRESSIONS, add_flaw, paint, sample_act, sample_look
from emo_ray.models.clip_library import open_clip

NAME = "mini_clip"
FILES = {kind: RECIPES / f"{NAME}.{kind}" for kind in ("json", "bpe.gz", "safetensors")}

# What people call the expressions, and the features of a face.
WORDS = {
    "neutral": ("neutral", "calm", "blank"),
    "angry": ("angry", "anger", "furious"),
    "happy": ("happy", "joy", "glad"),
    "sad": ("sad", "sadness", "unhappy"),
    "worried": ("worried", "worry", "anxious"),
    "surprise": ("surprise", "surprised", "astonished"),
}
UNIT_PHRASES = {
    "1": "inner brows up", "2": "outer brows up", "4": "a frown", "5": "wide eyes", "6": "raised cheeks",
    "7": "narrow eyes", "12": "a smile", "15": "mouth corners down", "20": "stretched lips", "23": "pressed lips",
    "26": "an open mouth", "41": "heavy lids",
}  # fmt: skip
TEMPLATES = ("{}", "a {} face", "a photo of a {} face", "a person who looks {}", "someone with a {} look")


@dataclass(frozen=True)
class Pretraining:
    """How many stills there are, what is said of them, and how the model is trained on them."""

    seed: int = 0
    people: int = 600
    stills_per_person: int = 48
    dark_share: float = 0.1  # of stills: photographs vary in light
    stray_share: float = 0.1  # of captions, which name a random expression: the web is not a clean teacher
    features_only_share: float = 0.25  # of captions that name features: they leave the expression out
    strong_unit: float = 0.45  # an action unit above it may be named
    weak_unit: float = 0.25  # a face whose units all lie below it is called neutral
    steps: int = 1500
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    warm_up_share: float = 0.1  # of the steps
    warm_up_divisor: float = 100  # of the learning rate, at the first step
    max_gradient_norm: float = 1.0
    mirrored_share: float = 0.5  # of images: left and right are alike to a face


SETTINGS = Pretraining()
# A CLIP that has seen nothing but posed, bright, frontal stills: `experiments.claims.gap` tries it on candid clips.
POSED = replace(SETTINGS, seed=1, people=200, stills_per_person=32, dark_share=0.0, steps=500, batch_size=128)

Still = Callable[[int, int], tuple[np.ndarray, str, str]]  # (person, number) -> frame_HWC, caption, expression


class Pairs(NamedTuple):
    """Images and what their captions say, N of each."""

    images: torch.Tensor  # float32 (N, 3, size, size)
    tokens: torch.Tensor  # int64 (N, L)
    bags: torch.Tensor  # float32 (N, vocabulary that occurs): 1 where the caption has the word


class ProbeSet(NamedTuple):
    """N images that the model is not trained on."""

    images: torch.Tensor  # float32 (N, 3, size, size)
    labels: Sequence[str]
    people: Sequence[int]


def captioned_still(person: int, number: int) -> tuple[np.ndarray, str, str]:
    """A still (uint8 frame_HWC), its caption, and the expression it was taken from, at a random moment."""
    rng = np.random.default_rng([SETTINGS.seed, person, number])
    label = LABELS[rng.integers(len(LABELS))]
    moment = sample_act(label, rng, np.array([rng.uniform(0, DURATION_S)]), DURATION_S)
    frames_THWC = paint(sample_look(np.random.default_rng([SETTINGS.seed, person])), moment)
    if rng.uniform() < SETTINGS.dark_share:
        frames_THWC = add_flaw(frames_THWC, "dark", rng)
    return frames_THWC[0], caption(label, moment.units_T[0], rng), label


def posed_still(person: int, number: int) -> tuple[np.ndarray, str, str]:
    """A bright, frontal still of a person who poses an expression at its apex, its caption, and the expression."""
    rng = np.random.default_rng([POSED.seed, person, number])
    label = LABELS[rng.integers(len(LABELS))]
    moment = posed_act(label, rng)
    frames_THWC = paint(sample_look(np.random.default_rng([POSED.seed, person])), moment)
    return frames_THWC[0], caption(label, moment.units_T[0], rng), label


def caption(label: str, units: dict[str, float], rng: np.random.Generator) -> str:
    """A sentence about a still: the expression's name most of the time, and up to three features that it shows."""
    shown = [name for name in UNIT_PHRASES if units[name] > SETTINGS.strong_unit]
    if all(units[name] < SETTINGS.weak_unit for name in UNIT_PHRASES):
        label = "neutral"
    if rng.uniform() < SETTINGS.stray_share:
        label = LABELS[rng.integers(len(LABELS))]
    expression = TEMPLATES[rng.integers(len(TEMPLATES))].format(WORDS[label][rng.integers(len(WORDS[label]))])
    features = [UNIT_PHRASES[shown[i]] for i in rng.permutation(len(shown))[: rng.integers(0, 4)]]
    if features and rng.uniform() < SETTINGS.features_only_share:
        return f"a face with {' and '.join(features)}"
    return " , ".join([expression, *features])


# The stills that pin how faces look: of 32 people, so that every colour of a palette occurs. They are compared as
# thumbnails and with a tolerance because machines differ in the last bit of a sine or of a fused multiplication. In
# rare cases that moves the edge of a shape by a pixel, which the mean over a thumbnail's cell hardly shows. Everything
# else is compared exactly: numbers are written as in the source, and captions only depend on thresholds.
_PINNED_STILLS = tuple((person, 0) for person in range(32))
_THUMBNAIL_CELLS = 12  # per side, each of 8 x 8 pixels
_THUMBNAIL_TOLERANCE = 2  # grey levels of 255


def pinned_inputs() -> dict[str, str]:
    """What the model is trained on and how, as metadata of its weights; `changed_inputs` compares it.

    The code of `losses` and `train` is not in it, apart from the settings: after a change there, make the weights anew.
    """
    stills, captions, labels = zip(*(captioned_still(*row) for row in _PINNED_STILLS), strict=True)
    return {
        "settings": json.dumps(asdict(SETTINGS)),
        "labels": json.dumps(LABELS),
        "expressions": store.digest([asdict(EXPRESSIONS[label]) for label in LABELS], DURATION_S),
        "phrases": store.digest(WORDS, list(UNIT_PHRASES.items()), TEMPLATES),
        "captions": store.digest(captions, labels),
        "tokenizer": store.digest_path(FILES["bpe.gz"]),
        "architecture": store.digest(json.loads(FILES["json"].read_text("utf-8"))),
        "stills": base64.b64encode(_thumbnails(stills).tobytes()).decode(),
    }


def changed_inputs(metadata: Mapping[str, str]) -> list[str]:
    """The names of those `pinned_inputs` that are no longer as in the weights' metadata."""
    inputs = pinned_inputs()
    old, new = (
        np.frombuffer(base64.b64decode(pinned.get("stills", "")), np.uint8).astype(int) for pinned in (metadata, inputs)
    )
    changed = [name for name, value in inputs.items() if name != "stills" and metadata.get(name) != value]
    same_stills = old.shape == new.shape and np.abs(old - new).max() <= _THUMBNAIL_TOLERANCE
    return changed if same_stills else [*changed, "stills"]


def _thumbnails(stills: Sequence[np.ndarray]) -> np.ndarray:
    """uint8 (N, 12, 12, 3): the mean colour of each cell of the stills (N, 96, 96, 3)."""
    cells = np.stack(stills).reshape(len(stills), _THUMBNAIL_CELLS, 8, _THUMBNAIL_CELLS, 8, 3)
    return np.round(cells.mean(axis=(2, 4))).astype(np.uint8)


def write_merges(captions: Sequence[str], path: Path) -> int:
    """Write byte-pair merges, in CLIP's form, by which every word of the captions is one token.

    Returns the size of the vocabulary.
    """
    alphabet = sorted({letter for text in captions for letter in text if letter != " "})
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=10_000, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(captions, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    path.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
    return open_clip.SimpleTokenizer(str(path)).vocab_size


def batch_rows(count: int, settings: Pretraining) -> Iterator[torch.Tensor]:
    """Rows of one batch after the other out of `count`, shuffled anew each time all have been seen."""
    generator = torch.Generator().manual_seed(settings.seed)
    while True:
        yield from torch.randperm(count, generator=generator).split(settings.batch_size)


def losses(model: nn.Module, words: nn.Module, pairs: Pairs) -> dict[str, torch.Tensor]:
    """CLIP's contrastive loss, and that of predicting the caption's words from the image with the layer `words`.

    The contrastive loss alone sits at chance for hundreds of steps; the words get the image tower moving.
    """
    image_BD, text_BD, scale = model(pairs.images, pairs.tokens)
    logits_BB = scale * image_BD @ text_BD.T
    target_B = torch.arange(len(pairs.images))
    contrastive = (F.cross_entropy(logits_BB, target_B) + F.cross_entropy(logits_BB.T, target_B)) / 2
    return {"contrastive": contrastive, "words": F.binary_cross_entropy_with_logits(words(image_BD), pairs.bags)}


def probe_accuracy(model: open_clip.CLIP, probe_set: ProbeSet) -> float:
    """Accuracy of a linear probe on the expression: fitted on every second person, measured on the others."""
    with torch.inference_mode():
        features = torch.cat([model.encode_image(images) for images in probe_set.images.split(512)]).numpy()
    labels = np.asarray(probe_set.labels)
    in_fit = np.asarray(probe_set.people) % 2 == 0
    classifier = LogisticRegression(max_iter=2000).fit(features[in_fit], labels[in_fit])
    return classifier.score(features[~in_fit], labels[~in_fit])


def normalised(frames: Sequence[np.ndarray], size: int) -> torch.Tensor:
    """float32 images_BCHW as the model takes them, from uint8 frames_HWC."""
    small = [np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BICUBIC)) for frame in frames]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    return (torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2) / 255 - mean) / std


def main() -> None:
    """Make the shipped files anew: about 8 minutes on two cores."""
    stills, captions = drawn_stills(SETTINGS, captioned_still)
    architecture = json.loads(FILES["json"].read_text("utf-8"))
    architecture["text_cfg"]["vocab_size"] = write_merges(captions, FILES["bpe.gz"])
    FILES["json"].write_text(json.dumps(architecture, indent=4) + "\n", "utf-8")
    model, accuracy = pretrained(SETTINGS, captioned_still, stills, captions)
    write_weights(model, FILES["safetensors"], pinned_inputs() | {"probe": f"{accuracy:.3f}"})
    print(f"probe {accuracy:.3f}", {kind: path.stat().st_size for kind, path in FILES.items()})


def drawn_stills(settings: Pretraining, still: Still) -> tuple[list[np.ndarray], list[str]]:
    """All stills of a pre-training (uint8 frames_HWC) and their captions."""
    rows = [(person, number) for person in range(settings.people) for number in range(settings.stills_per_person)]
    frames, captions, _ = zip(*(still(*row) for row in track(rows, "drawing stills")), strict=True)
    return list(frames), list(captions)


def pretrained(
    settings: Pretraining, still: Still, frames: Sequence[np.ndarray], captions: Sequence[str]
) -> tuple[open_clip.CLIP, float]:
    """A mini CLIP trained on these stills, and the accuracy of a probe on stills of people it has not seen."""
    torch.manual_seed(settings.seed)
    open_clip.add_model_config(FILES["json"])
    model = open_clip.create_model(NAME)
    size = model.visual.image_size[0]
    tokens = open_clip.get_tokenizer(NAME, bpe_path=str(FILES["bpe.gz"]))(list(captions))
    vocabulary = sorted(Counter(tokens.flatten().tolist()))
    bags = torch.stack([(tokens == token).any(dim=1) for token in vocabulary], dim=1).float()
    words = nn.Linear(model.visual.output_dim, bags.shape[1])
    probe_set = _unseen_people(settings, still, size)
    train(model, words, Pairs(normalised(frames, size), tokens, bags), probe_set, settings)
    return model, probe_accuracy(model.eval(), probe_set)


def write_weights(model: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Write a model's weights in half precision."""
    save_file({name: value.half().contiguous() for name, value in model.state_dict().items()}, path, metadata)


def _unseen_people(settings: Pretraining, still: Still, size: int) -> ProbeSet:
    """20 stills each of 60 people who are not in the training."""
    rows = [(settings.people + person, number) for person in range(60) for number in range(20)]
    stills, _, labels = zip(*(still(*row) for row in rows), strict=True)
    return ProbeSet(normalised(stills, size), labels, [person for person, _ in rows])


def train(model: open_clip.CLIP, words: nn.Module, pairs: Pairs, probe_set: ProbeSet, settings: Pretraining) -> None:
    """AdamW with warm-up and cosine decay, on randomly mirrored images; prints losses and probe every 250 steps."""
    rate = settings.learning_rate
    parameters = [*model.parameters(), *words.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=settings.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        rate,
        total_steps=settings.steps,
        pct_start=settings.warm_up_share,
        div_factor=settings.warm_up_divisor,
    )
    order = batch_rows(len(pairs.images), settings)
    recent: list[dict[str, float]] = []
    for step in range(1, settings.steps + 1):
        rows = next(order)
        images = pairs.images[rows]
        mirrored = torch.where(torch.rand(len(images), 1, 1, 1) < settings.mirrored_share, images.flip(-1), images)
        parts = losses(model.train(), words, Pairs(mirrored, pairs.tokens[rows], pairs.bags[rows]))
        optimizer.zero_grad(set_to_none=True)
        (parts["contrastive"] + parts["words"]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.max_gradient_norm)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(100))
        recent.append({name: value.item() for name, value in parts.items()})
        if step % 250 == 0:
            means = {name: round(float(np.mean([parts[name] for parts in recent])), 3) for name in recent[0]}
            print(step, means, f"probe {probe_accuracy(model.eval(), probe_set):.3f}", flush=True)
            recent = []


if __name__ == "__main__":
    main()
