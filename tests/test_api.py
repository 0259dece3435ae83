"""The HTTP API over real HTTP: the page's own numbers, one reason for what cannot be answered, and nothing on disk."""

from __future__ import annotations

import http.client
import io
import json
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image

from app import access, api, measured, uploads
from stages.classifier.prediction import Result, answers, open_model, predict
from stages.classifier.reading import read
from stages.dataset.card import read_card
from stages.imaging.phantoms import CLASSES, RARE
from stages.imaging.refining import encode_png
from stages.runtime.files import sha256
from tests.repository import ROOT
from tests.tiny_root import SIZE, build, drawings, phantom_png, write_lock, write_settings


@contextmanager
def serve(root: Path) -> Iterator[httpx.Client]:
    """A client of the API on the artifacts under `root`."""
    with socket.socket() as free:
        free.bind((api.HOST, 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(api.create(root), host=api.HOST, port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.05)
        with httpx.Client(base_url=f"http://{api.HOST}:{port}", timeout=120) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("root"))


@pytest.fixture(scope="module")
def client(root: Path) -> Iterator[httpx.Client]:
    with serve(root) as opened:
        yield opened


def send(client: httpx.Client, data: bytes) -> httpx.Response:
    return client.post("/predict", files={"file": ("lesion.png", data, "image/png")})


def test_an_image_gets_the_predictor_s_own_numbers(client: httpx.Client, root: Path) -> None:
    folder = root / "models/phantom/combined"
    model = open_model(folder)
    data = next(png for png in map(phantom_png, CLASSES) if model.refusals(read(png, SIZE)[None]) == [None])  # one in twenty is refused
    said = send(client, data).json()
    result = predict(model, read(data, SIZE)[None])[0]
    assert said["status"] == "ok" and said["predicted"] == result.predicted and said["present"] == result.present
    assert said["p"] == pytest.approx(result.probabilities, abs=1e-5) and sorted(said["p"]) == sorted(CLASSES)
    assert said["conformal_set"] == result.conformal["0.90"] and said["conformal_sets"] == result.conformal
    titles = {key: entry.title for key, entry in read_card(root / "data/phantom.yaml").classes.items()}
    assert said["refer"] == measured.referral(result, model.info["thresholds"], titles)
    assert said["model_sha256"] == sha256(folder / "model.json")


def test_of_a_file_with_several_frames_it_is_said_that_the_first_is_read(client: httpx.Client) -> None:
    pages = [Image.open(io.BytesIO(phantom_png(label))) for label in CLASSES[:3]]
    out = io.BytesIO()
    pages[0].save(out, "TIFF", save_all=True, append_images=pages[1:])
    assert "only the first of 3 frames is read" in send(client, out.getvalue()).json()["warnings"]


@pytest.mark.parametrize(("data", "reason"), [(b"no image", "not an image"), (phantom_png()[:200], "broken"), (b"", "empty")])
def test_a_bad_file_is_422_with_its_reason(client: httpx.Client, data: bytes, reason: str) -> None:
    answer = send(client, data)
    assert answer.status_code == 422 and reason in answer.json()["reason"]


def test_an_image_on_which_the_model_may_not_speak_is_refused(client: httpx.Client) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    for data, reason in ((encode_png(noise), "unlike"), (phantom_png(size=20), "too small")):
        answer = send(client, data)
        assert answer.status_code == 200 and answer.json()["status"] == "refused" and reason in answer.json()["reason"]
        assert answer.json()["p"] is None and answer.json()["predicted"] is None


def test_too_large_a_request_is_413_before_it_is_read(client: httpx.Client) -> None:
    connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port, timeout=120)
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Length", str(uploads.MAX_BYTES + 1))
    connection.endheaders()  # and not one byte more
    answer = connection.getresponse()
    assert answer.status == 413 and "50 MB" in json.loads(answer.read())["reason"]
    connection.close()
    chunked = client.post("/predict", content=iter([b"x"]))
    assert chunked.status_code == 411 and "length" in chunked.json()["reason"]


def test_an_upload_never_touches_the_disk(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an upload was written to a file")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)  # what SpooledTemporaryFile rolls over into
    noise = np.random.default_rng(0).integers(0, 256, (800, 800, 3), dtype=np.uint8)
    assert len(encode_png(noise)) > 1_500_000 and send(client, encode_png(noise)).status_code == 200


def test_risk_follows_the_card(client: httpx.Client) -> None:
    said = client.post("/risk", json={"disease": "df", "answers": {"firm": "yes"}, "prior": 0.1}).json()
    after = 6 / 9
    assert said["after_symptoms"] == pytest.approx(after / (1 + after)) == pytest.approx(said["after_image"])
    low, high = said["after_symptoms_interval"]
    assert [low, high] == pytest.approx([2 / 11, 18 / 27]) and said["level"] == "high" and said["examples"]
    wide = client.post("/risk", json={"disease": "df", "prior": 0.1, "p": 0.5, "spread": [0.2, 0.7]}).json()["after_image_interval"]
    assert wide[0] < wide[1]
    alone = client.post("/risk", json={"disease": "df", "p": 0.9}).json()
    assert alone["after_image"] > 0.0115 and alone["after_image_interval"] is None, "a point is no interval"


@pytest.mark.parametrize(
    "question",
    [
        {"disease": "flu"},
        {"disease": "df", "answers": {"firm": "maybe"}},
        {"disease": "df", "answers": {"x": "yes"}},
        {"disease": "df", "prior": 1},
        {"disease": "df", "spread": [0.1, 0.2]},
        {"disease": "df", "p": 0.5, "spread": [0.7, 0.2]},
        {},
    ],
)
def test_a_question_that_cannot_be_answered_is_422(client: httpx.Client, question: dict[str, object]) -> None:
    answer = client.post("/risk", json=question)
    assert answer.status_code == 422 and answer.json()["reason"]


def test_a_missing_field_is_422_with_a_reason(client: httpx.Client) -> None:
    answer = client.post("/predict", files={"image": ("lesion.png", phantom_png(), "image/png")})
    assert answer.status_code == 422 and "file" in answer.json()["reason"]


def test_several_images_are_not_answered_as_one(client: httpx.Client) -> None:
    answer = client.post("/predict", files=[("file", (name, phantom_png(), "image/png")) for name in ("a.png", "b.png")])
    assert answer.status_code == 422 and "one at a time" in answer.json()["reason"]


def test_what_is_not_there_is_said_in_the_same_form_and_other_names_of_this_machine_are_not_answered(client: httpx.Client) -> None:
    missing = client.get("/predictions")
    assert missing.status_code == 404 and missing.json() == {"reason": "Not Found"}
    assert client.get("/predict").status_code == 405
    other = client.get("/health", headers={"Host": "elsewhere.example"})
    assert other.status_code == 400 and "localhost" in other.json()["reason"]
    assert client.get("/health", headers={"Host": "LOCALHOST:1"}).status_code == 200


def test_no_page_of_the_api_loads_anything_from_elsewhere(client: httpx.Client) -> None:
    assert [client.get(path).status_code for path in ("/docs", "/redoc", "/openapi.json")] == [404, 404, 200]


def test_model_and_health(client: httpx.Client, root: Path) -> None:
    digest = sha256(root / "models/phantom/combined/model.json")
    assert client.get("/health").json() == {"status": "ok", "model_sha256": digest}
    told = client.get("/model").json()
    assert told["model_sha256"] == digest and told["rare"] == list(RARE) and told["phantom"] and told["ood"]["level"] == 0.05
    assert told["titles"]["df"] == "dermatofibroma" and "firm" in told["questions"] and told["risk_cut_offs"]["low"] < told["risk_cut_offs"]["high"]
    assert len(told["model_md5"]) >= 32


def test_a_new_model_is_picked_up_and_a_changed_one_refused(root: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(root, tmp_path / "root"))
    with serve(own) as client:
        first = client.get("/health").json()["model_sha256"]
        path = own / "models/phantom/combined/model.json"
        path.write_text(path.read_text() + "\n")
        answer = client.get("/health")
        assert answer.status_code == 503 and "dvc.lock" in answer.json()["reason"]
        write_lock(own, "dvc.lock", "models/phantom/combined")
        assert client.get("/health").json()["model_sha256"] not in ("", first)


def test_twenty_clients_at_once_each_get_their_own_answer(client: httpx.Client, root: Path) -> None:
    model = open_model(root / "models/phantom/combined")
    asked = [encode_png(image) for image in drawings("at once", 3)[0][:20]]
    wanted = [answers(model, read(data, SIZE)[None])[0] for data in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        said = [answer.json() for answer in pool.map(lambda data: send(client, data), asked)]
    for one, result in zip(said, wanted, strict=True):
        if isinstance(result, Result):
            assert one["status"] == "ok" and one["p"] == pytest.approx(result.probabilities, abs=1e-5)
        else:
            assert one["status"] == "refused" and one["reason"] == str(result)
    assert len({str(one["p"]) for one in said}) > 10


def test_where_sign_in_is_required_nothing_is_answered_without_the_token(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    token = "t" * 40
    monkeypatch.setenv("RARELENS_SETTINGS", str(write_settings(tmp_path / "s.toml", True, ("anne@clinic.example",))))
    monkeypatch.setenv(access.TOKEN, token)
    wrong: list[dict[str, str]] = [{}, {"Authorization": token}, {"Authorization": f"Bearer {token}x"}, {"Authorization": "Bearer"}]
    with serve(root) as client:
        for path in ("/health", "/model", "/docs", "/openapi.json"):
            for headers in wrong:
                answer = client.get(path, headers=headers)
                assert answer.status_code == 401 and "Bearer" in answer.json()["reason"]
        assert send(client, b"x").status_code == 401
        assert client.get("/health", headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_it_listens_on_this_machine_only() -> None:
    assert api.HOST == "127.0.0.1" and "python -m app.api $(PORT)" in (ROOT / "Makefile").read_text()
