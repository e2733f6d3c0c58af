import io

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
