"""The page, by AppTest: what it says of an image, what it says when something is missing or changed; and the check against dvc.lock."""

from __future__ import annotations

import re
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from streamlit.testing.v1 import AppTest

from app import artifacts, document, measured, wording, wording_result, wording_risk
from app.measured import Share
from app.risk import assess, findings, image_ratio
from stages.classifier.prediction import Result, open_model, predict
from stages.classifier.reading import read
from stages.dataset.card import Risk, read_card
from stages.dataset.groups import group_hash
from stages.imaging.phantoms import CLASSES
from stages.imaging.refining import encode_png
from stages.runtime.errors import UserError
from stages.runtime.files import read_json, sha256, write_json, write_text
from tests.repository import command
from tests.tiny_root import REPOSITORY, SIZE, build, phantom_png, write_lock, write_model

MAIN = REPOSITORY / "app" / "main.py"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("root"))


@pytest.fixture
def broken(root: Path, tmp_path: Path) -> Path:
    """A copy of the root that a test may break."""
    return Path(shutil.copytree(root, tmp_path / "root"))


def open_page(root: Path, monkeypatch: pytest.MonkeyPatch, view: str | None = None) -> AppTest:
    monkeypatch.setenv("RARELENS_ROOT", str(root))
    page = AppTest.from_file(MAIN, default_timeout=600).run()
    return page.switch_page(f"views/{view}.py").run() if view else page


def words(page: AppTest) -> str:
    """Everything that the page says."""
    texts = [*page.title, *page.header, *page.subheader, *page.markdown, *page.caption, *page.warning, *page.error, *page.info, *page.code]
    return "\n".join([*(text.value for text in texts), *(table.value.to_string() for table in page.table)])


def upload(page: AppTest, *data: bytes, name: str = "lesion.png") -> AppTest:
    page.file_uploader[0].set_value([(name, one, "image/png") for one in data])
    return page.run()


def caught(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Where the reports go that the page would offer as JSON."""
    reports: list[dict[str, Any]] = []

    def as_json(told: dict[str, Any]) -> str:
        reports.append(told)
        return "{}"

    monkeypatch.setattr(document, "as_json", as_json)
    return reports


def noise(size: int = SIZE) -> bytes:
    return encode_png(np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8))


def test_an_image_gets_the_model_s_own_numbers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = upload(open_page(root, monkeypatch), phantom_png())
    assert not page.exception and not page.error
    said = words(page)
    predictor = open_model(root / "models/phantom/combined")
    result = predict(predictor, read(phantom_png(), SIZE)[None])[0]
    table = page.table[0].value
    titles = {key: wording.heading(entry.title) for key, entry in read_card(root / "data/phantom.yaml").classes.items()}
    shown = dict(zip(table.iloc[:, 0], table.iloc[:, 1], strict=True))
    assert shown == {titles[name]: wording.of_1000(p) for name, p in result.probabilities.items()}
    for disease, answer in result.present.items():
        assert wording_result.PRESENCE[answer][0] in said and titles[disease] in said
    firm = sum(2 if answer == "cannot say" else 1 for answer in result.present.values())  # without an answer, what either would be worth
    assert said.count(" who are told so (") + said.count("is right is not known") == firm
    assert "50 lesions with it and 300 without" in said
    assert wording.NOTICE in said and said.count(wording.PHANTOM) >= 2 and "On any patient." in said
    assert f"model (md5): {artifacts.dvc_hash(root / 'models/phantom/combined')}" in said
    assert wording_risk.INDEPENDENCE in said


def test_answers_and_prior_move_the_risk(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = caught(monkeypatch)
    page = upload(open_page(root, monkeypatch), phantom_png())
    card = read_card(root / "data/phantom.yaml")
    assert page.number_input[0].value == pytest.approx(1.15)
    page.radio[0].set_value("yes")
    page.number_input[0].set_value(10.0)
    page.run()
    predictor = open_model(root / "models/phantom/combined")
    said = predict(predictor, read(phantom_png(), SIZE)[None])[0]
    image = image_ratio(said.probabilities["df"], 1 / 7, 50, 300, said.spread["df"])
    assert image is not None
    steps = page.table[2].value
    after = (1 / 9) * 6
    expected = [0.1, after / (1 + after), after * image.value / (1 + after * image.value)]
    assert steps["Chance"].tolist() == [wording.percent(x) for x in expected]
    assert steps["Interval"].tolist()[:2] == ["as entered", f"{wording.percent(2 / 11)} to {wording.percent(18 / 27)}"]
    assert wording_risk.INTERVALS in words(page)
    other = page.table[4].value.set_index("Question").loc[card.symptoms["firm"].question]
    assert other["Yes"].startswith(f"{wording.percent(expected[2])}, ") and other["Yes"].endswith("(now)") and "(now)" not in other["No"]
    evidence = page.table[3].value
    assert evidence.iloc[0].tolist() == [card.symptoms["firm"].question + " Yes", "× 6", "2 to 18", "EXAMPLE, no source opened"]
    assert wording_risk.EXAMPLE in words(page)
    told = reports[-1]["risk"]
    assert told["answers"][card.symptoms["firm"].question] == "yes" and reports[0]["risk"]["diseases"]["df"]["prior"] == pytest.approx(0.0115)
    assert [told["diseases"]["df"][step] for step in ("prior", "after_symptoms", "after_image")] == pytest.approx(expected)
    following = upload(page, phantom_png("vasc"), name="next patient.png")
    assert following.radio[0].value == "not asked"  # another image is another patient


def test_a_foreign_image_is_refused_and_says_how_often_its_own_are(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = upload(open_page(root, monkeypatch), noise())
    assert not page.exception and len(page.error) == 1 and "may not speak" in page.error[0].value
    assert [table.value.columns.tolist()[0] for table in page.table] == ["Diagnosis"] and len(page.table[0].value) == len(CLASSES)
    assert page.table[0].value["Refused on test images"].str.contains("n = 60").all()
    assert not page.number_input and "Present" not in [text.value for text in page.subheader]


def test_an_answer_says_how_often_it_is_right(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = upload(open_page(root, monkeypatch), phantom_png())
    said = words(page)
    assert re.search(r"it calls \d+ \([^)]*; n = 60\) of 100 lesions with dermatofibroma (not )?present", said)
    assert "too few lesions with vascular lesion to say" in said
    assert wording_result.NO_PROOF in said and "What speaks for" in [box.label for box in page.selectbox]


def test_a_model_without_a_record_of_its_kind_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = open_page(root, monkeypatch)
    page.selectbox[1].set_value("real").run()
    page = upload(page, noise())
    assert not page.exception and not page.error and any("cannot tell foreign images" in text.value for text in page.warning)


def test_predictive_values_follow_bayes() -> None:
    hit, spared = measured.Share(0.9, 0.8, 0.95, 100), measured.Share(0.95, 0.9, 0.98, 100)
    found = {
        "sensitivity": hit,
        "specificity": spared,
        "ruled_out": measured.Share(0.7, 0.6, 0.8, 100),
        "missed": measured.Share(0.02, 0.0, 0.1, 100),
    }
    value = measured.value_of_answer("yes", found, 0.01)
    assert value is not None and value[0] == pytest.approx(0.009 / (0.009 + 0.99 * 0.05)) and value[1] < value[0] < value[2]
    value = measured.value_of_answer("no", found, 0.01)
    assert value is not None and value[0] == pytest.approx(0.99 * 0.7 / (0.99 * 0.7 + 0.01 * 0.02)) and value[2] == 1
    assert (
        measured.value_of_answer("cannot say", found, 0.01) is None and measured.value_of_answer("yes", found | {"sensitivity": None}, 0.01) is None
    )


def test_who_is_referred() -> None:
    limits = {"df": {"present": 0.6, "absent": 0.2}}
    titles = dict.fromkeys(CLASSES, "x") | {"df": "dermatofibroma"}
    sure = Result("df", {"df": 0.9}, {"df": (0.8, 0.95)}, {"df": "yes"}, {"0.90": ["df"], "0.95": None})
    assert measured.referral(sure, limits, titles) == []
    assert "disagree" in measured.referral(replace(sure, spread={"df": (0.1, 0.9)}), limits, titles)[0]
    assert "cannot say" in measured.referral(replace(sure, present={"df": "cannot say"}), limits, titles)[0]
    assert "no diagnosis" in measured.referral(replace(sure, conformal={"0.90": []}), limits, titles)[0]
    assert "7 of 7" in measured.referral(replace(sure, conformal={"0.90": list(CLASSES)}), limits, titles)[0]
    both = replace(sure, present={"df": "no"}, spread={"df": (0.1, 0.15)}, conformal={"0.90": ["df", "nv"], "0.95": ["df", "nv"]})
    assert measured.referral(both, limits, titles) == ["dermatofibroma is called not present, and its list at 90% does not exclude it"]
    assert measured.not_excluded(both, "0.95") == ["df"] and measured.not_excluded(sure, "0.90") == []
    assert "not excluded at 95%: dermatofibroma" in wording_result.reconciled("0.95", ["df"], titles)


def test_each_answer_is_told_with_what_it_is_worth() -> None:
    found = {
        name: Share(value, value - 0.05, value + 0.05, 60)
        for name, value in (("sensitivity", 0.8), ("specificity", 0.9), ("missed", 0.1), ("ruled_out", 0.7))
    }
    told = {answer: wording_result.tested("x", found, answer) for answer in ("yes", "no", "cannot say")}
    assert "80 (75 to 85; n = 60) of 100 lesions with x present" in told["yes"] and "missed" not in told["yes"]
    assert "10 (5 to 15; n = 60) of 100 lesions with x not present (missed)" in told["no"] and "sensitivity" not in told["no"]
    assert "sensitivity" in told["cannot say"] and "missed" in told["cannot say"]
    held = wording_result.held({"df": found["sensitivity"], "nv": found["specificity"]}, dict.fromkeys(CLASSES, "x") | {"df": "dermatofibroma"})
    assert "least often for dermatofibroma: 80 (75 to 85; n = 60) of 100" in held
    assert "where 143 of 1,000 patients have it" in wording_result.frequency(0.9, "x", 0.8, 0.95, 5, 1 / 7)


@pytest.mark.parametrize(("data", "reason"), [(b"no image", "not an image"), (phantom_png()[:200], "broken"), (phantom_png(size=20), "too small")])
def test_a_bad_file_gets_one_line(root: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, reason: str) -> None:
    page = upload(open_page(root, monkeypatch), data, name="![x](http://elsewhere).png")
    assert not page.exception and len(page.error) == 1
    assert reason in page.error[0].value and "![x](" not in page.error[0].value and not page.table
    assert wording.NOTICE in words(page)


def test_the_data_set_and_the_model_can_be_chosen(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = open_page(root, monkeypatch)
    dataset, regime = page.selectbox
    assert (dataset.options, dataset.value) == (["phantom", "smoke"], "phantom")
    assert regime.value == "combined" and "(the candidate)" in regime.options[0] and len(regime.options) == 2
    regime.set_value("real").run()
    assert not page.error and artifacts.dvc_hash(root / "models/phantom/real") in words(page)
    page.selectbox[0].set_value("smoke").run()
    assert not page.error and artifacts.dvc_hash(root / "models/smoke/combined") in words(page)


def test_missing_models_name_the_command(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(broken / "models")
    page = open_page(broken, monkeypatch)
    assert not page.exception and "make reproduce" in page.error[0].value and not page.file_uploader


@pytest.mark.parametrize("file", ["seed1.safetensors", "model.json", "extra.txt"])
def test_a_model_that_the_lock_does_not_record_is_refused(broken: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    path = broken / "models/phantom/combined" / file
    path.write_bytes((path.read_bytes() if path.exists() else b"") + b" ")
    page = open_page(broken, monkeypatch)
    assert not page.exception and "dvc.lock" in page.error[0].value and "dvc checkout" in page.error[0].value


def test_a_model_without_a_record_is_refused(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (broken / "dvc.lock").unlink()
    page = open_page(broken, monkeypatch)
    assert not page.exception and "no record" in page.error[0].value


def test_a_new_model_is_picked_up_without_a_restart(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = upload(open_page(broken, monkeypatch), phantom_png())
    place = artifacts.places(broken)[0]
    before = page.table[0].value
    shutil.rmtree(place.models / "combined")  # as `dvc repro` does first
    assert "no model" in page.run().error[0].value
    shutil.copytree(place.models / "real", place.models / "combined")
    assert "dvc.lock" in page.run().error[0].value  # new weights under the old lock
    write_json(place.models / "combined/model.json", read_json(place.models / "combined/model.json") | {"ensemble_temperature": 3.0})
    place.lock.write_text("stages: {")  # the lock is being written
    assert "dvc repro" in page.run().error[0].value and not page.exception
    write_lock(broken, "dvc.lock", "models/phantom/combined")
    page.run()
    assert not page.exception and not page.error and artifacts.dvc_hash(place.models / "combined") in words(page)
    assert not page.table[0].value.equals(before)


def test_a_model_that_is_replaced_while_it_is_opened_does_not_speak(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = artifacts.places(broken)[0]
    content = artifacts.check(place, "combined")
    assert artifacts.load(place, "combined", content).classes == list(CLASSES)
    path = place.models / "combined" / "model.json"
    write_json(path, read_json(path) | {"ensemble_temperature": 3.0})
    with pytest.raises(UserError, match="replaced"):
        artifacts.load(place, "combined", content)


def test_a_model_that_saw_a_sealed_group_is_refused(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = broken / "models/phantom/combined"
    write_text(folder / "groups_seen.txt", group_hash("lesion 7") + "\n")
    write_json(folder / "model.json", read_json(folder / "model.json") | {"groups_sha256": sha256(folder / "groups_seen.txt")})
    write_lock(broken, "dvc.lock", "models/phantom/combined")
    assert not open_page(broken, monkeypatch).error
    write_text(broken / "data/splits/phantom.csv", "id,label,group,split,fold\na,df,lesion 7,test,\n")
    page = open_page(broken, monkeypatch)
    assert not page.exception and "sealed" in page.error[0].value


@pytest.mark.parametrize("text", ["dataset: [", "dataset: phantom\n"])
def test_broken_params_are_one_line(broken: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (broken / "params.yaml").write_text(text)
    page = open_page(broken, monkeypatch)
    assert not page.exception and len(page.error) == 1 and "params.yaml" in page.error[0].value


def test_compare_shows_the_verdict_first(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = open_page(root, monkeypatch, "compare")
    assert not page.exception and not page.error
    assert len(page.warning) == 1  # the drawings; none about the lock
    assert page.header[0].value == "Tiny: no evidence that synthesis helps"
    assert page.table[0].value["Regime"].tolist() == ["combined", "real"]
    assert page.table[0].value["Right at the first guess"].tolist() == ["0.710", "0.680"]
    said = words(page)
    assert wording.PHANTOM in said and wording.NOTICE in said and "Candidate `combined`." in said and "![" not in said


@pytest.mark.parametrize("view", [None, "compare"])
def test_a_shortcut_stands_above_every_result(broken: Path, monkeypatch: pytest.MonkeyPatch, view: str | None) -> None:
    told = "a model can score well here without seeing the disease: the border alone tells df from nv"
    write_json(broken / "reports/phantom/data.json", {"shortcut": {"df": {"warning": told}, "vasc": {"warning": None}}})
    page = open_page(broken, monkeypatch, view)
    assert not page.exception
    said = [warning.value for warning in page.warning]
    assert sum("without seeing the disease" in text for text in said) == 1 and f"**{told[0].upper()}{told[1:]}.**" in said
    blocks = [(block.type, getattr(block, "value", "")) for block in page.main]
    first = next(k for k, (kind, text) in enumerate(blocks) if kind == "warning" and "without seeing" in text)
    assert all(kind not in ("header", "file_uploader") for kind, _ in blocks[:first])


def test_compare_says_when_a_report_was_changed(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(broken / "reports/phantom/metrics/real.json", {"rare_f1": 0.99})
    page = open_page(broken, monkeypatch, "compare")
    assert not page.exception and "reports/phantom/metrics" in page.warning[1].value and "make reproduce" in page.warning[1].value


def test_compare_says_what_is_missing(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(broken / "reports/phantom")
    page = open_page(broken, monkeypatch, "compare")
    assert not page.exception
    assert "verdict.md" in page.error[0].value and "make reproduce" in page.error[0].value


def test_the_hash_of_a_folder_is_dvc_s_own(tmp_path: Path) -> None:
    """A real repository in small: a stage with a folder, nested, and a file as outs."""
    write_model(tmp_path / "source")
    (tmp_path / "source" / "sub").mkdir()
    (tmp_path / "source" / "sub" / "naïve file.txt").write_text("a\n")
    outs = {
        "stages": {"make": {"cmd": "mkdir out && cp -r source out/real && cp source/model.json out/one.json", "outs": ["out/real", "out/one.json"]}}
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(outs))
    for arguments in (["init", "--no-scm", "-q"], ["config", "core.analytics", "false"], ["repro", "-q"]):
        command(tmp_path, "-m", "dvc", *arguments)
    for path in ("out/real", "out/one.json"):
        assert artifacts.locked(tmp_path / "dvc.lock", path) == artifacts.dvc_hash(tmp_path / path)
    (tmp_path / "out/real/sub/naïve file.txt").write_text("b\n")
    assert artifacts.locked(tmp_path / "dvc.lock", "out/real") != artifacts.dvc_hash(tmp_path / "out/real")


def test_each_place_has_its_own_lock_and_command(root: Path, tmp_path: Path) -> None:
    default, smoke = artifacts.places(root)
    assert (default.name, default.command, default.lock.name) == ("phantom", "make reproduce", "dvc.lock")
    assert smoke.lock == root / "reports/smoke/dvc.lock"
    artifacts.check(smoke, "combined")
    with pytest.raises(UserError, match="no model"):
        artifacts.check(smoke, "real")
    own = artifacts.Place(REPOSITORY, "smoke", False)
    assert own.command == "make reproduce PRESET=smoke"
    shared = artifacts.Place(REPOSITORY, "ham10000", False).command
    write_text(tmp_path / "reports/ham10000/dvc.lock", "# made by: make folds PRESET=ham10000-folds\n")
    assert artifacts.Place(tmp_path, "ham10000", False).command == "make folds PRESET=ham10000-folds"
    assert shared.startswith("make reproduce PRESET=<one of: ham10000-cpu, ham10000-folds, ") and "|" not in shared, "a shell runs none of it"


def test_the_candidate_is_the_verdict_s(broken: Path) -> None:
    place = artifacts.places(broken)[0]
    write_json(place.reports / "verdict.json", {"candidate": "real"})
    assert artifacts.candidate(place) == "real"
    (place.reports / "verdict.json").unlink()
    assert artifacts.candidate(place) == "combined"


def test_words() -> None:
    assert [wording.of_1000(p) for p in (0, 0.0004, 0.003, 0.5, 0.9996)] == [
        "fewer than 1 of 1,000", "fewer than 1 of 1,000", "3 of 1,000", "500 of 1,000", "more than 999 of 1,000",
    ]  # fmt: skip
    halves = [k / 2000 for k in range(3, 1999, 2)]
    assert all(wording.of_1000(p) == wording.of_1000(p - 1e-17) == wording.of_1000(p * (1 - 2e-16)) for p in halves)  # a calculation's last digit
    assert [wording.percent(p) for p in (0.00001, 0.0115, 0.05, 0.727, 0.995, 0.99999)] == [
        "under 0.01%", "1.15%", "5%", "72.7%", "99.50%", "over 99.99%",
    ]  # fmt: skip
    titles = dict.fromkeys(CLASSES, "x") | {"df": "dermatofibroma", "nv": "nevus"}
    assert wording_result.conformal("0.90", ["df", "nv"], titles) == "**90%**: one of: dermatofibroma or nevus."
    assert "Refer" in wording_result.conformal("0.95", [], titles) and "Refer" in wording_result.conformal("0.95", list(CLASSES), titles)
    assert "not offered" in wording_result.conformal("0.90", None, titles)
    assert "too few to claim a sensitivity" in wording_result.basis({"present": 0.4, "absent": 0.1, "n_positive": 29, "n_negative": 300})
    assert wording.plain("a_b*c") == "a\\_b\\*c"
    limited = image_ratio(1.0, 0.2, 10, 40)
    assert "limited to what they support" in wording_risk.evidence((), limited, 10)[0][3]
    assert wording_risk.evidence((), image_ratio(0.2, 0.2, 10, 40, (0.1, 0.3)), 10)[0][2] == "0.444 to 1.71 over the models; kept within 0.3 to 13.3"
    assert [wording_risk.times(r) for r in (0.031, 6.3, 210, 999.7, 12345)] == ["× 0.031", "× 6.3", "× 210", "× 1,000", "× 12,345"]
    held = assess(0.001, (), image_ratio(0.9999, 1 / 7, 105, 630, (0.999, 0.99999)), Risk(low=0.05, high=0.2, prior={}))
    assert wording_risk.steps(held)[2][2] == "the image held at its limit", "no certainty"
    assert wording.span(0.0001, 0.9999) == "under 1 to over 999" and wording.span(0.0, 0.5) == "0 to 500"
    assert wording.of_100(Share(0.996, 0.98, 1.0, 250)) == "over 99 (98 to 100; n = 250)"
    assert measured.predictive(Share(0, 0, 0.02, 210), Share(0, 0, 0.003, 1260), 0.1) is None, "never said"
    assert wording_risk.reach(["low", "low"]) == "" and "from low to high" in wording_risk.reach(["low", "high"])
    assert wording_risk.evidence(findings("nv", {}, {}), None, 0)[0][1] == "unchanged"


def test_logic_imports_no_streamlit() -> None:
    for name in (
        "access",
        "api",
        "artifacts",
        "document",
        "drawing",
        "explain",
        "history",
        "marking",
        "measured",
        "modelcard",
        "nearest",
        "risk",
        "settings",
        "uploads",
        "wording",
        "wording_compare",
        "wording_result",
        "wording_risk",
        "wording_synthetic",
    ):
        assert not re.search(r"^\s*(import|from) streamlit", (REPOSITORY / "app" / f"{name}.py").read_text(), re.MULTILINE)


def test_the_page_serves_this_machine_only_and_calls_nobody() -> None:
    settings = tomllib.loads((REPOSITORY / ".streamlit" / "config.toml").read_text())
    assert settings["server"]["address"] == "127.0.0.1" and settings["browser"]["gatherUsageStats"] is False


def test_figures_of_the_model_before_this_one_are_not_shown(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = artifacts.places(broken)[0]
    path = "models/phantom/combined"
    lock = yaml.safe_load((broken / "dvc.lock").read_text())
    lock["stages"]["evaluate"] = {"deps": [{"path": path, "md5": artifacts.locked(broken / "dvc.lock", path)}]}
    write_text(broken / "dvc.lock", yaml.safe_dump(lock))
    assert artifacts.tested(place, "combined") and measured.shares(place, "combined")
    lock["stages"]["evaluate"]["deps"][0]["md5"] = "0" * 32 + ".dir"
    write_text(broken / "dvc.lock", yaml.safe_dump(lock))
    assert not artifacts.tested(place, "combined") and measured.shares(place, "combined") == {}
    said = words(upload(open_page(broken, monkeypatch), phantom_png()))
    assert "This model has not been tested" in said and "(sensitivity)" not in said


def test_while_a_preset_runs_the_page_keeps_to_the_default(broken: Path) -> None:
    aside = broken / ".cache/default"
    aside.mkdir(parents=True)
    for name in ("params.yaml", "dvc.lock"):
        shutil.copy(broken / name, aside / name)
    write_text(broken / "params.yaml", (broken / "params.yaml").read_text().replace("dataset: phantom", "dataset: smoke"))
    (broken / "dvc.lock").unlink()
    place = artifacts.places(broken)[0]
    assert place.name == "phantom" and place.lock == aside / "dvc.lock" and artifacts.check(place, "combined")
