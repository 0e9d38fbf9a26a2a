"""Where arrays lie, as C is told."""

import numpy as np
import pytest

from etcpipe import _native


@pytest.mark.parametrize("shape", [0, 5, (3, 4)])
@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float32, "V24"])
def test_an_address_is_that_of_numpy(shape, kind):
    array = np.zeros(shape, kind)
    assert _native.address(array) == array.ctypes.data
    assert _native.address(array[1:]) == array[1:].ctypes.data


def test_what_lies_in_pieces_has_none():
    with pytest.raises(ValueError, match="contiguous"):
        _native.address(np.zeros((4, 4))[:, 1])


def test_what_is_no_array_has_none():
    with pytest.raises(AttributeError):
        _native.address(memoryview(b"abc"))
