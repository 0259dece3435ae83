"""Public data by `stages.source`, from a server on this machine: what arrives whole, and every way in which it may not."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import stat
import sys
import tarfile
import threading
import time
import types
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages import source
from stages.runtime.errors import UserError, run
from tests.repository import ROOT, git

MEDMNIST = ROOT.parent / "shared/data/medmnist"


def packed(files: dict[str, bytes]) -> bytes:
    """A zip archive, stored, so that its bytes can be damaged where one likes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return out.getvalue()


IMAGES = {"images/a.png": os.urandom(5000), "images/b.png": os.urandom(5000)}
WHOLE = packed(IMAGES)
TABLE = b"image,dx\na,nv\n"


class Handler(BaseHTTPRequestHandler):
    """Serves the server's `bodies` by path; `faults` by path: "short" promises more than comes, "hang" stops half-way."""

    server: Server

    def do_HEAD(self) -> None:
        self.head()

    def do_GET(self) -> None:
        body = self.head()
        if body is None:
            return
        self.server.requests.append(self.path)
        half = self.server.faults.get(self.path)
        self.wfile.write(body[: len(body) // 2] if half else body)
        self.wfile.flush()
        if half == "hang":
            self.server.over.wait(30)

    def head(self) -> bytes | None:
        """Send the head; the body that goes with it."""
        body = self.server.bodies.get(self.path)
        self.send_response(200 if body is not None else 404)
        self.send_header("Content-Length", str(len(body or b"")))
        self.send_header("ETag", f'"{hashlib.md5(body or b"").hexdigest()}"')
        self.send_header("Connection", "close")
        self.end_headers()
        return body

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies = {"/set.zip": WHOLE, "/table.csv": TABLE}
        self.faults: dict[str, str] = {}
        self.requests: list[str] = []
        self.over = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


class Place:
    """A repository with DVC and one recipe, `tiny`, of a table and an archive."""

    def __init__(self, root: Path, url: str) -> None:
        self.root = root
        (root / ".dvc").mkdir()
        shutil.copy(ROOT / ".dvc/config", root / ".dvc")
        for name in (".gitignore", ".dvcignore"):
            shutil.copy(ROOT / name, root)
        git(root, "init", "-q")
        self.files: list[dict[str, Any]] = [
            {"name": "table.csv", "url": f"{url}/table.csv"},
            {"name": "set.zip", "url": f"{url}/set.zip", "bytes": len(WHOLE), "md5": hashlib.md5(WHOLE).hexdigest()},
        ]
        self.write()

    def write(self) -> None:
        recipe = {"title": "Tiny", "licence": "CC BY 4.0", "page": "https://example.org/tiny", "files": self.files}
        (self.root / "data/sources").mkdir(parents=True, exist_ok=True)
        (self.root / "data/sources/recipes.yaml").write_text(yaml.safe_dump({"tiny": recipe}))

    def get(self, monkeypatch: pytest.MonkeyPatch, *args: str) -> None:
        monkeypatch.chdir(self.root)
        monkeypatch.setattr("sys.argv", ["source", "tiny", "--timeout", "1", *args])
        run(source.main)

    def fails(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
        """Run to a failure: status 1, one line, nothing half-made. Returns the line."""
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            self.get(monkeypatch)
        assert ended.value.code == 1
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(said) == 1, said
        assert list((self.root / "data/raw").iterdir()) == []
        assert {p.name for p in (self.root / "data/sources/tiny").iterdir()} == {".gitignore", "table.csv", "table.csv.dvc"}
        return said[0]

    def holds(self) -> bool:
        """Whether data/raw/tiny is complete and right."""
        raw = self.root / "data/raw/tiny"
        wanted = IMAGES | {"table.csv": TABLE}
        return {p.relative_to(raw).as_posix(): p.read_bytes() for p in raw.rglob("*") if p.is_file()} == wanted


@pytest.fixture
def place(tmp_path: Path, server: Server) -> Place:
    return Place(tmp_path, server.url)


def test_a_source_is_fetched_checked_unpacked_and_recorded(
    place: Place, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place.get(monkeypatch)
    assert place.holds()
    said = capsys.readouterr().out
    assert said.index("Licence: CC BY 4.0") < said.index("complete")
    assert "No checksum of table.csv is known" in said and "No checksum of set.zip" not in said
    record = yaml.safe_load((place.root / "data/sources/tiny/set.zip.dvc").read_text())
    assert record["outs"][0]["md5"] == place.files[1]["md5"] and record["deps"][0]["path"] == place.files[1]["url"]
    assert "checksum" in record["deps"][0] or "etag" in record["deps"][0]
    untracked = git(place.root, "ls-files", "--others", "--exclude-standard").split()
    assert "data/sources/tiny/set.zip.dvc" in untracked and "data/sources/tiny/set.zip" not in untracked

    with pytest.raises(UserError, match="data/raw/tiny exists already"):
        source.obtain("tiny", source.read_recipes()["tiny"], 1)
    shutil.rmtree(place.root / "data/raw/tiny")
    asked = len(server.requests)
    place.get(monkeypatch)
    assert place.holds() and len(server.requests) == asked, "what is there and right is not fetched again"


def damaged() -> bytes:
    """The archive with one byte of an image changed."""
    at = WHOLE.index(IMAGES["images/b.png"]) + 100
    return WHOLE[:at] + bytes([WHOLE[at] ^ 255]) + WHOLE[at + 1 :]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("broken", "cannot be unpacked: Bad CRC-32"),
        ("no archive", "cannot be unpacked: File is not a zip file"),
        ("wrong checksum", "its MD5 is [0-9a-f]{32}, not"),
        ("smaller", "bytes instead of .*cut off"),
        ("short", "Not enough data"),
        ("hang", "no answer for 1 s"),
        ("not found", "there is no such file"),
    ],
)
def test_a_failure_leaves_nothing_and_a_later_try_works(
    place: Place, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: str, message: str
) -> None:
    known = dict(place.files[1])
    served = {"broken": damaged(), "no archive": b"<html>moved</html>", "wrong checksum": damaged(), "smaller": WHOLE[:-10]}
    if fault in ("broken", "no archive"):  # with a checksum it would not come so far
        del place.files[1]["bytes"], place.files[1]["md5"]
        place.write()
    if fault in served:
        server.bodies["/set.zip"] = served[fault]
    elif fault == "not found":
        del server.bodies["/set.zip"]
    else:
        server.faults["/set.zip"] = fault
    began = time.monotonic()
    said = place.fails(monkeypatch, capsys)
    assert time.monotonic() - began < 20
    assert re.search(message, said), said
    assert f"{server.url}/set.zip" in said and "under data/raw/tiny" in said and "https://example.org/tiny" in said

    server.bodies["/set.zip"], place.files[1] = WHOLE, known
    server.faults.clear()
    place.write()
    place.get(monkeypatch)
    assert place.holds()


def test_no_network_names_the_way_by_hand(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for url in ("http://127.0.0.1:9/set.zip", "http://no-such-host.invalid/set.zip"):
        place.files[1]["url"] = url
        place.write()
        said = place.fails(monkeypatch, capsys)
        assert (
            f"{url} could not be used: there is no such file, or no network to reach it" in said
            and "put the unpacked files (table.csv, set.zip; see https://example.org/tiny) under data/raw/tiny" in said
        )


def test_a_file_without_a_checksum_must_stay_as_it_was_at_first(
    place: Place, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place.get(monkeypatch)
    record = place.root / "data/sources/tiny/table.csv.dvc"
    before = record.read_text()
    (place.root / "data/sources/tiny/table.csv").unlink()
    shutil.rmtree(place.root / "data/raw/tiny")
    server.bodies["/table.csv"] = TABLE + b"b,mel\n"
    with pytest.raises(UserError, match="at the first import it was"):
        source.obtain("tiny", source.read_recipes()["tiny"], 1)
    assert record.read_text() == before and list((place.root / "data/raw").iterdir()) == []


# --- archives


def tarred(member: tarfile.TarInfo, data: bytes = b"") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def zipped_link() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.zip", packed({"../out.txt": b"x"}), "outside its folder"),
        ("a.zip", packed({"/out.txt": b"x"}), "outside its folder"),
        ("a.zip", zipped_link(), "holds a link, 'link'"),
        ("a.zip", packed({"large": bytes(2000)}), "unpacks to 1 files of 2,000 bytes"),
        ("a.zip", packed({str(k): b"" for k in range(6)}), "unpacks to 6 files"),
        ("a.tar.gz", tarred(tarfile.TarInfo("../out.txt"), b"x"), "outside its folder"),
        ("a.tar.gz", tarred(special("link", tarfile.SYMTYPE, "/etc/passwd")), "holds a link, 'link'"),
        ("a.tar.gz", tarred(special("pipe", tarfile.FIFOTYPE)), "holds a link, 'pipe'"),
        ("a.tar.gz", tarred(tarfile.TarInfo("a.txt"), os.urandom(800))[:400], "cannot be unpacked"),
    ],
    ids=["up", "absolute", "zip link", "too large", "too many", "tar up", "tar link", "pipe", "cut off"],
)
def test_a_hostile_archive_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes, message: str) -> None:
    monkeypatch.setattr(source, "MAX_BYTES", 1000)
    monkeypatch.setattr(source, "MAX_MEMBERS", 5)
    (tmp_path / name).write_bytes(data)
    (tmp_path / "in/to").mkdir(parents=True)
    with pytest.raises(source.Wrong, match=message):
        source.unpack(tmp_path / name, tmp_path / "in/to")
    assert {p.name for p in tmp_path.rglob("*")} <= {name, "in", "to", "a.txt"}


def test_a_tar_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(tarred(tarfile.TarInfo("in/a.txt"), b"text"))
    source.unpack(tmp_path / "a.tar.gz", tmp_path)
    assert (tmp_path / "in/a.txt").read_bytes() == b"text"


# --- the recipes


def test_a_larger_medmnist_set_is_fetched_by_the_table_of_its_package(
    place: Place, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.bodies["/breastmnist_64.npz"] = TABLE
    table = {"breastmnist": {"url_64": f"{server.url}/breastmnist_64.npz", "MD5_64": hashlib.md5(TABLE).hexdigest()}}
    package, info = types.ModuleType("medmnist"), types.ModuleType("medmnist.info")
    info.INFO = table  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "medmnist", package)
    monkeypatch.setitem(sys.modules, "medmnist.info", info)
    monkeypatch.chdir(place.root)
    monkeypatch.setattr("sys.argv", ["source", "breastmnist_64"])
    source.main()
    assert (place.root / "data/raw/breastmnist_64/breastmnist_64.npz").read_bytes() == TABLE
    assert "64 x 64 px" in capsys.readouterr().out

    monkeypatch.setitem(sys.modules, "medmnist.info", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"pip install medmnist; or put breastmnist_64\.npz"):
        source.medmnist_source("breastmnist_64")
    assert source.medmnist_source("breastmnist_32") is None and source.medmnist_source("ham10000") is None


def test_without_a_name_the_sources_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["source"])
    source.main()
    assert "breastmnist: BreastMNIST, 28 x 28 px (MedMNIST, Yang et al. 2023); CC BY 4.0" in capsys.readouterr().out.splitlines()
    monkeypatch.setattr("sys.argv", ["source", "nothing"])
    with pytest.raises(UserError, match="has no source 'nothing'; one of ham10000"):
        source.main()


def test_the_recipes_are_complete_and_name_their_licence() -> None:
    recipes = source.read_recipes(ROOT / source.RECIPES)
    assert {"ham10000", "isic2018", "dermamnist", "breastmnist"} <= set(recipes)
    for name in ("ham10000", "isic2018", "dermamnist"):
        assert recipes[name].licence.startswith("CC BY-NC 4.0")
    for name, recipe in recipes.items():
        assert all(file.url.startswith("https://") for file in recipe.files), name


@pytest.mark.parametrize("name", ["breastmnist", "pneumoniamnist"])
def test_the_checksums_are_those_of_the_files(name: str) -> None:
    path = MEDMNIST / f"{name}.npz"
    if not path.exists():
        pytest.skip("../shared/data is absent")
    (file,) = source.read_recipes(ROOT / source.RECIPES)[name].files
    source.check(path, file, hashlib.md5(path.read_bytes()).hexdigest(), None)


def test_a_wrong_recipe_is_named(tmp_path: Path) -> None:
    (tmp_path / "recipes.yaml").write_text(
        yaml.safe_dump({"tiny": {"title": "T", "licence": "L", "page": "p", "files": [{"name": "../x", "url": "u", "md5": "0"}]}})
    )
    with pytest.raises(UserError, match=r"tiny\.files\.0\.name: .*tiny\.files\.0\.md5: "):
        source.read_recipes(tmp_path / "recipes.yaml")
