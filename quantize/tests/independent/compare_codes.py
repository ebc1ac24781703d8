"""Prints the table of 4-bit codes: bits a weight and relative error on bell-shaped and on heavy-tailed weights, beside llama.cpp's codes;
with golden checkpoints also what each scheme does to logits.

    pip install gguf numpy
    python3 compare_codes.py [REFERENCE_DIR]

Run at the root of the repository. Q4_0 and Q4_1 are computed by the package `gguf`; IQ4_NL and Q4_K, which it only decodes, are written
here from llama.cpp's definition of them (`ggml-quants.c`). Our codes come from `crates/format` itself, logits from `qwenvl` on whatever
adapter there is. REFERENCE_DIR has `checkpoints/NAME` and `golden/NAME/CASE.json` (by default the repository's small fixtures).
"""
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import quants

COLS, ROWS = 4096, 256
CASES = ("text_en", "text_zh", "img_vqa", "chat_text", "chat_grounding")


def cargo(*arguments, **options):
    return subprocess.run(["cargo", "run", "--quiet", "--release", *arguments], check=True, stdout=subprocess.PIPE, **options).stdout


def ours(scheme, group_size, weights):
    run = ["-p", "qwen-vl-format", "--example", "roundtrip", "--", scheme, str(group_size), str(COLS)]
    return np.frombuffer(cargo(*run, input=weights.tobytes()), dtype="<f4").reshape(weights.shape)


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
    scale, best = np.zeros_like(largest), np.zeros_like(largest)
    starts = [sign * (IQ4_NL_VALUES[0] + step) for sign in (1, -1) for step in np.arange(-24, 40, 2)]
    for start in starts if plain else [-IQ4_NL_VALUES[0], *(IQ4_NL_VALUES[0] + step for step in range(-7, 8))]:
        q = IQ4_NL_VALUES[np.searchsorted(MIDPOINTS, x * (start / largest))]
        products, squares = (importance * q * x).sum(1, keepdims=True), (importance * q * q).sum(1, keepdims=True)
        better = (squares > 0) & (products * products > best * squares)
        scale = np.where(better, products / squares, scale)
        best = np.where(better, products * products / squares, best)
    scale = half(scale)
    return (IQ4_NL_VALUES[np.searchsorted(MIDPOINTS, x / scale)] * scale).reshape(weights.shape)


def q4_k(weights):
    """quantize_row_q4_K_ref: 256 weights share f16 factors of the 6-bit scales and minima of eight blocks of 32."""
    x = weights.reshape(-1, 32)
    importance = np.sqrt((x * x).mean(1, keepdims=True)) + np.abs(x)
    low, high = np.minimum(x.min(1, keepdims=True), 0), x.max(1, keepdims=True)
    total, total_x = importance.sum(1, keepdims=True), (importance * x).sum(1, keepdims=True)
    codes = lambda inverse, minimum: np.clip(np.rint(inverse * (x - minimum)), 0, 15)
    error = lambda scale, minimum, q: (importance * (scale * q + minimum - x) ** 2).sum(1, keepdims=True)
    scale, minimum = (high - low) / 15, low
    best = error(scale, minimum, codes(15 / (high - low), low))
    for step in range(21):
        q = codes((-1 + 0.1 * step + 15) / (high - low), low)
        sum_q, sum_q2, sum_qx = (importance * q).sum(1, keepdims=True), (importance * q * q).sum(1, keepdims=True), (importance * q * x).sum(1, keepdims=True)
        determinant = total * sum_q2 - sum_q * sum_q
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
    return (scale * q - minimum).reshape(weights.shape)


CODES = [
    ("Q4_0 (gguf)", 4.5, lambda w: by_gguf(Type.Q4_0, w)),
    ("Q4_1 (gguf)", 5.0, lambda w: by_gguf(Type.Q4_1, w)),
    ("IQ4_NL", 4.5, iq4_nl),
    ("IQ4_NL, least squared error", 4.5, lambda w: iq4_nl(w, plain=True)),
    ("Q4_K", 4.5, q4_k),
    ("ours: int4, 32, plain rounding", 4.5, lambda w: ours("int4", 32, w)),
    ("ours: q4, 32", 4.5, lambda w: ours("q4", 32, w)),
    ("ours: q4, 64", 4.25, lambda w: ours("q4", 64, w)),
    ("ours: q4, 128", 4.125, lambda w: ours("q4", 128, w)),
    ("ours: q8, 32", 8.5, lambda w: ours("q8", 32, w)),
    ("ours: f16", 16.0, lambda w: ours("f16", 32, w)),
]


def weight_errors():
    rng = np.random.default_rng(1)
    kinds = [rng.standard_normal((ROWS, COLS)), rng.standard_t(5, (ROWS, COLS))]
    kinds = [(0.02 * weights).astype(np.float32) for weights in kinds]
    print(f"{'code':<32} {'bits':>6} {'Gaussian':>9} {'Student 5':>9}")
    for name, bits, code in CODES:
        errors = [np.sqrt(((weights - code(weights)).astype(float) ** 2).sum() / (weights.astype(float) ** 2).sum()) for weights in kinds]
        print(f"{name:<32} {bits:>6} {errors[0]:>9.5f} {errors[1]:>9.5f}", flush=True)


def logits(web, case, root, out):
    cargo("-p", "qwen-vl-cli", "--bin", "qwenvl", "--", "ask", "--model", str(web), "--case", str(case), "--root", str(root), "--json", "--dump", str(out))
    raw = out.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    entry = json.loads(raw[8 : 8 + length])["logits"]
    begin, end = (8 + length + at for at in entry["data_offsets"])
    return np.frombuffer(raw[begin:end], dtype="<f4").reshape(entry["shape"]).astype(float)


def log_softmax(values):
    values = values - values.max(1, keepdims=True)
    return values - np.log(np.exp(values).sum(1, keepdims=True))


def logit_errors(reference):
    """Divergence of the next-token distributions from those of the f32 weights, and how often the most likely token is the same."""
    print(f"\n{'model':<8} {'scheme':<28} {'KL':>9} {'top 1':>7} {'positions':>9}")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for model in sorted((reference / "checkpoints").iterdir()):
            cases = [case for name in CASES if (case := reference / "golden" / model.name / f"{name}.json").is_file()]
            exact = None
            for name, flags in [("f32", ["f32"]), ("f16", ["f16"]), ("q8, 32", ["q8"]), ("q4, 32", ["q4"]), ("q4, 32, vision q8", ["q4", "--vision", "q8"]), ("q4, 64", ["q4", "--group-size", "64"]), ("q4, 128", ["q4", "--group-size", "128"])]:
                web = folder / "web"
                cargo("-p", "quantize", "--", str(model), str(web), "--force", "--scheme", *flags)
                found = np.concatenate([log_softmax(logits(web, case, reference, folder / "dump")) for case in cases])
                exact = found if exact is None else exact
                divergence = (np.exp(exact) * (exact - found)).sum(1).mean()
                same = (exact.argmax(1) == found.argmax(1)).mean()
                print(f"{model.name:<8} {name:<28} {divergence:>9.5f} {same:>7.1%} {len(found):>9}", flush=True)


weight_errors()
logit_errors(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/fixtures"))
