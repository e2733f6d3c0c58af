import io

import numpy as np
from PIL import Image

from emo_ray.reports.contact_sheet import STILLS, contact_sheet


def plain(colour, *shape):
    return np.broadcast_to(np.array(colour, np.uint8), (*shape, 24, 24, 3))


def test_every_picture_is_on_the_sheet_once():
    """Each picture has a colour of its own, and each colour has its place: stills left, the clip right."""
    rows = {
        "happy $<": (plain((200, 0, 0), STILLS), plain((0, 0, 200), 4)),
        "sad": (plain((0, 150, 0), 2), plain((150, 150, 0), 4)),  # fewer clips than places
    }
    sheet = np.asarray(Image.open(io.BytesIO(contact_sheet(rows))).convert("RGB")).astype(int)

    def columns(colour):
        return np.flatnonzero((np.abs(sheet - colour).max(axis=2) < 12).any(axis=0))

    red, blue, green = columns((200, 0, 0)), columns((0, 0, 200)), columns((0, 150, 0))
    assert red.max() < blue.min()
    assert len(red) > 1.3 * len(blue)  # six against four
    assert 2.5 < len(red) / len(green) < 3.5
    assert np.array_equal(blue, columns((150, 150, 0)))
