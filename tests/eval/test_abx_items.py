"""Item files, and which frames belong to a token."""

import numpy as np
import pytest

from gslm.errors import UserError
from gslm.eval.abx_items import frame_spans, read_items, slice_features

HEADER = "#file onset offset #phone prev-phone next-phone speaker\n"


def items_of(tmp_path, *lines, header=HEADER):
    path = tmp_path / "made.item"
    path.write_text(header + "".join(f"{line}\n" for line in lines), encoding="utf-8")
    return read_items(path)


def ramp(n=100):
    """Features whose value is the number of the frame."""
    return np.arange(n, dtype=np.float32)[:, None]


@pytest.mark.parametrize(
    ("onset", "offset", "centres", "librilight"),
    [
        (0.0, 0.1, [0, 1, 2, 3, 4], [0, 1, 2, 3]),
        (0.01, 0.05, [0, 1, 2], [0, 1]),  # both ends are frames' centres
        (0.011, 0.049, [1], []),
        (0.29, 0.31, [14, 15], [14]),  # 0.29 * 50 is a little less than 14.5
        (0.5, 0.505, [], []),
        (0.5, 0.5, [], []),
    ],
)
def test_a_token_has_the_frames_whose_centre_lies_in_it(
    tmp_path, onset, offset, centres, librilight
):
    items = items_of(tmp_path, f"a {onset} {offset} P x y s", "a 1.0 1.2 Q x y s")
    for slicing, expected in (("centres", centres), ("librilight", librilight)):
        tokens = slice_features(items, {"a": ramp()}, frame_rate=50, slicing=slicing)
        frames = tokens.frames[tokens.starts[0] :][: tokens.lengths[0], 0]
        assert frames.tolist() == expected
        assert tokens.n_empty == (not expected)


def test_each_frame_is_kept_once_however_tokens_overlap_and_files_come(tmp_path):
    random = np.random.default_rng(0)
    onsets = random.uniform(0, 1.7, 40)
    rows = [f"f{i % 3} {on:.4f} {on + 0.2:.4f} P x y s" for i, on in enumerate(onsets)]
    items = items_of(tmp_path, *rows)
    files = {f"f{i}": ramp() + 1000 * i for i in range(3)}
    whole = slice_features(items, files, frame_rate=50)
    blocks = ((name, iter(np.array_split(files[name], 7))) for name in ("f2", "f0", "other", "f1")
              if name in files)  # fmt: skip
    in_blocks = slice_features(items, blocks, frame_rate=50)
    by_call = slice_features(items, files.__getitem__, frame_rate=50)
    firsts, ends = frame_spans(items.onsets, items.offsets, 50, "centres")
    for tokens in (whole, in_blocks, by_call):
        assert len(np.unique(tokens.frames)) == len(tokens.frames)
        for i, name in enumerate(items.files.tolist()):
            found = tokens.frames[tokens.starts[i] :][: tokens.lengths[i]]
            np.testing.assert_array_equal(found, files[name][firsts[i] : ends[i]])


def test_columns_are_found_by_name_in_any_order(tmp_path):
    header = "speaker onset offset phone next_phone prev_phone filename accent\n"
    items = items_of(tmp_path, "s 0 0.5 P y x a scots", header=header)
    assert items.files.tolist() == ["a"]
    assert items.column("prev-phone").tolist() == ["x"]
    assert items.column("accent").tolist() == ["scots"]


def test_a_last_frame_that_an_encoder_does_not_make_is_let_pass(tmp_path):
    items = items_of(tmp_path, "a 0.9 1.0 P x y s", "a 0.1 0.2 Q x y s")
    tokens = slice_features(items, {"a": ramp(49)}, frame_rate=50)
    assert tokens.lengths.tolist() == [4, 5]
    assert tokens.n_shortened == 1


BROKEN_FILES = {
    "": "no column file",
    "hello\n": "no column file",
    "#file onset offset onset #phone\n": "names a column twice",
    HEADER: "holds no items",
    HEADER + "a 0 1 P x y\n": "made.item:2: has 6 columns where the header has 7",
    HEADER + "a 0 1 P x y s\na 0.5 0.4 P x y s\na b c P x y s\n": r":3: runs.*and 1 more",
    HEADER + "a -1 1 P x y s\n": "runs from '-1' to '1'",
    HEADER + "a 0 nan P x y s\n": "runs from '0' to 'nan'",
    HEADER + "a 0 inf P x y s\n": "runs from '0' to 'inf'",
}


@pytest.mark.parametrize(("text", "message"), BROKEN_FILES.items(), ids=range(len(BROKEN_FILES)))
def test_a_damaged_item_file_is_one_line(tmp_path, text, message):
    (tmp_path / "made.item").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_items(tmp_path / "made.item")
    assert "\n" not in str(caught.value)


def test_what_is_no_text_file_is_told(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random(9))
    for path, message in {"a.npy": "not readable", ".": "not readable", "b": "no such"}.items():
        with pytest.raises(UserError, match=message):
            read_items(tmp_path / path)


def nan_frames():
    frames = ramp()
    frames[50] = np.nan
    return frames


BROKEN_FEATURES = {
    "names b, of which there are no features": {"a": ramp()},
    "made.item:3: ends at 1.2 s, after its file b": {"a": ramp(), "b": ramp(58)},
    "b: its features hold NaN": {"a": ramp(), "b": nan_frames()},
    "one unit a frame, those before 1 dimensions": {"a": ramp(), "b": np.zeros(100, int)},
    "2 dimensions, those before 1 dimensions": {"a": ramp(), "b": np.zeros((100, 2))},
    r"b: features of shape \(100,\) and type float": {"a": ramp(), "b": np.zeros(100)},
    r"b: features of shape \(2, 3, 4\)": {"a": ramp(), "b": np.zeros((2, 3, 4))},
    r"a: features of shape \(100, 0\)": {"a": np.zeros((100, 0))},
    r"a: features .* type complex": {"a": ramp().astype(complex)},
    r"a: features .* type \[": {"a": np.zeros(100, [("x", "f4"), ("y", "f4")])},
    r"a: features .* type bool": {"a": np.zeros((100, 2), bool)},
    "a: units from -1 to 98; expected 0 to 2147483647": {"a": np.arange(-1, 99)},
    "a: units from 4294967296 to 4294967296": {"a": np.full(100, 2**32)},
    "a: its features hold NaN or infinite": {"a": ramp().astype(float) * 1e300},
}


@pytest.mark.parametrize(
    ("message", "files"), BROKEN_FEATURES.items(), ids=range(len(BROKEN_FEATURES))
)
def test_features_that_do_not_fit_the_items_are_one_line(tmp_path, message, files):
    items = items_of(tmp_path, "a 0 1 P x y s", "b 1 1.2 Q x y s")
    with pytest.raises(UserError, match=message) as caught:
        slice_features(items, files, frame_rate=50)
    assert "\n" not in str(caught.value)


def test_items_between_frames_alone_are_told(tmp_path):
    items = items_of(tmp_path, "a 0.011 0.012 P x y s")
    with pytest.raises(UserError, match="no item holds the centre of a frame"):
        slice_features(items, {"a": ramp()}, frame_rate=50)
    with pytest.raises(UserError, match="slicing 'odd' is unknown"):
        slice_features(items, {"a": ramp()}, frame_rate=50, slicing="odd")
