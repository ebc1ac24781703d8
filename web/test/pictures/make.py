"""Writes the JPEG files of this folder, and `pixels.json`: the ids that pictures with Pillow's pixels have.

The id of a picture is the SHA-256 of its width (32 bits, little endian) and its RGB bytes.
Run it with Pillow 13 (libjpeg-turbo 3): python3 make.py
"""

import hashlib
import json
import math
import random
import struct

from PIL import Image, ImageOps

random.seed(1)
WIDTH, HEIGHT = 83, 61


def pixel(x, y):
    """Colours with sharp edges and noise, so that decoders with other upsampling or rounding differ."""
    stripe = 200 if (x // 7 + y // 5) % 2 else 40
    return (
        (stripe + random.randrange(40)) % 256,
        int(127 + 120 * math.sin(x / 5)),
        int(127 + 120 * math.cos((x + y) / 9)),
    )


picture = Image.new("RGB", (WIDTH, HEIGHT))
picture.putdata([pixel(x, y) for y in range(HEIGHT) for x in range(WIDTH)])
turned = Image.Exif()
turned[0x0112] = 6
files = {
    "420.jpg": (picture, {"subsampling": "4:2:0"}),
    "422.jpg": (picture, {"subsampling": "4:2:2"}),
    "444.jpg": (picture, {"subsampling": "4:4:4"}),
    "progressive.jpg": (picture, {"progressive": True}),
    "gray.jpg": (picture.convert("L"), {}),
    "cmyk.jpg": (picture.convert("CMYK"), {}),
    "turned.jpg": (picture, {"exif": turned}),
}
ids = {}
for name, (image, options) in files.items():
    image.save(name, quality=85, **options)
    with Image.open(name) as read:
        upright = ImageOps.exif_transpose(read).convert("RGB")
    ids[name] = hashlib.sha256(struct.pack("<I", upright.width) + upright.tobytes()).hexdigest()
with open("pixels.json", "w") as out:
    json.dump(ids, out, indent=2)
    out.write("\n")
