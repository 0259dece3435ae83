"""The engine of refining: frames, hostile files, resumption, the store on disk, the table written by row groups."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from stages import refine
from stages.dataset.store import Store, store_path
from stages.dataset.table import read_table, write_table
from stages.imaging.dihedral import dihedral
from stages.imaging.refining import Refined, Unread, encode_png, fingerprint, refine_file
from stages.runtime.errors import UserError
from stages.runtime.files import read_json
from stages.runtime.guarded import DONE
from stages.runtime.ids import keyed
from tests.hostile import refine_hostile
from tests.test_refine import CARD, blobs, encoded, quarantine, run_refine


FOLDERS = CARD | {"layout": {"kind": "folders", "labels": {"A": "a", "B": "b"}}, "attributes": {}}


def frame_of(frame: int, seed: int) -> Refined:
    """A frame with the picture of `seed`, as a worker would send it."""
    prints = (one.tobytes() for one in fingerprint(Image.fromarray(blobs(seed))))
    return Refined(frame, 3, encode_png(blobs(seed, 32)), "0" * 64, 96, 96, "RGB", "TIFF", 10, 9, frame == 1, "", str(seed), *prints)


def test_frames_of_a_file_share_source_and_group_and_their_copies_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw/A").mkdir(parents=True)
    pictures = {"A/1.tif": [1, 2, 3], "A/2.tif": [4, 1], "A/3.tif": [2, 3], "A/4.tif": [5, 5]}  # 2.tif repeats a frame, 3.tif has no other
    for file in pictures:
        (tmp_path / "raw" / file).write_bytes(b"x")

    def worker(_: object, files: dict[str, str], *__: object) -> Iterator[tuple[str, object]]:
        for file in reversed(files):
            known = len(pictures[file]) + (file == "A/4.tif")  # 4.tif has a frame that cannot be read
            yield from ((file, frame_of(k, seed)._replace(frames=known)) for k, seed in enumerate(pictures[file]))
            yield file, DONE

    monkeypatch.setattr(refine, "guarded", worker)
    run_refine(monkeypatch, tmp_path, tmp_path / "raw", tmp_path / "out", FOLDERS, frames="all")
    table = read_table(tmp_path / "out").sort_values(["source", "frame"])
    frames = {file: table.loc[table["source"] == keyed("file", file)] for file in pictures}
    assert {file: rows["frame"].tolist() for file, rows in frames.items()} == {"A/1.tif": [0, 1, 2], "A/2.tif": [0], "A/3.tif": [], "A/4.tif": [0]}
    first = frames["A/1.tif"]
    assert first["id"].tolist()[:2] == [keyed("file", "A/1.tif"), keyed("frame", "A/1.tif\0" + "1")] and first["id"].is_unique
    assert first["group"].nunique() == 1 and set(frames["A/2.tif"]["group"]) == set(first["group"])
    assert first["burned_in_text"].tolist() == [False, True, False]
    assert quarantine(tmp_path / "out") == {"A/3.tif": f"exact duplicate of {keyed('file', 'A/1.tif')}"}
    told = read_json(tmp_path / "out/refined.json")
    assert (told["files_refined"], told["files_quarantined"], told["images"]) == (3, 1, 5)
    assert {reason: n for reason, n in told["frames_left_out"].items() if n} == {"unreadable": 1, "exact duplicate": 2}
    assert told["frame_copies"] == {"exact duplicate": 2}


def test_a_file_that_hangs_crashes_or_eats_memory_costs_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw/A").mkdir(parents=True)
    for k, name in enumerate(("1", "2", "3", "hang", "crash", "eat")):
        (tmp_path / f"raw/A/{name}.png").write_bytes(encoded(blobs(k)))
    monkeypatch.setattr(refine, "refine_file", refine_hostile)
    run_refine(monkeypatch, tmp_path, tmp_path / "raw", tmp_path / "out", FOLDERS, file_seconds=1.5, file_memory_mb=300)
    assert quarantine(tmp_path / "out") == {
        "A/hang.png": "took longer than 1.5 s to open (`refine.file_seconds` in params.yaml)",
        "A/crash.png": "crashed the image decoder (SIGSEGV)",
        "A/eat.png": "needs more than 300 MB to open (`refine.file_memory_mb` in params.yaml)",
    }
    assert len(read_table(tmp_path / "out")) == 3


def test_a_name_that_is_not_utf_8_costs_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw/A").mkdir(parents=True)
    letter = "A/caf\uf7e9.png"  # a letter for private use, in the name itself
    for k, name in enumerate((os.fsdecode(b"A/caf\xe9.png"), os.fsdecode(b"A/caf\xe8.png"), letter, os.fsdecode(b"A/no\xff.png"))):
        (tmp_path / "raw" / name).write_bytes(b"no image" if k == 3 else encoded(blobs(k)))
    run_refine(monkeypatch, tmp_path, tmp_path / "raw", tmp_path / "out", FOLDERS)
    assert len(read_table(tmp_path / "out")) == 2
    assert {file: reason.split()[0] for file, reason in quarantine(tmp_path / "out").items()} == {r"A/no\xff.png": "not", r"A/caf\xe9.png": "the"}


def test_a_killed_run_goes_on_with_the_same_bytes_and_no_file_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw/A").mkdir(parents=True)
    files = [f"A/{k:02d}.png" for k in range(12)]
    for k, file in enumerate(files):
        (tmp_path / "raw" / file).write_bytes(encoded(blobs(k)))
    (tmp_path / "raw" / files[3]).write_bytes(b"no image")
    monkeypatch.setattr("stages.dataset.store.SAVE_EVERY", 0.0)
    monkeypatch.setattr(refine, "refine_file", refine_hostile)
    child = os.fork()
    if not child:  # the run that is killed: by itself, with the sixth file
        finish, done = Store.finish, []

        def last(*arguments: Any, **more: Any) -> None:
            finish(*arguments, **more)
            done.append(arguments[1])
            if len(done) == 6:
                os.kill(os.getpid(), signal.SIGKILL)

        monkeypatch.setattr(Store, "finish", last)
        try:
            run_refine(monkeypatch, tmp_path, tmp_path / "raw", tmp_path / "out", FOLDERS)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv("OPENED", str(log := tmp_path / "opened.txt"))
    os.utime(tmp_path / "raw" / files[0], ns=(1, 1))  # changed since
    run_refine(monkeypatch, tmp_path, tmp_path / "raw", tmp_path / "out", FOLDERS)
    assert sorted(log.read_text().split()) == [files[0], *files[6:]]
    run_refine(monkeypatch, tmp_path, tmp_path / "raw", tmp_path / "whole", FOLDERS)
    assert len(log.read_text().split()) == 7 + 12
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == {p.name: p.read_bytes() for p in (tmp_path / "whole").iterdir()}
    assert "A/03.png" in quarantine(tmp_path / "out") and len(read_table(tmp_path / "out")) == 11


def test_a_store_in_use_or_broken_stops_in_plain_words(tmp_path: Path) -> None:
    with Store(tmp_path / "one.sqlite"), pytest.raises(UserError, match="another run is refining"):
        Store(tmp_path / "one.sqlite")
    (tmp_path / "two.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(UserError, match="delete the file"):
        Store(tmp_path / "two.sqlite")


def test_a_store_hangs_on_what_changes_a_result(tmp_path: Path) -> None:
    settings = {"size": 64, "frames": "first"}
    paths = {store_path(tmp_path, Path(raw), **settings | own) for raw in ("a", "b") for own in ({}, {"size": 32}, {"frames": "all"})}
    assert len(paths) == 6 and store_path(tmp_path, Path("a"), **settings) in paths


@pytest.mark.parametrize("again", [True, False])
def test_a_refusal_that_may_be_mended_is_tried_again_and_an_older_store_of_the_folder_goes(tmp_path: Path, again: bool) -> None:
    (tmp_path / "one.png").write_bytes(b"x")
    old, other, new = (store_path(tmp_path / "cache", Path(raw), size=size) for raw, size in (("a", 1), ("b", 1), ("a", 2)))
    for path in (old, other):
        with Store(path) as store:
            [(file, state)] = store.unfinished(tmp_path, ["one.png"]).items()
            store.finish(file, state, "some reason", again)
            assert store.refused()
    with Store(other) as store:
        assert bool(store.unfinished(tmp_path, ["one.png"])) == again == (store.refused() == {})
    with Store(new):
        assert not old.exists() and other.exists()


def test_what_a_file_is_refused_for_says_whether_it_may_be_mended(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_bytes(b"no image")
    assert [type(reason) for name in ("text.png", "gone.png") for reason in refine_file(tmp_path, 64, "first", name)] == [str, Unread]


def test_a_table_written_by_row_groups_is_the_table_written_at_once(tmp_path: Path) -> None:
    table = pd.DataFrame({"image": [f"{k}".encode() for k in range(2500)], "id": [f"i{k}" for k in range(2500)], "site": [None] * 2500, "age": 4.0})
    write_table(tmp_path / "once.parquet", table)
    write_table(tmp_path / "groups.parquet", table.drop(columns="image"), iter(table["image"]))
    assert (tmp_path / "once.parquet").read_bytes() == (tmp_path / "groups.parquet").read_bytes()
    assert read_table(tmp_path)["image"].tolist() == table["image"].tolist() * 2


def test_fingerprints_are_those_of_imagehash() -> None:
    rng = np.random.default_rng(0)
    for k in range(40):
        pixels = rng.integers(0, 256, (40, 40), dtype=np.uint8) if k % 4 else blobs(k)[..., 0]
        if k % 4 == 2:
            pixels = np.minimum(pixels, pixels[::-1])  # symmetric: many frequencies are zero but for rounding
        if k % 4 == 3:
            pixels = np.repeat(pixels[:1], 40, axis=0)
        hashes, thumb = fingerprint(Image.fromarray(pixels))
        wanted = [imagehash.phash(Image.fromarray(np.ascontiguousarray(turned))) for turned in dihedral(thumb[None])[:, 0]]
        assert [f"{value:016x}" for value in hashes] == [str(value) for value in wanted]


def test_raw_files_are_never_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw/A").mkdir(parents=True)
    (tmp_path / "raw/A/1.png").write_bytes(encoded(blobs(1)))
    for out in (tmp_path / "raw", tmp_path, tmp_path / "raw/A/out", tmp_path / "raw/../raw"):
        with pytest.raises(UserError, match="must stay as it is"):
            run_refine(monkeypatch, tmp_path, tmp_path / "raw", out, CARD)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        run_refine(monkeypatch, tmp_path, tmp_path / "raw", tmp_path / "file", CARD)
    assert (tmp_path / "raw/A/1.png").read_bytes() == encoded(blobs(1))
