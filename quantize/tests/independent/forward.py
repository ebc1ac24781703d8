"""Computes Qwen-VL's logits in numpy, f32, from the weights of a web checkpoint, without this project's runtime.

Written from the behaviour of the original; `compare_codes.py` prints the distance of its logits from the golden ones.
"""
import json
import math
import pathlib

import numpy as np
from PIL import Image

VALUES = np.array([-126, -102, -81, -64, -48, -34, -22, -11, 0, 11, 22, 34, 48, 64, 81, 102], dtype=np.float32)


def read_web(folder):
    """Manifest and weights of a web checkpoint, matrices decoded (crates/format/FORMAT.md)."""
    folder = pathlib.Path(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    shards = [(folder / shard["file"]).read_bytes() for shard in manifest["shards"]]
    return manifest, {tensor["name"]: decode(tensor, shards) for tensor in manifest["tensors"]}


def decode(tensor, shards):
    cols, kind = tensor["shape"][1], tensor["scheme"]["type"]
    padded = -(-cols // 32) * 32
    parts = []
    for part in tensor["parts"]:
        raw = np.frombuffer(shards[part["shard"]][slice(*part["data"])], dtype=np.uint8).reshape(part["rows"], -1)
        if kind in ("f32", "f16"):
            parts.append(raw.view("<f4" if kind == "f32" else "<f2").astype(np.float32))
            continue
        if kind == "q8":
            codes = raw.view(np.int8).astype(np.float32)
        else:
            words = raw.view("<u4")
            nibbles = np.stack([words >> (i % 4 * 8 + i // 4 * 4) & 15 for i in range(8)], axis=2).reshape(part["rows"], -1)
            codes = VALUES[nibbles] if kind == "q4" else nibbles.astype(np.float32)
        scales = np.frombuffer(shards[part["shard"]][slice(*part["scales"])], dtype="<f2").reshape(part["rows"], -1)
        of_weights = lambda values: np.repeat(values, tensor["scheme"]["group_size"], axis=1)[:, :padded]
        if kind == "int4":
            codes = codes - 8
        if kind == "q4z":
            codes = codes - of_weights(np.float32(7.5) - (scales.view("<u2") & 31).astype(np.float32) / 8)
        parts.append(codes * of_weights(scales.astype(np.float32)))
    return np.concatenate(parts)[:, :cols]


def erf(x):
    """Element by element, because numpy has none."""
    return np.array([math.erf(value) for value in x.ravel()], dtype=np.float32).reshape(x.shape)


def softmax(scores):
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    return scores / scores.sum(-1, keepdims=True)


def attention(q, k, v, mask=None):
    """`[n, heads, d]` each."""
    scores = np.einsum("qhd,khd->hqk", q / np.float32(math.sqrt(q.shape[2])), k, optimize=True)
    scores = softmax(scores if mask is None else scores + mask)
    return np.einsum("hqk,khd->qhd", scores, v, optimize=True).reshape(len(q), -1)


class Model:
    def __init__(self, manifest, weights):
        self.vision, self.decoder = manifest["config"]["vision"], manifest["config"]["decoder"]
        self.weights, self.processor = weights, manifest["processor"]

    def linear(self, x, name):
        bias = self.weights.get(f"{name}.bias")
        return x @ self.weights[f"{name}.weight"].T + (0 if bias is None else bias)

    def layer_norm(self, x, name):
        x = x - x.mean(1, keepdims=True)
        x = x / np.sqrt((x * x).mean(1, keepdims=True) + np.float32(1e-6))
        return x * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def rms_norm(self, x, name):
        return x / np.sqrt((x * x).mean(1, keepdims=True) + np.float32(self.decoder["norm_epsilon"])) * self.weights[f"{name}.weight"]

    def features(self, path):
        """Image features `[queries, hidden]` of a picture."""
        visual = self.vision
        size, patch, heads = visual["image_size"], visual["patch_size"], visual["heads"]
        picture = Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
        pixels = (np.asarray(picture, dtype=np.float32) / 255 - self.processor["image_mean"]) / self.processor["image_std"]
        grid = size // patch
        patches = pixels.astype(np.float32).reshape(grid, patch, grid, patch, 3).transpose(0, 2, 4, 1, 3).reshape(grid * grid, -1)
        x = patches @ self.weights["vision.patch_embedding.weight"].T + self.weights["vision.position_embedding"]
        x = self.layer_norm(x, "vision.ln_pre")
        for layer in range(visual["layers"]):
            block = f"vision.blocks.{layer}"
            q, k, v = np.split(self.linear(self.layer_norm(x, f"{block}.ln_1"), f"{block}.attn.qkv"), 3, axis=1)
            q, k, v = (part.reshape(len(x), heads, -1) for part in (q, k, v))
            x = x + self.linear(attention(q, k, v), f"{block}.attn.out")
            inner = self.linear(self.layer_norm(x, f"{block}.ln_2"), f"{block}.mlp.fc1")
            x = x + self.linear(inner * (1 + erf(inner / np.float32(math.sqrt(2)))) / 2, f"{block}.mlp.fc2")
        kv = self.layer_norm(self.linear(x, "resampler.kv_proj"), "resampler.ln_kv")
        query = self.weights["resampler.query"]
        q = self.linear(query, "resampler.attn.q")
        k = self.linear(kv + self.weights["resampler.key_position"], "resampler.attn.k")
        v = self.linear(kv, "resampler.attn.v")
        q, k, v = (part.reshape(len(part), -1, 128) for part in (q, k, v))
        out = self.linear(attention(q, k, v), "resampler.attn.out")
        return self.linear(self.layer_norm(out, "resampler.ln_post"), "resampler.proj")

    def logits(self, ids, pictures):
        """Logits `[n, vocabulary]`; `pictures` are (first position, path)."""
        decoder, rotary = self.decoder, self.decoder["rotary"]
        x = self.weights["decoder.embedding.weight"][ids].copy()
        for first, path in pictures:
            features = self.features(path)
            x[first : first + len(features)] = features
        n, heads, d = len(ids), decoder["heads"], decoder["head_dim"]
        alpha = 1.0
        if rotary["dynamic_ntk"]:
            alpha = max(1.0, 2.0 ** math.ceil(math.log2(n / decoder["trained_context"]) + 1) - 1)
        base = rotary["base"] * alpha ** (d / (d - 2))
        angles = np.outer(np.arange(n), base ** (-np.arange(0, d, 2) / d)).astype(np.float32)[:, None, :]
        cos, sin = np.cos(angles), np.sin(angles)

        def rotate(part):
            low, high = np.split(part, 2, axis=2)
            return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=2)

        positions = np.arange(1, n + 1)
        log_n = np.where(positions > decoder["trained_context"], np.log(positions) / np.log(decoder["trained_context"]), 1.0) if rotary["logn"] else np.ones(n)
        log_n = log_n.astype(np.float32)[:, None, None]
        mask = np.triu(np.full((n, n), -np.inf, dtype=np.float32), 1)
        for layer in range(decoder["layers"]):
            block = f"decoder.layers.{layer}"
            q, k, v = np.split(self.linear(self.rms_norm(x, f"{block}.attn_norm"), f"{block}.attn.qkv"), 3, axis=1)
            q, k, v = (part.reshape(n, heads, d) for part in (q, k, v))
            x = x + self.linear(attention(rotate(q) * log_n, rotate(k), v, mask), f"{block}.attn.out")
            inner = self.linear(self.rms_norm(x, f"{block}.mlp_norm"), f"{block}.mlp.gate_up")
            up, gate = inner[:, 0::2], inner[:, 1::2]
            x = x + self.linear(up * gate / (1 + np.exp(-gate)), f"{block}.mlp.down")
        return self.linear(self.rms_norm(x, "decoder.norm"), "head")
