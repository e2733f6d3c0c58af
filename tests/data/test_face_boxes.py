"""Tables of faces: the names that tools use mean the same boxes, and a frame gets those of its time or number."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emo_ray.data import face_boxes

BOX = (10.0, 20.0, 30.0, 40.0)
LAYOUTS = {  # header -> the cells of a box at frame 3 or 0.12 s
    "plain": ("frame,x,y,w,h", "3,10,20,30,40"),
    "sizes in words": ("time_s,x,y,width,height", "0.12,10,20,30,40"),
    "py-feat": ("frame,FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight,FaceScore", "3,10,20,30,40,0.75"),
    "insightface": ("frame,x1,y1,x2,y2,det_score", "3,10,20,40,60,0.75"),
    "insightface's array": ("frame,bbox_0,bbox_1,bbox_2,bbox_3,det_score", "3,10,20,40,60,0.75"),
    "people": ("frame,x,y,w,h,confidence,person", "3,10,20,30,40,0.75,Ann"),
}


def write(path, header, *rows, ids=("0001",)):
    lines = [f"clip_id,{header}", *(f"{clip_id},{row}" for clip_id in ids for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_the_names_of_tools_mean_the_same_boxes(tmp_path, layout):
    header, row = LAYOUTS[layout]
    path = write(tmp_path / "boxes.csv", header, row, ids=("0001", "2"))
    face_boxes.check(path)
    boxes_of = face_boxes.read(path, ["0001", "3"])
    assert boxes_of.keys() == {"0001"}
    boxes_N5, people = boxes_of["0001"].at(3, 0.12)
    assert boxes_N5.tolist() == [[*BOX, 0.75 if "0.75" in row else 1.0]]
    assert people == (["Ann"] if "Ann" in row else [])
    assert len(boxes_of["0001"].at(4, 0.2)[0]) == 0


def test_landmarks_of_openface_span_a_box_and_rows_without_success_are_none(tmp_path):
    xs, ys = [f" x_{i}" for i in range(68)], [f" y_{i}" for i in range(68)]  # its headers have spaces in front
    header = ", ".join(["frame", " face_id", " timestamp", " confidence", " success", *xs, *ys])
    x = np.linspace(100, 160, 68).round(1).tolist()
    y = np.linspace(50, 150, 68).round(1).tolist()
    rows = [[1, 0, 0.0, 0.98, 1, *x, *y], [2, 0, 0.04, 0.1, 0, *[0] * 136]]
    (tmp_path / "openface").mkdir()
    path = tmp_path / "openface" / "clip.csv"
    path.write_text("\n".join([header, *(", ".join(map(str, row)) for row in rows)]) + "\n")
    face_boxes.check(path.parent)
    boxes = face_boxes.read(path.parent, ["clip", "other"])["clip"]
    assert boxes.at(0, 0.0)[0].tolist() == [[100, 30, 60, 120, 0.98]]
    assert boxes.at(0, 0.0)[1] == ["0"]
    assert len(boxes.at(1, 0.04)[0]) == 0


def test_times_are_matched_to_the_nearest_row_within_half_a_step(tmp_path):
    rows = [f"{time},{time},0,5,5" for time in (0.0, 0.5, 1.0)]
    path = write(tmp_path / "boxes.csv", "time_s,x,y,w,h", *rows)
    boxes = face_boxes.read(path, ["0001"])["0001"]
    for time_s, expected in ((0.1, [0.0]), (0.3, [0.5]), (0.74, [0.5]), (1.24, [1.0]), (1.3, []), (None, [])):
        assert boxes.at(7, time_s)[0][:, 0].tolist() == expected


def test_parquet_is_read_too(tmp_path):
    table = pa.table({"clip_id": ["a"], "frame": [0], "x": [1], "y": [2], "w": [3.0], "h": [4]})
    pq.write_table(table, tmp_path / "boxes.parquet")
    assert face_boxes.read(tmp_path / "boxes.parquet", ["a"])["a"].at(0, None)[0].tolist() == [[1, 2, 3, 4, 1]]


@pytest.mark.parametrize("header", ["frame,x,y,w", "x,y,w,h", "frame,left,top"])
def test_columns_that_are_no_boxes_are_an_error_that_says_what_is_expected(tmp_path, header):
    path = write(tmp_path / "boxes.csv", header, "1,2,3,4")
    with pytest.raises(ValueError, match=r"boxes.csv: found columns clip_id.*media.face.boxes"):
        face_boxes.check(path)


def test_a_table_without_clips_is_an_error_but_in_a_folder_of_clips(tmp_path):
    (tmp_path / "a.csv").write_text("frame,x,y,w,h\n0,1,2,3,4\n")
    with pytest.raises(ValueError, match="clip_id"):
        face_boxes.check(tmp_path / "a.csv")
    face_boxes.check(tmp_path)
    assert face_boxes.read(tmp_path, ["a"])["a"].at(0, None)[0].tolist() == [[1, 2, 3, 4, 1]]


@pytest.mark.parametrize("content", ["clip_id,frame,x,y,w,h\na,one,2,3,4,5\n", "clip_id,frame,x,y,w,h\na,1,2\n"])
def test_damaged_tables_are_an_error_that_names_the_file(tmp_path, content):
    path = tmp_path / "boxes.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"boxes.csv: found a table that cannot be read"):
        face_boxes.read(path, ["a"])


@pytest.mark.parametrize("name", ["gone.csv", "boxes.txt", "."])
def test_what_is_no_table_is_an_error(tmp_path, name):
    with pytest.raises(ValueError, match=r"media.face.boxes"):
        face_boxes.check(tmp_path / name)
