"""`stages.predict`: a row for every file whatever it is, the same reading as the page's, and no result from a changed model."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from stages.classifier.prediction import interpret, open_model, predict, presence
from stages.classifier import reading
from stages.classifier.reading import read, read_files, read_guarded
from stages.imaging.decode import Refused, Unusable
from stages.imaging.phantoms import CLASSES, RARE
from stages.imaging.refining import encode_png
from stages.imaging.watermark import encode_marked
from stages.predict import list_files, main
from stages.runtime.errors import LawError, UserError, run
from stages.runtime.files import read_json, write_json
from tests.hostile import crashing_reader
from tests.tiny_root import REPOSITORY, SIZE, phantom_png, write_model

COLUMNS = ["file", "status", "reason", "predicted", *(f"p_{c}" for c in CLASSES), *(f"present_{d}" for d in RARE), "conformal_set"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "combined"
    write_model(folder)
    return folder


def command(monkeypatch: pytest.MonkeyPatch, model: Path, source: Path, output: Path) -> int:
    """Run `stages.predict` in this process (a fresh one spends seconds on importing torch); its exit status."""
    monkeypatch.setattr(sys, "argv", ["predict", str(model), str(source), str(output)])
    try:
        run(main)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def test_every_file_gets_one_row(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "images"
    (source / "sub" / ".hidden").mkdir(parents=True)
    (source / "a.png").write_bytes(phantom_png())
    (source / "no_suffix").write_bytes(phantom_png("vasc"))
    Image.fromarray(read(phantom_png("mel"), 96)).save(source / "sub" / "b.tif")
    frames = [Image.fromarray(read(phantom_png(c), SIZE)) for c in ("df", "nv")]
    frames[0].save(source / "sub" / "two frames.tiff", save_all=True, append_images=frames[1:])
    (source / "sub" / ".hidden" / "c.png").write_bytes(b"not an image")
    (source / "empty.jpg").write_bytes(b"")
    (source / "cut.png").write_bytes(phantom_png()[:300])
    Image.new("RGB", (80, 80), "green").save(source / "blank.png")
    Image.fromarray(read(phantom_png(), SIZE)).resize((20, 20)).save(source / "tiny.png")
    os.mkfifo(source / "pipe.png")
    (source / "dangling.png").symlink_to("nowhere")
    (source / os.fsdecode(b"latin\xe9.png")).write_bytes(phantom_png())
    output = source / "result.csv"

    assert command(monkeypatch, model, source, output) == 0
    rows = table(output)
    assert list(rows.columns) == COLUMNS
    status = dict(zip(rows["file"], rows["status"], strict=True))
    assert status == {
        "a.png": "ok",
        "no_suffix": "ok",
        "sub/b.tif": "ok",
        "sub/two frames.tiff": "ok",
        "latin\\xe9.png": "ok",
        "blank.png": "refused",
        "tiny.png": "refused",
        "sub/.hidden/c.png": "error",
        "empty.jpg": "error",
        "cut.png": "error",
        "pipe.png": "error",
        "dangling.png": "error",
    }
    assert len(rows) == len(status)
    fine, bad = rows[rows["status"] == "ok"], rows[rows["status"] != "ok"]
    assert (bad["reason"] != "").all() and (bad[COLUMNS[3:]] == "").all(axis=None) and (fine["reason"] == "").all()
    chances = fine[[f"p_{c}" for c in CLASSES]].astype(float)
    assert np.allclose(chances.sum(axis=1), 1, atol=1e-5)
    assert [f"p_{name}" for name in fine["predicted"]] == [str(name) for name in chances.idxmax(axis=1)]
    assert set(fine[[f"present_{d}" for d in RARE]].to_numpy().ravel()) <= {"yes", "no", "cannot say"}

    assert command(monkeypatch, model, source, output) == 0 and table(output).equals(rows)  # the table it wrote is not an input

    one = tmp_path / "one.csv"
    assert command(monkeypatch, model, source / "a.png", one) == 0
    assert table(one).iloc[0].to_dict() == rows[rows["file"] == "a.png"].iloc[0].to_dict()
    multi = tmp_path / "multi.csv"
    frames[0].save(tmp_path / "first.png")
    assert command(monkeypatch, model, tmp_path / "first.png", multi) == 0
    assert table(multi).iloc[0, 1:].tolist() == rows[rows["file"] == "sub/two frames.tiff"].iloc[0, 1:].tolist()


def test_an_empty_folder_gives_the_header(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nothing").mkdir()
    assert command(monkeypatch, model, tmp_path / "nothing", tmp_path / "out.csv") == 0
    assert (tmp_path / "out.csv").read_text() == ",".join(COLUMNS) + "\n"


def test_the_command_stops_in_one_line_without_a_usable_model(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(phantom_png())
    arguments = [sys.executable, "-m", "stages.predict", str(tmp_path), str(tmp_path / "a.png"), str(tmp_path / "out.csv")]
    done = subprocess.run(arguments, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1 and "dvc repro" in done.stderr
    assert not (tmp_path / "out.csv").exists()


def test_a_missing_input_or_a_folder_as_output_is_one_line(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, model, tmp_path / "missing", tmp_path / "out.csv") == 1
    assert command(monkeypatch, model, tmp_path, tmp_path) == 1
    (tmp_path / "a.png").write_bytes(phantom_png())
    assert command(monkeypatch, model, tmp_path / "a.png", tmp_path / "a.png") == 1
    missing, folder, itself = capsys.readouterr().err.strip().splitlines()
    assert "does not exist" in missing and "is a folder" in folder and "is the image itself" in itself
    assert (tmp_path / "a.png").read_bytes() == phantom_png()


def test_a_changed_model_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "m")
    weights = tmp_path / "m" / "seed1.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(LawError, match="changed"):
        open_model(tmp_path / "m")


@pytest.mark.parametrize("breakage", ["not json", "no thresholds", "no weights", "no groups", "wrong backbone"])
def test_a_broken_model_is_one_clear_line(tmp_path: Path, breakage: str) -> None:
    folder = tmp_path / "m"
    write_model(folder)
    info = read_json(folder / "model.json")
    match breakage:
        case "not json":
            (folder / "model.json").write_text("{")
        case "no thresholds":
            del info["thresholds"]
            write_json(folder / "model.json", info)
        case "no weights":
            (folder / "seed2.safetensors").unlink()
        case "no groups":
            (folder / "groups_seen.txt").unlink()
        case "wrong backbone":
            write_json(folder / "model.json", info | {"backbone": "resnet10t"})
    with pytest.raises(UserError) as error:
        open_model(folder)
    assert "\n" not in str(error.value) and "dvc" in str(error.value)


def test_presence_at_the_thresholds() -> None:
    limits = {"present": 0.6, "absent": 0.2}
    assert [presence(p, limits) for p in (0.0, 0.199, 0.2, 0.599, 0.6, 1.0)] == ["no", "no", "cannot say", "cannot say", "yes", "yes"]


def test_interpret_reads_the_mean_of_the_members() -> None:
    info = {
        "classes": ["a", "b", "c"],
        "ensemble_temperature": 1.0,
        "bias": {"a": 0.0, "b": 0.0, "c": 0.0},
        "thresholds": {"b": {"present": 0.5, "absent": 0.1}},
        "conformal": {"0.90": {"a": 0.9, "b": 0.3, "c": 0.2}, "0.95": {"a": 0.9, "b": None, "c": 0.2}},
    }
    result = interpret(np.array([[0.1, 0.7, 0.2], [0.2, 0.8, 0.0]]), info)
    assert result.predicted == "b" and result.present == {"b": "yes"}
    assert result.probabilities == pytest.approx({"a": 0.15, "b": 0.75, "c": 0.1})
    assert result.spread["b"] == pytest.approx((0.7, 0.8))
    assert result.conformal == {"0.90": ["a", "b"], "0.95": None}


def test_a_result_does_not_depend_on_its_batch(model: Path) -> None:
    predictor = open_model(model)
    images = np.stack([read(phantom_png(c), SIZE) for c in CLASSES])
    together, alone = predict(predictor, images), [predict(predictor, i[None])[0] for i in images]
    for a, b in zip(together, alone, strict=True):
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-6)


def test_read_tells_bad_bytes_from_an_image_that_shows_nothing() -> None:
    with pytest.raises(Refused) as error:
        read(b"GIF89a", SIZE)
    assert not isinstance(error.value, Unusable)
    with pytest.raises(Unusable, match="too small"):
        read(phantom_png(size=27), SIZE)
    assert read(phantom_png(size=28), SIZE).shape == (SIZE, SIZE, 3)
    with pytest.raises(Unusable, match="marked as AI-generated"):
        read(encode_marked(np.asarray(Image.open(io.BytesIO(phantom_png(size=32))))), SIZE)


def test_what_cannot_be_looked_into_has_a_row(tmp_path: Path) -> None:
    (tmp_path / "in/below").mkdir(parents=True)
    (tmp_path / "in/below/a.png").write_bytes(phantom_png())
    (tmp_path / "in/link").symlink_to(tmp_path / "in/below")
    assert list_files(tmp_path / "in", tmp_path / "out.csv") == [tmp_path / "in/below/a.png", tmp_path / "in/link"]
    (row,) = (reading for path, reading in read_files([tmp_path / "in/link"], SIZE, 1))
    assert isinstance(row, Refused) and "a link to one" in str(row)


def test_a_file_that_crashes_its_reader_costs_its_own_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / name for name in ("a.png", "crash.png", "z.png")]
    for path in files:
        path.write_bytes(phantom_png())
    monkeypatch.setattr(reading, "pixels_or_reason", crashing_reader)
    given = list(read_files(files, SIZE, 2))
    assert [path for path, _ in given] == files
    assert isinstance(given[1][1], Refused) and "crashed" in str(given[1][1])
    assert np.array_equal(np.asarray(given[0][1]), read(phantom_png(), SIZE))


def test_one_file_is_opened_apart_and_reads_the_same() -> None:
    (seen, shown), frames = read_guarded(phantom_png(), SIZE, 100)
    assert frames == 1
    assert np.array_equal(seen, read(phantom_png(), SIZE)) and shown.shape == (100, 100, 3)
    with pytest.raises(Refused, match="not an image"):
        read_guarded(b"text", SIZE)
    with pytest.raises(Unusable):
        read_guarded(encode_png(np.zeros((40, 40, 3), np.uint8)), SIZE)
