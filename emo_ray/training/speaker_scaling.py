"""Speaker-wise standardisation (`tables.standardise=speaker`): what is a speaker's own is taken off the features.

A clip's feature x of speaker s becomes `mean + (x - mean - w (m_s - mean)) / r_s`. `mean` is that of the labelled
training clips, m_s that of all clips at hand of the speaker, whose labels are not looked at, and w is the share that
`speaker_variances` explains. r_s is the ratio of the speaker's deviation to that of speakers in general; its logarithm
is shrunk by n / (n + 100), and it is at most 4 either way. Clips whose speaker is not known stay as they are.

Means, and the variances behind w, are told from training clips alone. How one-sided the emotions of new speakers are
cannot be known without their labels: the training speakers stand for them.

Sums over a speaker's clips are sums of whole numbers, so they do not depend on the order or the parts in which clips
come.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from emo_ray import durable, store
from emo_ray.config import Config
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data.batch import FeatureBatch
from emo_ray.models.checkpoint_files import SPEAKERS, not_weights, read_bytes, read_config
from emo_ray.models.fusion import scalings
from emo_ray.models.identity import SPEAKER_VERSION
from emo_ray.training.speaker_variances import share_taken_off, speaker_variances

NOTE = "features are standardised speaker by speaker, which uses all clips of the speakers judged, without their labels"
_QUANTUM, _REACH = 2.0**-16, 64.0  # of a summed value, in deviations: squares of 500,000 clips fit into an int64
_SHRINKAGE = 100.0  # clips at which half of a speaker's own deviation (its logarithm) is believed
_MOST_RATIO = 4.0
_LEAST = 1e-6  # a variance, in units of the corpus' own


@dataclass(frozen=True)
class ModalityScaling:
    """The statistics of one modality's features: over the training clips, and over the clips of each of S speakers.

    `corpus_2D` holds mean and deviation (float32), `variances_4D` what `speaker_variances` gives in units of that
    deviation (float64), `sums_S3D` the number, the sum and the sum of squares of the known values in quanta of it
    (int64).
    """

    corpus_2D: torch.Tensor
    variances_4D: torch.Tensor
    sums_S3D: torch.Tensor


@dataclass(frozen=True)
class SpeakerScaling:
    """How the features of each modality are standardised for each known speaker."""

    speakers: tuple[str, ...]  # S, sorted
    of: Mapping[str, ModalityScaling]

    def with_clips(self, batches: Iterable[FeatureBatch]) -> Self:
        """The scaling with statistics of the speakers of these clips in addition.

        For a speaker who has statistics already, those of more clips count; but where it is likelier that another
        person of the same name was heard, those of these clips.
        """
        names, sums_of = _sums(self.of, batches)
        speakers = tuple(sorted({*self.speakers, *names}))
        parts: dict[str, ModalityScaling] = {}
        for modality, part in self.of.items():
            before_S3D = _spread(part.sums_S3D, self.speakers, speakers)
            after_S3D = _spread(sums_of[modality], names, speakers)
            chosen_S3D = _chosen(part.variances_4D, before_S3D, after_S3D)
            parts[modality] = replace(part, sums_S3D=chosen_S3D)
        return replace(self, speakers=speakers, of=parts)

    def applied(self, batch: FeatureBatch) -> FeatureBatch:
        """The clips and their neighbours with standardised features.

        Raises ValueError where features have another width.
        """
        if batch.context is not None:
            clips = self.applied(batch.context.clips)
            return replace(self.applied(replace(batch, context=None)), context=replace(batch.context, clips=clips))
        place_of = {name: place for place, name in enumerate(self.speakers)}
        places = [place_of.get(name, -1) if name is not None else -1 for name in _speakers(batch)]
        speaker_B = torch.tensor(places, dtype=torch.int64)
        features = dict(batch.features)
        for name, part in self.of.items():
            if name in features:
                features[name] = _standardised(part, name, features[name], speaker_B)
        return replace(batch, features=features)


def estimated(train: FeatureBatch, clips: Iterable[FeatureBatch]) -> SpeakerScaling:
    """The scaling by labelled training clips, with the statistics of the speakers of `clips`.

    Raises ValueError where fewer than two speakers of the training clips are known, and for features that `scalings`
    refuses.
    """
    names = _speakers(train)
    rows = [i for i, name in enumerate(names) if name is not None]
    place_of = {name: place for place, name in enumerate(dict.fromkeys(names[i] for i in rows))}
    if len(place_of) < 2:
        raise ValueError(
            f"tables.standardise=speaker: found {len(place_of)} speakers of training clips, expected two at least, "
            "or nothing tells how far speakers differ: name them in the manifest (data.columns.speaker), or set "
            "tables.standardise=corpus"
        )
    named, speaker_B = train.rows(torch.tensor(rows)), torch.tensor([place_of[names[i]] for i in rows])
    parts: dict[str, ModalityScaling] = {}
    for name, corpus_2D in scalings(train).items():
        has_B = named.present_BM[:, MODALITIES.index(name)]
        if has_B.any():
            values_BD = _in_deviations(corpus_2D, named.features[name][has_B])
            variances_4D = speaker_variances(values_BD, speaker_B[has_B], named.label_B[has_B])
            parts[name] = ModalityScaling(corpus_2D, variances_4D, torch.zeros(0, 3, corpus_2D.shape[1]).long())
    return SpeakerScaling((), parts).with_clips(clips)


def standardised(
    config: Config, train: FeatureBatch, others: Sequence[FeatureBatch] = ()
) -> tuple[FeatureBatch, ...]:  # fmt: skip
    """Training clips, then others, as `tables.standardise` says; nothing is told from the labels of the others."""
    if config.tables.standardise == "corpus":
        return train, *others
    by_speaker = estimated(train, [train, *others])
    return tuple(by_speaker.applied(batch) for batch in (train, *others))


def write(folder: Path, by_speaker: SpeakerScaling) -> None:
    """Write a scaling into a checkpoint folder."""
    tensors = {
        f"{name}.{field}": getattr(part, field).contiguous()
        for name, part in by_speaker.of.items()
        for field in ModalityScaling.__dataclass_fields__
    }
    names = json.dumps(by_speaker.speakers, ensure_ascii=False)
    durable.write_bytes(folder / SPEAKERS, save(tensors, {"version": str(SPEAKER_VERSION), "speakers": names}))


def read(folder: Path) -> SpeakerScaling | None:
    """The scaling in a checkpoint folder; None for a model whose config asks for none.

    Raises ValueError for a file that is damaged or gone.
    """
    config, _ = read_config(folder)
    if config.tables.standardise == "corpus":
        return None
    if not (folder / SPEAKERS).is_file():
        raise store.DamagedFile(folder / SPEAKERS, "it is gone, and tables.standardise=speaker needs it")
    read_bytes(folder, SPEAKERS)  # checks its digest
    try:
        with safe_open(folder / SPEAKERS, "pt") as tensors:
            speakers = tuple(json.loads(tensors.metadata()["speakers"]))
            fields = tuple(ModalityScaling.__dataclass_fields__)
            modalities = [name for name in MODALITIES if f"{name}.{fields[0]}" in tensors.keys()]  # noqa: SIM118
            parts = {
                name: ModalityScaling(*(tensors.get_tensor(f"{name}.{field}") for field in fields))
                for name in modalities
            }
        for part in parts.values():
            _check(part, speakers)
    except (SafetensorError, OSError, LookupError, TypeError, ValueError) as error:
        raise not_weights(folder / SPEAKERS, error) from None
    return SpeakerScaling(speakers, parts)


def _check(part: ModalityScaling, speakers: Sequence[object]) -> None:
    """Raises ValueError for tensors that do not fit each other or the names, as somebody else may have made them."""
    width = part.corpus_2D.shape[-1]
    shapes = [tuple(tensor.shape) for tensor in (part.corpus_2D, part.variances_4D, part.sums_S3D)]
    types = [part.corpus_2D.dtype, part.variances_4D.dtype, part.sums_S3D.dtype]
    is_named = len(set(speakers)) == len(speakers) and all(isinstance(name, str) for name in speakers)
    if not is_named or shapes != [(2, width), (4, width), (len(speakers), 3, width)]:
        raise ValueError(f"found shapes {shapes} for {len(speakers)} speakers")
    if types != [torch.float32, torch.float64, torch.int64] or not part.variances_4D.isfinite().all():
        raise ValueError(f"found values of {types}, expected finite ones of float32, float64, int64")


def _speakers(batch: FeatureBatch) -> tuple[str | None, ...]:
    return batch.speakers if batch.speakers is not None else (None,) * len(batch)


def _in_deviations(corpus_2D: torch.Tensor, features_BD: torch.Tensor) -> torch.Tensor:
    """Features in deviations from the corpus' mean, float64; unknown ones stay NaN."""
    mean_D, deviation_D = corpus_2D.double()
    return ((features_BD.double() - mean_D) / deviation_D).clamp(-_REACH, _REACH)


def _sums(
    parts: Mapping[str, ModalityScaling], batches: Iterable[FeatureBatch]
) -> tuple[tuple[str, ...], dict[str, torch.Tensor]]:
    """The known speakers of these clips, in the order of their first clips, and their sums_S3D by modality."""
    place_of: dict[str, int] = {}
    sums_of = {name: torch.zeros(0, 3, part.variances_4D.shape[1], dtype=torch.int64) for name, part in parts.items()}
    for batch in batches:
        rows = [i for i, name in enumerate(_speakers(batch)) if name is not None]
        named = batch.rows(torch.tensor(rows, dtype=torch.int64))
        speaker_B = torch.tensor(
            [place_of.setdefault(name, len(place_of)) for name in _speakers(named) if name is not None],
            dtype=torch.int64,
        )
        for name, part in parts.items():
            sums_S3D = sums_of[name]
            grown_S3D = sums_S3D.new_zeros(len(place_of), *sums_S3D.shape[1:])
            grown_S3D[: len(sums_S3D)] = sums_S3D
            sums_of[name] = grown_S3D
            if name in named.features:
                has_B = named.present_BM[:, MODALITIES.index(name)]
                quanta_BD = (_in_deviations(part.corpus_2D, named.features[name][has_B]) / _QUANTUM).round()
                whole_BD = quanta_BD.nan_to_num(0.0).long()
                terms_B3D = torch.stack([(~quanta_BD.isnan()).long(), whole_BD, whole_BD.square()], dim=1)
                grown_S3D.index_add_(0, speaker_B[has_B], terms_B3D)
    return tuple(place_of), sums_of


def _spread(sums_S3D: torch.Tensor, names: Sequence[str], speakers: Sequence[str]) -> torch.Tensor:
    """The sums of `names` as rows for all of `speakers`; zeros for the others."""
    place_of = {name: place for place, name in enumerate(speakers)}
    spread_S3D = sums_S3D.new_zeros(len(speakers), *sums_S3D.shape[1:])
    spread_S3D[[place_of[name] for name in names]] = sums_S3D
    return spread_S3D


def _chosen(variances_4D: torch.Tensor, before_S3D: torch.Tensor, after_S3D: torch.Tensor) -> torch.Tensor:
    """For each speaker the sums of more clips; but those of the clips `after` where they are of another person.

    That is told by the likelihood of the difference between both means, for one person and for two.
    """
    between_D, mixture_D, within_D, _ = variances_4D
    means_2SD, counts_2SD = zip(*map(_means, (before_S3D, after_S3D)), strict=True)
    doubt_SD = within_D * sum(1 / count_SD.clamp(min=1) for count_SD in counts_2SD)
    same_SD = (2 * mixture_D + doubt_SD).clamp(min=_LEAST)
    other_SD = same_SD + 2 * between_D
    square_SD = (means_2SD[0] - means_2SD[1]).square()
    against_SD = square_SD / same_SD + same_SD.log() - square_SD / other_SD - other_SD.log()
    are_both_SD = (counts_2SD[0] > 0) & (counts_2SD[1] > 0)
    is_same_S = (against_SD * are_both_SD).sum(1) <= 0  # also where there is nothing to compare
    clips_before_S, clips_after_S = (count_SD.amax(1) for count_SD in counts_2SD)
    takes_before_S = (clips_before_S > clips_after_S) & is_same_S
    return torch.where(takes_before_S[:, None, None], before_S3D, after_S3D)


def _means(sums_S3D: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Means of speakers in deviations, and the numbers of their known values, both (S, D)."""
    count_SD, sum_SD, _ = sums_S3D.double().unbind(1)
    return sum_SD * _QUANTUM / count_SD.clamp(min=1), count_SD


def _standardised(
    part: ModalityScaling, name: str, features_BD: torch.Tensor, speaker_B: torch.Tensor
) -> torch.Tensor:  # fmt: skip
    """The features (B, D) of a modality; `speaker_B` is the place of each clip's speaker, -1 for none."""
    mean_D, deviation_D = part.corpus_2D.double()
    if features_BD.shape[1] != len(mean_D):
        raise ValueError(
            f"found {features_BD.shape[1]} {name} features of a clip, expected {len(mean_D)}: the model was trained on "
            f"others, so give its {name} encoder, or tables.{name} of the same kind"
        )
    offset_SD, ratio_SD = _offsets(part)
    is_known_B = speaker_B >= 0
    speakers = speaker_B[is_known_B]
    standardised_BD = features_BD.clone()
    shift_BD = (offset_SD * torch.where(deviation_D.isfinite(), deviation_D, 0.0))[speakers]
    changed_BD = mean_D + (features_BD[is_known_B].double() - mean_D - shift_BD) / ratio_SD[speakers]
    standardised_BD[is_known_B] = changed_BD.float()
    return standardised_BD


def _offsets(part: ModalityScaling) -> tuple[torch.Tensor, torch.Tensor]:
    """What is taken off each speaker's features in deviations, and by what they are divided; both float64 (S, D)."""
    within_D = part.variances_4D[2].clamp(min=_LEAST)
    mean_SD, count_SD = _means(part.sums_S3D)
    about_mean_SD = part.sums_S3D[:, 2] * _QUANTUM**2 - count_SD * mean_SD.square()
    variance_SD = about_mean_SD / (count_SD - 1).clamp(min=1)
    most = 2 * torch.tensor(_MOST_RATIO).log().item()
    log_ratio_SD = (variance_SD.clamp(min=_LEAST) / within_D).log().clamp(-most, most)
    log_ratio_SD = torch.where(count_SD > 1, log_ratio_SD * count_SD / (count_SD + _SHRINKAGE), 0.0)
    return share_taken_off(part.variances_4D, count_SD) * mean_SD, (log_ratio_SD / 2).exp()
