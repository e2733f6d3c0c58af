"""The clips that each step of an epoch shows to T heads, as rows of few and large matrix products.

A modality that dropout takes from a clip costs nothing: its projection is computed for the n clips alone that are shown
it, and place n stands for the others, for which the head has a vector of its own. All indices are into flattened axes,
so that each of them is used in one `index_select`.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

from emo_ray.config.model_settings import MODALITIES
from emo_ray.models.fusion import CHANCES, hidden_columns
from emo_ray.training.stacked_clips import Epochs, Visits, cat, joined


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


def rows_of(epochs: Epochs, visits: Visits) -> Callable[[int], Step]:
    """A function from the number of a step among `visits` to what it is made of."""
    clips, near = epochs.clips, epochs.clips.near
    device, noise = clips.present_CM.device, _noise(epochs, visits)
    draws, rows_ST = len(visits.noises[0]), visits.rows_ST
    noise_STR, keep_STR = (
        visits.draw_STR + (draws * index_T[:, None]).to(device) for index_T in (epochs.seed_T, epochs.source_T)
    )
    clip_STR, shown_STRM, is_there_STR = visits.clip_STR, visits.shown_STRM, visits.is_there_STR
    active = [m for m, name in enumerate(MODALITIES) if name in clips.features]
    places = _Places(clip_STR, noise_STR, keep_STR, shown_STRM[..., active], rows_ST.amax(dim=1))
    if near is not None:
        is_near_STRN = (near.place_CN[clip_STR] >= 0) & is_there_STR[..., None]
        near_place_STRN = near.place_CN[clip_STR].clamp(min=0)
        hidden_STRM = visits.all_STRM & ~shown_STRM  # in the whole window
        near_STRNM = near.present_CM[near_place_STRN] & ~hidden_STRM[..., None, :] & is_near_STRN[..., None]
        near_places = places.repeated(near_place_STRN, near_STRNM[..., active])
        usable_STRN = near_STRNM.any(dim=-1)

    def step(s: int) -> Step:
        rows = places.rows[s]
        clip_TR = clip_STR[s, :, :rows]
        near_rows = None
        if near is not None:
            near_rows = NearRows(
                near_places.step(s, near.features, noise), usable_STRN[s, :, :rows], near.speaker_CN[clip_TR]
            )
        return Step(
            rows=places.step(s, clips.features, noise),
            near=near_rows,
            target_TRK=clips.target_CK[clip_TR],
            weight_TR=clips.weight_C[clip_TR] * is_there_STR[s, :, :rows],
        )

    return step


class _Noise(NamedTuple):
    """Uniform noise, by draw: of each seed, or for `keep_features` of each (fold, seed)."""

    hidden_4VH: torch.Tensor  # of each modality, then of the mixed features
    keep_features: Mapping[str, torch.Tensor]  # dropout's factors, by modality


def _noise(epochs: Epochs, visits: Visits) -> _Noise:
    head, device = next(iter(epochs.head_of.values())), epochs.clips.present_CM.device
    used_VN = cat([noise_VN[:, : hidden_columns(head.hidden)] for noise_VN in visits.noises])
    hidden_4VH = used_VN[:, CHANCES:].unflatten(1, (-1, head.hidden)).transpose(0, 1).contiguous()
    noise_of = dict(zip(epochs.seeds, visits.noises, strict=True))
    factors = [epochs.head_of[fold].keep_features(noise_of[seed]) for fold, seed in epochs.sources]
    return _Noise(hidden_4VH.to(device), joined(factors, device))


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
