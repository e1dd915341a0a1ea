"""Reasons for people: one of a thing is not several."""

from mrisr_node.counts import counted


def test_one_is_not_several():
    assert [counted(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
