"""Every kind of file that is right today stays right, as the fields' own writers write it."""

from __future__ import annotations

import numpy as np
import pytest
from field_files import KINDS, PICTURE

from layergraft.data.decode import decode


@pytest.mark.parametrize("name", KINDS)
def test_pixels_are_those_written(name: str) -> None:
    kind = KINDS[name]
    content, expected = kind.write(PICTURE), kind.expected(PICTURE)
    channels = expected.shape[2]
    found = decode(content, channels, options=kind.options)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() <= kind.off
    if channels == 1:  # grey is grey in three channels, too
        assert np.array_equal(decode(content, 3, options=kind.options), found.repeat(3, axis=2))
