"""The boxes of lesions from their masks, so that the shortcut audit can look outside of the lesion.

In:  a folder of masks, one picture an image, white (over half) where the lesion is, as large as the image.
Out: OUT.csv: COLUMN (the mask's name without ending and SUFFIX, which is the image's), box_x0, box_y0 (first px), box_x1, box_y1 (one past
     the last). Laid among the raw files it is named on the card: `layout.metadata: OUT.csv`, and `layout.extra` gets the four columns. A card
     that has such a second table already gets the columns in that one.

    python -m stages.boxes MASK_DIR OUT.csv [--column image_id] [--suffix _segmentation] [--ending .jpg]

Each mask is opened in a process with limits on time and memory. One that cannot be read or is empty has no row, and is said; its image
then has no region outside of the lesion.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path

import pandas as pd

from stages.classifier.reading import LIMITS
from stages.dataset.raw import list_files
from stages.imaging.masks import box_or_reason
from stages.quality.probes import BOX
from stages.runtime.errors import UserError, run
from stages.runtime.files import write_text
from stages.runtime.guarded import DONE, Failed, guarded
from stages.runtime.progress import progress_bar


def main() -> None:
    """Read every mask, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("masks", type=Path, metavar="MASK_DIR")
    parser.add_argument("out", type=Path, metavar="OUT.csv")
    parser.add_argument("--column", default="image_id", help="what layout.file of the card names (default: image_id)")
    parser.add_argument("--suffix", default="", help="what the masks' names have after the images'")
    parser.add_argument("--ending", default="", help="what the card's column has after the images' names")
    args = parser.parse_args()
    rows, refused = [], {}
    files = list_files(args.masks)
    with progress_bar("masks", "file", len(files)) as bar:
        for file, answer in guarded(partial(box_or_reason, args.masks), files, LIMITS, len(os.sched_getaffinity(0))):
            if isinstance(answer, tuple) and not isinstance(answer, Failed):
                rows.append((Path(file).stem.removesuffix(args.suffix) + args.ending, *answer))
            elif answer is not DONE:
                refused[file] = answer.reason if isinstance(answer, Failed) else str(answer)
            if answer is DONE or isinstance(answer, Failed):
                bar.update()
    for file in sorted(refused):
        print(f"warning: {file} has no box: {refused[file]}")
    if not rows:
        raise UserError(f"{args.masks} holds no mask that can be read")
    table = pd.DataFrame(sorted(rows), columns=[args.column, *BOX])
    if twice := sorted(table.loc[table[args.column].duplicated(), args.column]):
        raise UserError(f"{args.masks} holds several masks of {twice[0]!r}: keep one of each image")
    write_text(args.out, table.to_csv(index=False, lineterminator="\n"))
    print(f"{len(table)} boxes in {args.out}")


if __name__ == "__main__":
    run(main)
