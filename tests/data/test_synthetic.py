import os
import subprocess
import sys
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from emo_ray.config import MODALITIES, Synthetic
from emo_ray.data import synthetic
from emo_ray.data.manifest import check

CORPUS = Synthetic(train_clips=120, test_clips=48)
MANY = Synthetic(train_clips=4000, test_clips=2000)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Scripts and clips of the whole small corpus."""
    folder = tmp_path_factory.mktemp("synthetic")
    scripts = synthetic.plan(CORPUS)
    with ThreadPoolExecutor(2) as pool:
        return scripts, list(pool.map(lambda script: synthetic.render(script, folder), scripts))


def decode(clip):
    """Grey frames_THW and float samples_S of a clip's file, by PyAV alone."""
    frames, samples = [], []
    with av.open(clip.video or clip.audio) as container:
        for frame in container.decode():
            if isinstance(frame, av.VideoFrame):
                frames.append(frame.to_ndarray()[:96])  # luma of yuv420p
            else:
                samples.append(frame.to_ndarray()[0])
    return np.array(frames, np.float32), np.concatenate(samples) if samples else np.zeros(0)


def first(scripts, clips, *modalities):
    return next(c for s, c in zip(scripts, clips, strict=True) if set(s.shown) == set(modalities))


def content(seed, folder, clips=6):
    scripts = synthetic.plan(Synthetic(train_clips=clips, test_clips=clips, seed=seed))[:clips]
    return [Path(c.video or c.audio).read_bytes() for c in (synthetic.render(s, folder) for s in scripts)]


def test_same_seed_same_bytes_and_another_seed_others(tmp_path):
    once = content(3, tmp_path / "a")
    assert once == content(3, tmp_path / "b")
    assert not set(once) & set(content(4, tmp_path / "c"))
    assert synthetic.plan(Synthetic(seed=3)) == synthetic.plan(Synthetic(seed=3)) != synthetic.plan(Synthetic(seed=4))
    assert synthetic.digest_parts(Synthetic(seed=3)) != synthetic.digest_parts(Synthetic(seed=4))


def test_another_process_renders_the_same_bytes(tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from emo_ray.config import Synthetic; from emo_ray.data import synthetic\n"
        "synthetic.render(synthetic.plan(Synthetic(seed=3))[0], Path(sys.argv[1]))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, tmp_path / "there"], check=True, env=environment)
    here = synthetic.render(synthetic.plan(Synthetic(seed=3))[0], tmp_path / "here")
    assert Path(here.video).read_bytes() == (tmp_path / "there/clips" / Path(here.video).name).read_bytes()


def test_rendering_again_keeps_the_file_and_leaves_nothing_else(tmp_path):
    script = synthetic.plan(CORPUS)[0]
    path = Path(synthetic.render(script, tmp_path).video)
    path.write_bytes(b"kept")
    assert synthetic.render(script, tmp_path).video == str(path)
    assert path.read_bytes() == b"kept"
    assert list(tmp_path.rglob("*.m*4*")) == [path]


def test_a_clip_does_not_depend_on_the_number_of_others():
    few, many = synthetic.plan(CORPUS), synthetic.plan(CORPUS.model_copy(update={"test_clips": 600}))
    assert few[:120] == many[:120]


@pytest.mark.parametrize("corpus", [CORPUS, MANY, Synthetic(train_clips=6, test_clips=7, seed=-1)])
def test_splits_share_no_speaker_and_balance_labels(corpus):
    speakers, labels = defaultdict(set), defaultdict(Counter)
    for script in synthetic.plan(corpus):
        speakers[script.split].add(script.speaker)
        labels[script.split][script.label] += 1
    assert set(speakers) == {"train", "test"}
    assert not speakers["train"] & speakers["test"]
    assert min(map(len, speakers.values())) >= 2
    assert {split: sum(c.values()) for split, c in labels.items()} == {
        "train": corpus.train_clips,
        "test": corpus.test_clips,
    }
    for counts in labels.values():
        assert set(counts) == set(synthetic.LABELS)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_about_twelve_clips_a_speaker():
    counts = Counter(script.speaker for script in synthetic.plan(MANY))
    assert set(counts.values()) <= {11, 12, 13}


def test_shown_classes_and_missing_modalities_have_their_shares():
    scripts = synthetic.plan(MANY)
    for modality in MODALITIES:
        shown = [(s.shown[modality], s.label) for s in scripts if modality in s.shown]
        assert 1 - len(shown) / len(scripts) == pytest.approx(synthetic.ABSENT_SHARE, abs=0.01)
        assert np.mean([a == b for a, b in shown]) == pytest.approx(synthetic.TRUE_SHARE, abs=0.02)
        groups = synthetic.CONFUSIONS[modality]
        assert all(a == b or any(a in g and b in g for g in groups) for a, b in shown)
        assert {a for a, b in shown if a != b} == set(synthetic.LABELS)
    assert min(len(s.shown) for s in scripts) == 2
    wrong = np.array([[s.shown[m] != s.label for m in MODALITIES] for s in scripts if len(s.shown) == 3])
    assert np.abs(np.corrcoef(wrong.T) - np.eye(3)).max() < 0.05  # modalities err apart


def test_clips_are_a_manifest(rendered):
    scripts, clips = rendered
    check(clips, "synthetic")
    for script, clip in zip(scripts, clips, strict=True):
        assert (clip.clip_id, clip.label, clip.split) == (script.clip_id, script.label, script.split)
        assert (clip.text is not None) == ("text" in script.shown)
        assert (clip.video is not None) == ("video" in script.shown)
        assert (clip.audio is not None) == ("video" not in script.shown)
        assert Path(clip.video or clip.audio).is_absolute()


def test_files_hold_24_frames_and_2_s_of_sound(rendered):
    clip = first(*rendered, "video", "audio", "text")
    with av.open(clip.video) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.pix_fmt, video.average_rate) == ("h264", "yuv420p", 12)
        assert (audio.codec_context.name, audio.rate, audio.channels) == ("aac", 16_000, 1)
        assert float(video.duration * video.time_base) == pytest.approx(2.0, abs=0.01)
        assert float(audio.duration * audio.time_base) == pytest.approx(2.0, abs=0.07)  # whole AAC frames of 64 ms
    frames_THW, samples_S = decode(clip)
    assert frames_THW.shape == (24, 96, 96)
    assert len(samples_S) == pytest.approx(32_000, abs=1024)
    assert 0.005 < np.abs(samples_S).max() <= 1


def test_files_lack_the_stream_of_a_missing_modality(rendered):
    silent, unseen = first(*rendered, "video", "text"), first(*rendered, "audio", "text")
    assert silent.audio is None
    assert [len(x) > 0 for x in decode(silent)] == [True, False]
    assert unseen.video is None
    assert [len(x) > 0 for x in decode(unseen)] == [False, True]


def face_features(frames_THW):
    """Coarse pixels of the late face against the clip's grey level, and their change since the first frame."""
    blocks_TD = frames_THW.reshape(24, 16, 6, 16, 6).mean((2, 4)).reshape(24, 256)
    late_D = blocks_TD[10:].mean(0)
    return np.concatenate([(late_D - late_D.mean()) / late_D.std(), (late_D - blocks_TD[0]) / 25])


def voice_features(samples_S):
    """Pitch by autocorrelation, loudness and brightness, over windows of 40 ms."""
    windows_NW = np.lib.stride_tricks.sliding_window_view(samples_S, 640)[::320]
    energy_N = np.log(np.mean(windows_NW**2, 1) + 1e-8)
    spectra_NQ = np.abs(np.fft.rfft(windows_NW * np.hanning(640), 2048))
    lags_NL = np.fft.irfft(spectra_NQ**2)[:, 40:320]
    pitch_N = -np.log2(lags_NL.argmax(1) + 40)[energy_N > energy_N.mean()]
    slope = np.polyfit(np.linspace(-1, 1, len(pitch_N)), pitch_N, 1)[0]
    bright_N = np.log((spectra_NQ @ np.arange(spectra_NQ.shape[1])) / spectra_NQ.sum(1))
    pace = np.abs(np.diff(energy_N)).mean()
    loud = [energy_N.mean(), energy_N.std(), np.percentile(energy_N, 90), pace]
    return np.array([np.median(pitch_N), pitch_N.std(), slope, *loud, bright_N.mean(), bright_N.std()])


def test_each_modality_tells_the_class_of_unseen_speakers_and_all_tell_more(rendered):
    scripts, clips = rendered
    media = [decode(clip) for clip in clips]
    features = {
        "video": lambda i: face_features(media[i][0]),
        "audio": lambda i: voice_features(media[i][1]),
        "text": lambda i: clips[i].text,
    }
    log_p_BK, accuracy = np.zeros((len(clips), len(synthetic.LABELS))), {}
    labels, in_train = (np.array(x) for x in zip(*((s.label, s.split == "train") for s in scripts), strict=True))
    for modality, feature in features.items():
        has = np.array([modality in script.shown for script in scripts])
        rows = [feature(i) for i in np.flatnonzero(has)]
        prepare = CountVectorizer() if modality == "text" else StandardScaler()
        strength = 0.02 if modality == "video" else 1.0
        model = make_pipeline(prepare, LogisticRegression(C=strength, max_iter=2000))
        model.fit([r for r, t in zip(rows, in_train[has], strict=True) if t], labels[has & in_train])
        log_p_BK[has] += model.predict_log_proba(rows)
        wanted = labels[has & ~in_train]
        accuracy[modality] = np.mean(model.predict(rows)[~in_train[has]] == wanted)
    fused = np.mean(model.classes_[log_p_BK.argmax(1)][~in_train] == labels[~in_train])
    print({**accuracy, "fused": fused})
    assert all(0.35 < value < 0.9 for value in accuracy.values()), accuracy  # chance is 0.17
    assert fused > max(accuracy.values())
