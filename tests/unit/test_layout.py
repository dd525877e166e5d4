"""The layout format: what parses, what does not, and the shipped ones."""

from __future__ import annotations

import pytest

from dkey.errors import FileFormatError, LocalFault
from dkey.ranging.layout import Mount, Zone, format_layout, parse_layout
from dkey.ranging.layouts import SHIPPED, shipped_layout

GOOD = format_layout(shipped_layout("saloon"))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_layout_is_named_as_its_file_and_survives_a_round_trip(name):
    layout = shipped_layout(name)
    assert layout.name == name
    assert parse_layout(format_layout(layout)) == layout


def test_the_saloon_has_four_anchors_on_the_body_and_two_in_the_cabin():
    layout = shipped_layout("saloon")
    assert [each.mount for each in layout.anchors] == [Mount.BODY] * 4 + [Mount.CABIN] * 2
    assert (layout.anchors[0].x_m, layout.anchors[0].z_m) == (2.2, 0.55)
    assert {each.zone for each in layout.doors} >= {Zone.DOOR_DRIVER, Zone.DOOR_PASSENGER}


def test_a_layout_that_is_not_shipped_is_a_local_fault():
    with pytest.raises(LocalFault):
        shipped_layout("../saloon")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('format = "dkey.layout/1"', 'format = "dkey.layout/2"'),
        ('name = "saloon"', 'name = ""'),
        ('name = "saloon"', "name = 5"),
        ('name = "saloon"', 'name = "saloon"\ncolour = "red"'),
        ("phone_height_m = 1.0", "phone_height_m = nan"),
        ("phone_height_m = 1.0", "phone_height_m = true"),
        ("phone_height_m = 1.0", 'phone_height_m = "1"'),
        ("phone_height_m = 1.0", "phone_height_m = 1e9"),
        ("[2.3, 0.95], [-2.3, 0.95]", "[-2.3, 0.95], [2.3, 0.95]"),
        ("outline = [[2.3, 0.95], ", "outline = [[2.3], "),
        ("[2.2, 0.9, 0.55]", "[2.2, 0.9]"),
        ('mount = "CABIN"', 'mount = "ROOF"'),
        ('name = "front-left"', 'name = "front-right"'),
        ('zone = "DOOR_PASSENGER"', 'zone = "DOOR_DRIVER"'),
        ('zone = "TRUNK"', 'zone = "CABIN"'),
        ('zone = "TRUNK"', 'zone = "TRUNK"\nopen = true'),
        ("cabin_leave = 0.3", "cabin_leave = 0.9"),
        ("door_leave_m = 1.75", "door_leave_m = 1.0"),
        ("near_leave_m = 2.5", "near_leave_m = 0.5"),
        ("dwell_s = 0.09\n", "dwell_s = -1.0\n"),
        ("stale_s = 1.0", "stale_s = 0"),
        ("stale_s = 1.0", "patience_s = 1.0"),
        ("[zones]", "[[zones]]"),
        ("[[anchor]]", "[anchor"),
    ],
)
def test_a_layout_with_this_mistake_is_refused(old, new):
    assert old in GOOD
    with pytest.raises(FileFormatError) as caught:
        parse_layout(GOOD.replace(old, new, 1))
    assert caught.value.clause


def test_a_layout_needs_three_anchors_and_has_at_most_ten():
    head, *anchors = GOOD.split("[[anchor]]")
    *anchors, last = anchors
    last, doors = last.split("[[door]]", 1)
    block = "[[anchor]]" + last
    for count, good in ((2, False), (3, True), (10, True), (11, False)):
        made = [block.replace("cabin-rear", f"a{n}") for n in range(count)]
        text = head + "".join(made) + "[[door]]" + doors
        if good:
            assert len(parse_layout(text).anchors) == count
        else:
            with pytest.raises(FileFormatError):
                parse_layout(text)
