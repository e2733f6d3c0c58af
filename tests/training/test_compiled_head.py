"""Compiled training steps against torch's own gradients and AdamW, at the limits of a float32, and as they are kept."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numba
import pytest
import torch
import torch.nn.functional as F
from small_heads import CONFIG, SIZES, clips

from emo_ray.config import override
from emo_ray.models.fusion import FusionHead, scalings, standardised
from emo_ray.training import compiled_head
from emo_ray.training.optimizer import optimizer_of
from emo_ray.training.stacked_clips import Clips
from emo_ray.training.stacked_heads import HeadConfig, StackedHeads
from emo_ray.training.stacked_parameters import StackedSettings
from emo_ray.training.stacked_steps import StackedSteps

PLAIN = {"dropout": 0.0, "modality_dropout": 0.0, "feature_dropout": 0.0, "batch_size": 60, "passes_per_epoch": 1}
TRAIN = clips(60, 0)
TAKEN = 7  # steps


def settings_of(**changes):
    return override(CONFIG, {f"fusion.{name}": value for name, value in changes.items()}).fusion


def stacked(head, settings, epochs, train=TRAIN):
    return StackedHeads([head], [HeadConfig(settings, 0)], [Clips(train, None)], epochs)


def fresh(settings):
    torch.manual_seed(0)
    return FusionHead(settings, scalings(TRAIN), 4)


def plain_loss(head, smoothing):
    """The loss of a head without dropout on its clips, in torch's functions."""
    parameters, features = dict(head.named_parameters()), TRAIN.features

    def block(name, inputs):
        linear = F.linear(inputs, parameters[f"{name}.0.weight"], parameters[f"{name}.0.bias"])
        scale, shift = parameters[f"{name}.2.weight"], parameters[f"{name}.2.bias"]
        return F.layer_norm(F.gelu(linear), scale.shape, scale, shift)

    places = [absent_H.repeat(len(TRAIN), 1) for absent_H in parameters["absent_MH"]]
    for m, name in enumerate(SIZES):
        rows = TRAIN.present_BM[:, m]
        scaled = standardised(features[name][rows], scalings(TRAIN)[name])
        places[m][rows] = block(f"project.{name}", scaled.to(head.absent_MH.dtype))
    fused = block("mix", torch.cat(places, dim=1))
    logits = F.linear(fused, parameters["classify.weight"], parameters["classify.bias"])
    return F.cross_entropy(logits, TRAIN.label_B, label_smoothing=smoothing)


# The bias is that of every other hidden unit: far below 0, GELU and its slope are 0, however large the bias.
@pytest.mark.parametrize(("bias", "max_norm"), [(0.0, 0.01), (0.0, 1e3), (-20.0, 1.0), (-1e18, 1.0)])
def test_a_step_has_torchs_gradients_and_is_adamws(bias, max_norm):
    settings = settings_of(**PLAIN, warmup_fraction=0.0, grad_clip_norm=max_norm, lr=1e-2)
    head = fresh(settings)
    with torch.no_grad():
        head.project["video"][0].bias[::2] += bias
    generator, values = torch.Generator().manual_seed(1), dict(head.named_parameters()).items()
    means = {name: 1e-2 * torch.randn(value.shape, generator=generator) for name, value in values}
    squares = {name: 1e-4 + 1e-4 * torch.rand(value.shape, generator=generator) for name, value in values}
    stack = stacked(head, settings, epochs=2)
    stack.resume(0, TAKEN, [[means], [squares]])
    loss = stack.epoch(None)[0].train_loss
    gradients = stack.stack.of_head(stack.stack.views(torch.from_numpy(stack.trainer.gradients_P)[None]), 0)

    head.double()
    optimizer = optimizer_of(head, settings, torch.device("cpu"))
    for name, value in head.named_parameters():
        moments = {"exp_avg": means[name].double(), "exp_avg_sq": squares[name].double()}
        optimizer.state[value] = {"step": torch.tensor(float(TAKEN)), **moments}
    for group in optimizer.param_groups:
        group["lr"] = settings.lr / 2  # the cosine's half
    expected = plain_loss(head, settings.label_smoothing)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert set(gradients) == set(dict(values))
    for name, value in head.named_parameters():
        torch.testing.assert_close(gradients[name].double(), value.grad, atol=1e-6, rtol=1e-4)
    torch.nn.utils.clip_grad_norm_(head.parameters(), max_norm)
    optimizer.step()
    for name, value in stack.state(0).items():
        torch.testing.assert_close(value.double(), head.get_parameter(name).detach(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("lr", [1e10, 1e20])
def test_activations_that_a_float32_cannot_square_are_told_as_divergence(lr):
    settings = settings_of(lr=lr, weight_decay=0.0)
    stack = stacked(fresh(settings), settings, epochs=2)
    assert not stack.epoch(None)[0].is_finite


def test_without_a_folder_to_write_to_steps_are_compiled_and_not_kept(monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "/dev/null/home")
    source = Path(compiled_head.__file__).read_text()
    with pytest.warns(UserWarning, match="NUMBA_CACHE_DIR"):
        exec(compile(source, "/dev/null/compiled_head.py", "exec"), module := {"__name__": "elsewhere"})
    assert module["train"].stats.cache_path is None


def digest_of_a_run():
    """Train a head: how often compiled code was loaded, and the digest of its losses and weights."""
    settings = settings_of(hidden=40)
    stack = stacked(fresh(settings), settings, epochs=2)
    losses = [loss_TS for loss_TS, _ in stack.steps()]
    content = b"".join(values.numpy().tobytes() for values in (*losses, stack.stack.flat_TP))
    return sum(compiled_head.train.stats.cache_hits.values()), hashlib.sha256(content).hexdigest()


@pytest.mark.slow  # compiles twice
def test_what_was_compiled_here_and_what_was_loaded_give_the_same_bytes(tmp_path):
    """Two processes compile at once; one loads what they have kept, with other threads; one finds it cut off."""
    code = "import test_compiled_head as tests; print(*tests.digest_of_a_run())"

    def begun(threads):
        paths = os.pathsep.join(filter(None, (str(Path(__file__).parent), *sys.path)))
        environment = os.environ | {"PYTHONPATH": paths, "NUMBA_CACHE_DIR": str(tmp_path)}
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([sys.executable, "-c", code], env=environment, text=True, **pipes)

    both = [process.communicate()[0].split() for process in [begun(1), begun(1)]]
    loaded = begun(2).communicate()[0].split()
    assert [hits for hits, _ in (*both, loaded)] == ["0", "0", "1"]
    assert len({digest for _, digest in (*both, loaded)}) == 1
    for path in tmp_path.rglob("compiled_head.train-*"):
        path.write_bytes(path.read_bytes()[:-100])
    assert f"ValueError: found damaged files of compiled heads in {path.parent}" in begun(1).communicate()[1]


def test_torchs_steps_which_gpus_take_make_the_same_heads():
    changes = ({}, {"dropout": 0.6, "lr": 1e-2})
    configs = [HeadConfig(settings_of(**change), seed) for seed, change in enumerate(changes)]
    heads = [fresh(config.settings) for config in configs]
    compiled, torchs = (StackedHeads(heads, configs, [Clips(TRAIN, None)], epochs=3) for _ in range(2))
    balances = [(torch.ones(4), torch.zeros(4))] * 2
    settings = StackedSettings.of([config.settings for config in configs], balances, torch.device("cpu"))
    torchs.trainer = StackedSteps(torchs.stack, settings, torchs.batches)
    for _ in range(3):
        losses = [[epoch.train_loss for epoch in stack.epoch(None)] for stack in (compiled, torchs)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    torch.testing.assert_close(compiled.stack.flat_TP, torchs.stack.flat_TP, atol=1e-4, rtol=1e-3)
