"""A job that meets a damaged file of the store makes it again, and is then what it would have been."""

import pyarrow as pa
import pytest

from emo_ray import parquet, store
from emo_ray.cli import mending


@pytest.fixture
def parts(tmp_path):
    """A job over two parts: it makes those that are missing, and returns what it reads; `job.made` counts."""
    folder = tmp_path / "parts"

    def job():
        for i in range(2):
            path = folder / f"part-{i}.parquet"
            if not path.exists():
                job.made += 1
                parquet.write(path, pa.table({"a": [i]}))
        try:
            return [parquet.read(folder / f"part-{i}.parquet")["a"][0].as_py() for i in range(2)]
        except store.DamagedFile as error:
            raise RuntimeError("in a worker") from error

    job.made, job.folder, job.root = 0, folder, tmp_path
    return job


def test_damaged_parts_are_made_again(parts, capsys):
    assert mending(parts, parts.root) == [0, 1]
    for i in range(2):
        (parts.folder / f"part-{i}.parquet").write_bytes(b"")
    assert mending(parts, parts.root) == [0, 1]
    assert parts.made == 4
    said = capsys.readouterr().err
    assert [said.count(f"part-{i}.parquet: found a damaged file") for i in range(2)] == [1, 1]


def test_what_cannot_be_mended_ends(parts):
    mending(parts, parts.root)
    (parts.folder / "part-0.parquet").write_bytes(b"PAR1")

    def stubborn():
        (parts.folder / "part-0.parquet").write_bytes(b"PAR1")
        return parquet.read(parts.folder / "part-0.parquet")

    def reading():
        return parquet.read(parts.folder / "part-1.parquet")

    with pytest.raises(store.DamagedFile, match=r"part-0\.parquet"):
        mending(stubborn, parts.root)
    (parts.folder / "part-1.parquet").write_bytes(b"PAR1")
    with pytest.raises(store.DamagedFile, match=r"part-1\.parquet"):
        mending(reading, parts.root)
    with pytest.raises(KeyError):
        mending(lambda: {}["other errors"], parts.root)


def test_what_the_user_names_and_what_lies_elsewhere_is_left_alone(parts, tmp_path):
    mending(parts, parts.root)
    damaged = parts.folder / "part-0.parquet"
    damaged.write_bytes(b"PAR1")
    for root, inputs in ((parts.root, [parts.folder]), (parts.root, [damaged]), (tmp_path / "another store", [])):
        with pytest.raises(RuntimeError) as error:
            mending(parts, root, inputs)
        assert str(damaged) in str(error.value.__cause__)
        assert damaged.read_bytes() == b"PAR1"
