#!/usr/bin/env python3
"""Makes golden.json: what Llama 4's image processor makes of pictures, in numpy and exact.

    make-goldens.py > golden.json          needs numpy

It follows transformers' Llama4ImageProcessorFast and torchvision's resize of uint8 step by step, in other words than
runtime/vision does: dense matrices for the resize, all grids sorted for the choice. transformers 4.57.6 with torchvision
0.29.2 gives the same bytes for all of "pictures", and the same grid and size as these rules for 26,373 random sizes.
"""

import json
import struct
import zlib

import numpy as np

F = np.float32
SIZES = [(336, 336), (100, 100), (224, 224), (1, 1), (1, 3000), (337, 336), (336, 337), (480, 640), (640, 480), (672, 672),
         (673, 672), (768, 1024), (1080, 1920), (1200, 1200), (1344, 1344), (3000, 500), (500, 3000), (50, 2000),
         (2000, 50), (4000, 600), (1536, 2048), (1000, 1777)]
FEWER = [(a, b) for a, b in SIZES if a * b < 400_000]  # for each other number of tiles
GROUPS, GROUP = 100, 100


def picture(height, width):
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    return ((3 * x * x + 5 * y * y + 7 * x * y + 31 * c * x + 17 * c * y) >> 7 & 255).astype(np.uint8)


def choose_grid(height, width, tile, most):
    grids = [(r, c) for r in range(1, most + 1) for c in range(1, most // r + 1)]
    scale = {g: min(F(g[0] * tile) / F(height), F(g[1] * tile) / F(width)) for g in grids}
    larger = [s for s in scale.values() if s >= 1]
    best = min(larger) if larger else max(scale.values())
    return min((g for g in grids if scale[g] == best), key=lambda g: g[0] * g[1])


def fit(height, width, grid, tile):
    canvas = [side * tile for side in grid]
    wanted = [max(height, tile), max(width, tile)]
    target = [min(w, c) for w, c in zip(wanted, canvas)]
    # A tensor of float32 where the canvas is the smaller, else a Python number.
    factor = [F(t) / F(n) if w > c else t / n for t, n, w, c in zip(target, (height, width), wanted, canvas)]
    single = [isinstance(f, F) for f in factor]
    less = F(factor[1]) < F(factor[0]) if any(single) else factor[1] < factor[0]

    def scaled(length, i):
        return int(np.floor(F(length) * factor[i])) if single[i] else int(length * factor[i] // 1)

    if less:
        return max(1, min(scaled(height, 1), target[0])), target[1]
    return target[0], max(1, min(scaled(width, 0), target[1]))


def weights(n, m):
    """Dense [m, n] integers, and the shift."""
    scale = n / m
    support = max(scale, 1.0)
    center = scale * (np.arange(m)[:, None] + 0.5)
    low = np.maximum(np.trunc(center - support + 0.5), 0)
    high = np.minimum(np.trunc(center + support + 0.5), n)
    j = np.arange(n)[None, :]
    f = np.maximum(0.0, 1 - np.abs((j - center + 0.5) * (1 / support)))
    f[(j < low) | (j >= high)] = 0
    f /= np.cumsum(f, axis=1)[:, -1:]  # in the order of j
    shift = max(s for s in range(23) if np.trunc(0.5 + f.max() * 2.0**s) < 2**15)
    return np.trunc(0.5 + f * 2.0**shift), shift


def along_rows(image, m):
    k, shift = weights(image.shape[0], m)
    sums = k @ image.reshape(len(image), -1).astype(np.float64)  # integers below 2^53
    out = (sums.astype(np.int64) + (1 << shift - 1)) >> shift
    return np.clip(out, 0, 255).astype(np.uint8).reshape((m,) + image.shape[1:])


def resize(image, height, width):
    if image.shape[1] != width:
        image = along_rows(image.transpose(1, 0, 2), width).transpose(1, 0, 2)
    return image if image.shape[0] == height else along_rows(image, height)


def tiles(image, tile, most):
    grid = choose_grid(*image.shape[:2], tile, most)
    small = resize(image, *fit(*image.shape[:2], grid, tile))
    canvas = np.zeros((grid[0] * tile, grid[1] * tile, 3), np.uint8)
    canvas[: small.shape[0], : small.shape[1]] = small
    cut = list(canvas.reshape(grid[0], tile, grid[1], tile, 3).transpose(0, 2, 1, 3, 4).reshape(-1, tile, tile, 3))
    return np.stack(cut + ([resize(image, tile, tile)] if len(cut) > 1 else []))


def layout(grid):
    """Runs of tokens."""
    rows = ("patch*144 tile_x " * (grid[1] - 1) + "patch*144 tile_y ") * grid[0] if grid != (1, 1) else ""
    return f"start {rows}image patch*144 end"


def crc(data):
    return f"{zlib.crc32(np.ascontiguousarray(data).tobytes()):08x}"


class Random:
    """Knuth's generator (MMIX); the upper 31 bits of each state."""

    def __init__(self, seed):
        self.state = seed

    def next(self):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return self.state >> 33

    def side(self, bits):
        """1 to 2^bits, small ones as often as large ones."""
        return 1 + self.next() % (2 << self.next() % bits)


def describe(height, width, tile, most):
    grid = choose_grid(height, width, tile, most)
    cut = tiles(picture(height, width), tile, most)
    return {"size": [height, width], "grid": grid, "resized": fit(height, width, grid, tile), "tiles": [crc(t) for t in cut]}


def grid_groups():
    random, groups = Random(1), []
    for _ in range(GROUPS):
        numbers = []
        for _ in range(GROUP):
            size = random.side(14), random.side(14)
            grid = choose_grid(*size, 336, 16)
            numbers += [*size, *grid, *fit(*size, grid, 336)]
        groups.append(crc(np.array(numbers, "<i4")))
    return groups


def tile_groups():
    random, groups = Random(2), []
    for _ in range(GROUPS):
        data = b"".join(tiles(picture(random.side(8), random.side(8)), 28, 16).tobytes() for _ in range(GROUP))
        groups.append(f"{zlib.crc32(data):08x}")
    return groups


def main():
    golden = {
        "picture": "u8[y][x][c] = ((3xx + 5yy + 7xy + 31cx + 17cy) >> 7) & 255; sizes are [height, width], checksums crc32",
        "pictures": [describe(*s, 336, 16) | {"picture": crc(picture(*s)), "layout": layout(choose_grid(*s, 336, 16))}
                     for s in SIZES],
        "fewer": [describe(*s, 336, most) | {"most": most} for most in (1, 2, 4, 9) for s in FEWER],
        "grids": grid_groups(),
        "random": tile_groups(),
    }
    lines = json.dumps(golden, separators=(",", ":")).replace('},{"', '},\n{"').replace('],"', '],\n"')
    print(lines.replace('],\n"grid"', '],"grid"').replace('],\n"resized"', '],"resized"').replace('],\n"tiles"', '],"tiles"'))


if __name__ == "__main__":
    main()
