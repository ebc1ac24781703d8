"""Prints the SHA-256 of every tensor that an f32 web checkpoint must store exactly, made from the original's layouts.

    python3 expected.py ../../../tests/fixtures > expected.json

Tensors of the 2023 model that are computed and not moved are left out: the resized position tables and the resampler's queries.
"""
import array
import hashlib
import json
import pathlib
import sys

from reader import read_checkpoint


def web_tensors(config, tensors):
    visual = config["visual"]
    hidden, width = config["hidden_size"], visual["width"]
    heads, head_dim = visual["heads"], width // visual["heads"]

    def take(name):
        return tensors[name][1]

    def rows(values, count):
        step = len(values) // count
        return [values[i * step : (i + 1) * step] for i in range(count)]

    def join(parts):
        out = array.array("f")
        for part in parts:
            out.extend(part)
        return out

    def by_part(values):
        """[q, k, v of head 0; q, k, v of head 1; ...] to [all q; all k; all v]."""
        source = rows(values, 3 * width)
        return join(source[(head * 3 + part) * head_dim + d] for part in range(3) for head in range(heads) for d in range(head_dim))

    out = {"vision.patch_embedding.weight": take("transformer.visual.conv1.weight")}
    for leaf in ("weight", "bias"):
        out[f"vision.ln_pre.{leaf}"] = take(f"transformer.visual.ln_pre.{leaf}")
        out[f"resampler.ln_post.{leaf}"] = take(f"transformer.visual.ln_post.{leaf}")
        out[f"resampler.ln_kv.{leaf}"] = take(f"transformer.visual.attn_pool.ln_kv.{leaf}")
        out[f"resampler.attn.out.{leaf}"] = take(f"transformer.visual.attn_pool.attn.out_proj.{leaf}")
        thirds = rows(take(f"transformer.visual.attn_pool.attn.in_proj_{leaf}"), 3)
        for name, third in zip("qkv", thirds):
            out[f"resampler.attn.{name}.{leaf}"] = third
    for layer in range(visual["layers"]):
        old, new = f"transformer.visual.transformer.resblocks.{layer}", f"vision.blocks.{layer}"
        for leaf in ("weight", "bias"):
            out[f"{new}.attn.qkv.{leaf}"] = by_part(take(f"{old}.attn.in_proj.{leaf}"))
            for theirs, ours in {"attn.out_proj": "attn.out", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2", "ln_1": "ln_1", "ln_2": "ln_2"}.items():
                out[f"{new}.{ours}.{leaf}"] = take(f"{old}.{theirs}.{leaf}")
    out["resampler.kv_proj.weight"] = take("transformer.visual.attn_pool.kv_proj.weight")
    proj = rows(take("transformer.visual.proj"), hidden)
    out["resampler.proj.weight"] = array.array("f", (proj[i][o] for o in range(hidden) for i in range(hidden)))
    out["decoder.embedding.weight"] = take("transformer.wte.weight")
    for layer in range(config["num_hidden_layers"]):
        old, new = f"transformer.h.{layer}", f"decoder.layers.{layer}"
        out[f"{new}.attn_norm.weight"] = take(f"{old}.ln_1.weight")
        out[f"{new}.mlp_norm.weight"] = take(f"{old}.ln_2.weight")
        out[f"{new}.attn.qkv.weight"] = take(f"{old}.attn.c_attn.weight")
        out[f"{new}.attn.qkv.bias"] = take(f"{old}.attn.c_attn.bias")
        out[f"{new}.attn.out.weight"] = take(f"{old}.attn.c_proj.weight")
        out[f"{new}.mlp.down.weight"] = take(f"{old}.mlp.c_proj.weight")
        branch = config["intermediate_size"] // 2
        w1, w2 = (rows(take(f"{old}.mlp.{name}.weight"), branch) for name in ("w1", "w2"))
        out[f"{new}.mlp.gate_up.weight"] = join(row for pair in zip(w1, w2) for row in pair)
    out["decoder.norm.weight"] = take("transformer.ln_f.weight")
    out["head.weight"] = take("lm_head.weight")
    return out


def later_tensors(config, tensors):
    """Qwen2-VL (flat names) and Qwen3-VL."""
    third = config["model_type"] == "qwen3_vl"
    visual, text = ("model.visual.", "model.language_model.") if third else ("visual.", "model.")

    def take(name):
        return tensors[name][1]

    def join(parts):
        out = array.array("f")
        for part in parts:
            out.extend(part)
        return out

    # [out, 3, 2, side, side]: the two frames are added. Sums in double precision, rounded once, are the sums in single precision.
    shape, values = tensors[visual + "patch_embed.proj.weight"]
    area = shape[3] * shape[4]
    channels = [values[at : at + 2 * area] for at in range(0, len(values), 2 * area)]
    out = {"vision.patch_embedding.weight": array.array("f", (channel[i] + channel[area + i] for channel in channels for i in range(area)))}
    out["vision.frame_change.weight"] = join(channel[area:] for channel in channels)
    if third:
        out["vision.patch_embedding.bias"] = take(visual + "patch_embed.proj.bias")
        out["vision.position_embedding"] = take(visual + "pos_embed.weight")
    modules = {}
    for layer in range(config["vision_config"]["depth"]):
        old, new = f"{visual}blocks.{layer}.", f"vision.blocks.{layer}."
        for theirs, ours in {"norm1": "ln_1", "norm2": "ln_2", "attn.qkv": "attn.qkv", "attn.proj": "attn.out"}.items():
            modules[old + theirs] = new + ours
        for name in ("fc1", "fc2"):
            modules[f"{old}mlp.{'linear_' if third else ''}{name}"] = f"{new}mlp.{name}"
    parts = {"norm": "norm", "linear_fc1": "fc1", "linear_fc2": "fc2"} if third else {"ln_q": "norm", "mlp.0": "fc1", "mlp.2": "fc2"}
    mergers = {"merger": "merger"}
    for index in range(len(config["vision_config"].get("deepstack_visual_indexes", []))):
        mergers[f"deepstack_merger_list.{index}"] = f"deepstack.{index}"
    for old, new in mergers.items():
        for theirs, ours in parts.items():
            modules[f"{visual}{old}.{theirs}"] = f"{new}.{ours}"
    for theirs, ours in modules.items():
        for leaf in ("weight", "bias"):
            out[f"{ours}.{leaf}"] = take(f"{theirs}.{leaf}")
    out["decoder.embedding.weight"] = take(text + "embed_tokens.weight")
    out["decoder.norm.weight"] = take(text + "norm.weight")
    for layer in range(config.get("text_config", config)["num_hidden_layers"]):
        old, new = f"{text}layers.{layer}.", f"decoder.layers.{layer}."
        for leaf in ("weight",) if third else ("weight", "bias"):
            out[f"{new}attn.qkv.{leaf}"] = join(take(f"{old}self_attn.{part}_proj.{leaf}") for part in "qkv")
        single = {"self_attn.o_proj": "attn.out", "mlp.down_proj": "mlp.down", "input_layernorm": "attn_norm", "post_attention_layernorm": "mlp_norm"}
        if third:
            single |= {"self_attn.q_norm": "attn.q_norm", "self_attn.k_norm": "attn.k_norm"}
        for theirs, ours in single.items():
            out[f"{new}{ours}.weight"] = take(f"{old}{theirs}.weight")
        (rows, width), up = tensors[old + "mlp.up_proj.weight"]
        gate = take(old + "mlp.gate_proj.weight")
        out[new + "mlp.gate_up.weight"] = join(branch[row * width : (row + 1) * width] for row in range(rows) for branch in (up, gate))
    return out


def main():
    hashes = {}
    for folder, name, read in [
        ("checkpoints", "mini-a", web_tensors),
        ("checkpoints", "mini-b", web_tensors),
        ("family/checkpoints", "q2-a", later_tensors),
        ("family/checkpoints", "q3-a", later_tensors),
    ]:
        config, tensors = read_checkpoint(pathlib.Path(sys.argv[1]) / folder / name)
        hashes[name] = {key: hashlib.sha256(value.tobytes()).hexdigest() for key, value in sorted(read(config, tensors).items())}
    print(json.dumps(hashes, indent=1))


main()
