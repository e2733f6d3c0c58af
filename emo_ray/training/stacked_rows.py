"""The clips that each step of an epoch shows to T heads, as rows of few and large matrix products.

A modality that dropout takes from a clip costs nothing: its projection is computed for the n clips alone that are shown
it, and place n stands for the others, for which the head has a vector of its own. All indices are into flattened axes,
so that each of them is used in one `index_select`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

from emo_ray.config.fusion_settings import Fusion
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data.batch import FeatureBatch, SoftTargets
from emo_ray.models.fusion import FusionHead, drop_modalities, hidden_columns
from emo_ray.training.in_memory import orders
from emo_ray.training.loss import shown_rows
from emo_ray.training.stacked_noise import drawn, generator_of, rows_at_once


class Rows(NamedTuple):
    """R rows of clips, or of their neighbours, for each of T heads; M is over modalities that any clip here has.

    n rows show a modality, or fewer: the others of the n have no row whose gradient they get.
    """

    features: Mapping[str, torch.Tensor]  # modality -> (T, n, D), standardised, times dropout's factors
    noise_MTnH: torch.Tensor  # uniform, for dropout of the projections
    noise_TRH: torch.Tensor  # uniform, for dropout of the mixed features
    place_X: torch.Tensor  # for each of M T R modalities of rows, its place among M T (n + 1)
    row_X: torch.Tensor  # for each of M T (n + 1) places, its row among T (R + 1): the last row stands for none


class NearRows(NamedTuple):
    """The N neighbours of the R clips of a step."""

    rows: Rows  # of R N clips
    usable_TRN: torch.Tensor
    speaker_TRN: torch.Tensor


class Step(NamedTuple):
    """What one step of T heads is made of. A head that has fewer than R clips left has rows of weight 0."""

    rows: Rows
    near: NearRows | None
    target_TRK: torch.Tensor
    weight_TR: torch.Tensor
    clips_T: torch.Tensor  # float; 0 for a head whose epoch is over


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
        self.features = _joined([standardised(head_of[fold], train) for fold, train in used.items()], device)
        self.present_CM = torch.cat([train.present_BM for train in used.values()]).to(device)
        targets = [train.soft or _one_hot(train.label_B, classes) for train in used.values()]
        self.target_CK = torch.cat([soft.target_BK for soft in targets]).to(device)
        self.weight_C = torch.cat([soft.weight_B for soft in targets]).to(device)
        self.near = _neighbours(used, head_of, device) if next(iter(head_of.values())).offsets else None


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
        self.visits = self.passes * max(clips.clips_of.values())
        self.members = lanes[0].members
        self.draws = self.members * self.visits
        self.visit_STR = self._visits()[self.source_T].transpose(0, 1)
        rows_ST1, first_ST1 = (self.visit_STR >= 0).sum(dim=-1, keepdim=True), self.visit_STR[..., :1]
        member_T1 = torch.tensor([[lane.member] for lane in lanes])
        self.draw_STR = self.visit_STR + (self.members - 1) * first_ST1 + member_T1 * rows_ST1

    def steps(self, epoch: int, rate_TR: torch.Tensor) -> Iterator[Step]:
        """The steps of an epoch, with the heads' rates of dropout of modalities.

        Heads whose epoch has fewer steps than that of others have no clips in the last ones.
        """
        order_UV = self._orders(epoch)
        for part, noise in self._noises(epoch):
            visit_STR = self.visit_STR[part]
            draw_STR = self.draw_STR[part] - self.members * visit_STR[0, 0, 0]
            yield from self._steps(visit_STR, draw_STR, order_UV, noise, rate_TR)

    def _steps(
        self, visit_STR: torch.Tensor, draw_STR: torch.Tensor, order_UV: torch.Tensor, noise: "_Noise",
        rate_TR: torch.Tensor,
    ) -> Iterator[Step]:  # fmt: skip
        """Some of the steps of an epoch, whose draws are rows of `noise`."""
        device, near = self.clips.present_CM.device, self.clips.near
        is_there_STR = (visit_STR >= 0).to(device)
        clip_STR = order_UV[self.source_T[:, None], visit_STR.clamp(min=0)].to(device)
        draw_STR = draw_STR.where(visit_STR >= 0, 0)
        noise_STR = (draw_STR + self.draws * self.seed_T[:, None]).to(device)
        keep_STR = (draw_STR + self.draws * self.source_T[:, None]).to(device)
        count_ST = is_there_STR.sum(dim=-1)
        all_STRM = self.clips.present_CM[clip_STR] & is_there_STR[..., None]
        shown_STRM = drop_modalities(all_STRM, rate_TR, noise.chances[noise_STR]) & is_there_STR[..., None]
        active = [m for m, name in enumerate(MODALITIES) if name in self.clips.features]
        places = _Places(clip_STR, noise_STR, keep_STR, shown_STRM[..., active], count_ST.amax(dim=1))
        if near is not None:
            is_near_STRN = (near.place_CN[clip_STR] >= 0) & is_there_STR[..., None]
            near_place_STRN = near.place_CN[clip_STR].clamp(min=0)
            hidden_STRM = all_STRM & ~shown_STRM  # in the whole window
            near_STRNM = near.present_CM[near_place_STRN] & ~hidden_STRM[..., None, :] & is_near_STRN[..., None]
            near_places = places.repeated(near_place_STRN, near_STRNM[..., active])
            usable_STRN = near_STRNM.any(dim=-1)
        for s, rows in enumerate(places.rows):
            clip_TR = clip_STR[s, :, :rows]
            near_rows = None
            if near is not None:
                near_rows = NearRows(
                    near_places.step(s, near.features, noise), usable_STRN[s, :, :rows], near.speaker_CN[clip_TR]
                )
            yield Step(
                rows=places.step(s, self.clips.features, noise),
                near=near_rows,
                target_TRK=self.clips.target_CK[clip_TR],
                weight_TR=self.clips.weight_C[clip_TR] * is_there_STR[s, :, :rows],
                clips_T=count_ST[s].float(),
            )

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
        order_UV = torch.zeros(len(self.sources), self.visits, dtype=torch.int64)
        for u, (fold, seed) in enumerate(self.sources):
            order = torch.cat(list(orders(self.clips.clips_of[fold], seed, epoch, self.passes)))
            order_UV[u, : len(order)] = order + self.clips.first_place_of[fold]
        return order_UV

    def _noises(self, epoch: int) -> Iterator[tuple[slice, "_Noise"]]:
        """The noise of an epoch's steps, some at a time; of all at once where heads of several seeds or folds share it.

        Folds differ in size, so that heads of each are at another row of the same noise.
        """
        columns, steps = next(iter(self.head_of.values())).noise_columns, len(self.visit_STR)
        if len(self.sources) > 1:
            yield slice(steps), self._noise([drawn(seed, epoch, self.draws, columns) for seed in self.seeds])
            return
        generator = generator_of(self.seeds[0], epoch)
        visits_S = (self.visit_STR[:, 0] >= 0).sum(dim=1)
        at_once = rows_at_once(columns * self.members * self.batch_size)
        for first in range(0, steps, at_once):
            part = slice(first, first + at_once)
            draws = self.members * int(visits_S[part].sum())
            yield part, self._noise([torch.rand(draws, columns, generator=generator)])

    def _noise(self, noises: Sequence[torch.Tensor]) -> "_Noise":
        """The noise of heads whose draws of each seed are given."""
        head, device = next(iter(self.head_of.values())), self.clips.present_CM.device
        used_VN = _cat([noise_VN[:, : hidden_columns(head.hidden)] for noise_VN in noises])
        chances = used_VN.shape[1] - (len(MODALITIES) + 1) * head.hidden
        hidden_4VH = used_VN[:, chances:].unflatten(1, (-1, head.hidden)).transpose(0, 1).contiguous()
        factors = [self.head_of[fold].keep_features(noises[self.seeds.index(seed)]) for fold, seed in self.sources]
        keep = _joined(factors, device)
        return _Noise(used_VN[:, :chances].to(device), hidden_4VH.to(device), keep)


class _Noise(NamedTuple):
    """Uniform noise, by draw: of each seed, or for `keep_features` of each (fold, seed)."""

    chances: torch.Tensor
    hidden_4VH: torch.Tensor  # of each modality, then of the mixed features
    keep_features: Mapping[str, torch.Tensor]  # dropout's factors, by modality


class _Places:
    """Where an epoch's steps find their rows: indices of S steps of T heads with at most R rows each."""

    def __init__(
        self, clip_STR: torch.Tensor, noise_STR: torch.Tensor, keep_STR: torch.Tensor, shown_STRM: torch.Tensor,
        rows_S: torch.Tensor,
    ):  # fmt: skip
        self.noise_STR, self.keep_STR, self.rows = noise_STR, keep_STR, rows_S.tolist()
        heads, rows, modalities = shown_STRM.shape[1:]
        device = clip_STR.device
        head_T1, rows_S11 = torch.arange(heads, device=device)[:, None], rows_S[:, None, None]
        shown_MSTR = shown_STRM.permute(3, 0, 1, 2)
        count_MST = shown_MSTR.sum(dim=-1)
        places_S = count_MST.amax(dim=(0, 2)).clamp(min=1)  # n of each step
        self.places = places_S.tolist()
        row_MSTR = shown_MSTR.int().argsort(dim=-1, descending=True, stable=True)
        index_MSTR = row_MSTR.clamp(max=rows - 1)
        self.clip_MSTR, self.noise_MSTR, self.keep_MSTR = (
            values_STR.expand(modalities, *values_STR.shape).gather(-1, index_MSTR)
            for values_STR in (clip_STR, noise_STR, keep_STR)
        )
        is_used_MSTR = torch.arange(rows, device=device) < count_MST[..., None]
        row_MSTR = torch.where(is_used_MSTR, row_MSTR, rows_S11)
        # All places from the number of the used ones on stand for no row; so does place n.
        row_MSTX = torch.cat([row_MSTR, rows_S11.expand(modalities, -1, heads, 1)], dim=-1)
        self.row_MSTX = row_MSTX + head_T1 * (rows_S11 + 1)
        group_MT1 = torch.arange(modalities * heads, device=device).view(modalities, 1, heads, 1)
        place_MSTR = torch.where(shown_MSTR, shown_MSTR.cumsum(dim=-1) - 1, places_S[:, None, None])
        self.place_MSTR = place_MSTR + group_MT1 * (places_S[:, None, None] + 1)

    def repeated(self, clip_STRN: torch.Tensor, shown_STRNM: torch.Tensor) -> "_Places":
        """Places of the N neighbours of each row, which have the row's noise."""
        noise_STX, keep_STX = (
            index_STR[..., None].expand(clip_STRN.shape).flatten(2) for index_STR in (self.noise_STR, self.keep_STR)
        )
        rows_S = torch.tensor(self.rows, device=clip_STRN.device) * clip_STRN.shape[-1]
        return _Places(clip_STRN.flatten(2), noise_STX, keep_STX, shown_STRNM.flatten(2, 3), rows_S)

    def step(self, s: int, features: Mapping[str, torch.Tensor], noise: _Noise) -> Rows:
        """The rows of step `s`."""
        rows, n, heads = self.rows[s], self.places[s], self.noise_STR.shape[1]
        shown: dict[str, torch.Tensor] = {}
        noises = []
        for i, name in enumerate(name for name in MODALITIES if name in features):
            features_XD = features[name].index_select(0, self.clip_MSTR[i, s, :, :n].flatten())
            if name in noise.keep_features:
                keep_X = self.keep_MSTR[i, s, :, :n].flatten()
                features_XD *= noise.keep_features[name].index_select(0, keep_X)
            shown[name] = features_XD.view(heads, n, -1)
            hidden_VH = noise.hidden_4VH[MODALITIES.index(name)]
            noises.append(hidden_VH.index_select(0, self.noise_MSTR[i, s, :, :n].flatten()).view(heads, n, -1))
        noise_XH = noise.hidden_4VH[-1].index_select(0, self.noise_STR[s, :, :rows].flatten())
        return Rows(
            shown,
            torch.stack(noises),
            noise_XH.view(heads, rows, -1),
            self.place_MSTR[:, s, :, :rows].flatten(),
            self.row_MSTX[:, s, :, : n + 1].flatten(),
        )


def standardised(head: FusionHead, batch: FeatureBatch) -> dict[str, torch.Tensor]:
    """The standardised features of every modality that head and clips know: computed once, not in every step."""
    return {
        name: head.standardise(batch.features[name], name, batch.present_BM[:, m])
        for m, name in enumerate(MODALITIES)
        if name in head.project and name in batch.features
    }


def _joined(parts: Sequence[Mapping[str, torch.Tensor]], device: torch.device) -> dict[str, torch.Tensor]:
    return {name: _cat([part[name] for part in parts]).to(device) for name in parts[0]}


def _cat(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """`torch.cat`, without a copy of a single part."""
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]


def _one_hot(label_B: torch.Tensor, classes: int) -> SoftTargets:
    return SoftTargets(target_BK=F.one_hot(label_B, classes).float(), weight_B=torch.ones(len(label_B)))


def _neighbours(
    used: Mapping[int, FeatureBatch], head_of: Mapping[int, FusionHead], device: torch.device
) -> _Neighbours:  # fmt: skip
    contexts = [head_of[fold].window(train) for fold, train in used.items()]
    features = _joined(
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
