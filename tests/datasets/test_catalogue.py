"""The catalogue of things, from a small library that the tests write: entries, hostile archives, proportions and
fronts, the word map, and attribution."""

from __future__ import annotations

import math
import zipfile

import pytest
import torch
from furniture import ENTRIES, FILES, LIST, camera, things, write_library

from threedgen.core.errors import UserError
from threedgen.datasets.things import catalogue, sh3f
from threedgen.datasets.things.attribution import attribution, write_attribution
from threedgen.datasets.things.catalogue import read_catalogue, read_thing
from threedgen.datasets.things.painted_layers import render
from threedgen.datasets.things.sh3f import parse_properties, read_libraries, unpacked
from threedgen.datasets.things.thing_class import RADIUS


def test_entries_say_what_the_list_says(tmp_path):
    first, second = read_libraries(write_library(tmp_path / "lib"))
    assert (first.key, first.name, first.tags) == ("Scopia#truck", "Camión: grande", ("Car", "Road"))
    assert (first.category, first.creator, first.license) == ("Vehicles", "Ana", "Public domain")
    assert first.size == (20.0, 10.0, 50.0)
    assert first.rotation == (0, 0, 1, 0, 1, 0, -1, 0, 0)
    assert second.rotation is None
    assert second.tags == ()


def test_properties_are_those_of_java():
    text = "#no\n! no\na = 1\\\n  2\nb=x=y\nc\\ d=\\u0041\\t\\\\u0042\nlast=\\\\\nz=1"
    assert parse_properties(text) == {"a": "12", "b": "x=y", "c d": "A\t\\u0042", "last": "\\", "z": "1"}


def test_kept_things_have_their_words(tmp_path):
    folder = write_library(tmp_path / "lib")
    things = read_catalogue(folder)
    assert [thing.words.words[0] for thing in things] == ["truck", "bowl"]
    assert read_catalogue(folder, only="cc0") == things
    assert catalogue.words_of(things) == ["bowl", "truck"]
    write_library(tmp_path / "by", license_name="Creative Commons Attribution 3.0")
    with pytest.raises(UserError, match="has a word"):
        read_catalogue(tmp_path / "by", only="cc0")
    with pytest.raises(UserError, match="no part 'by' of the catalogue: use cc0"):
        read_catalogue(folder, only="by")


def without(number, *names, **changed):
    """The entries with some properties of one of them left out and others changed."""
    values = {key: value for key, value in ENTRIES[number].items() if key not in names}
    return {**ENTRIES, number: {**values, **changed}}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (without(1, "id"), "object 1 of .* has no 'id'"),
        (without(2, "height"), "object 2 of .* has no 'height'"),
        (without(2, "model"), "has no 'model'"),
        (without(1, width="2o"), "'width' of object 1 .* must be a number, not '2o'"),
        (without(1, width="inf"), "'width' of object 1 .* must be a number"),
        (without(1, width="-3"), "sides of object 1 .* above 0"),
        (without(1, modelRotation="1 0 0"), "must have 9 numbers, not 3"),
        (without(1, modelRotation="1 0 0 0 1 0 0 0 2"), "'modelRotation' .* is no rotation"),
        (without(1, modelRotation="1 0 0 0 x 0 0 0 1"), "'modelRotation' .* not 'x'"),
        (without(1, model="/things/../../m.obj"), "leaves its folder"),
        (without(1, model="C:/m.obj"), "leaves its folder"),
        (without(1, model="/things/m.zip"), "must be an .obj in a folder of its own"),
        (without(1, model="/m.obj"), "must be an .obj in a folder of its own"),
        (without(2, id="Scopia#truck"), "'Scopia#truck' is both in"),
    ],
)
def test_a_wrong_list_is_named_on_one_line(entries, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        read_libraries(write_library(tmp_path / "lib", entries))
    assert "\n" not in str(error.value)


def test_what_is_no_library_is_named(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise" / "x.sh3f").write_bytes(b"no zip")
    with zipfile.ZipFile(tmp_path / "noise" / "other.zip", "w") as archive:
        archive.writestr("x", "x")
    (tmp_path / "bare").mkdir()
    (tmp_path / "noise" / "other.zip").rename(tmp_path / "bare" / "x.sh3f")
    for folder, message in (
        ("nowhere", "there is no folder"),
        ("empty", "holds no furniture library"),
        ("noise", "cannot read the furniture library"),
        ("bare", f"has no {LIST}"),
    ):
        with pytest.raises(UserError, match=message):
            read_libraries(tmp_path / folder)
    monkeypatch.setattr(sh3f, "FOLDERS", (tmp_path / "nowhere",))
    with pytest.raises(UserError, match="install sweethome3d-furniture"):
        read_libraries()
    monkeypatch.setattr(sh3f, "_LIST_BYTES", 10)
    with pytest.raises(UserError, match=r"the list of .* is too large"):
        read_libraries(write_library(tmp_path / "lib"))


@pytest.mark.parametrize("cached", [False, True])
def test_no_file_leaves_the_folder_of_its_model(cached, tmp_path):
    files = {**FILES, "things/nosed/../../../evil.txt": "x"}
    first, second = read_libraries(write_library(tmp_path / "lib", files=files))
    inside = tmp_path / "one" / "two" / "cache"
    with pytest.raises(UserError, match="leaves its folder"), unpacked(first, inside if cached else None):
        pass
    assert not list(tmp_path.rglob("evil.txt"))
    assert not list(inside.rglob("*.obj"))
    with unpacked(second, inside if cached else None) as path:
        assert sorted(p.name for p in path.parent.iterdir()) == ["m.mtl", "m.obj"]


def test_a_model_is_unpacked_once_into_a_cache(tmp_path):
    (entry, _) = read_libraries(write_library(tmp_path / "lib"))
    with unpacked(entry) as path:
        assert path.is_file()
    assert not path.exists()
    for _ in range(2):
        with unpacked(entry, tmp_path / "cache") as path:
            assert path == tmp_path / "cache" / "lib" / "things" / "nosed" / "m.obj"
        path.write_text("kept")
    assert path.read_text() == "kept"
    assert [p.name for p in path.parents[1].iterdir()] == ["nosed"]
    with (
        pytest.raises(UserError, match="cannot keep 'Scopia#truck'"),
        unpacked(entry, tmp_path / "lib" / "lib.sh3f"),
    ):
        pass


def test_large_and_missing_models_are_named(tmp_path, monkeypatch):
    entries = read_libraries(write_library(tmp_path / "lib"))
    files = {name: text for name, text in FILES.items() if name != "things/nosed/m.obj"}
    lacking = read_libraries(write_library(tmp_path / "lacking", files=files))
    with pytest.raises(UserError, match=r"lacks things/nosed/m\.obj"), unpacked(lacking[0]):
        pass
    for limit, value in (("_MODEL_BYTES", 100), ("_MODEL_FILES", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(sh3f, limit, value)
            with pytest.raises(UserError, match="is too large"), unpacked(entries[0]):
                pass


def test_a_declared_size_of_gigabytes_is_refused_before_it_is_unpacked(tmp_path):
    folder = write_library(tmp_path / "lib")
    data = bytearray((folder / "lib.sh3f").read_bytes())
    place = data.rindex(b"PK\x01\x02", 0, data.rindex(b"things/hooded/m.mtl"))
    data[place + 24 : place + 28] = (3 << 30).to_bytes(4, "little")  # the size when unpacked
    (folder / "lib.sh3f").write_bytes(data)
    with (
        pytest.raises(UserError, match=r"is too large: 2 files of 32\d{8} bytes"),
        unpacked(read_libraries(folder)[1]),
    ):
        pass


def test_a_thing_has_the_proportions_of_the_catalogue_and_faces_front(tmp_path):
    thing, _ = things(tmp_path)
    painted = read_thing(thing, tmp_path / "cache")
    low, high = painted.mesh.vertices.amin(0), painted.mesh.vertices.amax(0)
    torch.testing.assert_close(low, -high)
    torch.testing.assert_close((high - low) / (high - low)[0], torch.tensor([1.0, 0.5, 2.5]))
    assert float(painted.mesh.vertices.norm(dim=1).max()) == pytest.approx(RADIUS)
    blue = render(painted, camera()).images[0, 16, 16]
    assert blue[2] > 2 * blue[0]
    red = render(painted, camera(180.0)).images[0, 16, 16]
    assert red[0] > 2 * red[2]


@pytest.mark.parametrize(("words", "azimuth"), [({"yaw": 90.0}, 90.0), ({"yaw": -90.0}, -90.0)])
def test_a_yaw_turns_the_front(words, azimuth, tmp_path):
    painted = read_thing(things(tmp_path, **words)[0])
    blue = render(painted, camera(azimuth)).images[0, 16, 16]
    assert blue[2] > 2 * blue[0]


def test_a_pitch_makes_stand_what_lies(tmp_path):
    painted = read_thing(things(tmp_path, pitch=90.0)[0])  # what was in front is below now
    size = painted.mesh.vertices.amax(0)
    torch.testing.assert_close(size / size[0], torch.tensor([1.0, 2.5, 0.5]))
    blue = render(painted, camera(elevation=-89.0)).images[0, 16, 16]
    assert blue[2] > 2 * blue[0]


def test_attribution_names_creators_and_licences(tmp_path):
    folder = write_library(tmp_path / "lib", license_name="Creative Commons Attribution 3.0 license")
    write_library(folder, {2: {**ENTRIES[2], "id": "Scopia#chair", "creator": ""}}, name="zero.sh3f")
    text = attribution(read_catalogue(folder))
    assert "## lib\n\n2 models. Licence: [Creative Commons Attribution 3.0 license](https://" in text
    assert "licenses/by/3.0/)" in text
    assert "- **Ana**: Camión: grande\n- **Bo**: Bowl\n" in text
    assert "publicdomain/zero/1.0/" in text
    assert "- **unknown**: Bowl" in text
    assert write_attribution(tmp_path / "A.md", folder, only="cc0") == 1
    assert "Ana" not in (tmp_path / "A.md").read_text(encoding="utf-8")


def test_the_word_map_is_sound():
    kept, left_out = catalogue.word_map(), catalogue.dropped()
    assert not set(kept) & set(left_out)
    assert len(kept) + len(left_out) == 820  # all objects of sweethome3d-furniture 1.8
    known = {word for words in kept.values() for word in words.words}
    for key, words in kept.items():
        assert words.words, key
        assert len(set(words.words)) == len(words.words), key
        assert all(word == word.lower().strip() and len(word) > 1 for word in words.words), key
        assert math.isfinite(words.yaw + words.pitch), key
        assert words.material in (None, *catalogue.MATERIALS), key
    assert catalogue.bare_words() <= known
    assert all(reason.isalpha() for reason in left_out.values())
