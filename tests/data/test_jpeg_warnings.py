"""Warnings of libjpeg: heard, kept from the screen, and all else let through."""

import os

import pytest
import tensorflow as tf

from mcl_tf.data import jpeg_warnings
from tests.encoded_images import GOOD, damaged_jpeg


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 1}])
def test_finds_a_damaged_jpeg_that_decodes(options):
    content = damaged_jpeg(**options)
    tf.io.decode_jpeg(content)
    assert jpeg_warnings.is_damaged(content)


@pytest.mark.parametrize("kind", [kind for kind in GOOD if kind.startswith(("JPEG", "PNG, grey"))])
def test_a_good_image_is_not_damaged(kind):
    assert not jpeg_warnings.is_damaged(GOOD[kind][0])


def test_keeps_warnings_from_the_screen_and_lets_all_else_through(capfd):
    with jpeg_warnings.heard() as warnings:
        os.write(2, b"before\nCorrupt JPEG data: 5 extraneous bytes before marker 0xd9\nbetween\n")
    os.write(2, b"after\n")
    assert warnings.found
    assert capfd.readouterr().err == "before\nbetween\nafter\n"


def test_discards_all_if_asked_to(capfd):
    with jpeg_warnings.heard(quiet=True) as warnings:
        os.write(2, b"Bogus marker length\n")
    os.write(2, b"after\n")
    assert not warnings.found
    assert capfd.readouterr().err == "after\n"


def test_works_without_standard_error(monkeypatch):
    def closed(number):
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(os, "dup", closed)
    with jpeg_warnings.heard() as warnings:
        pass
    assert not warnings.found
