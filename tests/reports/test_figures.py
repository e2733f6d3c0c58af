import io

import pytest
from matplotlib.text import Text
from PIL import Image

from emo_ray.reports import figures


def test_a_picture_is_as_large_as_it_was_drawn_and_the_same_every_time():
    def drawn():
        figure = figures.empty_figure(4, 3)
        axes = figure.add_subplot()
        axes.set_title("$\\frac$ is no formula")
        figures.style_axes(axes, "x")
        return figures.png(figure)

    assert drawn() == drawn()
    with Image.open(io.BytesIO(drawn())) as image:
        assert image.size == (600, 450)


def test_a_title_stands_where_matplotlib_would_place_it():
    def placed(title):
        figure = figures.empty_figure(4, 3)
        axes = figure.add_subplot()
        axes.set_yticks([0, 1], ["none", "all"])
        title(axes, "two\nlines")
        figure.draw_without_rendering()
        (text,) = (text for text in axes.findobj(Text) if text.get_text() == "two\nlines")
        return text.get_window_extent().extents

    ours = placed(lambda axes, text: figures.title_axes(axes, text, 9, size=8))
    assert ours == pytest.approx(placed(lambda axes, text: axes.set_title(text, loc="left", pad=9, size=8)))


@pytest.mark.parametrize("labelled", [True, False])
def test_axes_are_laid_out_for_the_labels_they_have(labelled):
    """Labels are beside the ticks, and take no room where there are none."""

    def width(names):
        figure = figures.empty_figure(4, 3)
        axes = figure.add_subplot()
        axes.set_yticks([0, 1], names)
        axes.set_ylabel("height" if labelled else "")
        figures.png(figure)
        if labelled:
            ticks = [tick.get_window_extent().x0 for tick in axes.get_yticklabels()]
            assert axes.yaxis.label.get_window_extent().x0 > 0
            assert axes.yaxis.label.get_window_extent().x1 < min(ticks)
        return axes.get_position().width

    assert width(["no", "yes"]) > width(["a long name", "a longer name"])


def test_labels_stand_beside_or_above_their_point():
    figure = figures.empty_figure(4, 3)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1])
    figures.label_point(axes, 0.5, 0.5, "right", right_pt=9)
    figures.label_point(axes, 0.5, 0.5, "above", up_pt=9)
    figure.draw_without_rendering()
    x, y = axes.transData.transform((0.5, 0.5))
    right, above = (text.get_window_extent() for text in axes.texts)
    assert right.x0 > x
    assert right.y0 < y < right.y1
    assert above.y0 > y
    assert above.x0 < x < above.x1
