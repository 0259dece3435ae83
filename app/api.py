"""The predictor of the page over HTTP, on this machine only. It keeps no history.

    python -m app.api [PORT]        (or make api PORT=8000)

POST /predict  multipart field `file`, one image   what the model says of it, or why it may not speak
POST /risk     JSON {disease, answers, prior, p}   the chance before anything, after the answers, after the image
GET  /model    what the model knows, by which names, how often it was right on test, the questions for /risk, the hashes of what it is made of
GET  /health   whether a checked model can be opened
A file or a question that cannot be answered is 422, one that is too large 413, one without its length 411, one to another host's name 400, a path
or method that is not there 404 or 405, a model that is missing or changed 503, each {"reason": ...}.
With `auth.required` (app/settings.toml) every request must bear the token that RARELENS_API_TOKEN holds, `Authorization: Bearer TOKEN`, or gets
401; without such a token in its environment the server does not start.
"""

from __future__ import annotations

import argparse
import hmac
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import uvicorn
from fastapi import FastAPI, File, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser
from starlette.types import ASGIApp, Receive, Scope, Send

from app import access, artifacts, measured, risk, settings, uploads, wording, wording_risk
from app.uploads import MAX_BYTES
from stages.classifier.prediction import Presence, Result, answers
from stages.dataset.card import read_card
from stages.imaging.decode import Refused, Unusable
from stages.runtime.errors import UserError, run
from stages.runtime.files import sha256

if TYPE_CHECKING:
    from stages.classifier.predictor import Predictor

HOST = "127.0.0.1"
COVERAGE = "0.90"
MultiPartParser.spool_max_size = MAX_BYTES  # an upload stays in memory: Starlette would put it on disk from 1 MB on


class Prediction(BaseModel):
    """What is said of an image. `p` calibrated, 0..1, by class; `conformal_set` at 90%, null where it is not offered, `conformal_sets` by coverage;
    `refer`: why a person should decide, [] where nothing speaks for it. `refused`: `reason` says why, and nothing else is told.
    """

    status: Literal["ok", "refused"]
    reason: str = ""
    predicted: str | None = None
    p: dict[str, float] | None = None
    spread: dict[str, tuple[float, float]] | None = None
    present: dict[str, Presence] | None = None
    conformal_set: list[str] | None = None
    conformal_sets: dict[str, list[str] | None] | None = None
    refer: list[str] | None = None
    model_sha256: str
    dataset: str
    notice: str
    warnings: list[str] = []


Share = Annotated[float, Field(ge=0, le=1)]


class Question(BaseModel):
    """What is known of a patient. `prior` and `p` 0..1, `p` and its `spread` over the models as /predict gives them for `disease`; without
    `prior` the card's own is taken."""

    model_config = ConfigDict(extra="forbid")
    disease: str
    answers: dict[str, risk.Answer] = {}
    prior: float | None = Field(None, gt=0, lt=1)
    p: float | None = Field(None, ge=0, le=1)
    spread: tuple[Share, Share] | None = None


class Steps(BaseModel):
    """Chances 0..1 of the disease, step by step, with the intervals that the ratios' own carry on to them (null where there is none: no ratio has
    one, the image came without `spread` or stands at the limit that calibration supports);
    `examples` when a ratio has no source that anybody opened."""

    disease: str
    prior: float
    after_symptoms: float
    after_symptoms_interval: risk.Bounds | None
    after_image: float
    after_image_interval: risk.Bounds | None
    level: risk.Level
    examples: bool
    assumption: str = wording_risk.INDEPENDENCE


class Service:
    """The candidate of the default data set under `root`, opened once, and anew when its files or dvc.lock change."""

    def __init__(self, root: Path) -> None:
        self._root, self._mutex = root, Lock()
        self._opened: tuple[str, Predictor, str, str] | None = None

    @property
    def place(self) -> artifacts.Place:
        """The default data set."""
        return artifacts.places(self._root)[0]

    def model(self) -> tuple[Predictor, str, str]:
        """The checked model, the SHA-256 of its model.json, which holds the hashes of all that belongs to it, and its MD5 in dvc.lock."""
        place = self.place
        regime = artifacts.candidate(place)
        folder = place.models / regime
        with self._mutex:
            signature = artifacts.signature(folder, *(p for p in (place.lock, place.split) if p.exists()))
            if self._opened is None or self._opened[0] != signature:
                content = artifacts.check(place, regime)
                self._opened = (signature, artifacts.load(place, regime, content), sha256(folder / "model.json"), content)
            return self._opened[1:]

    def start(self) -> None:
        """Check and open the model before the first question; what is wrong is said here, and again to each question until it is mended."""
        try:
            self.model()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)


class SizeLimit:
    """ASGI middleware: a body over MAX_BYTES, or one that does not say how large it is, is refused before it is read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", []))
        length = headers.get(b"content-length", b"")
        refusal = None
        if scope["type"] == "http" and (b"transfer-encoding" in headers or int(length or 0) > MAX_BYTES):
            told = f"the request is over {MAX_BYTES // 2**20} MB" if length else "the request must say its length (no chunked transfer)"
            refusal = JSONResponse({"reason": told}, status_code=413 if length else 411)
        await (refusal or self._app)(scope, receive, send)


class OwnName:
    """ASGI middleware: a request that names another host is refused, for it comes from another site's page in a browser of this machine."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = dict(scope.get("headers", [])).get(b"host", b"").decode("latin-1").rsplit(":", 1)[0].lower()
        refusal = None
        if scope["type"] != "lifespan" and name not in (HOST, "localhost"):
            refusal = JSONResponse({"reason": f"Host: only {HOST} and localhost are answered; a proxy must send one of them"}, status_code=400)
        await (refusal or self._app)(scope, receive, send)


class Token:
    """ASGI middleware: a request that does not bear `token` is answered 401, whatever it asks for."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._wanted = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = None
        if scope["type"] != "lifespan" and not hmac.compare_digest(dict(scope["headers"]).get(b"authorization", b""), self._wanted):
            told = {"reason": "sign-in is required: send Authorization: Bearer TOKEN"}
            refusal = JSONResponse(told, status_code=401, headers={"WWW-Authenticate": "Bearer"})
        await (refusal or self._app)(scope, receive, send)


def bounds(interval: risk.Bounds) -> risk.Bounds | None:
    """An interval, or None where it is a point: no certainty, but nothing known."""
    return interval if interval[0] < interval[1] else None


def prediction(answer: Result | Unusable, model: str, place: artifacts.Place, info: dict[str, Any]) -> Prediction:
    """An answer as it is sent, with what must be known of the data; `info` is model.json."""
    notice = f"{wording.NOTICE} {wording.PHANTOM}" if info["phantom"] else wording.NOTICE
    known: dict[str, Any] = {"model_sha256": model, "dataset": place.name, "notice": notice, "warnings": measured.shortcuts(place)}
    if isinstance(answer, Unusable):
        return Prediction(status="refused", reason=str(answer), **known)
    return Prediction(
        **known,
        status="ok",
        predicted=answer.predicted,
        p={name: round(p, 6) for name, p in answer.probabilities.items()},
        spread={name: (round(low, 6), round(high, 6)) for name, (low, high) in answer.spread.items()},
        present=answer.present,
        conformal_set=answer.conformal.get(COVERAGE),
        conformal_sets=answer.conformal,
        refer=measured.referral(answer, info["thresholds"], {key: entry.title for key, entry in read_card(place.card).classes.items()}),
    )


def create(root: Path) -> FastAPI:
    """The application on the repository at `root`; `UserError` when a sign-in is required and no token is set."""
    service, token = Service(root), access.api_token(settings.read().auth)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        opening = Thread(target=service.start)  # beside the server, which answers at once
        opening.start()
        yield
        opening.join()

    # Without the pages of /docs: their scripts come from elsewhere, which a hospital without internet lacks and patients' data should not meet.
    api = FastAPI(title="rarelens", description=wording.NOTICE, lifespan=lifespan, docs_url=None, redoc_url=None)
    api.add_middleware(SizeLimit)
    api.add_middleware(OwnName)  # another name is another site's page asking
    if token is not None:
        api.add_middleware(Token, token=token)  # added last, so it stands before all else

    @api.exception_handler(Refused)
    def refused(_: Request, error: Refused) -> JSONResponse:
        return JSONResponse({"reason": str(error)}, status_code=422)

    @api.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        told = "; ".join(f"{'.'.join(str(part) for part in e['loc'][1:]) or 'body'}: {e['msg']}" for e in error.errors())
        return JSONResponse({"reason": told}, status_code=422)

    @api.exception_handler(HTTPException)
    def unanswered(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"reason": error.detail}, status_code=error.status_code, headers=error.headers)

    @api.exception_handler(UserError)
    def unusable(_: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"reason": str(error)}, status_code=503)

    @api.post("/predict")
    def predict(file: Annotated[list[UploadFile], File(description="one image: JPEG, PNG, TIFF, DICOM, ...")]) -> Prediction:
        if len(file) != 1:
            raise Refused(f"file: {len(file)} images; send one at a time")
        predictor, model, _ = service.model()
        try:
            seen = uploads.read(file[0].file.read(), predictor.size)
        except Unusable as reason:
            return prediction(reason, model, service.place, predictor.info)
        said = prediction(answers(predictor, np.stack(seen.views))[0], model, service.place, predictor.info)
        if note := uploads.first_of(seen.frames):
            said.warnings.append(note)
        return said

    @api.post("/risk")
    def assess(question: Question) -> Steps:
        predictor, _, _ = service.model()
        card, info = read_card(service.place.card), predictor.info
        if question.disease not in info["thresholds"]:
            raise Refused(f"disease: {question.disease[:40]!r} is not one of {', '.join(sorted(info['thresholds']))}")
        if unknown := sorted(set(question.answers) - set(card.symptoms)):
            raise Refused(f"answers: no question {', '.join(key[:40] for key in unknown[:5])}; the card has {', '.join(card.symptoms)}")
        if question.spread is not None and (question.p is None or question.spread[0] > question.spread[1]):
            raise Refused("spread: give it with p, as [least, greatest]")
        image = None if question.p is None else risk.image_of(info, question.disease, question.p, question.spread)
        found = risk.findings(question.disease, card.symptoms, question.answers)
        start = question.prior if question.prior is not None else risk.default_prior(card.risk, question.disease, info["prior_cal"])[0]
        result = risk.assess(start, found, image, card.risk)
        return Steps(
            disease=question.disease,
            prior=result.prior,
            after_symptoms=result.after_symptoms,
            after_symptoms_interval=bounds(result.after_symptoms_interval),
            after_image=result.after_image,
            after_image_interval=bounds(result.after_image_interval),
            level=result.level,
            examples=any(f.example for f in found),
        )

    @api.get("/model")
    def model() -> dict[str, Any]:
        predictor, digest, content = service.model()
        told = ("dataset", "regime", "phantom", "classes", "rare", "seeds", "n_cal", "thresholds", "split_sha256", "mix_sha256", "base_hash", "ood")
        card, place = read_card(service.place.card), service.place
        shares = measured.shares(place, predictor.info["regime"])
        return {
            "model_sha256": digest,
            "model_md5": content,  # by which the page and its reports name it
            "notice": wording.NOTICE,
            "titles": {key: entry.title for key, entry in card.classes.items()},
            "tested": {disease: {name: one and asdict(one) for name, one in found.items()} for disease, found in shares.items()},
            "questions": {key: symptom.question for key, symptom in card.symptoms.items()},
            "prior": {
                disease: risk.default_prior(card.risk, disease, predictor.info["prior_cal"])[0] for disease in sorted(predictor.info["thresholds"])
            },
            "risk_cut_offs": {"low": card.risk.low, "high": card.risk.high},
            **{key: predictor.info[key] for key in told if key in predictor.info},
        }

    @api.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok", "model_sha256": service.model()[1]}

    return api


def main() -> None:
    """Serve until it is ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int, nargs="?", default=int(os.environ.get("PORT", "8000")))
    port = parser.parse_args().port
    application = create(artifacts.root())
    print(f"http://{HOST}:{port}, for this machine only", flush=True)
    uvicorn.run(application, host=HOST, port=port, log_level="warning")


if __name__ == "__main__":
    run(main)
