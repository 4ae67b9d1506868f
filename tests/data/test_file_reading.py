"""One pass over files: the pixels of every format, and all files that cannot be decoded or are damaged inside."""

import os

import numpy as np
import pytest

from mcl_tf import views
from mcl_tf.config import RunConfig
from mcl_tf.data import decoding, file_reading
from mcl_tf.data.file_reading import FileReading
from mcl_tf.data.room import Room
from mcl_tf.errors import UsageError
from tests.encoded_images import BAD, GOOD, damaged_jpeg
from tests.helpers import encode, mixed_images

READ_FROM_FILES = {"WebP", "TIFF"}  # which a server does not read


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of all kinds, good and bad by turns, and two JPEG with damage inside: {name: bytes}, folder."""
    folder = tmp_path_factory.mktemp("files")
    kinds = {**GOOD, **BAD}
    contents = {name: kinds[name][0] for name in sorted(kinds, key=lambda name: name[::-1])}
    contents.update({"damaged": damaged_jpeg(), "damaged, progressive": damaged_jpeg(progressive=True)})
    contents = {f"{number:03}": (name, content) for number, (name, content) in enumerate(contents.items())}
    for number, (_, content) in contents.items():
        (folder / number).write_bytes(content)
    return folder, contents


@pytest.mark.parametrize(("batch", "resize"), [(64, "squeeze"), (5, "pad")])
def test_one_pass_reads_all_kinds_and_finds_all_that_cannot_be_read(batch, resize, files, monkeypatch, capfd):
    folder, contents = files
    monkeypatch.setattr(file_reading, "BATCH", batch)
    reading = FileReading([folder / number for number in contents], 20, resize, max_unreadable=1.0)
    images, labels = Room().hold(reading)
    assert labels is None
    is_bad = [name in set(BAD) - READ_FROM_FILES or name.startswith("damaged") for name, _ in contents.values()]
    assert reading.unreadable == np.flatnonzero(is_bad).tolist()
    assert reading.names_of_unreadable() == [
        str(folder / number) for number, bad in zip(contents, is_bad, strict=True) if bad
    ]
    for image, (name, content), bad in zip(images, contents.values(), is_bad, strict=True):
        if not bad:
            expected = views.prepare(decoding.decode_in_python(content)[None], 20, resize)[0]
            np.testing.assert_array_equal(image, expected, err_msg=name)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("limit", [None, 0])
def test_finds_the_damaged_file_among_many(limit, tmp_path, capfd):
    good = encode(mixed_images(1, 32, 32, 0)[0], "JPEG")
    paths = [tmp_path / f"{number}.jpg" for number in range(150)]
    for path in paths:
        path.write_bytes(good)
    for number in (3, 90):
        paths[number].write_bytes(damaged_jpeg())
    room = Room(RunConfig(memory_limit=limit, cache_dir=str(tmp_path / "cache")))
    reading = FileReading(paths, 16, max_unreadable=0.02)
    images, _ = room.hold(reading)
    assert reading.unreadable == [3, 90]
    assert len({image.tobytes() for number, image in enumerate(images) if number not in (3, 90)}) == 1
    with pytest.raises(UsageError, match=r"/3.jpg is a JPEG with damaged data \(and 1 more.*At most 0.01 of the 150"):
        room.hold(FileReading(paths, 16, max_unreadable=0.01))
    assert capfd.readouterr().err == ""


def test_a_file_that_changes_has_another_key(tmp_path):
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        path.write_bytes(GOOD["PNG"][0])
        os.utime(path, ns=(0, 1000))
    key = FileReading(paths, 16).key
    assert FileReading(list(map(str, paths)), 16).key == key
    others = {FileReading(paths, 20).key, FileReading(paths, 16, "pad").key, FileReading(paths[::-1], 16).key}
    os.utime(paths[1], ns=(0, 1001))
    others.add(FileReading(paths, 16).key)
    assert len(others | {key}) == 5


def test_what_is_written_to_standard_error_comes_out_after_a_failure(tmp_path, capfd):
    path = tmp_path / "0.png"
    path.write_bytes(GOOD["PNG"][0])
    with pytest.raises(ZeroDivisionError):
        Room().hold(FileReading([path] * 200, 16), lambda batches, _: (len(batch) / 0 for batch in batches))
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"
