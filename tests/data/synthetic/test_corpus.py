"""The synthetic corpus: the same seed gives the same bytes, rates hold, and every modality tells the class shown."""

import os
import subprocess
import sys
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import av
import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from emo_ray.config.data_settings import Synthetic
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data import synthetic
from emo_ray.data.manifest.checks import check_ids
from emo_ray.data.manifest.columns import SPLITS
from emo_ray.data.synthetic import face as synthetic_face
from emo_ray.data.synthetic.voice import voice

LABELS = synthetic.LABELS
CORPUS = Synthetic(train_clips=12, validation_clips=6, test_clips=6, unlabelled_clips=6, missing_rate=0.15)
HEARD = Synthetic(train_clips=160, test_clips=100)
MANY = Synthetic(train_clips=6000, validation_clips=600, test_clips=1400, unlabelled_clips=4000)
SUBSETS = [subset for size in (1, 2, 3) for subset in combinations(MODALITIES, size)]


@pytest.fixture(scope="module")
def many():
    """The scripts of a corpus large enough to count in."""
    return synthetic.write_scripts(MANY)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Scripts and clips of the whole small corpus."""
    folder = tmp_path_factory.mktemp("synthetic")
    scripts = synthetic.write_scripts(CORPUS)
    with ThreadPoolExecutor(2) as pool:
        return scripts, list(pool.map(lambda script: synthetic.render(script, folder), scripts))


def decode(clip):
    """Grey frames_THW and float samples_S of a clip's file, with PyAV alone."""
    frames, samples = [], []
    with av.open(clip.video or clip.audio) as container:
        for frame in container.decode():
            if isinstance(frame, av.VideoFrame):
                frames.append(frame.to_ndarray()[:96])  # luma of yuv420p
            else:
                samples.append(frame.to_ndarray()[0])
    return np.array(frames, np.float32), np.concatenate(samples) if samples else np.zeros(0)


def with_split_size(clips, **changes):
    """The settings of a corpus with this many clips in every split."""
    return Synthetic(**{f"{split}_clips": clips for split in SPLITS} | changes)


def first_with(scripts, clips, *modalities):
    """The first clip that has exactly these modalities."""
    return next(c for s, c in zip(scripts, clips, strict=True) if set(s.shown) == set(modalities))


def rendered_bytes(scripts, folder):
    """The content of every clip's file."""
    clips = [synthetic.render(script, folder) for script in scripts]
    return [Path(clip.video or clip.audio).read_bytes() for clip in clips]


class TestSeed:
    def test_same_seed_same_bytes_and_another_seed_others(self, tmp_path):
        scripts = {seed: synthetic.write_scripts(with_split_size(6, seed=seed)) for seed in (3, 4)}
        assert scripts[3] == synthetic.write_scripts(with_split_size(6, seed=3)) != scripts[4]
        files = rendered_bytes(scripts[3][:6], tmp_path / "a")
        assert files == rendered_bytes(scripts[3][:6], tmp_path / "b")
        assert not set(files) & set(rendered_bytes(scripts[4][:6], tmp_path / "c"))

    def test_another_process_renders_the_same_bytes(self, tmp_path):
        code = (
            "import sys; from pathlib import Path\n"
            "from emo_ray.config.data_settings import Synthetic; from emo_ray.data import synthetic\n"
            "synthetic.render(synthetic.write_scripts(Synthetic(seed=3))[0], Path(sys.argv[1]))"
        )
        environment = {**os.environ, "PYTHONHASHSEED": "7"}
        subprocess.run([sys.executable, "-c", code, tmp_path / "other"], check=True, env=environment)
        clip = synthetic.render(synthetic.write_scripts(Synthetic(seed=3))[0], tmp_path / "this")
        assert Path(clip.video).read_bytes() == (tmp_path / "other/clips" / Path(clip.video).name).read_bytes()

    def test_parallel_threads_write_the_same_as_a_single_one(self, rendered, tmp_path):
        scripts, clips = rendered
        assert rendered_bytes(scripts[:4], tmp_path) == [
            Path(clip.video or clip.audio).read_bytes() for clip in clips[:4]
        ]

    def test_rendering_again_keeps_the_file_and_leaves_nothing_else(self, tmp_path):
        script = synthetic.write_scripts(CORPUS)[0]
        path = Path(synthetic.render(script, tmp_path).video)
        path.write_bytes(b"kept")
        assert synthetic.render(script, tmp_path).video == str(path)
        assert path.read_bytes() == b"kept"
        assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]

    def test_a_clip_does_not_depend_on_the_number_of_others(self):
        few = synthetic.write_scripts(with_split_size(60))
        others = {
            script.clip_id: script
            for script in synthetic.write_scripts(with_split_size(60, test_clips=300, unlabelled_clips=0))
        }
        assert all(others.get(s.clip_id) == s for s in few if s.split != "unlabelled")
        longer = {script.clip_id: script for script in synthetic.write_scripts(with_split_size(300))}
        assert all(longer[s.clip_id] == s for s in few)  # whole speakers of ten clips

    def test_every_setting_is_in_the_digest_parts(self):
        changes = {"seed": 1, "true_rate": 0.5, "unlabelled_clips": 0}
        changes |= {f"{name}_rate": 0.01 for name in ("missing", "dark", "occluded", "noisy", "empty")}
        digests = [synthetic.digest_parts(Synthetic(**{key: value})) for key, value in changes.items()]
        assert all(a != b for a, b in combinations([*digests, synthetic.digest_parts(Synthetic())], 2))


class TestSplits:
    @pytest.mark.parametrize(
        "corpus", [Synthetic(), CORPUS, with_split_size(6, seed=-1), with_split_size(15), with_split_size(127)]
    )
    def test_splits_share_no_speaker_and_balance_classes(self, corpus):
        speakers, labels = defaultdict(set), defaultdict(Counter)
        for script in synthetic.write_scripts(corpus):
            speakers[script.split].add(script.speaker)
            labels[script.split][script.label] += 1
        assert set(speakers) == set(SPLITS)
        assert len(set.union(*speakers.values())) == sum(map(len, speakers.values()))
        assert min(map(len, speakers.values())) >= 2
        for split, counts in labels.items():
            assert counts.total() == getattr(corpus, f"{split}_clips")
            assert set(counts) == set(LABELS)
            assert max(counts.values()) - min(counts.values()) <= 1

    def test_nothing_is_unlabelled_unless_asked_for(self):
        assert {s.split for s in synthetic.write_scripts(with_split_size(12, unlabelled_clips=0))} == set(SPLITS) - {
            "unlabelled"
        }

    def test_many_speakers_of_about_ten_clips_and_all_classes(self, many):
        assert len({s.speaker for s in synthetic.write_scripts(Synthetic()) if s.split == "train"}) >= 60
        for scripts in (many, synthetic.write_scripts(with_split_size(127))):
            classes = defaultdict(list)
            for script in scripts:
                classes[script.speaker].append(script.label)
            assert {len(labels) for labels in classes.values()} <= {9, 10, 11}
            assert all(set(labels) == set(LABELS) for labels in classes.values())  # a speaker does not tell the class

    def test_a_clips_number_does_not_tell_its_class(self, many):
        rows = [s for s in many if s.split == "train"]
        for places in (6, 10):
            counts = np.zeros((places, 6))
            for number, script in enumerate(rows):
                counts[number % places, LABELS.index(script.label)] += 1
            assert np.abs(counts / counts.sum(1, keepdims=True) - 1 / 6).max() < 0.06


class TestRates:
    def test_modalities_independently_show_the_class_or_one_like_it(self, many):
        for modality in MODALITIES:
            shown = [(s.shown[modality], s.label) for s in many if modality in s.shown]
            assert np.mean([a == b for a, b in shown]) == pytest.approx(MANY.true_rate, abs=0.015)
            groups = synthetic.CONFUSIONS[modality]
            assert all(a == b or any(a in g and b in g for g in groups) for a, b in shown)
            assert {a for a, b in shown if a != b} == set(LABELS)
        wrong = np.array([[s.shown[m] != s.label for m in MODALITIES] for s in many if len(s.shown) == 3])
        assert np.abs(np.corrcoef(wrong.T) - np.eye(3)).max() < 0.03

    def test_modalities_are_missing_and_flawed_at_their_rates(self, many):
        rates = {
            ("video", "dark"): MANY.dark_rate,
            ("video", "occluded"): MANY.occluded_rate,
            ("audio", "noisy"): MANY.noisy_rate,
            ("text", "empty"): MANY.empty_rate,
        }
        assert {flaw for s in many for flaw in s.flaws.items()} == set(rates)
        for split in ("train", "unlabelled"):
            scripts = [s for s in many if s.split == split]
            for modality in MODALITIES:
                share = np.mean([modality not in s.shown for s in scripts])
                assert share == pytest.approx(MANY.missing_rate, abs=0.01), (split, modality)
            for (modality, flaw), rate in rates.items():
                share = np.mean([s.flaws.get(modality) == flaw for s in scripts if modality in s.shown])
                assert share == pytest.approx(rate, abs=0.012), (split, flaw)

    def test_no_clip_lacks_two_modalities_and_no_missing_modality_has_a_flaw(self, many):
        assert {len(s.shown) for s in many} == {2, 3}
        assert all(set(s.flaws) <= set(s.shown) for s in many)

    def test_transcripts_are_empty_exactly_where_that_is_the_flaw(self, many):
        for script in many:
            assert (script.text is None) == ("text" not in script.shown)
            assert (script.text == "") == (script.flaws.get("text") == "empty")

    def test_the_smallest_and_largest_rates_hold(self):
        rates = ("missing_rate", "dark_rate", "occluded_rate", "noisy_rate", "empty_rate")
        perfect = synthetic.write_scripts(with_split_size(150, **dict.fromkeys(rates, 0)))
        assert all(len(s.shown) == 3 and not s.flaws for s in perfect)
        ruined = synthetic.write_scripts(with_split_size(150, **dict(zip(rates, (1 / 3, 0.5, 0.5, 1, 1), strict=True))))
        assert all(len(s.shown) == 2 and set(s.flaws) == set(s.shown) for s in ruined)

    def test_a_true_rate_of_0_or_1_never_or_always_shows_the_class(self):
        for rate in (0.0, 1.0):
            scripts = synthetic.write_scripts(with_split_size(60, true_rate=rate))
            assert {shown == s.label for s in scripts for shown in s.shown.values()} == {bool(rate)}


class TestCeiling:
    @pytest.mark.parametrize("modality", MODALITIES)
    def test_confusion_is_the_frequency_of_shown_classes_in_scripts(self, many, modality):
        table_KK = synthetic.confusion(modality, MANY.true_rate)
        assert table_KK.shape == (6, 6)
        assert table_KK.min() >= 0
        assert table_KK.sum(1) == pytest.approx(1)
        counts_KK = np.zeros((6, 6))
        for script in many:
            if modality in script.shown:
                counts_KK[LABELS.index(script.label), LABELS.index(script.shown[modality])] += 1
        assert np.abs(table_KK - counts_KK / counts_KK.sum(1, keepdims=True)).max() < 0.03
        assert np.array_equal(synthetic.confusion(modality, 1.0), np.eye(6))

    @pytest.mark.parametrize("modalities", SUBSETS)
    def test_ceiling_is_the_accuracy_of_the_best_guess(self, many, modalities):
        """The guess is the most frequent class among clips that show the same; it is made on half of the clips."""
        complete = [s for s in many if set(modalities) <= set(s.shown)]
        label_counts = defaultdict(Counter)
        for s in complete[::2]:
            label_counts[tuple(s.shown[m] for m in modalities)][s.label] += 1
        guesses = {shown: counts.most_common(1)[0][0] for shown, counts in label_counts.items()}
        hits = [guesses.get(tuple(s.shown[m] for m in modalities)) == s.label for s in complete[1::2]]
        assert np.mean(hits) == pytest.approx(synthetic.ceiling(modalities, MANY.true_rate), abs=0.015)

    def test_ceiling_is_one_at_full_truth_and_no_modality_lowers_it(self):
        for rate in (0.0, 0.3, 0.6, 0.8, 1.0):
            ceilings = {frozenset(subset): synthetic.ceiling(subset, rate) for subset in SUBSETS}
            assert all(a <= b + 1e-12 for s, a in ceilings.items() for t, b in ceilings.items() if s <= t)
            assert min(ceilings.values()) > 1 / 6
            assert max(ceilings.values()) <= 1 + 1e-12
            if rate == 1:
                assert list(ceilings.values()) == pytest.approx([1.0] * len(SUBSETS))


class TestFiles:
    def test_clips_are_a_manifest(self, rendered):
        scripts, clips = rendered
        check_ids(clips, "synthetic")
        for script, clip in zip(scripts, clips, strict=True):
            assert (clip.clip_id, clip.split, clip.speaker) == (script.clip_id, script.split, script.speaker)
            assert clip.label == (None if script.split == "unlabelled" else script.label)
            assert script.label in LABELS
            assert clip.text == script.text
            assert (clip.video is not None) == ("video" in script.shown)
            assert (clip.audio is not None) == ("video" not in script.shown)
            assert Path(clip.video or clip.audio).is_absolute()

    def test_files_hold_24_frames_and_2_s_of_sound(self, rendered):
        clip = first_with(*rendered, "video", "audio", "text")
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

    def test_files_lack_the_stream_of_a_missing_modality(self, rendered):
        silent, unseen = first_with(*rendered, "video", "text"), first_with(*rendered, "audio", "text")
        assert silent.audio is None
        assert [len(x) > 0 for x in decode(silent)] == [True, False]
        assert unseen.video is None
        assert [len(x) > 0 for x in decode(unseen)] == [False, True]

    def test_files_depend_on_the_class_shown_and_not_on_the_class_of_the_clip(self, tmp_path):
        script = next(
            s for s in synthetic.write_scripts(CORPUS) if len(s.shown) == 3 and s.shown["video"] == s.label != "sad"
        )
        changes = ({}, {"label": "sad"}, {"shown": script.shown | {"video": "sad"}})
        original, relabelled, sad = (
            rendered_bytes([replace(script, **change)], tmp_path / str(n))[0] for n, change in enumerate(changes)
        )
        assert original == relabelled != sad

    def test_flaws_reach_the_files_and_change_nothing_else(self, tmp_path):
        script = next(s for s in synthetic.write_scripts(CORPUS) if len(s.shown) == 3)
        flaws = ({}, {"video": "dark"}, {"video": "occluded"}, {"audio": "noisy"})
        clear, dark, covered, noisy = (
            decode(synthetic.render(replace(script, flaws=flaw), tmp_path / str(n))) for n, flaw in enumerate(flaws)
        )
        assert dark[0].mean() < 0.6 * clear[0].mean()
        apart_T = np.abs(covered[0] - clear[0]).mean((1, 2)) > 3
        assert 0 < apart_T.sum() < 24
        quietest = [np.percentile(np.abs(x[1][: 60 * 512]).reshape(60, 512).mean(1), 5) for x in (clear, noisy)]
        assert quietest[1] > 2 * quietest[0]
        assert np.array_equal(noisy[0], clear[0])
        assert all(np.array_equal(x[1], clear[1]) for x in (dark, covered))


def perform(script):
    """Grey frames_THW and float samples_S of a script without encoding them; None where missing."""

    def person(use):
        return np.random.default_rng(list(f"{script.speaker}/{use}".encode()))

    def clip(use):
        return np.random.default_rng(list(f"{script.clip_id}/{use}".encode()))

    frames_THW = samples_S = None
    if "video" in script.shown:
        clip_rng = clip("face")
        time_T = (np.arange(6) + 0.5) * synthetic.DURATION_S / 6
        act = synthetic_face.sample_act(script.shown["video"], clip_rng, time_T, synthetic.DURATION_S)
        frames_THWC = synthetic_face.paint(synthetic_face.sample_look(person("face")), act)
        if "video" in script.flaws:
            frames_THWC = synthetic_face.add_flaw(frames_THWC, script.flaws["video"], clip_rng)
        frames_THW = frames_THWC.mean(3)
    if "audio" in script.shown:
        noisy = "audio" in script.flaws
        samples_S = voice(script.shown["audio"], person("voice"), clip("voice"), synthetic.DURATION_S, noisy) / 2**15
    return frames_THW, samples_S


def face_features(frames_THW):
    """Coarse pixels, standardised over the clip: their mean, their slope over time, their change between frames."""
    blocks_TD = frames_THW.reshape(len(frames_THW), 16, 6, 16, 6).mean((2, 4)).reshape(len(frames_THW), 256)
    blocks_TD = (blocks_TD - blocks_TD.mean()) / blocks_TD.std()
    slope_D = np.linspace(-1, 1, len(blocks_TD)) @ blocks_TD
    step_D = np.abs(np.diff(blocks_TD, axis=0)).mean(0)
    return np.concatenate([blocks_TD.mean(0), slope_D, step_D])


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


def test_each_modality_tells_the_class_of_unseen_speakers_and_all_tell_more():
    scripts = [s for s in synthetic.write_scripts(HEARD) if s.split in ("train", "test")]
    media = [perform(script) for script in scripts]
    features = {
        "video": lambda i: face_features(media[i][0]),
        "audio": lambda i: voice_features(media[i][1]),
        "text": lambda i: scripts[i].text,
    }
    models = {
        "video": make_pipeline(StandardScaler(), LogisticRegression(C=0.003, max_iter=2000)),
        "audio": make_pipeline(StandardScaler(), LogisticRegression()),
        "text": make_pipeline(CountVectorizer(), LogisticRegression(max_iter=2000)),
    }
    log_p_BK, accuracy = np.zeros((len(scripts), len(LABELS))), {}
    labels, in_train = (np.array(x) for x in zip(*((s.label, s.split == "train") for s in scripts), strict=True))
    for modality, model in models.items():
        has = np.array([modality in script.shown for script in scripts])
        rows = [features[modality](i) for i in np.flatnonzero(has)]
        model.fit([r for r, t in zip(rows, in_train[has], strict=True) if t], labels[has & in_train])
        log_p_BK[has] += model.predict_log_proba(rows)
        hits = model.predict(rows)[~in_train[has]] == labels[has & ~in_train]
        accuracy[modality] = round(float(np.mean(hits)), 3)
    fused = round(float(np.mean(model.classes_[log_p_BK.argmax(1)][~in_train] == labels[~in_train])), 3)
    print({**accuracy, "fused": fused})
    assert min(accuracy.values()) > 0.33, accuracy  # chance is 0.17
    for modality, reached in accuracy.items():
        assert reached < synthetic.ceiling([modality], HEARD.true_rate), accuracy
    assert fused > max(accuracy.values()) + 0.03, (fused, accuracy)
