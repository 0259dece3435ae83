"""Where every classifier of a data set starts: the same weights for judge and regimes, so that only the data differ."""

from __future__ import annotations

from pathlib import Path

from stages.dataset.groups import read_seen
from stages.runtime.errors import LawError
from stages.runtime.files import read_json, sha256

WEIGHTS = "backbone.safetensors"


def body(base_dir: str | Path) -> Path | None:
    """The folder of the base's backbone, None when it has none. `base_dir` is models/<name>/base.

    Raises `LawError` when the backbone is not the one that base.json names.
    """
    base_dir = Path(base_dir)
    info = read_json(base_dir / "base.json")
    if info["backbone_name"] is None:
        return None
    folder = base_dir / "backbone" if info["trained"] else Path(info["backbone"])
    if sha256(folder / WEIGHTS) != info["backbone_hash"]:
        raise LawError(f"{folder / WEIGHTS} is not the backbone that {base_dir}/base.json names; run `dvc repro base`")
    return folder


def start_weights(base_dir: str | Path, name: str) -> Path | None:
    """`body` when it is a `name`, else None (timm's weights, or none)."""
    return body(base_dir) if read_json(Path(base_dir) / "base.json")["backbone_name"] == name else None


def seen_by_start(base_dir: str | Path, folder: Path | None) -> set[str]:
    """Hashes of the groups that the starting weights have seen (none known for timm's)."""
    return read_seen(base_dir) if folder is not None else set()
