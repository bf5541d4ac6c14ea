"""Restricted unpickling; tests/interop/test_reading.py has those of whole files."""

import contextlib
import io
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libradet.errors import UserError
from libradet.utils import safe_pickle


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", ["<f4", ">f8", "<f2", "|u1", "<i8", "|b1", "<c8", "<U3", "|S2"])
def test_arrays_equal_those_of_numpy(protocol, kind):
    rows = np.array([[1, 0, 2], [3, 1, 0]]).astype(kind)
    arrays = [rows, rows.T, np.asfortranarray(rows), rows[:0], rows.flatten(), rows[:, ::2], np.array(rows[0, 0])]
    content = pickle.dumps([*arrays, rows[1, 0]], protocol)
    read = safe_pickle.load(io.BytesIO(content), encoding="latin1")
    for actual, array in zip(read, pickle.loads(content), strict=True):
        assert actual.dtype == array.dtype
        assert np.array_equal(actual, array)


@pytest.mark.parametrize("code", ["O", "V8", "M8[s]", [("a", "f4")]])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_of_other_dtypes_are_refused(code, protocol):
    content = pickle.dumps(np.zeros((3, 4), code), protocol)
    with pytest.raises(pickle.UnpicklingError, match="only arrays of numbers"):
        safe_pickle.load(io.BytesIO(content))


@given(st.data())
@settings(max_examples=300)
def test_damaged_arrays_raise_read_errors(data):
    """NumPy's own unpickling crashes the process if a list of objects is too short for its shape."""
    rows = np.arange(12, dtype=data.draw(st.sampled_from(["f4", "i8", "O"]))).reshape(3, 4)
    content = bytearray(pickle.dumps([rows, {"a": rows}], data.draw(st.integers(0, 5))))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, len(content)))
    with contextlib.suppress(UserError, *safe_pickle.READ_ERRORS):
        safe_pickle.load(io.BytesIO(content[:start] + content[end:]), encoding="latin1")


def test_memo_indices_that_would_take_all_memory():
    for index, refused in ((5, False), (2**31 - 1, True)):
        content = io.BytesIO(b"\x80\x02]r" + index.to_bytes(4, "little") + b".")
        if not refused:
            assert safe_pickle.load(content) == []
            continue
        with pytest.raises(pickle.UnpicklingError, match="memo index 2147483647"):
            safe_pickle.load(content)


def test_fields_of_instance_data_are_kept():
    content = b"\x80\x02cmmengine.structures\nInstanceData\n)\x81}X\x06\x00\x00\x00bboxesK\x05sb."
    instance = safe_pickle.load(io.BytesIO(content))
    assert isinstance(instance, safe_pickle.InstanceDataPlaceholder)
    assert instance.fields == {"bboxes": 5}
