"""The parts of README.md that are made from the repository: the result and the graph. `python -m tests.readme` writes them anew."""

from __future__ import annotations

import re
from pathlib import Path

from stages.metrics.verdict import aa_statement, difference_rows, score_rows
from stages.runtime.files import write_text
from stages.runtime.markdown import markdown
from stages.summary import read_report
from tests.repository import ROOT, dvc

REPORT = "reports/phantom"
NO_RESULT = "No result is committed yet: `make reproduce` makes it."


def result(root: Path = ROOT) -> str:
    """The answer, the picture and the tables of the default run."""
    folder = root / REPORT
    if not (folder / "verdict.json").exists():
        return NO_RESULT
    verdict, metrics, answer = read_report(folder)
    about = (
        f"**{answer}.** {aa_statement(verdict)} Test: {verdict['n_test_lesions']} lesions, {len(verdict['seeds'])} seeds; "
        f"differences with 95% intervals; everything else in [{REPORT}/verdict.md]({REPORT}/verdict.md)."
    )
    picture = f"![What synthetic images add over each alternative, with 95% intervals]({REPORT}/figures/verdict.png)"
    return "\n\n".join([about, picture, markdown(difference_rows(verdict)), markdown(score_rows(metrics))])


def graph(root: Path = ROOT) -> str:
    """The graph as `dvc dag --md` prints it."""
    return dvc(root, "dag", "--md").strip()


def filled(text: str, parts: dict[str, str]) -> str:
    """README text with each marked part replaced."""
    for name, part in parts.items():
        pattern = re.compile(rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- /{name} -->)", re.DOTALL)
        found = pattern.search(text)
        assert found, f"README.md has no part {name}"
        text = f"{text[: found.end(1)]}{part}\n{text[found.start(2) :]}"
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    write_text(readme, filled(readme.read_text(), {"result": result(), "graph": graph()}))
