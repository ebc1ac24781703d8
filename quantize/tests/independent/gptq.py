"""Writes the quantised modules of a GPTQ checkpoint for the model mini-a, from the format's definition, and prints their values.

    python3 gptq.py mini_a_gptq_128.safetensors mini_a_gptq_32.safetensors > mini_a_gptq.json

The JSON has, for groups of 128 and of 32, the SHA-256 of each matrix of the web checkpoint in f32:
weight[out, in] = (code - zero) * scale[group of in, out], an exact product in f32 because a code has 4 bits and a scale 11.
`reversed` is the same with the groups of the inputs counted from the last to the first (g_idx[i] = groups - 1 - i / group size).
"""
import array
import hashlib
import json
import pathlib
import random
import struct
import sys

HIDDEN, BRANCH = 128, 64
MODULES = {"attn.c_attn": (3 * HIDDEN, HIDDEN), "attn.c_proj": (HIDDEN, HIDDEN), "mlp.w1": (BRANCH, HIDDEN), "mlp.w2": (BRANCH, HIDDEN), "mlp.c_proj": (HIDDEN, BRANCH)}
ZERO = 8  # symmetric


def half(value):
    """The value, rounded to f16."""
    return struct.unpack("<e", struct.pack("<e", value))[0]


def write(path, group_size):
    rng = random.Random(20231123)
    tensors, matrices = {}, {}
    for module, (outputs, inputs) in MODULES.items():
        groups = -(-inputs // group_size)
        codes = [[rng.randrange(16) for _ in range(inputs)] for _ in range(outputs)]
        scales = [[half(rng.uniform(0.001, 0.03)) for _ in range(outputs)] for _ in range(groups)]
        # Eight inputs of one output share a word, the first in the lowest bits.
        qweight = [sum(codes[o][8 * k + j] << (4 * j) for j in range(8)) for k in range(inputs // 8) for o in range(outputs)]
        # Zero points are stored minus one, eight outputs to a word.
        qzeros = [sum((ZERO - 1) << (4 * j) for j in range(8)) for _ in range(groups) for _ in range(outputs // 8)]
        name = f"transformer.h.0.{module}"
        tensors[f"{name}.qweight"] = ("I32", [inputs // 8, outputs], struct.pack(f"<{len(qweight)}I", *qweight))
        tensors[f"{name}.qzeros"] = ("I32", [groups, outputs // 8], struct.pack(f"<{len(qzeros)}I", *qzeros))
        tensors[f"{name}.scales"] = ("F16", [groups, outputs], b"".join(struct.pack("<e", s) for row in scales for s in row))
        tensors[f"{name}.g_idx"] = ("I32", [inputs], struct.pack(f"<{inputs}i", *(i // group_size for i in range(inputs))))
        if module != "attn.c_attn":  # its bias stays where it is in mini-a
            tensors[f"{name}.bias"] = ("F16", [outputs], bytes(2 * outputs))

        def matrix(group_of):
            return [array.array("f", ((codes[o][i] - ZERO) * scales[group_of(i)][o] for i in range(inputs))) for o in range(outputs)]

        matrices["in_order", module] = matrix(lambda i: i // group_size)
        matrices["reversed", module] = matrix(lambda i: groups - 1 - i // group_size)

    header, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)

    def hashes(order):
        pairs = zip(matrices[order, "mlp.w1"], matrices[order, "mlp.w2"])
        web = {
            "attn.qkv": matrices[order, "attn.c_attn"],
            "attn.out": matrices[order, "attn.c_proj"],
            "mlp.gate_up": [row for pair in pairs for row in pair],
            "mlp.down": matrices[order, "mlp.c_proj"],
        }
        return {f"decoder.layers.0.{name}.weight": hashlib.sha256(b"".join(row.tobytes() for row in rows)).hexdigest() for name, rows in web.items()}

    return {order: hashes(order) for order in ("in_order", "reversed")}


print(json.dumps({str(group): write(path, group) for path, group in zip(sys.argv[1:], (128, 32))}, indent=1))
