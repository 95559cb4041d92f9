"""Galleries: templates by hand, people who come, move and go, and nothing left behind."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.runtime.storage import Storage, StorageConfig
from tests.made_faces import EMBEDDER, unit
from vision_ops.faces import gallery as gallery_module
from vision_ops.faces.gallery import Compression, Gallery, GalleryChangedError
from vision_ops.faces.people import EnrolledFace, template

SIZE = 24
ABOUT = {"sha256": EMBEDDER, "embedding_size": SIZE, "licence": "MIT"}
NAMES = ("Ada Lovelace", "Björk", "Grace Hopper", "Zoë Quinn", "孙悟空")


def face(person: str, number: int, *, run: str = "r1", seed: int = 0) -> tuple[str, EnrolledFace]:
    rng = np.random.default_rng([seed, number, *person.encode()])
    return person, EnrolledFace(
        id=f"photos/{person}/{number}.jpg#face0",
        run=run,
        quality=float(np.float32(rng.uniform(0.2, 1))),
        embedding=unit(rng.normal(size=SIZE)),
    )


def faces_of(names: Sequence[str] = NAMES, each: int = 2) -> list[tuple[str, EnrolledFace]]:
    return [face(name, number) for name in names for number in range(each)]


def make(uri: Path | str, faces: Sequence[tuple[str, EnrolledFace]], store: Storage) -> Gallery:
    gallery = Gallery.open(str(uri), store, ABOUT)
    gallery.enrol(faces)
    return gallery


def everything(gallery: Gallery) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for person, (_, id), _ in gallery.faces():
        found.setdefault(person, set()).add(id)
    return found


def all_bytes(uri: str, store: Storage) -> bytes:
    """Everything that lies in a gallery: stored bytes, names, and what its parts hold decoded."""
    told = []
    for entry in store.find(uri):
        data = store.read(entry.uri)
        told += [entry.uri.encode(), data]
        if entry.uri.endswith(".parquet"):
            plain = pa.BufferOutputStream()
            table = pq.ParquetFile(pa.BufferReader(data)).read()
            pq.write_table(table, plain, compression="none", use_dictionary=False)
            told.append(plain.getvalue().to_pybytes())
    return b"\0".join(told)


def test_a_template_is_the_mean_weighted_by_quality_back_on_the_sphere():
    first, second = unit(np.eye(SIZE)[0]), unit(np.eye(SIZE)[1])
    two = [
        EnrolledFace(id="b", run="r", quality=0.25, embedding=second),
        EnrolledFace(id="a", run="r", quality=0.75, embedding=first),
    ]
    made = template(two)
    np.testing.assert_allclose(made[:2], np.array([3, 1]) / np.sqrt(10), rtol=1e-6)
    assert made.tobytes() == template(two[::-1]).tobytes()
    assert template(two[:1]).tobytes() == second.tobytes()
    contrary = [two[0], replace(two[0], id="c", quality=0.2501, embedding=-second)]
    assert template(contrary).tobytes() == (-second).tobytes()
    worthless = [replace(each, quality=0.0) for each in two]
    np.testing.assert_allclose(template(worthless)[:2], np.sqrt([0.5, 0.5]), rtol=1e-6)


def test_a_gallery_gives_back_who_was_enrolled_sorted_by_name(tmp_path: Path):
    make(tmp_path / "g", faces_of()[::-1], Storage())
    gallery = Gallery.load(str(tmp_path / "g"), Storage())
    people = gallery.templates()
    assert list(people.names) == sorted(NAMES)
    assert (gallery.num_people, gallery.num_faces, gallery.embedder) == (5, 10, EMBEDDER)
    for name, row in zip(people.names, people.embeddings, strict=True):
        own = [each for person, each in faces_of() if person == name]
        assert row.tobytes() == template(own).tobytes()
    assert sorted(gallery.people()) == [(name, 2) for name in sorted(NAMES)]


def test_enrolling_again_changes_no_byte_and_a_new_label_moves_a_face(tmp_path: Path):
    gallery = make(tmp_path / "g", faces_of(), Storage())
    before = all_bytes(gallery.uri, Storage())
    change = gallery.enrol(faces_of())
    assert (change.added, change.unchanged, change.moved) == (0, 10, 0)
    assert all_bytes(gallery.uri, Storage()) == before
    moved = gallery.enrol([("Grace Hopper", face("Ada Lovelace", k)[1]) for k in (0, 1)])
    assert (moved.added, moved.moved, moved.people_removed) == (0, 2, ("Ada Lovelace",))
    assert len(everything(gallery)["Grace Hopper"]) == 4
    assert "Ada Lovelace" not in everything(gallery)


def test_equal_ids_of_two_runs_are_two_faces(tmp_path: Path):
    gallery = make(tmp_path / "g", [face("Ada", 0)], Storage())
    change = gallery.enrol([face("Ada", 0, run="r2", seed=1)])
    assert (change.added, gallery.num_faces, gallery.num_people) == (1, 2, 1)


def test_another_face_of_a_picture_takes_the_place_of_the_first(tmp_path: Path):
    person, first = face("Ada", 0)
    second = replace(face("Ada", 1)[1], id=first.id.replace("#face0", "#face1"))
    gallery = make(tmp_path / "g", [(person, first), face("Ada", 2)], Storage())
    change = gallery.enrol([(person, second)])
    assert (change.added, change.replaced, gallery.num_faces) == (1, 1, 2)
    assert everything(gallery)["Ada"] == {second.id, face("Ada", 2)[1].id}
    friend = replace(face("Bob", 0)[1], id=first.id.replace("#face0", "#face2"))
    change = gallery.enrol([("Bob", friend)])  # a photo may show two people
    assert (change.added, change.replaced, gallery.num_people) == (1, 0, 2)
    both = make(tmp_path / "both", [(person, first), (person, second)], Storage())
    assert both.num_faces == 2  # said at once: two pictures in one frame, as it may be


def test_a_picture_that_another_run_embedded_anew_counts_once(tmp_path: Path):
    again = [(name, replace(each, run="r2")) for name, each in faces_of()]
    gallery = make(tmp_path / "g", faces_of(), Storage())
    before = gallery.templates()
    change = gallery.enrol(again[:4])
    assert (change.added, change.replaced, gallery.num_faces) == (4, 4, 10)
    assert gallery.templates().embeddings.tobytes() == before.embeddings.tobytes()
    runs = {key[0] for person, key, _ in gallery.faces() if person == again[0][0]}
    assert runs == {"r2"}
    copy = replace(again[0][1], id="photos/copy.jpg#face0")
    change = gallery.enrol([(again[0][0], copy)])  # of one run: the folder holds it twice
    assert (change.replaced, gallery.num_faces) == (0, 11)
    assert gallery.enrol([("Somebody", replace(again[1][1], run="r3"))]).replaced == 0


@settings(max_examples=25)
@given(
    order=st.permutations(range(10)),
    steps=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    part_people=st.integers(1, 4),
    gone=st.sets(st.sampled_from(NAMES), max_size=4),
)
def test_a_gallery_is_the_same_in_whatever_steps_people_came_and_went(
    tmp_path_factory: pytest.TempPathFactory,
    order: list[int],
    steps: list[int],
    part_people: int,
    gone: set[str],
):
    store, folder = Storage(), tmp_path_factory.mktemp("g")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gallery_module, "PART_PEOPLE", part_people)
        faces = [faces_of()[k] for k in order]
        gallery = Gallery.open(str(folder / "steps"), store, ABOUT)
        while faces:
            count = steps[len(faces) % len(steps)]
            gallery.enrol(faces[:count])
            faces = faces[count:]
        if gone:
            gallery.remove(sorted(gone))
        stay = [name for name in NAMES if name not in gone]
        at_once = make(folder / "once", faces_of(stay), store)
        again, whole = Gallery.load(gallery.uri, store).templates(), at_once.templates()
    assert list(again.names) == list(whole.names) == sorted(stay)
    assert again.embeddings.tobytes() == whole.embeddings.tobytes()
    assert len(store.find(f"{gallery.uri}/people")) == len(gallery.parts)


def traces(person: str) -> list[bytes]:
    """What would betray that someone was enrolled: the name, in JSON too, and the embeddings."""
    own = [each for name, each in faces_of() if name == person]
    bits = [each.embedding.tobytes() for each in own] + [template(own).tobytes()]
    return [person.encode(), *bits, json.dumps(person).strip('"').encode()]


@pytest.mark.parametrize("compression", ["zstd", "none"])
@pytest.mark.parametrize("where", ["disk", "s3"])
def test_of_a_removed_person_no_byte_is_left(
    tmp_path: Path, compression: Compression, where: str, s3: StorageConfig, bucket: str
):
    store = Storage(s3)
    uri = str(tmp_path / "g") if where == "disk" else f"{bucket}/g"
    gallery = Gallery.open(uri, store, ABOUT)
    gallery.compression = compression
    gallery.enrol(faces_of())
    stored = b"".join(store.read(entry.uri) for entry in store.find(uri))
    for person in NAMES:
        there = all_bytes(uri, store)
        assert all(trace in there for trace in traces(person)[:-1])
        if compression == "none":  # so that the search below would find what it looks for
            assert all(trace in stored for trace in traces(person)[1:-1])
    for number, person in enumerate(NAMES):
        change = Gallery.load(uri, store).remove([person])
        assert (change.removed, change.people_removed) == (2, (person,))
        left = all_bytes(uri, store)
        assert not [trace for trace in traces(person) if trace in left]
        stay = sorted(NAMES[number + 1 :])
        assert list(Gallery.load(uri, store).templates().names) == stay
    assert [entry.uri for entry in store.find(uri)] == [f"{uri}/manifest.json"]


def test_of_a_removed_picture_nothing_is_left_and_the_template_is_of_the_others(tmp_path: Path):
    gallery = make(tmp_path / "g", faces_of(["Ada", "Bob"], each=3), Storage())
    gone, kept = face("Ada", 1)[1], [face("Ada", 0)[1], face("Ada", 2)[1]]
    old = template([*kept, gone])
    change = gallery.remove(ids=["photos/Ada/1.jpg"])
    assert (change.removed, change.people_removed) == (1, ())
    left = all_bytes(gallery.uri, Storage())
    assert gone.embedding.tobytes() not in left
    assert old.tobytes() not in left
    assert gone.id.encode() not in left
    assert template(kept).tobytes() in left
    assert gallery.remove(ids=[kept[0].id]).removed == 1
    assert everything(gallery)["Ada"] == {kept[1].id}


class Killed(BaseException):
    """Stands for the signal that ends a process."""


class MortalStorage(Storage):
    """A disk whose user is killed at its n-th change: before it, or half way through a put."""

    def __init__(self, lives: int, *, half: bool) -> None:
        super().__init__()
        self.lives = lives
        self.half = half

    def put(self, uri: str, data: bytes | pa.Buffer) -> None:
        self._live(uri, bytes(data))
        super().put(uri, data)

    def delete(self, uri: str) -> None:
        self._live(uri, b"")
        super().delete(uri)

    def _live(self, uri: str, data: bytes) -> None:
        if self.lives == 0:
            if self.half and data:
                folder, _, name = uri.rpartition("/")
                Path(folder).mkdir(parents=True, exist_ok=True)
                Path(folder, f".{name}.x1.partial").write_bytes(data[: len(data) // 2])
            raise Killed
        self.lives -= 1


@pytest.mark.parametrize("half", [False, True])
def test_a_removal_killed_anywhere_is_undone_or_done_and_done_when_repeated(
    tmp_path: Path, half: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(gallery_module, "PART_PEOPLE", 2)
    person, kills = NAMES[1], 0
    for lives in range(100):
        gallery = make(tmp_path / f"{half} {lives}", faces_of(), Storage())
        before, store = everything(gallery), MortalStorage(lives, half=half)
        after = {name: ids for name, ids in before.items() if name != person}
        try:
            Gallery.load(gallery.uri, store).remove([person])
        except Killed:
            kills += 1
            assert everything(Gallery.load(gallery.uri, Storage())) in (before, after)
            Gallery.load(gallery.uri, Storage()).remove([person])  # the same command, again
        left = all_bytes(gallery.uri, Storage())
        assert not [trace for trace in traces(person) if trace in left]
        assert everything(Gallery.load(gallery.uri, Storage())) == after
        assert b".partial" not in left
        if store.lives:
            break
    assert kills == 3  # a part and the manifest put, the old part deleted


def test_an_enrolment_killed_anywhere_is_finished_by_the_same_command(tmp_path: Path):
    kills = 0
    for lives in range(100):
        gallery = make(tmp_path / str(lives), faces_of(NAMES[:2]), Storage())
        before, store = everything(gallery), MortalStorage(lives, half=True)
        try:
            Gallery.load(gallery.uri, store).enrol(faces_of())
        except Killed:
            kills += 1
            found = everything(Gallery.load(gallery.uri, Storage()))
            assert found == before or len(found) == len(NAMES)
            make(gallery.uri, faces_of(), Storage())
        found = Gallery.load(gallery.uri, Storage())
        assert len(everything(found)) == len(NAMES)
        assert len(Storage().find(gallery.uri)) == 1 + len(found.parts)
        if store.lives:
            break
    assert kills >= 3


def test_another_command_that_changed_the_gallery_meanwhile_is_noticed(tmp_path: Path):
    mine = make(tmp_path / "g", faces_of(), Storage())
    Gallery.load(mine.uri, Storage()).remove([NAMES[0]])
    after = all_bytes(mine.uri, Storage())
    with pytest.raises(GalleryChangedError, match="run this again"):
        mine.remove([NAMES[1]])
    assert all_bytes(mine.uri, Storage()) == after


def test_only_files_of_a_gallery_are_ever_cleaned_away(tmp_path: Path):
    gallery = make(tmp_path / "g", faces_of(), Storage())
    (tmp_path / "g" / "notes.txt").write_text("mine")
    (tmp_path / "g" / "people" / "notes.parquet").write_bytes(b"mine too")
    (tmp_path / "g" / "people" / "people-00.parquet").write_bytes(b"of an interrupted command")
    assert gallery.clean() == 1
    assert len(Storage().find(gallery.uri)) == 1 + len(gallery.parts) + 2


def test_what_does_not_belong_into_a_gallery_is_refused_with_its_name(tmp_path: Path):
    uri, store = str(tmp_path / "g"), Storage()
    with pytest.raises(ValueError, match="there is none"):
        Gallery.load(uri, store)
    gallery = make(uri, faces_of(), store)
    with pytest.raises(ValueError, match=f"sha256:{EMBEDDER}.*sha256:{'0' * 64}"):
        Gallery.open(uri, store, ABOUT | {"sha256": "0" * 64})
    with pytest.raises(ValueError, match="nobody of that name"):
        gallery.remove(["Nemo"])
    with pytest.raises(ValueError, match="id 'x.jpg': no face"):
        gallery.remove(ids=["x.jpg"])
    wrong = replace(face("Ada", 0)[1], embedding=np.ones(SIZE, np.float32))
    with pytest.raises(ValueError, match="norm 4.89"):
        gallery.enrol([("Ada", wrong)])
    with pytest.raises(ValueError, match="name of face .* is empty"):
        gallery.enrol([("", face("Ada", 0)[1])])
    (tmp_path / "g" / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="not that of a gallery"):
        Gallery.load(uri, store)
