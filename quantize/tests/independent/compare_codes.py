"""Compares 4-bit codes of ours and of llama.cpp: bits a weight, relative error on bell-shaped and on heavy-tailed weights, and the error of
the golden checkpoints' logits. Fails if our default exceeds its bounds.

    pip install gguf numpy pillow
    python3 quantize/tests/independent/compare_codes.py [REFERENCE_DIR] [--write codes.json]

Run at the root of the repository. Q4_0 and Q4_1 are computed by the package `gguf`; IQ4_NL and Q4_K, which it only decodes, are written
here from llama.cpp's definition of them (`ggml-quants.c`). Our codes come from `quantize` and `crates/format` themselves; logits of all rows
from `forward.py`. REFERENCE_DIR has `checkpoints/NAME` and `golden/NAME/CASE.json` (by default the repository's small fixtures).
`--write` keeps the errors of the first 262,144 weights for `crates/format/tests/codes.rs`.
"""
import argparse
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import quants

import forward

COLS, ROWS, KEPT_ROWS = 4096, 256, 64
CASES = ("text_en", "text_zh", "chat_text", "chat_stop", "one_token", "img_vqa", "chat_grounding", "len_513")
BIN = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", "target")) / "release"


def run(program, *arguments, **options):
    return subprocess.run([BIN / program, *map(str, arguments)], check=True, stdout=subprocess.PIPE, **options).stdout


def ours(scheme, group_size, weights):
    printed = run("examples/roundtrip", scheme, group_size, weights.shape[1], input=weights.tobytes())
    return np.frombuffer(printed, dtype="<f4").reshape(weights.shape)


def by_gguf(kind, weights):
    return quants.dequantize(quants.quantize(weights, kind), kind)


def half(values):
    return values.astype(np.float16).astype(np.float32)


IQ4_NL_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.float32)
MIDPOINTS = (IQ4_NL_VALUES[1:] + IQ4_NL_VALUES[:-1]) / 2


def iq4_nl(weights, plain=False):
    """quantize_row_iq4_nl_impl without an importance matrix: blocks of 32, errors weighted by the square of the weight, 15 starts.

    `plain`: the same table, but the scale is searched for the plain squared error that this page measures, on both signs.
    """
    x = weights.reshape(-1, 32)
    importance = np.ones_like(x) if plain else x * x
    largest = np.take_along_axis(x, np.abs(x).argmax(1)[:, None], 1)
    largest = np.where(largest == 0, 1, largest)  # padding
    scale, best = np.zeros_like(largest), np.zeros_like(largest)
    starts = [sign * (IQ4_NL_VALUES[0] + step) for sign in (1, -1) for step in np.arange(-24, 40, 2)]
    for start in starts if plain else [-IQ4_NL_VALUES[0], *(IQ4_NL_VALUES[0] + step for step in range(-7, 8))]:
        q = IQ4_NL_VALUES[np.searchsorted(MIDPOINTS, x * (start / largest))]
        products, squares = (importance * q * x).sum(1, keepdims=True), (importance * q * q).sum(1, keepdims=True)
        better = (squares > 0) & (products * products > best * squares)
        scale = np.where(better, products / squares, scale)
        best = np.where(better, products * products / squares, best)
    scale = half(scale)
    inverse = np.where(scale == 0, 0, 1 / np.where(scale == 0, 1, scale))
    return (IQ4_NL_VALUES[np.searchsorted(MIDPOINTS, x * inverse)] * scale).reshape(weights.shape)


def q4_k(weights):
    """quantize_row_q4_K_ref: 256 weights share f16 factors of the 6-bit scales and minima of eight blocks of 32."""
    cols = weights.shape[1]
    weights = np.pad(weights, ((0, 0), (0, -cols % 256)))
    x = weights.reshape(-1, 32)
    importance = np.sqrt((x * x).mean(1, keepdims=True)) + np.abs(x)
    low, high = np.minimum(x.min(1, keepdims=True), 0), x.max(1, keepdims=True)
    total, total_x = importance.sum(1, keepdims=True), (importance * x).sum(1, keepdims=True)
    nothing = high == low  # padding
    high = np.where(nothing, 1, high)
    codes = lambda inverse, minimum: np.clip(np.rint(inverse * (x - minimum)), 0, 15)
    error = lambda scale, minimum, q: (importance * (scale * q + minimum - x) ** 2).sum(1, keepdims=True)
    scale, minimum = (high - low) / 15, low
    best = error(scale, minimum, codes(15 / (high - low), low))
    for step in range(21):
        q = codes((-1 + 0.1 * step + 15) / (high - low), low)
        sum_q, sum_q2, sum_qx = (importance * q).sum(1, keepdims=True), (importance * q * q).sum(1, keepdims=True), (importance * q * x).sum(1, keepdims=True)
        determinant = total * sum_q2 - sum_q * sum_q
        with np.errstate(invalid="ignore", divide="ignore"):  # where the determinant is 0 nothing is taken
            new_scale = (total * sum_qx - total_x * sum_q) / determinant
            new_minimum = (sum_q2 * total_x - sum_q * sum_qx) / determinant
            new_scale = np.where(new_minimum > 0, sum_qx / sum_q2, new_scale)
        new_minimum = np.minimum(new_minimum, 0)
        new_error = error(new_scale, new_minimum, q)
        better = (determinant > 0) & (new_error < best)
        scale, minimum, best = (np.where(better, new, old) for new, old in ((new_scale, scale), (new_minimum, minimum), (new_error, best)))
    scale, minimum = scale.reshape(-1, 8), -minimum.reshape(-1, 8)

    def six_bits(values):
        largest = values.max(1, keepdims=True)
        return np.minimum(np.rint(63 / np.maximum(largest, 1e-30) * values), 63) * half(largest / 63)

    scale, minimum = six_bits(scale).reshape(-1, 1), six_bits(minimum).reshape(-1, 1)
    q = np.clip(np.rint((x + minimum) / np.where(scale > 0, scale, 1)), 0, 15)
    return np.where(nothing, 0, scale * q - minimum).reshape(weights.shape)[:, :cols]


# Name, bits a weight, code for given weights, and the options of `quantize` for the same.
FOREIGN = [
    ("Q4_0 (gguf)", 4.5, lambda w: by_gguf(Type.Q4_0, w)),
    ("Q4_1 (gguf)", 5.0, lambda w: by_gguf(Type.Q4_1, w)),
    ("IQ4_NL", 4.5, iq4_nl),
    ("IQ4_NL, least squared error", 4.5, lambda w: iq4_nl(w, plain=True)),
    ("Q4_K", 4.5, q4_k),
]
OURS = [
    ("f32", 32.0, ("f32", 32), ["--scheme", "f32"]),
    ("f16", 16.0, ("f16", 32), ["--scheme", "f16"]),
    ("q8, 32", 8.5, ("q8", 32), ["--scheme", "q8"]),
    ("q8, 64", 8.25, ("q8", 64), ["--scheme", "q8", "--group-size", "64"]),
    ("q8, 128", 8.125, ("q8", 128), ["--scheme", "q8", "--group-size", "128"]),
    ("q4z, 32 (default)", 4.5, ("q4z", 32), []),
    ("q4z, 32, vision q8", 4.5, None, ["--vision", "q8"]),
    ("q4z, 32, head q8", 4.5, None, ["--keep", "lm_head=q8"]),
    ("q4, 64", 4.25, ("q4", 64), ["--group-size", "64"]),
    ("q4, 128", 4.125, ("q4", 128), ["--group-size", "128"]),
]


def uniform(seed, count):
    """splitmix64 of seed, seed + 1, ... as numbers in 0..1: short in any language."""
    with np.errstate(over="ignore"):
        z = (np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        z = z ^ z >> np.uint64(31)
    return ((z >> np.uint64(11)).astype(float) + 0.5) / 2**53


def normal(seed, count):
    pairs = uniform(seed, 2 * count).reshape(-1, 2)
    return np.sqrt(-2 * np.log(pairs[:, 0])) * np.cos(2 * np.pi * pairs[:, 1])


def weights_of_kinds():
    count = ROWS * COLS
    six = normal(1 << 40, 6 * count).reshape(-1, 6)
    kinds = [normal(0, count), six[:, 0] / np.sqrt((six[:, 1:] ** 2).sum(1) / 5)]
    return [(0.02 * weights).astype(np.float32).reshape(ROWS, COLS) for weights in kinds]


def relative(weights, coded):
    return float(np.sqrt(((weights - coded).astype(float) ** 2).sum() / (weights.astype(float) ** 2).sum()))


def weight_errors(write):
    kinds, kept, found = weights_of_kinds(), {}, {}
    print(f"{'code':<30} {'bits':>6} {'Gaussian':>9} {'Student 5':>9}")
    others = [("int4", 32, 4.5), ("q4", 32, 4.5), ("q4z", 64, 4.25), ("q4z", 128, 4.125)]
    rows = FOREIGN + [(f"{code}, {size} (for comparison)", bits, lambda w, code=code, size=size: ours(code, size, w)) for code, size, bits in others]
    rows += [(name, bits, lambda w, code=code: ours(*code, w)) for name, bits, code, _ in OURS if code]
    for name, bits, code in rows:
        coded = [code(weights) for weights in kinds]
        found[name] = [relative(weights, coded) for weights, coded in zip(kinds, coded)]
        kept[name] = [relative(weights[:KEPT_ROWS], coded[:KEPT_ROWS]) for weights, coded in zip(kinds, coded)]
        print(f"{name:<30} {bits:>6} {found[name][0]:>9.5f} {found[name][1]:>9.5f}", flush=True)
    if write:
        write.write_text(json.dumps({name: kept[name] for name, _, _ in FOREIGN}, indent=1) + "\n")
    return found


def log_softmax(values):
    values = values.astype(float) - values.max(1, keepdims=True)
    return values - np.log(np.exp(values).sum(1, keepdims=True))


def golden_difference(found, path):
    """The largest difference of the last logits from the golden ones."""
    raw = path.with_suffix(".safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    entry = json.loads(raw[8 : 8 + length])["logits_last8"]
    begin, end = (8 + length + at for at in entry["data_offsets"])
    want = np.frombuffer(raw[begin:end], dtype="<f4").reshape(entry["shape"])
    return abs(found[-len(want) :] - want).max()


def logit_errors(reference):
    """Divergence of the next-token distributions from those of the f32 weights, and the share of equal most likely tokens."""
    print(f"\n{'model':<8} {'code':<30} {'KL':>9} {'top 1':>7}")
    with tempfile.TemporaryDirectory() as folder:
        web = pathlib.Path(folder) / "web"
        for checkpoint in sorted((reference / "checkpoints").iterdir()):
            paths = [path for name in CASES if (path := reference / "golden" / checkpoint.name / f"{name}.json").is_file()]
            cases = [(path, json.loads(path.read_text())) for path in paths]

            def logits(manifest, weights):
                model = forward.Model(manifest, weights)
                pictures = lambda case: [(image["features_from"], reference / image["path"]) for image in case["images"]]
                return [model.logits(np.array(case["input_ids"]), pictures(case)) for _, case in cases]

            def converted(flags):
                run("quantize", checkpoint, web, "--force", *flags)
                return forward.read_web(web)

            manifest, weights = converted(["--scheme", "f32"])
            first = logits(manifest, weights)
            difference = max(golden_difference(found, path) for found, (path, _) in zip(first, cases))
            exact = np.concatenate([log_softmax(found) for found in first])
            print(f"{checkpoint.name:<8} {len(exact)} positions; logits of f32 differ from the golden ones by {difference:.1e}")
            assert difference < 2e-3, "this is not the model of the golden data"

            def row(name, found):
                found = np.concatenate([log_softmax(logits) for logits in found])
                divergence = (np.exp(exact) * (exact - found)).sum(1).mean()
                print(f"{checkpoint.name:<8} {name:<30} {divergence:>9.5f} {(exact.argmax(1) == found.argmax(1)).mean():>7.1%}", flush=True)

            # The foreign codes store the matrices that q4z stores in 4 bits: all but the patch embedding.
            coded = [tensor["name"] for tensor in converted([])[0]["tensors"] if tensor["scheme"]["type"] == "q4z"]
            for name, _, code in FOREIGN:
                changed = dict(weights)
                changed["vision.patch_embedding.weight"] = half(weights["vision.patch_embedding.weight"])
                for tensor in coded:
                    cols = weights[tensor].shape[1]
                    changed[tensor] = code(np.pad(weights[tensor], ((0, 0), (0, -cols % 32))))[:, :cols]
                row(name, logits(manifest, changed))
            for name, _, _, flags in OURS:
                row(name, logits(*converted(flags)))


def check(found):
    """Checks the bounds of our default, at 4.5 bits a weight."""
    ours, others = found["q4z, 32 (default)"], ["Q4_0 (gguf)", "IQ4_NL, least squared error", "Q4_K"]
    kinds = ["Gaussian", "heavy-tailed"]
    checks = [
        (f"below {name} on {kind} weights: {ours[at]:.5f} < {found[name][at]:.5f}", ours[at] < found[name][at])
        for name in others
        for at, kind in enumerate(kinds)
    ]
    print()
    for text, holds in checks:
        print(f"{'holds' if holds else 'FAILS'}: our default is {text}")
    return all(holds for _, holds in checks)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("reference", nargs="?", type=pathlib.Path, default=pathlib.Path("tests/fixtures"))
    parser.add_argument("--write", type=pathlib.Path)
    options = parser.parse_args()
    subprocess.run(["cargo", "build", "--quiet", "--release", "-p", "quantize", "-p", "qwen-vl-format", "--bins", "--examples"], check=True)
    found = weight_errors(options.write)
    holds = check(found)
    logit_errors(options.reference)
    sys.exit(0 if holds else 1)
