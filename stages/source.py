"""Fetch a public data set as data/sources/recipes.yaml describes it, check it, and unpack it under data/raw/NAME.

    python -m stages.source NAME [--timeout SECONDS]
    python -m stages.source            lists the names
    python -m stages.source breastmnist_64     a MedMNIST set at 64, 128 or 224 px: address and MD5 are those of the package medmnist

Each file is imported by `dvc import-url` to data/sources/NAME/, where its .dvc file (for git) records address, ETag and MD5. A file with a
known checksum must have it; of one without, the MD5 of the first import is recorded and every later download must have that
(trust on first use). The licence is shown first. A finished file is not fetched again; an interrupted one starts anew, because DVC does
not resume within a file. data/raw/NAME appears when everything is complete, and not before.
"""

from __future__ import annotations

import argparse
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import yaml
from dvc.dependency.base import DependencyDoesNotExistError
from dvc.exceptions import DvcException
from dvc.repo import Repo
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError

from stages.dataset.medmnist_sets import SETS
from stages.runtime.checked import explain, read_yaml
from stages.runtime.errors import UserError, run
from stages.runtime.files import fresh, sha256

RECIPES, FETCHED, RAW = Path("data/sources/recipes.yaml"), Path("data/sources"), Path("data/raw")
ZIPS, TARS = (".zip",), (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_BYTES = 100_000_000_000  # of one archive, unpacked
MAX_MEMBERS = 1_000_000


class Part(BaseModel):
    """A part of the recipes: no unknown keys, no conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class File(Part):
    """A file to fetch: `name` here; `bytes`, `md5` and `sha256` (hex) where they are known for certain. Archives are unpacked."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    url: str
    bytes: PositiveInt | None = None
    md5: str | None = Field(default=None, pattern=r"^[0-9a-f]{32}$")
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")


class Source(Part):
    """A public data set: `page` is where a person can read about it and fetch it by hand."""

    title: str
    licence: str
    page: str
    files: list[File] = Field(min_length=1)


MEDMNIST_SIZES = ("64", "128", "224")  # px; sets of 28 px have recipes


class Wrong(Exception):
    """Why a file is not what it should be."""


def read_recipes(path: Path = RECIPES) -> dict[str, Source]:
    """The recipes by name; `UserError` names every wrong key."""
    try:
        return TypeAdapter(dict[str, Source]).validate_python(read_yaml(path))
    except ValidationError as error:
        raise explain(error, path) from None


def medmnist_source(name: str) -> Source | None:
    """The recipe of a 2D MedMNIST set at a larger size (breastmnist_64), from the table in the package medmnist; None for any other name.

    `UserError` where the package is not installed: it is an extra of this project's.
    """
    flag, _, size = name.partition("_")
    if flag not in SETS or size not in MEDMNIST_SIZES:
        return None
    page, known = "https://medmnist.com", SETS[flag]
    try:
        from medmnist.info import INFO  # here, for it is an extra
    except ImportError:
        raise UserError(
            f"{name} is fetched by what the package medmnist knows of it: pip install medmnist; or put {name}.npz (see {page}) under {RAW / name}"
        ) from None
    file = File(name=f"{name}.npz", url=INFO[flag][f"url_{size}"], md5=INFO[flag][f"MD5_{size}"])
    return Source(title=f"{known.title}, {size} x {size} px (MedMNIST, Yang et al. 2023)", licence=known.licence, page=page, files=[file])


def recorded_md5(record: Path) -> str | None:
    """The MD5 that a .dvc file holds; None when there is no such file. Raises `Wrong` for one that is damaged."""
    try:
        return str(yaml.safe_load(record.read_text())["outs"][0]["md5"]) if record.exists() else None
    except (yaml.YAMLError, UnicodeDecodeError, LookupError, TypeError):
        raise Wrong(f"{record}, the record of its first import, is damaged: restore it from git, or delete it") from None


def check(path: Path, file: File, md5: str, first: str | None) -> None:
    """Hold a fetched file with the MD5 `md5` against its recipe and the MD5 of its `first` import; raises `Wrong`."""
    size = path.stat().st_size
    if file.bytes is not None and size != file.bytes:
        raise Wrong(f"it has {size:,} bytes instead of {file.bytes:,}: the download was cut off, or the file was replaced")
    for what, found, wanted in (("MD5", md5, file.md5), ("SHA-256", file.sha256 and sha256(path), file.sha256)):
        if wanted and found != wanted:
            raise Wrong(f"its {what} is {found}, not {wanted}: it was damaged on the way, or is not the file that was meant")
    if not file.md5 and first and md5 != first:
        raise Wrong(f"its MD5 is {md5}, at the first import it was {first} ({path}.dvc): the file was replaced at its source")


def fetch(file: File, folder: Path, target: Path, timeout: float) -> None:
    """Import one file into `folder`, check it and unpack it into `target`; one that is there and right is not imported again.

    `timeout` in seconds is how long the server may stay silent. Raises `Wrong`, and then leaves nothing new in `folder`, save a file that
    is known to be the right one.
    """
    path, record = folder / file.name, folder / f"{file.name}.dvc"
    before, first = record.read_bytes() if record.exists() else None, recorded_md5(record)
    others, sound = set(folder.iterdir()) - {path, record}, False
    try:
        with Repo() as repo:
            if not (path.exists() and first and not repo.status([str(record)])):
                path.unlink(missing_ok=True)
                repo.imp_url(file.url, out=str(path), fs_config={"read_timeout": timeout, "connect_timeout": timeout}, force=True)
        check(path, file, recorded_md5(record) or "", first)
        sound = bool(file.md5 or file.sha256 or first)
        unpack(path, target)
        sound = True
    except Wrong:
        raise
    except DependencyDoesNotExistError:
        raise Wrong("there is no such file, or no network to reach it") from None
    except DvcException as error:
        raise Wrong(f"DVC says: {' '.join(str(error).split())}") from None
    except Exception as error:  # DVC lets the errors of its HTTP client through, whatever their class
        raise Wrong(f"{type(error).__name__}: {' '.join(str(error).split()) or f'no answer for {timeout:g} s'}") from None
    finally:
        if not sound:
            for left in set(folder.iterdir()) - others - {folder / ".gitignore"}:  # DVC's temporary file may be among them
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            if before is not None:
                record.write_bytes(before)


def refuse_members(members: list[tuple[str, int, bool]], free: int) -> None:
    """Raise `Wrong` for an archive of (name, bytes, whether it is a link) that would write outside its folder or fill the disk."""
    for name, _, link in members:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            raise Wrong(f"the archive holds {name!r}, which would be written outside its folder")
        if link:
            raise Wrong(f"the archive holds a link, {name!r}")
    total = sum(size for _, size, _ in members)
    if len(members) > MAX_MEMBERS or total > min(MAX_BYTES, free):
        raise Wrong(f"the archive unpacks to {len(members):,} files of {total:,} bytes; the limits are {MAX_MEMBERS:,} and {min(MAX_BYTES, free):,}")


def unpack(path: Path, folder: Path) -> None:
    """Unpack an archive, told by its name, into `folder`, or copy any other file there. Raises `Wrong` when it is broken or hostile."""
    free = shutil.disk_usage(folder).free
    try:
        if path.name.endswith(ZIPS):
            with zipfile.ZipFile(path) as packed:
                refuse_members([(m.filename, m.file_size, stat.S_ISLNK(m.external_attr >> 16)) for m in packed.infolist()], free)
                packed.extractall(folder)
        elif path.name.endswith(TARS):
            with tarfile.open(path) as tar:
                refuse_members([(m.name, m.size, not (m.isreg() or m.isdir())) for m in tar], free)
                tar.extractall(folder, filter="data")
        elif path.stat().st_size > free:
            raise Wrong("the disk is full")
        else:
            shutil.copyfile(path, folder / path.name)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise Wrong(f"it cannot be unpacked: {' '.join(str(error).split())}") from None


def obtain(name: str, source: Source, timeout: float) -> Path:
    """Fetch, check and unpack all files of `source`; returns data/raw/<name>. `UserError` says what failed and how to do it by hand."""
    target = RAW / name
    if target.exists():
        raise UserError(f"{target} exists already; remove it to have it made anew")
    folder = FETCHED / name
    folder.mkdir(parents=True, exist_ok=True)
    partial = fresh(RAW / f".{name}.partial")
    try:
        for file in source.files:
            try:
                fetch(file, folder, partial, timeout)
            except Wrong as reason:
                raise UserError(
                    f"{file.url} could not be used: {reason}. Try again; or, by hand and without a network, put the unpacked files "
                    f"({', '.join(f.name for f in source.files)}; see {source.page}) under {target}"
                ) from None
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def main() -> None:
    """Show the licence, obtain, say what is next."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="how long a server may stay silent (default 60)")
    args = parser.parse_args()
    recipes = read_recipes()
    if args.name is None:
        print("\n".join(f"{name}: {source.title}; {source.licence}" for name, source in recipes.items()))
        return
    source = recipes.get(args.name) or medmnist_source(args.name)
    if source is None:
        raise UserError(f"{RECIPES} has no source {args.name!r}; one of {', '.join(recipes)} (MedMNIST sets also with _{', _'.join(MEDMNIST_SIZES)})")
    print(f"{source.title}\nLicence: {source.licence}\nFrom: {source.page}", flush=True)
    target = obtain(args.name, source, args.timeout)
    for file in source.files:
        if not (file.md5 or file.sha256):
            print(f"No checksum of {file.name} is known here: this download is trusted, later ones must be the same ({FETCHED / args.name}/*.dvc)")
    print(f"{target} is complete")


if __name__ == "__main__":
    run(main)
