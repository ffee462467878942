"""How many scans a JPEG has, by its markers; nothing is decoded. Source: ITU-T T.81, annex B."""

from __future__ import annotations

import re

_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_WITHOUT_LENGTH = (0x01, 0xD8)
_NEXT_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")
"""What ends entropy-coded data: neither a stuffed byte nor a restart marker."""


def count_scans(encoded: bytes, *, at_most: int) -> int:
    """Count the scans of the first image of a file, or one more than `at_most`.

    What is no marker segment is passed over, as decoders do.
    """
    num_scans = 0
    match = _NEXT_MARKER.search(encoded, 2)
    while match is not None and num_scans <= at_most:
        marker = match[1][0]
        if marker == _END_OF_IMAGE:
            break
        num_scans += marker == _START_OF_SCAN
        at = match.end()
        length = 0 if marker in _WITHOUT_LENGTH else int.from_bytes(encoded[at : at + 2])
        match = _NEXT_MARKER.search(encoded, at + length)
    return num_scans
