"""The mark "AI-generated" inside the file: IPTC's digital source type as XMP, in plain text that any tool can find."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

KEYWORD = "XML:com.adobe.xmp"  # the PNG chunk that XMP's specification (part 3) names
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
MADE = b"rainedAlgorithmicMedia"  # trainedAlgorithmicMedia, and compositeWithTrainedAlgorithmicMedia (inpainted)
XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    f'Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"/></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


def mark() -> PngInfo:
    """What `Image.save` takes as `pnginfo` to say, in uncompressed XMP, that a trained algorithm made the image."""
    info = PngInfo()
    info.add_itxt(KEYWORD, XMP, zip=False)
    return info


def encode_marked(pixels: NDArray[np.uint8]) -> bytes:
    """(H, W, 3) uint8 as marked PNG bytes."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=6, pnginfo=mark())
    return out.getvalue()


def is_marked(encoded: bytes) -> bool:
    """Whether an image file of any format says of itself that a trained algorithm made it, or parts of it.

    XMP stands in files as plain text, so that it is found without decoding them; not found is what a file has compressed or in UTF-16.
    """
    return MADE in encoded
