"""The fusion head and its modality dropout."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emo_ray.config.fusion_settings import Fusion
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data.batch import Context, FeatureBatch, unlabelled
from emo_ray.models.fusion import (
    FusionHead,
    drop_modalities,
    feature_rates,
    hidden_columns,
    rates,
    scaling,
    scalings,
    split_noise,
)

SIZES = {"video": 5, "audio": 3, "text": 4}


def batch_with(present, features):
    ids = tuple(map(str, range(len(present))))
    return FeatureBatch(clip_ids=ids, present_BM=present, label_B=unlabelled(len(present)), features=features)


def batch_of(rows=64, seed=0, present=None):
    generator = torch.Generator().manual_seed(seed)
    features = {name: torch.randn(rows, size, generator=generator) for name, size in SIZES.items()}
    if present is None:
        present = torch.rand(rows, 3, generator=generator) < 0.6
    return batch_with(present, features)


def drop(present, rate, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return drop_modalities(present, rates(rate), torch.rand(len(present), len(MODALITIES) + 1, generator=generator))


def head_of(**changes):
    torch.manual_seed(0)
    statistics = {name: torch.stack([torch.zeros(size), torch.ones(size)]) for name, size in SIZES.items()}
    return FusionHead(Fusion(hidden=16, **changes), statistics, classes=4)


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e9])
def test_what_stands_in_an_absent_modality_reaches_neither_output_nor_gradient(garbage):
    batch, head = batch_of(), head_of().eval()
    spoilt = {
        name: batch.features[name].masked_fill(~batch.present_BM[:, [m]], garbage) for m, name in enumerate(MODALITIES)
    }
    expected, output = head(batch), head(replace(batch, features=spoilt))
    assert torch.equal(output.logits_BK, expected.logits_BK)
    output.logits_BK.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in head.parameters())


def test_a_present_modality_matters():
    batch, head = batch_of(present=torch.ones(64, 3, dtype=torch.bool)), head_of().eval()
    for m in range(3):
        masked = replace(batch, present_BM=batch.present_BM.clone().index_fill(1, torch.tensor([m]), False))
        assert not torch.allclose(head(batch).logits_BK, head(masked).logits_BK)


def test_a_modality_without_an_encoder_is_absent_everywhere():
    head = FusionHead(Fusion(hidden=8), {"audio": torch.stack([torch.zeros(3), torch.ones(3)])}, classes=2).eval()
    present = torch.tensor([[False, True, False]] * 4)
    assert head(batch_with(present, {"audio": torch.randn(4, 3)})).logits_BK.shape == (4, 2)


def test_a_corpus_that_lacks_a_modality_is_read_by_a_head_that_knows_it():
    batch = batch_of(present=torch.tensor([[False, True, True]] * 64))
    fewer = replace(batch, features={name: batch.features[name] for name in ("audio", "text")})
    head = head_of().eval()
    assert torch.equal(head(fewer).logits_BK, head(batch).logits_BK)


def test_nothing_is_dropped_in_evaluation():
    batch, head = batch_of(), head_of(modality_dropout=1.0, dropout=0.0)
    assert torch.equal(head.eval()(batch).logits_BK, head(batch).logits_BK)
    assert not torch.equal(head.train()(batch).logits_BK, head.eval()(batch).logits_BK)


@given(
    st.lists(st.tuples(*[st.booleans()] * 3).filter(any), min_size=1, max_size=20),
    st.one_of(st.floats(0, 1), st.fixed_dictionaries({name: st.floats(0, 1) for name in MODALITIES})),
    st.integers(0, 2**31),
)
def test_dropout_takes_away_but_never_everything(rows, rate, seed):
    present = torch.tensor(rows)
    dropped = drop(present, rate, seed)
    assert not (dropped & ~present).any()
    assert dropped.any(dim=1).all()


def test_a_clip_without_any_modality_stays_so():
    present = torch.zeros(4, 3, dtype=torch.bool)
    for rate in (1.0, dict.fromkeys(MODALITIES, 1.0)):
        assert not drop(present, rate).any()


def test_the_incomplete_patterns_are_drawn_uniformly_at_the_rate():
    rows, rate = 60_000, 0.4
    for full, patterns in [((True, True, True), 6), ((True, False, True), 2), ((False, True, False), 0)]:
        drawn = drop(torch.tensor([full] * rows), rate)
        counts = Counter(tuple(row) for row in drawn.tolist())
        kept = counts.pop(full)
        assert len(counts) == patterns
        assert abs(kept / rows - (1 - rate if patterns else 1)) < 0.01
        assert all(abs(n / rows - rate / patterns) < 0.01 for n in counts.values())


def test_rates_per_modality_are_independent_and_hold():
    rows, each = 60_000, {"video": 0.5, "audio": 0.1, "text": 0.0}
    kept = drop(torch.ones(rows, 3, dtype=torch.bool), each).float()
    torch.testing.assert_close(kept.mean(dim=0), torch.tensor([0.5, 0.9, 1.0]), atol=0.01, rtol=0)
    assert abs(torch.corrcoef(kept[:, :2].T)[0, 1]) < 0.02


def test_rates_of_zero_change_nothing():
    present = batch_of().present_BM
    for rate in (0.0, dict.fromkeys(MODALITIES, 0.0)):
        assert torch.equal(drop(present, rate), present)


def test_where_all_would_go_each_is_saved_as_often():
    kept = drop(torch.ones(60_000, 3, dtype=torch.bool), dict.fromkeys(MODALITIES, 1.0)).float()
    assert (kept.sum(dim=1) == 1).all()
    torch.testing.assert_close(kept.mean(dim=0), torch.full((3,), 1 / 3), atol=0.01, rtol=0)


def test_the_highest_noise_is_a_choice_as_well():
    highest = torch.full((1, 4), 1 - 2**-24)
    for present in ((True, True, True), (True, False, True)):
        dropped = drop_modalities(
            torch.tensor([present]), rates(1.0), highest.clone().index_fill(1, torch.tensor([0]), 0)
        )
        assert dropped.any()
        assert not dropped.all()
        each = drop_modalities(torch.tensor([present]), rates(dict.fromkeys(MODALITIES, 1.0)), highest)
        assert each.any()


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
def test_dropped_features_are_zeros_and_the_others_keep_the_mean(rate):
    head = head_of(dropout=rate, modality_dropout=0.0).train()
    batch = batch_of(rows=4000, present=torch.ones(4000, 3, dtype=torch.bool))
    fused, kept = head(batch).features_BD, head.eval()(batch).features_BD
    assert abs((fused == 0).float().mean() - rate) < 0.01
    if rate == 0:
        torch.testing.assert_close(fused, kept)


def written_out(head, batch):
    """The architecture in plain functions: (B, K)."""

    def block(name, rows):
        weight, bias, scale, shift = (tensors[f"{name}.{key}"] for key in ("0.weight", "0.bias", "2.weight", "2.bias"))
        rows = rows @ weight.T + bias
        rows = rows * (1 + torch.erf(rows / 2**0.5)) / 2
        centred = rows - rows.mean(dim=-1, keepdim=True)
        return scale * centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() + shift

    tensors, places = head.state_dict(), []
    for m, name in enumerate(MODALITIES):
        mean, deviation = tensors[f"scaling_{name}"]
        standardised = ((batch.features[name] - mean) / deviation).clamp(-5, 5)
        has = batch.present_BM[:, m].double()[:, None]
        places.append(has * block(f"project.{name}", standardised) + (1 - has) * tensors["absent_MH"][m])
    return block("mix", torch.cat(places, dim=1)) @ tensors["classify.weight"].T + tensors["classify.bias"]


def test_the_head_is_what_its_formulas_say():
    head, batch = head_of().eval().double(), batch_of()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in head.state_dict().values():
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
        for name in MODALITIES:
            head.get_buffer(f"scaling_{name}")[1].abs_().add_(0.5)
    batch = replace(batch, features={name: 3 * values.double() for name, values in batch.features.items()})
    torch.testing.assert_close(head(batch).logits_BK, written_out(head, batch), atol=1e-10, rtol=0)


def test_the_heads_random_decisions_come_from_one_draw_of_noise():
    """Training on a seed equals evaluation with the mask that the same seed's noise gives."""
    head, batch = head_of(dropout=0.0, modality_dropout=0.7).train(), batch_of()
    torch.manual_seed(5)
    output = head(batch)
    torch.manual_seed(5)
    chances, _ = split_noise(torch.rand(len(batch), hidden_columns(16)), 0.0, 16)
    shown = replace(batch, present_BM=drop_modalities(batch.present_BM, rates(0.7), chances))
    assert torch.equal(output.logits_BK, head.eval()(shown).logits_BK)


def test_features_are_hidden_more_often_the_more_there_are_for_each_clip():
    batch = batch_of()
    clips_of = dict(zip(MODALITIES, batch.present_BM.sum(dim=0).tolist(), strict=True))
    assert feature_rates(batch, None) == {name: size / (size + clips_of[name]) for name, size in SIZES.items()}
    assert feature_rates(batch, 0.2) == dict.fromkeys(SIZES, 0.2)
    assert feature_rates(batch, 0.0) == {}
    silent = batch_of(present=batch.present_BM & torch.tensor([True, False, True]))
    assert set(feature_rates(silent, None)) == {"video", "text"}


def test_a_hidden_feature_counts_as_the_mean_and_the_others_as_much_more():
    head = head_of(dropout=0.0, modality_dropout=0.0).train()
    head.feature_rates = {"audio": 0.75, "text": 0.5}
    batch = batch_of()
    torch.manual_seed(5)
    output = head(batch)
    torch.manual_seed(5)
    noise = torch.rand(len(batch), head.noise_columns)[:, hidden_columns(16) :]
    audio, text = noise.split([SIZES["audio"], SIZES["text"]], dim=1)
    seen = {"audio": 4.0 * (audio >= 0.75), "text": 2.0 * (text >= 0.5)}
    features = {name: values * seen.get(name, 1.0) for name, values in batch.features.items()}
    uncut_B = torch.stack([(values.abs() <= 5).all(dim=1) for values in features.values()]).all(dim=0)  # no outliers
    expected = head.eval()(replace(batch, features=features)).logits_BK
    torch.testing.assert_close(output.logits_BK[uncut_B], expected[uncut_B], atol=1e-5, rtol=0)
    assert uncut_B.sum() > 5


def test_scaling_standardises_and_survives_constants():
    features = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 100.0, 0.0]) + 7
    mean, deviation = scaling(features)
    scaled = (features - mean) / deviation
    torch.testing.assert_close(scaled.mean(dim=0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled.std(dim=0, correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-4, rtol=0)


def test_a_modality_that_no_training_clip_has_gets_no_place():
    """The mean of its features would be NaN, and so would be the output of every later clip that has it."""
    present = torch.tensor([[True, False, True]] * 8)
    batch = batch_of(rows=8, present=present)
    statistics = scalings(batch)
    assert set(statistics) == {"video", "text"}
    head = FusionHead(Fusion(hidden=8), statistics, classes=2).eval()
    assert head(batch_of(present=torch.ones(64, 3, dtype=torch.bool))).logits_BK.isfinite().all()


def test_a_value_that_is_not_known_is_the_training_clips_mean():
    features = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)) * 3 + 7
    features[:10, 1] = torch.nan
    statistics = scaling(features)
    torch.testing.assert_close(statistics[0, 1], features[10:, 1].mean())
    torch.testing.assert_close(statistics[1, 1], features[10:, 1].std(correction=0))
    head = FusionHead(Fusion(hidden=8), {"audio": statistics}, classes=2).eval()
    present = torch.tensor([[False, True, False]] * 40)
    filled = torch.where(features.isnan(), statistics[0], features)
    output, expected = (head(batch_with(present, {"audio": x})) for x in (features, filled))
    torch.testing.assert_close(output.logits_BK, expected.logits_BK)
    output.logits_BK.sum().backward()
    assert all(p.grad.isfinite().all() for p in head.parameters() if p.grad is not None)


def test_a_value_that_no_training_clip_knows_never_counts():
    features = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    head = FusionHead(Fusion(hidden=8), {"audio": scaling(features.index_fill(1, torch.tensor([2]), torch.nan))}, 2)
    present = torch.tensor([[False, True, False]] * 40)
    other = features.clone()
    other[:, 2] = 1e6
    output, same = (head.eval()(batch_with(present, {"audio": x})) for x in (features, other))
    assert torch.equal(output.logits_BK, same.logits_BK)


def test_features_of_another_width_are_refused():
    batch = batch_of()
    wider = replace(batch, features={**batch.features, "audio": torch.zeros(64, 7)})
    with pytest.raises(ValueError, match=r"found 7 audio features .*expected 3.*tables\.audio"):
        head_of()(wider)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf])
def test_features_that_cannot_be_standardised_are_refused(value):
    features = torch.randn(6, 3)
    features[2, 1] = value
    present = torch.tensor([[False, True, False]] * 6)
    batch = FeatureBatch(
        clip_ids=tuple("abcdef"), present_BM=present, label_B=torch.zeros(6).long(), features={"audio": features}
    )
    with pytest.raises(ValueError, match=r"audio features of up to inf.*tables\.audio"):
        scalings(batch)
    features[2, 1] = torch.nan
    features[:, 2] = torch.nan  # unknown in all clips
    assert scalings(batch)["audio"][1, 2] == torch.inf


OFFSETS = (-2, -1, 1)


def in_dialogues(batch, seed=0):
    """The clips with neighbours among 40 others; a third of the places, and all of the first clip, have none."""
    generator = torch.Generator().manual_seed(seed)
    shape = len(batch), len(OFFSETS)
    place = torch.randint(0, 40, shape, generator=generator).where(torch.rand(shape, generator=generator) < 0.7, -1)
    place[0] = -1
    speaker = torch.randint(0, 3, shape, generator=generator)
    context = Context(clips=batch_of(40, seed + 1), offsets=OFFSETS, place_BN=place, speaker_BN=speaker)
    return replace(batch, context=context)


def listening_head(**changes):
    """A head with context whose gate is open, so that neighbours matter."""
    head = head_of(context={"before": 2, "after": 1}, **changes)
    torch.nn.init.ones_(head.neighbours.gate_H)
    return head


def by_hand(head, batch):
    """The logits of a head with context, clip by clip and without tensors over neighbours."""
    plain = head_of()
    plain.load_state_dict({k: v for k, v in head.state_dict().items() if not k.startswith("neighbours.")})
    plain.eval()
    context, layers, logits = batch.context, head.neighbours, []
    for b, own_H in enumerate(plain(batch).features_BD):
        seen, scores = [], []
        for n, place in enumerate(context.place_BN[b].tolist()):
            near = context.clips.rows(torch.tensor([max(place, 0)]))
            if place >= 0 and near.present_BM.any():
                near_H = plain(near).features_BD[0] + layers.place_NH[n] + layers.speaker_SH[context.speaker_BN[b, n]]
                seen.append(near_H)
                scores.append(layers.key(near_H) @ layers.query(own_H) / 16**0.5)
        weights = torch.stack([*scores, torch.zeros(())]).softmax(dim=0)
        read_H = sum((w * near_H for w, near_H in zip(weights, seen, strict=False)), torch.zeros(16))
        logits.append(head.classify(own_H + layers.gate_H * layers.read(torch.cat([own_H, read_H]))))
    return torch.stack(logits)


def test_context_is_attention_over_the_neighbours_that_are_there():
    head, batch = listening_head().eval(), in_dialogues(batch_of())
    torch.testing.assert_close(head(batch).logits_BK, by_hand(head, batch), atol=1e-5, rtol=1e-5)
    assert head(batch.rows(torch.zeros(64, dtype=torch.bool))).logits_BK.shape == (0, 4)


def test_a_head_without_context_neither_has_its_weights_nor_looks_at_neighbours():
    plain, listening = head_of().eval(), listening_head().eval()
    assert set(plain.state_dict()) == {k for k in listening.state_dict() if not k.startswith("neighbours.")}
    for name, value in plain.state_dict().items():
        assert torch.equal(listening.state_dict()[name], value)  # drawn first, so that context changes no other weight
    batch = in_dialogues(batch_of())
    assert torch.equal(plain(batch).logits_BK, plain(replace(batch, context=None)).logits_BK)
    fresh = head_of(context={"before": 2, "after": 1}).eval()
    assert torch.equal(fresh(batch).logits_BK, plain(batch).logits_BK)  # training starts as without context


def test_what_no_neighbour_has_never_reaches_the_output():
    """Features of absent modalities, of places without a neighbour, and of modalities that the clip hides."""
    head, batch = listening_head().eval(), in_dialogues(batch_of())
    near = batch.context.clips
    spoilt = {n: near.features[n].masked_fill(~near.present_BM[:, [m]], torch.nan) for m, n in enumerate(MODALITIES)}
    changed = replace(batch, context=replace(batch.context, clips=replace(near, features=spoilt)))
    assert torch.equal(head(changed).logits_BK, head(batch).logits_BK)
    hidden = batch.showing(torch.tensor([True, False, False]))
    louder = replace(
        near,
        features={n: v + 5 * (n != "video") for n, v in near.features.items()},
        present_BM=hidden.context.clips.present_BM,
    )
    assert torch.equal(
        head(replace(hidden, context=replace(hidden.context, clips=louder))).logits_BK, head(hidden).logits_BK
    )
    assert not torch.allclose(
        head(batch).logits_BK[1:], head(replace(batch, context=in_dialogues(batch, 5).context)).logits_BK[1:]
    )


def test_a_window_has_one_draw_of_modality_dropout():
    """With sound dropped in every clip, no neighbour's sound is heard: neither output nor gradient knows of it."""
    batch = in_dialogues(batch_of(present=torch.ones(64, 3, dtype=torch.bool)))
    head = listening_head(modality_dropout={"audio": 1.0}, dropout=0.0).train()
    head(batch).logits_BK.square().sum().backward()
    assert not head.project["audio"][0].weight.grad.any()
    assert head.project["video"][0].weight.grad.any()


def test_a_head_with_context_refuses_clips_whose_neighbours_nobody_looked_for():
    with pytest.raises(ValueError, match=r"\(-2, -1, 1\)"):
        listening_head()(batch_of())
    fewer = replace(in_dialogues(batch_of()).context.window((-1,)))
    with pytest.raises(ValueError, match=r"\[-2, 1\]"):
        listening_head()(replace(batch_of(), context=fewer))
