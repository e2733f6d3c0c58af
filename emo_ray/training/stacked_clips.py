"""What each step of an epoch shows to T heads: which clips, with which modalities, and which of the epoch's noise."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

from emo_ray.config.fusion_settings import Fusion
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data.batch import FeatureBatch, SoftTargets
from emo_ray.models.fusion import CHANCES, FusionHead, drop_modalities
from emo_ray.training.in_memory import orders
from emo_ray.training.loss import shown_rows
from emo_ray.training.stacked_noise import drawn, generator_of, rows_at_once


@dataclass(frozen=True)
class Clips:
    """The labelled clips with features of a fold or a split: to train on, and to validate on."""

    train: FeatureBatch
    validation: FeatureBatch | None


@dataclass(frozen=True)
class _Neighbours:
    """The neighbours of the training clips of all folds, among C clips."""

    features: Mapping[str, torch.Tensor]  # modality -> (C, D), standardised
    present_CM: torch.Tensor
    place_CN: torch.Tensor  # of a training clip's neighbours; -1 where there is none
    speaker_CN: torch.Tensor


class TrainingClips:
    """The training clips of all folds in one piece, each standardised as the heads of its fold do: computed once.

    `head_of` holds a head of each fold that any head is trained in; the heads agree in `settings.sampling`.
    """

    def __init__(
        self, folds: Sequence[Clips], head_of: Mapping[int, FusionHead], settings: Fusion, device: torch.device
    ):  # fmt: skip
        used: dict[int, FeatureBatch] = {}
        for fold in head_of:
            train = folds[fold].train
            rows = shown_rows(settings, train.label_B)
            used[fold] = train if rows is None else train.rows(rows)
        self.clips_of = {fold: len(train) for fold, train in used.items()}
        first_places = torch.tensor([0, *self.clips_of.values()]).cumsum(0).tolist()
        self.first_place_of = dict(zip(used, first_places, strict=False))
        classes = next(iter(head_of.values())).classify.out_features
        self.features = joined([standardised(head_of[fold], train) for fold, train in used.items()], device)
        self.present_CM = torch.cat([train.present_BM for train in used.values()]).to(device)
        targets = [train.soft or _one_hot(train.label_B, classes) for train in used.values()]
        self.target_CK = torch.cat([soft.target_BK for soft in targets]).to(device)
        self.weight_C = torch.cat([soft.weight_B for soft in targets]).to(device)
        self.near = _neighbours(used, head_of, device) if next(iter(head_of.values())).offsets else None


class Visits(NamedTuple):
    """What S steps of an epoch show to T heads, at most R clips in each."""

    first: int  # the number of the first of these steps in the epoch
    is_there_STR: torch.Tensor  # a head has no clips left in some steps of others that have more
    clip_STR: torch.Tensor  # its place among the clips of all folds
    draw_STR: torch.Tensor  # its row of the noise of the head's seed
    all_STRM: torch.Tensor  # the modalities that the clip has
    shown_STRM: torch.Tensor  # those of them that it is shown with
    noises: Sequence[torch.Tensor]  # uniform (V, N), of each seed

    @property
    def rows_ST(self) -> torch.Tensor:
        """How many clips each head is shown in each step."""
        return self.is_there_STR.sum(dim=-1)


class Lane(NamedTuple):
    """What decides the clips and the noise of one of the heads."""

    fold: int  # whose clips it is trained on
    seed: int
    member: int  # its number among the heads of an average, which share a seed: 0 where it is alone
    members: int  # how many these are, for all heads of a stack alike


class Epochs:
    """The steps of T heads, whose `settings` agree in shape.

    An epoch of a head is a row of visits: visit v shows the clip that is number v in the epoch's order, and uses row v
    of the epoch's noise. So heads of one seed share their noise whatever fold they are in. The members of an average
    draw rows of their own for each step, one after the other, as `HeadAverage` does.
    """

    def __init__(
        self, clips: TrainingClips, lanes: Sequence[Lane], settings: Fusion, head_of: Mapping[int, FusionHead]
    ):  # fmt: skip
        self.clips, self.passes = clips, settings.passes_per_epoch
        self.batch_size = min(settings.batch_size, max(clips.clips_of.values()))
        self.sources = sorted({(lane.fold, lane.seed) for lane in lanes})
        self.source_T = torch.tensor([self.sources.index((lane.fold, lane.seed)) for lane in lanes])
        self.seeds = sorted({lane.seed for lane in lanes})
        self.seed_T = torch.tensor([self.seeds.index(lane.seed) for lane in lanes])
        self.head_of = head_of
        self.steps_of = {fold: -(-count // self.batch_size) * self.passes for fold, count in clips.clips_of.items()}
        self.most_visits = self.passes * max(clips.clips_of.values())
        self.members = lanes[0].members
        self.draws = self.members * self.most_visits
        self.visit_STR = self._visits()[self.source_T].transpose(0, 1)
        rows_ST1, first_ST1 = (self.visit_STR >= 0).sum(dim=-1, keepdim=True), self.visit_STR[..., :1]
        member_T1 = torch.tensor([[lane.member] for lane in lanes])
        self.draw_STR = self.visit_STR + (self.members - 1) * first_ST1 + member_T1 * rows_ST1

    def visits(self, epoch: int, rate_TR: torch.Tensor) -> Iterator[Visits]:
        """The steps of an epoch, in parts, with the heads' rates of dropout of modalities.

        Heads whose epoch has fewer steps than that of others have no clips in the last ones.
        """
        order_UV, device, first = self._orders(epoch), self.clips.present_CM.device, 0
        for part, noises in self._noises(epoch):
            visit_STR = self.visit_STR[part]
            is_there_STR = visit_STR >= 0
            draw_STR = (self.draw_STR[part] - self.members * visit_STR[0, 0, 0]).where(is_there_STR, 0).to(device)
            clip_STR = order_UV[self.source_T[:, None], visit_STR.clamp(min=0)].to(device)
            is_there_STR = is_there_STR.to(device)
            all_STRM = self.clips.present_CM[clip_STR] & is_there_STR[..., None]
            chances_VC = cat([noise_VN[:, :CHANCES] for noise_VN in noises]).to(device)
            seed_STR = draw_STR + (self.seed_T[:, None] * len(noises[0])).to(device)
            shown_STRM = drop_modalities(all_STRM, rate_TR, chances_VC[seed_STR]) & is_there_STR[..., None]
            yield Visits(first, is_there_STR, clip_STR, draw_STR, all_STRM, shown_STRM, noises)
            first += len(visit_STR)

    def _visits(self) -> torch.Tensor:
        """The visits (U, S, R) of each step of each (fold, seed); -1 stands for none."""
        most_steps = max(self.steps_of[fold] for fold, _ in self.sources)  # other stacks may have heads of larger folds
        visit_USR = torch.full((len(self.sources), most_steps, self.batch_size), -1)
        for u, (fold, _) in enumerate(self.sources):
            clips, steps = self.clips.clips_of[fold], self.steps_of[fold] // self.passes
            visit = torch.arange(steps * self.batch_size)
            for number in range(self.passes):
                part = torch.where(visit < clips, visit + number * clips, -1)
                visit_USR[u, number * steps : (number + 1) * steps] = part.view(steps, self.batch_size)
        return visit_USR

    def _orders(self, epoch: int) -> torch.Tensor:
        """The clip of each visit (U, V), as its place among the clips of all folds."""
        order_UV = torch.zeros(len(self.sources), self.most_visits, dtype=torch.int64)
        for u, (fold, seed) in enumerate(self.sources):
            order = torch.cat(list(orders(self.clips.clips_of[fold], seed, epoch, self.passes)))
            order_UV[u, : len(order)] = order + self.clips.first_place_of[fold]
        return order_UV

    def _noises(self, epoch: int) -> Iterator[tuple[slice, list[torch.Tensor]]]:
        """The noise of an epoch's steps, some at a time; of all at once where heads of several seeds or folds share it.

        Folds differ in size, so that heads of each are at another row of the same noise.
        """
        columns, steps = next(iter(self.head_of.values())).noise_columns, len(self.visit_STR)
        if len(self.sources) > 1:
            yield slice(steps), [drawn(seed, epoch, self.draws, columns) for seed in self.seeds]
            return
        generator = generator_of(self.seeds[0], epoch)
        visits_S = (self.visit_STR[:, 0] >= 0).sum(dim=1)
        at_once = rows_at_once(columns * self.members * self.batch_size)
        for first in range(0, steps, at_once):
            part = slice(first, first + at_once)
            draws = self.members * int(visits_S[part].sum())
            yield part, [torch.rand(draws, columns, generator=generator)]


def standardised(head: FusionHead, batch: FeatureBatch) -> dict[str, torch.Tensor]:
    """The standardised features of every modality that head and clips know: computed once, not in every step."""
    return {
        name: head.standardise(batch.features[name], name, batch.present_BM[:, m])
        for m, name in enumerate(MODALITIES)
        if name in head.project and name in batch.features
    }


def joined(parts: Sequence[Mapping[str, torch.Tensor]], device: torch.device) -> dict[str, torch.Tensor]:
    """The rows of all parts, by modality."""
    return {name: cat([part[name] for part in parts]).to(device) for name in parts[0]}


def cat(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """`torch.cat`, without a copy of a single part."""
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]


def _one_hot(label_B: torch.Tensor, classes: int) -> SoftTargets:
    return SoftTargets(target_BK=F.one_hot(label_B, classes).float(), weight_B=torch.ones(len(label_B)))


def _neighbours(
    used: Mapping[int, FeatureBatch], head_of: Mapping[int, FusionHead], device: torch.device
) -> _Neighbours:  # fmt: skip
    contexts = [head_of[fold].window(train) for fold, train in used.items()]
    features = joined(
        [standardised(head_of[fold], context.clips) for fold, context in zip(used, contexts, strict=True)], device
    )
    first_places = torch.tensor([0, *(len(context.clips) for context in contexts)]).cumsum(0).tolist()
    place_CN = [
        torch.where(context.place_BN >= 0, context.place_BN + first, -1)
        for context, first in zip(contexts, first_places, strict=False)
    ]
    return _Neighbours(
        features,
        torch.cat([context.clips.present_BM for context in contexts]).to(device),
        torch.cat(place_CN).to(device),
        torch.cat([context.speaker_BN for context in contexts]).to(device),
    )
