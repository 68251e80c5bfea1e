"""The only decoder, against Pillow, OpenCV and arithmetic, on every odd kind of file."""

from __future__ import annotations

import io
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PilImage
from PIL import ImageOps

from detect.errors import ImageError
from detect.images import decode
from tests import data

FILES = data.encoded_files()
GOOD = sorted(name for name, (_, expected) in FILES.items() if expected == "ok")
BROKEN = sorted(set(FILES) - set(GOOD))
GREY = cv2.cvtColor(data.smear(), cv2.COLOR_RGB2GRAY)


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """Mean difference, in steps of 255."""
    assert a.shape == b.shape
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).mean())


def by_pillow(content: bytes) -> np.ndarray:
    image = ImageOps.exif_transpose(PilImage.open(io.BytesIO(content)))
    return np.asarray(image.convert("RGB"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("images")
    data.bad_files(made)
    return made


def test_there_are_many_kinds() -> None:
    assert len(GOOD) >= 30
    assert len(BROKEN) >= 20


@pytest.mark.parametrize("name", GOOD)
def test_an_unusual_file_decodes(folder: Path, name: str) -> None:
    pixels = decode.read(folder / name)
    width, height = data.ODD_SIZES.get(name, (data.WIDTH, data.HEIGHT))
    assert pixels.dtype == np.uint8
    assert pixels.shape == (height, width, 3)
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("name", GOOD)
def test_the_size_of_the_header_is_that_of_the_pixels(folder: Path, name: str) -> None:
    height, width, _ = decode.read(folder / name).shape
    assert decode.size(folder / name) == (width, height)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_says_why(folder: Path, name: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode.read(folder / name)
    assert FILES[name][1] in caught.value.problem
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["dangling.jpg", "folder.jpg", "none.jpg"])
def test_a_path_that_cannot_be_read_says_why(folder: Path, name: str) -> None:
    for function in (decode.read, decode.size):
        with pytest.raises(ImageError, match=r"cannot be read|cannot be opened"):
            function(folder / name)


# Pillow drops alpha and cuts deep samples to 8 bits; those have their own tests below.
OWN = ("deep", "float", "rgba", "la.", "palette-clear")


@pytest.mark.parametrize("name", [name for name in GOOD if not name.startswith(OWN)])
def test_colours_are_those_of_pillow(name: str) -> None:
    assert apart(decode.decode(FILES[name][0]), by_pillow(FILES[name][0])) < 0.5


@pytest.mark.parametrize("orientation", data.STORED)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 95, "subsampling": 0}),
        ("PNG", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
    ],
    ids=["jpg", "png", "tif", "tif-lzw", "webp"],
)
def test_exif_sets_the_picture_upright(kind: str, options: dict[str, object], orientation: int) -> None:
    content = data.encode(data.smear(), kind, orientation=orientation, **options)
    assert apart(decode.decode(content), data.smear()) < (1.5 if kind == "JPEG" else 0.01)


@pytest.mark.parametrize("orientation", data.STORED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_the_header_gives_the_upright_size(kind: str, orientation: int) -> None:
    found = decode.header(data.encode(data.smear(), kind, orientation=orientation))
    assert (found.width, found.height) == (data.WIDTH, data.HEIGHT)


@pytest.mark.parametrize("orientation", data.STORED)
@pytest.mark.parametrize("kind", ["png", "tif", "tif-lzw", "tif-float"])
def test_exif_sets_a_deep_grey_picture_upright(kind: str, orientation: int) -> None:
    upright = data.deep(np.repeat(GREY[:, :, None], 3, axis=2))[:, :, 0]
    expected = np.repeat((upright / 257)[:, :, None], 3, axis=2)
    options = {"compression": "tiff_lzw"} if kind == "tif-lzw" else {}
    stored = upright.astype(np.float32) / 65535 if kind == "tif-float" else upright
    content = data.encode(stored, "PNG" if kind == "png" else "TIFF", orientation=orientation, **options)
    assert apart(decode.decode(content), expected) < 0.51


@pytest.mark.parametrize("orientation", data.STORED)
def test_exif_sets_a_deep_colour_tiff_upright(orientation: int) -> None:
    tifffile = pytest.importorskip("tifffile")
    upright = data.deep(data.smear())
    out = io.BytesIO()
    stored = np.ascontiguousarray(data.STORED[orientation](upright))
    tifffile.imwrite(out, stored, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    pixels = decode.decode(out.getvalue())
    assert apart(pixels, (upright / 257).round()) < 0.51


@pytest.mark.parametrize("orientation", data.STORED)
def test_exif_sets_a_deep_colour_png_upright(orientation: int) -> None:
    upright = data.deep(data.smear())
    stored = np.ascontiguousarray(data.STORED[orientation](upright))
    done, content = cv2.imencode(".png", stored[:, :, ::-1])
    assert done
    exif = PilImage.Exif()
    exif[0x0112] = orientation
    plain = bytes(content)
    content = plain[:33] + data.chunk(b"eXIf", exif.tobytes()[6:]) + plain[33:]
    pixels = decode.decode(content)
    assert apart(pixels, (upright / 257).round()) < 0.51


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})])
def test_alpha_is_laid_over_white(kind: str, options: dict[str, object]) -> None:
    clear = data.with_alpha(data.smear())
    alpha = clear[:, :, 3:] / 255
    expected = clear[:, :, :3] * alpha + 255 * (1 - alpha)
    pixels = decode.decode(data.encode(clear, kind, **options))
    assert np.abs(pixels - expected).max() <= 1
    assert (pixels[:, 0] == 255).all()  # wholly clear on the left


def test_alpha_of_a_deep_picture_is_laid_over_white() -> None:
    clear = data.with_alpha(data.smear())
    alpha = clear[:, :, 3:] / 255
    expected = clear[:, :, :3] * alpha + 255 * (1 - alpha)
    assert np.abs(decode.decode(FILES["deep-rgba.png"][0])[2:-2] - expected[2:-2]).max() <= 2


def test_the_clear_colour_of_a_palette_becomes_white() -> None:
    content = FILES["palette-clear.png"][0]
    indices = np.asarray(PilImage.open(io.BytesIO(content)))
    pixels = decode.decode(content)
    assert (indices == 3).any()
    assert (pixels[indices == 3] == 255).all()
    assert apart(pixels[indices != 3], by_pillow(content)[indices != 3]) == 0


@pytest.mark.parametrize("name", ["deep-rgb.png", "deep-rgb.tif"])
def test_deep_colours_come_out_as_red_green_blue(name: str) -> None:
    expected = (data.deep(data.smear()) / 257).round()
    assert np.abs(decode.decode(FILES[name][0]) - expected).max() <= 1


@given(st.sampled_from([10, 12, 14, 16]), st.integers(0, 100), st.sampled_from(["PNG", "TIFF"]))
def test_deep_pictures_are_scaled_by_the_depth_that_they_use(bits: int, seed: int, kind: str) -> None:
    top = 2**bits - 1
    values = np.random.default_rng(seed).integers(0, top + 1, (9, 7)).astype(np.uint16)
    values[0, 0] = top
    pixels = decode.decode(data.encode(values, kind))
    assert np.abs(pixels - (values * 255.0 / top)[:, :, None]).max() <= 0.51


@pytest.mark.parametrize(("top", "scale"), [(1.0, 255), (255.0, 1), (4095.0, 255 / 4095)])
def test_float_pictures_are_scaled_by_what_they_hold(top: float, scale: float) -> None:
    values = np.linspace(0, top, 63, dtype=np.float32).reshape(9, 7)
    pixels = decode.decode(data.encode(values, "TIFF"))
    assert np.abs(pixels - (values * scale)[:, :, None]).max() <= 0.51


def test_float_pictures_with_holes_decode() -> None:
    values = np.full((9, 7), 0.5, np.float32)
    values[0, :3] = [np.nan, np.inf, -np.inf]
    pixels = decode.decode(data.encode(values, "TIFF"))
    assert pixels[0, 0].tolist() == [0, 0, 0]
    assert set(np.unique(pixels[1:])) == {128}


def test_a_dark_deep_picture_is_dark() -> None:
    assert decode.decode(data.encode(np.zeros((5, 5), np.uint16), "PNG")).max() == 0


def outcome(content: bytes) -> tuple[np.ndarray | None, str]:
    """The pixels, or the reason."""
    try:
        return decode.decode(content), ""
    except ImageError as error:
        return None, error.problem


@given(st.binary(max_size=300))
def test_any_bytes_decode_or_say_why(content: bytes) -> None:
    for start in (
        b"",
        b"\xff\xd8\xff\xe0",
        b"\x89PNG\r\n\x1a\n",
        b"II*\0\x08\0\0\0",
        b"BM",
        b"RIFF\x20\0\0\0WEBP",
    ):
        pixels, reason = outcome(start + content)
        assert reason or (pixels is not None and pixels.ndim == 3)


@given(st.sampled_from(["UPPER.JPG", "deep-rgb.png", "deep-grey.tif", "lzw.tif", "plain.webp"]), st.data())
def test_a_file_cut_anywhere_is_refused_or_whole(name: str, choice: st.DataObject) -> None:
    content = FILES[name][0]
    pixels, reason = outcome(content[: choice.draw(st.integers(0, len(content) - 1))])
    assert reason or np.array_equal(pixels, decode.decode(content))


def test_a_picture_at_the_limit_is_refused_by_its_header_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    content = data.encode(data.smear(10, 10), "PNG")
    monkeypatch.setattr(decode, "MAX_PIXELS", 100)
    assert decode.decode(content).shape == (10, 10, 3)
    monkeypatch.setattr(decode, "MAX_PIXELS", 99)
    with pytest.raises(ImageError, match="too large: 10 x 10"):
        decode.decode(content)


def test_reasons_stay_the_same_where_ultralytics_is_loaded(tmp_path: Path) -> None:
    # It replaces PIL.Image.open by one that wants to install a package for every file that is no image.
    if find_spec("ultralytics") is None:
        pytest.skip("needs ultralytics")
    (tmp_path / "text.jpg").write_bytes(FILES["text.jpg"][0])
    program = (
        "import sys; from pathlib import Path\n"
        "import detect.detectors.ultralytics\n"
        "from detect.errors import ImageError\n"
        "from detect.images import decode\n"
        "try: decode.read(Path(sys.argv[1]))\n"
        "except ImageError as error: print(error.problem)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "text.jpg")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "not an image, or a damaged header"


def test_real_fields_are_those_of_pillow(shared_data: Path) -> None:
    paths = sorted((shared_data / "bccd" / "JPEGImages").glob("*.jpg"))[::100]
    paths += sorted((shared_data / "txl-pbc" / "images" / "val").iterdir())[::100]
    paths += sorted((shared_data / "wbc-masks" / "Dataset 2").glob("*.bmp"))[:3]
    assert len(paths) >= 9
    for path in paths:
        assert apart(decode.read(path), by_pillow(path.read_bytes())) < 0.5, path.name


@pytest.mark.parametrize("times", [2, 4, 8])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_may_come_out_smaller(times: int, orientation: int) -> None:
    picture = cv2.GaussianBlur(data.smear(), (0, 0), 3)[:121, :201]
    exif = PilImage.Exif()
    exif[0x0112] = orientation
    content = io.BytesIO()
    PilImage.fromarray(picture).save(content, "JPEG", quality=95, exif=exif)
    whole = decode.decode(content.getvalue())
    asked: list[tuple[int, int]] = []

    def shrink(width: int, height: int) -> int:
        asked.append((width, height))
        return times

    pixels, width, height = decode.sized(content.getvalue(), shrink)
    assert asked == [(width, height)] == [(whole.shape[1], whole.shape[0])]
    assert pixels.shape == (-(-height // times), -(-width // times), 3)
    inner = slice(0, height // times * times), slice(0, width // times * times)
    means = whole[inner].reshape(height // times, times, width // times, times, 3).mean(axis=(1, 3))
    assert apart(pixels[: means.shape[0], : means.shape[1]], means) < 2.5
    png = data.encode(picture, "PNG")
    assert np.array_equal(decode.sized(png, shrink)[0], picture)


def test_a_cut_jpeg_is_refused_however_small_it_may_come_out() -> None:
    content = data.encode(data.smear(), "JPEG")
    with pytest.raises(ImageError):
        decode.sized(content[: len(content) // 2], lambda width, height: 2)


def flipped(content: bytes, bits: int, seed: int) -> bytes:
    """Some bits of the scan the other way round."""
    chance, out = np.random.default_rng(seed), bytearray(content)
    for at in chance.integers(content.index(b"\xff\xda") + 20, len(content) - 2, bits):
        out[at] ^= 1 << int(chance.integers(8))
    return bytes(out)


@pytest.mark.parametrize("times", [1, 2, 8])
def test_a_jpeg_with_flipped_bits_is_refused(times: int) -> None:
    told = [outcome_smaller(flipped(data.encode(data.smear(), "JPEG", quality=90), 64, k), times) for k in range(20)]
    assert all(why.startswith("damaged image: ") for why in told), told


def outcome_smaller(content: bytes, times: int) -> str:
    """Why it is refused; empty where it is not."""
    try:
        decode.sized(content, lambda width, height: times)
    except ImageError as error:
        return error.problem
    return ""
