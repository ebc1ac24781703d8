"""Qwen-VL in JAX, as `crates/reference` has it in burn: the graph that is trained on a CPU.

Parameters carry the names and shapes of the published checkpoints, so what is trained here is a checkpoint for `quantize`,
the reference and the runtime alike. Sizes: B rows, T tokens a row, M pictures, N patches, Q queries, D hidden, W tower width.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

POSITION_TABLE_SIDE = 16  # visual.py, get_abs_pos
RESAMPLER_HEAD = 128  # visual.py, Resampler: output_dim // 128 heads
TOWER = "transformer.visual.transformer.resblocks"
POOL = "transformer.visual.attn_pool"


@dataclass(frozen=True)
class Sizes:
    """What config.json says. `ranks` is the number of ordinary tokens; the special ones follow."""

    ranks: int
    hidden: int = 128
    layers: int = 4
    heads: int = 2
    mlp: int = 344
    image: int = 112
    patch: int = 14
    width: int = 128
    tower_layers: int = 4
    tower_heads: int = 4
    tower_mlp: int = 512
    queries: int = 16
    context: int = 512

    @property
    def vocabulary(self):
        return -(-(self.ranks + 217) // 32) * 32

    def config(self):
        """The published `config.json` of this model."""
        return {
            "architectures": ["QWenLMHeadModel"],
            "model_type": "qwen",
            "tokenizer_type": "QWenTokenizer",
            "torch_dtype": "float16",
            "hidden_size": self.hidden,
            "intermediate_size": 2 * self.mlp,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "kv_channels": self.hidden // self.heads,
            "layer_norm_epsilon": 1e-6,
            "no_bias": True,
            "rotary_emb_base": 10000,
            "rotary_pct": 1.0,
            "scale_attn_weights": True,
            "seq_length": self.context,
            "max_position_embeddings": 4 * self.context,
            "tie_word_embeddings": False,
            "use_dynamic_ntk": True,
            "use_logn_attn": True,
            "vocab_size": self.vocabulary,
            "visual": {
                "heads": self.tower_heads,
                "image_size": self.image,
                "image_start_id": self.ranks + 214,
                "layers": self.tower_layers,
                "mlp_ratio": self.tower_mlp / self.width,
                "n_queries": self.queries,
                "output_dim": self.hidden,
                "patch_size": self.patch,
                "width": self.width,
            },
        }


def initial(sizes: Sizes, seed: int):
    """Random parameters. Products that end a residual branch start smaller by the depth (GPT-2)."""
    random = np.random.default_rng(seed)
    parameters = {}

    def normal(name, *shape, deviation=None):
        deviation = deviation if deviation is not None else shape[-1] ** -0.5
        parameters[name] = (random.standard_normal(shape) * deviation).astype(np.float32)

    def linear(name, out, inner, scale=1.0, bias=True, separator="."):
        normal(f"{name}{separator}weight", out, inner, deviation=scale * inner**-0.5)
        if bias:
            parameters[f"{name}{separator}bias"] = np.zeros(out, np.float32)

    def norm(name, width, bias=True):
        parameters[f"{name}.weight"] = np.ones(width, np.float32)
        if bias:
            parameters[f"{name}.bias"] = np.zeros(width, np.float32)

    width, hidden = sizes.width, sizes.hidden
    normal("transformer.visual.conv1.weight", width, 3, sizes.patch, sizes.patch, deviation=(3 * sizes.patch**2) ** -0.5)
    normal("transformer.visual.positional_embedding", POSITION_TABLE_SIDE**2, width, deviation=0.1)
    norm("transformer.visual.ln_pre", width)
    depth = (2 * sizes.tower_layers) ** -0.5
    for layer in range(sizes.tower_layers):
        block = f"{TOWER}.{layer}"
        norm(f"{block}.ln_1", width)
        linear(f"{block}.attn.in_proj", 3 * width, width)
        linear(f"{block}.attn.out_proj", width, width, depth)
        norm(f"{block}.ln_2", width)
        linear(f"{block}.mlp.c_fc", sizes.tower_mlp, width)
        linear(f"{block}.mlp.c_proj", width, sizes.tower_mlp, depth)

    normal(f"{POOL}.query", sizes.queries, hidden, deviation=0.02)
    parameters[f"{POOL}.pos_embed"] = sine_table(hidden, round(sizes.queries**0.5))
    linear(f"{POOL}.kv_proj", hidden, width, bias=False)
    linear(f"{POOL}.attn.in_proj", 3 * hidden, hidden, separator="_")
    linear(f"{POOL}.attn.out_proj", hidden, hidden)
    norm(f"{POOL}.ln_q", hidden)
    norm(f"{POOL}.ln_kv", hidden)
    norm("transformer.visual.ln_post", hidden)
    normal("transformer.visual.proj", hidden, hidden)

    normal("transformer.wte.weight", sizes.vocabulary, hidden, deviation=0.5)
    depth = (2 * sizes.layers) ** -0.5
    for layer in range(sizes.layers):
        block = f"transformer.h.{layer}"
        norm(f"{block}.ln_1", hidden, bias=False)
        linear(f"{block}.attn.c_attn", 3 * hidden, hidden)
        linear(f"{block}.attn.c_proj", hidden, hidden, depth, bias=False)
        norm(f"{block}.ln_2", hidden, bias=False)
        linear(f"{block}.mlp.w1", sizes.mlp, hidden, bias=False)
        linear(f"{block}.mlp.w2", sizes.mlp, hidden, bias=False)
        linear(f"{block}.mlp.c_proj", hidden, sizes.mlp, depth, bias=False)
    norm("transformer.ln_f", hidden, bias=False)
    linear("lm_head", sizes.vocabulary, hidden, bias=False)
    return parameters


def sine_table(width, side):
    """`[side², width]`: the first half of the channels follows the column, the second the row; in each half sines, then cosines
    (visual.py, get_2d_sincos_pos_embed)."""
    frequencies = 10000.0 ** (-np.arange(width // 4) / (width / 4))
    rows, columns = np.divmod(np.arange(side * side), side)
    halves = [np.outer(places, frequencies) for places in (columns, rows)]
    return np.concatenate([part for half in halves for part in (np.sin(half), np.cos(half))], axis=1).astype(np.float32)


def resize_matrix(source, target):
    """`[target², source²]`: bicubic with a = -0.75, half-pixel centres, clamped borders (visual.py, get_abs_pos)."""
    if source == target:
        return np.eye(source * source, dtype=np.float32)

    def weight(distance, a=-0.75):
        distance = abs(distance)
        if distance <= 1:
            return (a + 2) * distance**3 - (a + 3) * distance**2 + 1
        return a * (distance**3 - 5 * distance**2 + 8 * distance - 4) if distance < 2 else 0.0

    line = np.zeros((target, source))
    for place in range(target):
        centre = (place + 0.5) * source / target - 0.5
        first = int(np.floor(centre)) - 1
        for tap in range(first, first + 4):
            line[place, min(max(tap, 0), source - 1)] += weight(centre - tap)
    return np.kron(line, line).astype(np.float32)


def layer_norm(x, parameters, name):
    x = x - x.mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6)
    return x * parameters[f"{name}.weight"] + parameters[f"{name}.bias"]


def rms_norm(x, parameters, name):
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6) * parameters[f"{name}.weight"]


def attention(q, k, v, mask=None):
    """`[.., T, heads, d]` each."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask[:, None], scores, -1e9)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, -1), v)


def linear(x, parameters, name, separator="."):
    y = x @ parameters[f"{name}{separator}weight"].T
    bias = parameters.get(f"{name}{separator}bias")
    return y if bias is None else y + bias


def image_features(parameters, sizes: Sizes, pictures):
    """`[M, S, S, 3]` normalised -> `[M, Q, D]`."""
    count, side, patch = pictures.shape[0], pictures.shape[1] // sizes.patch, sizes.patch
    x = pictures.reshape(count, side, patch, side, patch, 3).transpose(0, 1, 3, 5, 2, 4).reshape(count, side * side, -1)
    x = x @ parameters["transformer.visual.conv1.weight"].reshape(sizes.width, -1).T
    x = x + resize_matrix(POSITION_TABLE_SIDE, side) @ parameters["transformer.visual.positional_embedding"]
    x = layer_norm(x, parameters, "transformer.visual.ln_pre")
    for layer in range(sizes.tower_layers):
        block = f"{TOWER}.{layer}"
        # Rows of in_proj: q, k, v of the first head, then of the second, …
        qkv = linear(layer_norm(x, parameters, f"{block}.ln_1"), parameters, f"{block}.attn.in_proj")
        q, k, v = jnp.split(qkv.reshape(count, side * side, sizes.tower_heads, -1), 3, -1)
        x = x + linear(attention(q, k, v).reshape(x.shape), parameters, f"{block}.attn.out_proj")
        y = jax.nn.gelu(linear(layer_norm(x, parameters, f"{block}.ln_2"), parameters, f"{block}.mlp.c_fc"), approximate=False)
        x = x + linear(y, parameters, f"{block}.mlp.c_proj")

    positions = parameters[f"{POOL}.pos_embed"]
    kv = layer_norm(linear(x, parameters, f"{POOL}.kv_proj"), parameters, f"{POOL}.ln_kv")
    query = layer_norm(parameters[f"{POOL}.query"], parameters, f"{POOL}.ln_q") + positions
    key = kv + resize_matrix(round(sizes.queries**0.5), side) @ positions
    projections = zip(
        (jnp.broadcast_to(query, (count, *query.shape)), key, kv),
        jnp.split(parameters[f"{POOL}.attn.in_proj_weight"], 3),
        jnp.split(parameters[f"{POOL}.attn.in_proj_bias"], 3),
    )
    q, k, v = ((x @ weight.T + bias).reshape(count, -1, sizes.hidden // RESAMPLER_HEAD, RESAMPLER_HEAD) for x, weight, bias in projections)
    pooled = linear(attention(q, k, v).reshape(count, sizes.queries, sizes.hidden), parameters, f"{POOL}.attn.out_proj")
    return layer_norm(pooled, parameters, "transformer.visual.ln_post") @ parameters["transformer.visual.proj"]


def rotate(x, positions):
    """Rotary embedding in the half-split layout; `x` is `[B, T, heads, d]`, `positions` `[B, T]`."""
    half = x.shape[-1] // 2
    angles = positions[..., None] * 10000.0 ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def logits(parameters, sizes: Sizes, ids, segments, positions, features=None, places=None):
    """`[B, T, vocabulary]`. `segments` numbers the packed samples of a row (0: padding); `places` `[M, Q]` says where in the
    flattened rows the features go (out of range: nowhere)."""
    x = parameters["transformer.wte.weight"][ids]
    shape = x.shape
    if features is not None:
        x = x.reshape(-1, sizes.hidden).at[places.reshape(-1)].set(features.reshape(-1, sizes.hidden), mode="drop").reshape(shape)
    index = jnp.arange(ids.shape[1])
    mask = (index[:, None] >= index[None]) & (segments[:, :, None] == segments[:, None])
    for layer in range(sizes.layers):
        block = f"transformer.h.{layer}"
        qkv = linear(rms_norm(x, parameters, f"{block}.ln_1"), parameters, f"{block}.attn.c_attn")
        q, k, v = (part.reshape(*shape[:2], sizes.heads, -1) for part in jnp.split(qkv, 3, -1))
        mixed = attention(rotate(q, positions), rotate(k, positions), v, mask).reshape(shape)
        x = x + linear(mixed, parameters, f"{block}.attn.c_proj")
        y = rms_norm(x, parameters, f"{block}.ln_2")
        y = linear(y, parameters, f"{block}.mlp.w1") * jax.nn.silu(linear(y, parameters, f"{block}.mlp.w2"))
        x = x + linear(y, parameters, f"{block}.mlp.c_proj")
    return linear(rms_norm(x, parameters, "transformer.ln_f"), parameters, "lm_head")
