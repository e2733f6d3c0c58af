"""A checkpoint brings its settings along, but names no files of the machine that it comes to."""

import json

import pytest
import torch

from emo_ray import durable, store
from emo_ray.config import RECIPES, Config, override
from emo_ray.inference import encoders
from emo_ray.models import checkpoint, checkpoint_files, emovclip
from emo_ray.models.checkpoint_files import EMOVCLIP
from emo_ray.models.fusion import FusionHead
from emo_ray.models.trainable_state import trained_state

CLASSES = ("a", "b")


@pytest.fixture
def model_of(tmp_path):
    """Make a checkpoint in a folder with changes to its config, and other ones to its EmoVCLIP's, where it has one."""

    def make(folder, changes=None, video_changes=None):
        path = tmp_path / folder
        config = override(Config(), {"fusion.hidden": 4, "emovclip.clip": "mini_clip.json"} | (changes or {}))
        head = FusionHead(config.fusion, {"text": torch.ones(2, 3)}, 2)
        path.mkdir(parents=True)
        checkpoint.write(path, trained_state(head), config, CLASSES, "card")
        if video_changes is not None:
            (path / EMOVCLIP).mkdir()
            state = trained_state(emovclip.build(config, CLASSES))
            checkpoint.write(path / EMOVCLIP, state, override(config, video_changes), CLASSES, "card")
        return path

    return make


@pytest.fixture
def file(tmp_path):
    """A file of this machine."""
    path = tmp_path / "private.pt"
    path.write_text("private")
    return str(path)


@pytest.fixture
def caller(tmp_path):
    return override(Config(), {"store.root": str(tmp_path / "store")})


@pytest.mark.parametrize("key", ["emovclip.clip", "emovclip.weights", "audio.encoder", "text.encoder"])
def test_a_checkpoint_from_elsewhere_names_no_file_outside_its_folder(model_of, caller, file, key):
    path = model_of("elsewhere", {key: file})
    with pytest.raises(ValueError, match=rf"elsewhere/config\.yaml: found {key}=.*private\.pt"):
        encoders.of_checkpoint(caller, path)
    for taken in (override(caller, {key: file}), override(caller, {"store.root": str(path.parent)})):
        assert getattr(encoders.of_checkpoint(taken, path), key.split(".")[0]) is not None


def test_a_checkpoint_from_elsewhere_names_no_code_in_the_place_of_what_is_trusted(model_of, caller):
    theirs, ours = ({"text.encoder": f"{who}/model", "text.revision": who[0] * 40} for who in ("evil", "good"))
    path = model_of("elsewhere", theirs)
    trusting = override(caller, ours | {"text.trust_remote_code": True})
    with pytest.raises(ValueError, match=r"config\.yaml: found text\.encoder=evil/model .*text\.trust_remote_code"):
        encoders.of_checkpoint(trusting, path)
    for taken in (caller, override(trusting, theirs), override(trusting, {"store.root": str(path.parent)})):
        assert encoders.of_checkpoint(taken, path).text.encoder == "evil/model"


def test_its_emovclip_names_none_either(model_of, caller, file):
    path = model_of("elsewhere", video_changes={"emovclip.weights": file})
    with pytest.raises(ValueError, match=r"elsewhere/config\.yaml: found emovclip\.weights="):
        encoders.encoders_of(encoders.of_checkpoint(caller, path), path)


def test_files_inside_and_names_are_no_files_outside(model_of, caller, tmp_path):
    inside = str(tmp_path / "elsewhere/clip.json")
    path = model_of("elsewhere", {"emovclip.clip": inside})
    (path / "clip.json").write_text("{}")
    encoders.of_checkpoint(caller, path)
    for name, changes in [
        ("shipped", {"emovclip.weights": str(RECIPES / "mini_clip.safetensors")}),
        ("named", {"text.encoder": "bert-base-uncased"}),
    ]:
        encoders.of_checkpoint(caller, model_of(name, changes))
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    (tmp_path / "elsewhere/link.json").symlink_to(outside)
    with pytest.raises(ValueError, match=r"emovclip\.clip="):
        encoders.of_checkpoint(caller, model_of("linking", {"emovclip.clip": str(tmp_path / "elsewhere/link.json")}))


def test_a_checkpoint_without_digests_is_noted_once(model_of, caller, capfd):
    path, checked = model_of("of-before"), model_of("of-now")
    durable.write_text(checked / store.META, json.dumps(checkpoint_files.digests(checked)))
    for _ in range(2):
        encoders.of_checkpoint(caller, path)
        encoders.of_checkpoint(caller, checked)
    said = capfd.readouterr().err
    assert said.count("of-before") == 1
    assert "of-now" not in said
