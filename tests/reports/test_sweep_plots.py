import itertools

import numpy as np
import pytest

from emo_ray.reports import sweep_plots
from emo_ray.reports.figures import png

WORDS = "WAF, mean of the seven subsets"
SPACE = {
    "fusion.lr": {"loguniform": [1e-4, 1e-2]},
    "emovclip.prompts": {"choice": [0, 4, None, True]},
    "fusion.hidden": {"randint": [32, 256]},
}


def trial(number, value, state="complete", params=None, history=None):
    params = params or {"fusion.lr": 10 ** -(2 + number % 7 / 3), "emovclip.prompts": 4, "fusion.hidden": 32 + number}
    if history is None:
        history = [] if value is None else [[1, value / 2], [2, value]]
    return {"number": number, "params": params, "state": state, "value": value, "history": history}


def content(*trials, space=SPACE):
    complete = [t for t in trials if t["state"] == "complete"]
    best = max(complete, key=lambda t: t["value"])["number"] if complete else None
    return {"space": space, "trials": list(trials), "best": best, "default": 0}


MANY = content(
    *(trial(i, 0.6 + 0.01 * (i % 5)) for i in range(8)),
    trial(8, 0.05),
    trial(9, 0.3, "pruned"),
    trial(10, -0.4, "pruned", history=[[1, -0.5], [2, -0.4]]),
    trial(11, None, "failed"),
)


def figures(content):
    """Figures by name."""
    return {picture.name: picture.figure for picture in sweep_plots.pictures(content, WORDS)}


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def line(figure, name, panel=0):
    return next(line for line in figure.axes[panel].lines if line.get_label() == name)


def test_every_trial_is_in_the_picture_of_all():
    figure = figures(MANY)["trials"]
    names = ["complete", "complete, below 60.0", "stopped early", "failed"]
    numbers = [number for name in names for number in line(figure, name).get_xdata()]
    assert sorted(numbers) == list(range(12))
    low, high = figure.axes[0].get_ylim()
    assert all(low < height < high for name in names[:2] for height in line(figure, name).get_ydata())
    assert list(line(figure, "the best (64.0)").get_xdata()) == [4]
    assert list(line(figure, "the recipe as it is (60.0)").get_xdata()) == [0]
    assert legend(figure)[:3] == ["best so far", "the best (64.0)", "the recipe as it is (60.0)"]


def test_the_step_line_is_the_best_so_far():
    figure = figures(MANY)["trials"]
    heights = line(figure, "best so far").get_ydata()
    assert heights == pytest.approx([60, 61, 62, 63, 64, 64, 64, 64, 64, 64])  # of nine complete trials, and to the end


@pytest.mark.parametrize("interval", [None, {"ends": [0.7, 0.85], "drawn": "speakers"}])
def test_a_band_is_the_interval_of_the_best(interval):
    shown = sweep_plots.pictures(content(trial(0, 0.6), trial(1, 0.8)) | {"interval": interval}, WORDS)[0]
    bands = shown.figure.axes[0].patches
    assert [(band.get_y(), band.get_y() + band.get_height()) for band in bands] == (
        [pytest.approx((70, 85))] if interval else []
    )
    assert ("bootstrap over speakers" in shown.alt) == bool(interval)


def test_curves_draw_each_epoch_not_the_best_so_far():
    wavy = trial(0, 0.6, history=[[1, 0.5], [2, 0.5], [3, 0.6], [4, 0.6]]) | {
        "curve": [[1, 0.5], [2, 0.4], [3, 0.6], [4, 0.55]]
    }
    figure = figures(content(wavy))["curves"]
    assert list(line(figure, "the best").get_ydata()) == pytest.approx([50, 40, 60, 55])
    marks = [mark.get_xydata().tolist() for mark in figure.axes[0].lines if len(mark.get_xdata()) == 1]
    assert marks == [[[3, pytest.approx(60)]]]


def test_curves_end_where_training_did_and_the_first_phase_is_left_out():
    figure = figures(MANY)["curves"]
    axes = figure.axes[0]
    assert axes.get_xlabel() == "epoch (not shown: 1 stopped in EmoVCLIP's phase)"
    assert min(min(line.get_ydata()) for line in axes.lines) > 0
    assert line(figure, "stopped early (×)").get_ydata() == pytest.approx([15, 30])
    assert line(figure, "the best").get_ydata() == pytest.approx([32, 64])
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    assert [tuple(line.get_xdata()) for line in crosses] == [(2,)]


def test_a_panel_for_each_key_with_the_best_marked():
    figure = figures(MANY)["settings"]
    panels = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title(loc="left").replace("\n", "") for axes in panels] == list(SPACE)
    for number, axes in enumerate(panels):
        assert line(figure, "the best (64.0)", number).get_ydata() == pytest.approx([64])
        low, high = axes.get_xlim()
        assert all(low < place < high for line_ in axes.lines for place in line_.get_xdata())


@pytest.mark.parametrize("keys", [1, 4, 5, 9])
def test_there_are_as_many_panels_as_keys(keys):
    space = {f"fusion.key_{i}": {"uniform": [0, 1]} for i in range(keys)}
    figure = figures(content(trial(0, 0.5, params=dict.fromkeys(space, 0.5)), space=space))["settings"]
    assert sum(axes.axison for axes in figure.axes) == keys


@pytest.mark.parametrize("keys", [1, 3, 5, 9])
def test_texts_do_not_overlap(keys):
    """Ticks and titles of the panels, and legends, as they are laid out."""
    space = {f"emovclip.long_name_of_key_{i}": SPACE[name] for i, name in zip(range(keys), itertools.cycle(SPACE))}
    choices, rng = [0, 4, None, True], np.random.default_rng(0)
    settings = [
        {"loguniform": 10 ** rng.uniform(-4, -2), "choice": choices[i % 4], "randint": 40 + 9 * i} for i in range(20)
    ]
    trials = [
        trial(i, 0.6 + rng.normal(0, 0.02), params={key: settings[i][next(iter(form))] for key, form in space.items()})
        for i in range(9)
    ]
    for name in ("settings", "trials"):
        figure = figures(content(*trials, trial(9, 0.3, "pruned", trials[0]["params"]), space=space))[name]
        png(figure)
        figure.draw_without_rendering()  # at its own resolution
        boxes = [text.get_window_extent() for text in _texts(figure)]
        assert not [(a, b) for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)]
        width, height = figure.canvas.get_width_height()
        assert not [b for b in boxes if b.x0 < 0 or b.y0 < 0 or b.x1 > width or b.y1 > height], (name, width, height)


def _texts(figure):
    for axes in figure.axes:
        if axes.axison:
            low, high = axes.get_xlim()  # ticks beyond are not drawn
            ticks = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
            titles = [axes.title, axes._left_title, axes.xaxis.label]
            texts = [*titles, *(text for place, text in ticks if low <= place <= high)]
            yield from (text for text in texts if text.get_text())
    yield from figure.legends[0].get_texts()
    yield from (text for text in (figure._suptitle, figure._supylabel) if text is not None)


@pytest.mark.parametrize(
    ("trials", "keys"),
    [
        *(([trial(0, 0.5)], keys) for keys in (0, 1, 3)),
        ([trial(0, 0.5), trial(1, 0.5)], 3),
        *(([trial(0, None, "failed")], keys) for keys in (0, 3)),
        ([trial(0, -0.5, "pruned", history=[[1, -0.5]])], 3),
        ([trial(0, 0.2, "pruned"), trial(1, 0.5)], 3),
        ([trial(0, 0.0), trial(1, 1.0)], 3),
        ([trial(0, 0.5, history=[])], 3),
    ],
)
def test_little_is_drawn_without_a_warning(trials, keys):
    space = dict(list(SPACE.items())[:keys])
    pictures = {picture.name: picture for picture in sweep_plots.pictures(content(*trials, space=space), WORDS)}
    done = any(t["state"] == "complete" for t in trials)
    assert ("trials" in pictures) == done
    assert ("settings" in pictures) == bool(done and keys)
    for picture in pictures.values():
        assert png(picture.figure).startswith(b"\x89PNG")
        assert picture.alt


def test_bars_of_importance_hold_every_key():
    figure = sweep_plots.importance_bars({"fusion.lr": 0.75, "fusion.hidden": 0.25})
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == [75, 25]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["fusion.lr", "fusion.hidden"]
    assert [text.get_text() for text in axes.texts] == ["75.0", "25.0"]


TICKS = [
    ({"uniform": [0.0, 0.6]}, 0.3),
    ({"loguniform": [1e-4, 1e-2]}, 1e-3),
    ({"loguniform": [1e-6, 1.0]}, 1e-3),
    ({"loguniform": [2e-3, 5e-3]}, 3e-3),
    ({"randint": [1, 9]}, 4),
    ({"randint": [4096, 65536]}, 5000),
    ({"uniform": [2.0, 2.0]}, 2.0),
    ({"loguniform": [0.01, 0.01]}, 0.01),
]


@pytest.mark.parametrize(("space", "setting"), TICKS)
def test_ticks_are_few_distinct_and_where_they_say(space, setting):
    axes = figures(content(trial(0, 0.5, params={"a": setting}), space={"a": space}))["settings"].axes[0]
    axes.figure.draw_without_rendering()
    low, high = axes.get_xlim()
    (bounds,) = space.values()
    assert low < bounds[0] <= bounds[1] < high
    ticks = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
    shown = {text.get_text(): place for place, text in ticks if low <= place <= high}
    assert 1 <= len(shown) <= 6
    assert [float(text) for text in shown] == pytest.approx(list(shown.values()), rel=0.01)
    assert not any(text.get_text() for text in axes.get_xticklabels(minor=True))


def test_trials_of_one_choice_are_moved_apart_but_not_to_another():
    space = {"a": {"choice": ["x", [1, 2], None, True, 1]}}
    trials = [trial(number, 0.5 + number / 1000, params={"a": [1, 2]}) for number in range(100)]
    figure = figures(content(*trials, space=space))["settings"]
    places = np.concatenate([line.get_xdata() for line in figure.axes[0].lines])
    assert len(set(places)) == 100
    assert abs(places - 1).max() < 0.5
    assert list(line(figure, "the recipe as it is (50.0)").get_xdata()) == [1]  # not moved
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["x", "[1, 2]", "null", "true", "1"]
