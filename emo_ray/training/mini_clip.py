"""The mini CLIP: an open_clip model pre-trained on stills and captions of the synthetic world, with people of its own.

It stands in for CLIP's pre-training on the web, so that prompting a frozen CLIP can be tried without a download:
`python -m emo_ray.training.mini_clip` makes the files that ship with the package. Captions name what a still shows,
expressions and features of the face: never hair, skin or background, by which a contrastive loss falls while
expressions stay unlearnt. Whether it has learnt is judged by a probe on people it has not seen, never by the loss.
"""

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from rich.progress import track
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn

from emo_ray.config import RECIPES
from emo_ray.data.synthetic import DURATION_S, LABELS
from emo_ray.data.synthetic_face import act, draw, look, spoilt

NAME = "mini_clip"
FILES = {kind: RECIPES / f"{NAME}.{kind}" for kind in ("json", "bpe.gz", "safetensors")}
SEED, PEOPLE, STILLS_PER_PERSON, STEPS, BATCH, LR = 0, 600, 48, 1500, 256, 1e-3
DARK_SHARE = 0.1  # of stills: photographs vary in light
STRAY_SHARE = 0.1  # of captions name another expression: the web is not a clean teacher

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
STRONG, WEAK = 0.45, 0.25  # of an action unit: a caption names it; below the weak mark a face is a neutral one


def captioned(person: int, number: int) -> tuple[np.ndarray, str, str]:
    """A still (uint8 frame_HWC), its caption, and the expression it was taken from, at a random moment."""
    rng = np.random.default_rng([SEED, person, number])
    label = LABELS[rng.integers(len(LABELS))]
    moment = act(label, rng, np.array([rng.uniform(0, DURATION_S)]), DURATION_S)
    frames_THWC = draw(look(np.random.default_rng([SEED, person])), moment)
    if rng.uniform() < DARK_SHARE:
        frames_THWC = spoilt(frames_THWC, "dark", rng)
    return frames_THWC[0], caption(label, moment.units_T[0], rng), label


def caption(label: str, units: dict[str, float], rng: np.random.Generator) -> str:
    """What is said of a still: an expression's name most of the time, and some of the features that it shows."""
    shown = [name for name in UNIT_PHRASES if units[name] > STRONG]
    if all(units[name] < WEAK for name in UNIT_PHRASES):
        label = "neutral"
    if rng.uniform() < STRAY_SHARE:
        label = LABELS[rng.integers(len(LABELS))]
    named = TEMPLATES[rng.integers(len(TEMPLATES))].format(WORDS[label][rng.integers(len(WORDS[label]))])
    features = [UNIT_PHRASES[shown[i]] for i in rng.permutation(len(shown))[: rng.integers(0, 4)]]
    if features and rng.uniform() < 0.25:
        return f"a face with {' and '.join(features)}"
    return " , ".join([named, *features])


def script_digest() -> str:
    """Of this script and the faces it draws, which the shipped weights carry."""
    sources = [Path(__file__), Path(__file__).parents[1] / "data" / "synthetic_face.py"]
    return hashlib.blake2b("".join(path.read_text("utf-8") for path in sources).encode(), digest_size=16).hexdigest()


def write_merges(captions: Sequence[str], path: Path) -> int:
    """Byte-pair merges, in CLIP's form, by which every word of the captions is one token; the vocabulary's size."""
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


def batches(count: int, seed: int) -> Iterator[torch.Tensor]:
    """Indices of BATCH of `count` stills, shuffled anew each time all have been seen."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(count, generator=generator).split(BATCH)


def losses(model: nn.Module, words: nn.Module, images: torch.Tensor, tokens: torch.Tensor, bags: torch.Tensor) -> dict:
    """CLIP's contrastive loss, and the prediction of the caption's words from the image.

    The contrastive loss alone sits at chance for hundreds of steps; the words get the image tower moving.
    """
    image_BD, text_BD, scale = model(images, tokens)
    logits_BB, target_B = scale * image_BD @ text_BD.T, torch.arange(len(images))
    contrastive = (F.cross_entropy(logits_BB, target_B) + F.cross_entropy(logits_BB.T, target_B)) / 2
    return {"contrastive": contrastive, "words": F.binary_cross_entropy_with_logits(words(image_BD), bags)}


def probe(model: nn.Module, images: torch.Tensor, labels: Sequence[str], people: Sequence[int]) -> float:
    """Accuracy of a linear probe on the expression, on people that the probe has not seen (every second one)."""
    with torch.inference_mode():
        features = torch.cat([model.encode_image(part) for part in images.split(512)]).numpy()
    seen = np.asarray(people) % 2 == 0
    classifier = LogisticRegression(max_iter=2000).fit(features[seen], np.asarray(labels)[seen])
    return classifier.score(features[~seen], np.asarray(labels)[~seen])


def normalised(frames: Sequence[np.ndarray], size: int) -> torch.Tensor:
    """float32 images_BCHW as the model takes them, from uint8 frames_HWC."""
    small = [np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BICUBIC)) for frame in frames]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    return (torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2) / 255 - mean) / std


def main() -> None:
    """Make the shipped files anew: about 8 minutes on two cores."""
    torch.manual_seed(SEED)
    rows = [(p, n) for p in range(PEOPLE) for n in range(STILLS_PER_PERSON)]
    stills, captions, _ = zip(*(captioned(*row) for row in track(rows, "drawing stills")), strict=True)
    vocabulary = write_merges(captions, FILES["bpe.gz"])
    architecture = json.loads(FILES["json"].read_text("utf-8"))
    architecture["text_cfg"]["vocab_size"] = vocabulary
    FILES["json"].write_text(json.dumps(architecture, indent=4) + "\n", "utf-8")
    open_clip.add_model_config(FILES["json"])
    model = open_clip.create_model(NAME)
    size = architecture["vision_cfg"]["image_size"]
    images = normalised(stills, size)
    tokenize = open_clip.get_tokenizer(NAME, bpe_path=str(FILES["bpe.gz"]))
    tokens = tokenize(list(captions))
    counts = Counter(tokens.flatten().tolist())
    bags = torch.stack([(tokens == word).any(dim=1) for word in sorted(counts)], dim=1).float()
    words = nn.Linear(architecture["embed_dim"], bags.shape[1])
    unseen = [(PEOPLE + p, n) for p in range(60) for n in range(20)]
    held_stills, _, held_labels = zip(*(captioned(*row) for row in unseen), strict=True)
    held = normalised(held_stills, size), held_labels, [p for p, _ in unseen]
    train(model, words, (images, tokens, bags), held)
    state = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    about = {"script": script_digest(), "probe": f"{probe(model.eval(), *held):.3f}"}
    save_file(state, FILES["safetensors"], about)
    print(about, {kind: path.stat().st_size for kind, path in FILES.items()})


def train(model: nn.Module, words: nn.Module, data: tuple[torch.Tensor, ...], held: tuple) -> None:
    """AdamW with linear warm-up and cosine decay; left and right are alike to a face, so images are mirrored."""
    optimizer = torch.optim.AdamW([*model.parameters(), *words.parameters()], lr=LR, weight_decay=0.1, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=STEPS, pct_start=0.1, div_factor=100)
    order, recent = batches(len(data[0]), SEED), []
    for step in range(1, STEPS + 1):
        rows = next(order)
        images, *rest = (part[rows] for part in data)
        mirrored = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(-1), images)
        parts = losses(model.train(), words, mirrored, *rest)
        optimizer.zero_grad(set_to_none=True)
        sum(parts.values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(100))
        recent.append({name: value.item() for name, value in parts.items()})
        if step % 250 == 0:
            means = {name: round(float(np.mean([r[name] for r in recent])), 3) for name in recent[0]}
            print(step, means, f"probe {probe(model.eval(), *held):.3f}", flush=True)
            recent = []


if __name__ == "__main__":
    main()
