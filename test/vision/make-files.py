#!/usr/bin/env python3
"""Makes files/: small pictures of every kind that moe-media reads, and files.json: the pixels that Pillow sees in them.

    make-files.py          needs numpy and Pillow

Where Pillow's own conversion is not what a model should see, the rules are here: alpha lies over white, of 16 bits the high
byte counts, Exif turns the picture. PNG of 16 bits and with interlace is written by hand, since Pillow writes neither.
"""

import io
import json
import pathlib
import struct
import zlib

import numpy as np
import PIL
from PIL import Image, ImageOps, features

HERE = pathlib.Path(__file__).resolve().parent
FILES = {}  # name: (bytes, pixels)


def formula(height, width, channels=3):
    """Smooth enough for a lossy format to have something to do, with an edge."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(channels), indexing="ij")
    return ((9 * x + 5 * y * (c + 1) + 70 * c + 90 * (x > 2 * y)) & 255).astype(np.uint8)


def over_white(pixels):
    value, alpha = pixels[..., :-1].astype(int), pixels[..., -1:].astype(int)
    return ((2 * (value * alpha + 255 * (255 - alpha)) + 255) // 510).astype(np.uint8)


def seen(data):
    """As Pillow decodes it, by the rules above."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if "A" in image.mode or "transparency" in image.info:
        return over_white(np.asarray(image.convert("RGBA")))
    return np.asarray(image.convert("RGB"))


def add(name, image, pixels=None, **options):
    out = io.BytesIO()
    image.save(out, name.rsplit(".", 1)[1].replace("jpg", "jpeg"), **options)
    FILES[name] = out.getvalue(), seen(out.getvalue()) if pixels is None else pixels


def exif(orientation):
    data = Image.Exif()
    data[0x112] = orientation
    return data


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(samples, color, interlace=False):
    """A PNG of samples [height, width, channels], uint8 or uint16, written by hand."""
    height, width, _ = samples.shape
    passes = [(0, 0, 1, 1)]
    if interlace:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b""
    for top, left, down, across in passes:
        part = samples[top::down, left::across]
        if part.shape[1]:
            rows += b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in part)
    header = struct.pack(">IIBBBBB", width, height, 8 * samples.itemsize, color, 0, 0, int(interlace))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def jpegs():
    rgb = Image.fromarray(formula(21, 33))
    add("420.jpg", rgb, quality=75)
    add("422.jpg", rgb, quality=85, subsampling="4:2:2")
    add("444.jpg", rgb, quality=95, subsampling="4:4:4")
    add("progressive.jpg", rgb, quality=80, progressive=True)
    add("restarts.jpg", rgb, quality=80, restart_marker_blocks=1)
    add("grey.jpg", rgb.convert("L"), quality=80)
    add("inks.jpg", Image.fromarray(formula(11, 14, 4), "CMYK"), quality=90)
    data = FILES["inks.jpg"][0]  # without Adobe's marker Pillow sees the same
    at = data.index(b"\xff\xee")
    data = data[:at] + data[at + 2 + int.from_bytes(data[at + 2:at + 4], "big"):]
    FILES["inks-plain.jpg"] = data, seen(data)
    for orientation in range(1, 9):
        add(f"turned-{orientation}.jpg", Image.fromarray(formula(6, 10)), quality=90, exif=exif(orientation))
    add("turned-wrong.jpg", Image.fromarray(formula(6, 10)), quality=90, exif=exif(9))


def pngs():
    add("rgb.png", Image.fromarray(formula(9, 13)))
    add("rgba.png", Image.fromarray(formula(9, 13, 4)))
    add("grey.png", Image.fromarray(formula(9, 13)[..., 0]))
    add("grey-alpha.png", Image.fromarray(formula(9, 13, 2), "LA"))
    add("two-levels.png", Image.fromarray(formula(9, 13)[..., 0]).convert("1"))
    palette = Image.fromarray(formula(9, 13)).quantize(12)
    add("palette.png", palette)
    add("palette-alpha.png", palette, transparency=bytes([0, 128, 255, 3]))
    add("color-key.png", Image.fromarray(formula(9, 13)), transparency=tuple(int(v) for v in formula(9, 13)[4, 5]))
    add("turned.png", Image.fromarray(formula(9, 13)), exif=exif(6))
    data = FILES["rgb.png"][0]
    at = data.index(b"IEND") - 4
    data = data[:at] + chunk(b"eXIf", exif(8).tobytes()[6:]) + data[at:]
    FILES["turned-late.png"] = data, seen(data)
    rgb16 = formula(7, 5).astype(np.uint16) * 256 + formula(7, 5)[::-1]
    for name, samples, color in (("rgb-16.png", rgb16, 2), ("grey-16.png", rgb16[..., :1], 0)):
        FILES[name] = png(samples, color), np.broadcast_to((samples >> 8).astype(np.uint8), (7, 5, 3))
    rgba16 = np.concatenate([rgb16, rgb16[::-1, :, :1]], 2)
    FILES["rgba-16.png"] = png(rgba16, 6), over_white((rgba16 >> 8).astype(np.uint8))
    for name, size in (("interlaced.png", (9, 13)), ("interlaced-small.png", (2, 1))):
        data = png(formula(*size), 2, interlace=True)
        FILES[name] = data, seen(data)
    add("one-pixel.png", Image.fromarray(formula(1, 1)))


def webps():
    add("lossy.webp", Image.fromarray(formula(21, 33)), quality=80)
    add("lossless.webp", Image.fromarray(formula(9, 13)), lossless=True)
    add("alpha.webp", Image.fromarray(formula(21, 33, 4)), quality=80)
    add("alpha-lossless.webp", Image.fromarray(formula(9, 13, 4)), lossless=True, exact=True)
    add("turned.webp", Image.fromarray(formula(9, 13)), lossless=True, exif=exif(8).tobytes())
    frames = [Image.fromarray(np.roll(formula(9, 13, 4), i, 1)) for i in range(3)]
    add("animation.webp", frames[0], lossless=True, exact=True, save_all=True, append_images=frames[1:])


def gifs():
    frames = [Image.fromarray(np.roll(formula(9, 13), i, 1)).quantize(16) for i in range(3)]
    add("plain.gif", frames[0], interlace=0)
    add("interlaced.gif", frames[0], interlace=1)
    add("transparent.gif", frames[0], transparency=3)
    add("animation.gif", frames[0], save_all=True, append_images=frames[1:], transparency=2)
    # A picture that covers a part of its canvas; the rest is transparent.
    data = FILES["transparent.gif"][0]
    canvas = np.full((12, 17, 3), 255, np.uint8)
    canvas[2:11, 3:16] = FILES["transparent.gif"][1]
    at = data.index(b"\x2c" + bytes(4) + struct.pack("<HH", 13, 9))
    moved = data[:6] + struct.pack("<HH", 17, 12) + data[10:at + 1] + struct.pack("<HH", 3, 2) + data[at + 5:]
    FILES["part.gif"] = moved, canvas


def avifs():
    add("420.avif", Image.fromarray(formula(21, 33)), quality=80, subsampling="4:2:0")
    add("alpha.avif", Image.fromarray(formula(9, 13, 4)), quality=95, subsampling="4:4:4")
    for orientation in (2, 4, 5, 6, 7, 8):  # Pillow says it in AVIF's own words
        add(f"turned-{orientation}.avif", Image.fromarray(formula(6, 10)), quality=90, subsampling="4:4:4", exif=exif(orientation))


def main():
    jpegs()
    pngs()
    webps()
    gifs()
    avifs()
    folder = HERE / "files"
    folder.mkdir(exist_ok=True)
    lines = []
    for name, (data, pixels) in sorted(FILES.items()):
        (folder / name).write_bytes(data)
        crc = f"{zlib.crc32(np.ascontiguousarray(pixels).tobytes()):08x}"
        lines.append(json.dumps({"file": name, "height": pixels.shape[0], "width": pixels.shape[1], "pixels": crc}))
    versions = {"Pillow": PIL.__version__, "libjpeg-turbo": features.version("libjpeg_turbo"), "libwebp": features.version("webp"),
                "libavif": features.version("avif")}
    (HERE / "files.json").write_text(f'{{"made by": {json.dumps(versions)},\n"files": [\n' + ",\n".join(lines) + "\n]}\n")


if __name__ == "__main__":
    main()
