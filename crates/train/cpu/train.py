"""Trains nano on a CPU: the paper's three stages (section 3, table 8), scaled down, after a short training on text alone.

    cargo build --release -p qwen-vl-world
    python -m venv target/nano/venv && target/nano/venv/bin/pip install -r crates/train/cpu/requirements.txt
    target/nano/venv/bin/python crates/train/cpu/train.py target/release/world target/nano

Everything follows from the seed and the step, so a run that was stopped goes on by the same command.
"""

import argparse
import dataclasses
import json
import shutil
import struct
import subprocess
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from safetensors.numpy import load_file, save_file

import model

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
NAMES_OF_TOWER = ("transformer.visual.conv1", "transformer.visual.positional_embedding", "transformer.visual.ln_pre", model.TOWER)
# The sine table of the resampler is data, not a parameter (visual.py: requires_grad_(False)).
NEVER_TRAINED = (f"{model.POOL}.pos_embed",)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage. `data` names the samples, `side` and `pictures` are those of a batch; `frozen` begins the names that are not trained."""

    name: str
    data: str
    side: int
    pictures: int
    steps: int
    rate: float
    frozen: tuple = ()
    warmup: int = 100


def is_frozen(stage, name):
    if stage.name == "text":
        return name.startswith("transformer.visual")
    return name.startswith(NEVER_TRAINED + stage.frozen)


def stages(scale):
    """Steps of the full run times `scale`."""
    decoder = ("transformer.wte", "transformer.h.", "transformer.ln_f", "lm_head")
    steps = lambda count: max(1, round(count * scale))
    return [
        Stage("text", "text", 0, 0, steps(600), 2e-3),
        Stage("pretrain", "pretrain", 56, 64, steps(1000), 2e-3, frozen=decoder),
        Stage("multitask", "multitask", 112, 30, steps(4500), 1.5e-3),
        Stage("chat", "chat", 112, 30, steps(1500), 6e-4, frozen=NAMES_OF_TOWER),
    ]


def samples(world, arguments, stage, start, side):
    """Samples from number `start` on, without end, as `world samples` writes them."""
    command = [world, "samples", "--world", arguments.world_name, "--split", "train", "--stage", stage, "--seed", str(arguments.seed)]
    command += ["--start", str(start), "--count", str(2**40), "--queries", str(arguments.queries), "--tokens", str(arguments.length)] + (["--side", str(side)] if side else [])
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        read = process.stdout.read
        while header := read(4):
            count = struct.unpack("<I", header)[0]
            ids = np.frombuffer(read(4 * count), np.uint32).astype(np.int32)
            loss = np.frombuffer(read(count), np.uint8)
            pictures = []
            for _ in range(struct.unpack("<I", read(4))[0]):
                place = struct.unpack("<I", read(4))[0]
                pictures.append((place, np.frombuffer(read(side * side * 3), np.uint8).reshape(side, side, 3)))
            yield ids, loss, pictures
    raise RuntimeError(f"{' '.join(command)}: ended with {process.returncode}")


class Packer:
    """Puts samples one after the other into rows, and pictures into one list: constant shapes, hardly any padding."""

    def __init__(self, source, sizes, rows, length, pictures, side):
        self.source, self.sizes, self.rows, self.length, self.pictures, self.side = source, sizes, rows, length, pictures, side
        self.waiting = None
        self.used = 0

    def batch(self):
        rows, length, queries = self.rows, self.length, self.sizes.queries
        ids, loss, segments, positions = (np.zeros((rows, length), np.int32) for _ in range(4))
        pictures = np.zeros((self.pictures, self.side, self.side, 3), np.float32)
        places = np.full((self.pictures, queries), rows * length, np.int32)
        fill, numbers, shown, row = [0] * rows, [0] * rows, 0, 0
        while True:
            sample = self.waiting or next(self.source)
            self.waiting = None
            tokens, targets, images = sample
            if len(tokens) > length:
                self.used += 1
                continue  # longer than a row: rare, see `--length`
            row = next((row for row in range(rows) if fill[row] + len(tokens) <= length), None)
            if row is None or shown + len(images) > self.pictures:
                self.waiting = sample
                break
            at = slice(fill[row], fill[row] + len(tokens))
            numbers[row] += 1
            ids[row, at], segments[row, at], positions[row, at] = tokens, numbers[row], np.arange(len(tokens))
            # The first token of a sample follows nothing.
            loss[row, at] = np.concatenate([[0], targets[1:]])
            for place, picture in images:
                pictures[shown] = (picture / np.float32(255) - MEAN) / DEVIATION
                places[shown] = row * length + fill[row] + place + np.arange(queries)
                shown += 1
            fill[row] += len(tokens)
            self.used += 1
        return {"ids": ids, "loss": loss, "segments": segments, "positions": positions, "pictures": pictures, "places": places}


def loss_of(parameters, sizes, batch):
    features, places = None, None
    if batch["pictures"].size:
        features, places = model.image_features(parameters, sizes, batch["pictures"]), batch["places"]
    scores = model.logits(parameters, sizes, batch["ids"], batch["segments"], batch["positions"], features, places)[:, :-1]
    targets, weights = batch["ids"][:, 1:], batch["loss"][:, 1:]
    losses = optax.softmax_cross_entropy_with_integer_labels(scores, targets)
    right = (scores.argmax(-1) == targets) * weights
    total = jnp.maximum(weights.sum(), 1)
    return (losses * weights).sum() / total, right.sum() / total


def update_scale(stage, sizes, name):
    """Layer-wise decay of the learning rate in the tower (table 8: 0.95, for 48 layers; here 4)."""
    if is_frozen(stage, name):
        return 0.0
    if not name.startswith(NAMES_OF_TOWER):
        return 1.0
    depth = int(name.split(".")[4]) + 1 if name.startswith(model.TOWER) else 0
    return 0.9 ** (sizes.tower_layers - depth)


def train(arguments):
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    ranks = len(Path(arguments.vocabulary).read_text().split("\n")) - 1
    sizes = model.Sizes(ranks=ranks, queries=arguments.queries, hidden=arguments.hidden, heads=arguments.hidden // 64,
                        mlp=-(-arguments.hidden * 43 // 16) // 8 * 8, layers=arguments.layers)
    parameters = model.initial(sizes, arguments.seed)
    print(f"{sum(value.size for value in parameters.values()):,} parameters, vocabulary {sizes.vocabulary}", flush=True)
    for stage in stages(arguments.scale):
        parameters = train_stage(arguments, out, sizes, stage, parameters)
        if stage.name in ("multitask", "chat"):
            export(out / ("nano" if stage.name == "multitask" else "nano-chat"), arguments, sizes, parameters, stage.name)


def train_stage(arguments, out, sizes, stage, parameters):
    schedule = optax.warmup_cosine_decay_schedule(0.0, stage.rate, min(stage.warmup, stage.steps // 4 + 1), stage.steps, stage.rate * 0.02)
    matrices = lambda tree: {name: value.ndim > 1 for name, value in tree.items()}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b1=0.9, b2=0.98, eps=1e-6, weight_decay=0.05, mask=matrices))
    trained = {name: value for name, value in parameters.items() if not is_frozen(stage, name)}
    kept = {name: value for name, value in parameters.items() if is_frozen(stage, name)}
    state, step, used = optimizer.init(trained), 0, 0

    checkpoint = out / f"{stage.name}.safetensors"
    if checkpoint.exists():
        stored = load_file(checkpoint)
        step, used = int(stored.pop("step")), int(stored.pop("used"))
        leaves = [jnp.asarray(stored.pop(f"state.{index}")) for index in range(len(jax.tree.leaves(state)))]
        state = jax.tree.unflatten(jax.tree.structure(state), leaves)
        trained = {name: stored[name] for name in trained}
        kept = {name: stored[name] for name in kept}
        if step:
            print(f"{stage.name}: goes on at step {step}", flush=True)

    @jax.jit
    def advance(trained, kept, state, batch):
        (loss, right), gradients = jax.value_and_grad(lambda p: loss_of({**p, **kept}, sizes, batch), has_aux=True)(trained)
        updates, state = optimizer.update(gradients, state, trained)
        updates = {name: value * update_scale(stage, sizes, name) for name, value in updates.items()}
        return optax.apply_updates(trained, updates), state, loss, right

    def save():
        whole = {**trained, **kept, "step": np.int64(step), "used": np.int64(packer.used)}
        whole |= {f"state.{index}": leaf for index, leaf in enumerate(jax.tree.leaves(state))}
        temporary = checkpoint.with_suffix(".tmp")
        save_file({name: np.ascontiguousarray(value) for name, value in whole.items()}, temporary)
        temporary.replace(checkpoint)

    packer = Packer(samples(arguments.world, arguments, stage.data, used, stage.side), sizes, arguments.rows, arguments.length, stage.pictures, stage.side)
    packer.used = used
    begun, first, recent = time.time(), step, []
    with open(out / "log.jsonl", "a") as log:
        while step < stage.steps:
            trained, state, loss, right = advance(trained, kept, state, packer.batch())
            step += 1
            recent.append((float(loss), float(right)))
            if step % 50 == 0 or step == stage.steps:
                loss, right = np.mean(recent, axis=0)
                record = {"stage": stage.name, "step": step, "samples": packer.used, "loss": round(loss, 4), "accuracy": round(right, 4),
                          "rate": float(schedule(step)), "seconds_a_step": round((time.time() - begun) / (step - first), 3)}
                print(json.dumps(record), file=log, flush=True)
                print(f"{stage.name} {step}/{stage.steps}: loss {loss:.4f}, accuracy {right:.4f}, {record['seconds_a_step']} s a step, {packer.used} samples", flush=True)
                recent = []
            if step % 250 == 0 or step == stage.steps:
                save()
    return {name: np.asarray(value) for name, value in {**trained, **kept}.items()}


def export(folder, arguments, sizes, parameters, kind):
    """A checkpoint in the published layout, f16."""
    folder.mkdir(exist_ok=True)
    save_file({name: np.ascontiguousarray(value, np.float16) for name, value in parameters.items()}, folder / "model.safetensors", {"format": "pt"})
    write = lambda name, value: (folder / name).write_text(json.dumps(value, indent=2) + "\n")
    write("config.json", sizes.config())
    end = sizes.ranks
    write("generation_config.json", {"chat_format": "chatml" if kind == "chat" else "raw", "eos_token_id": end, "pad_token_id": end,
                                     "do_sample": False, "max_new_tokens": 256, "max_window_size": 1536, "top_k": 0, "top_p": 0.3})
    write("tokenizer_config.json", {"model_max_length": 2048, "tokenizer_class": "QWenTokenizer",
                                    "auto_map": {"AutoTokenizer": ["tokenization_qwen.QWenTokenizer", None]}})
    shutil.copy(arguments.vocabulary, folder / "qwen.tiktoken")
    print(f"wrote {folder}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", help="the program `world` (cargo build --release -p qwen-vl-world)")
    parser.add_argument("out", help="folder of checkpoints, log and results")
    parser.add_argument("--vocabulary", default="crates/world/assets/world.tiktoken")
    parser.add_argument("--world-name", default="small")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="of all numbers of steps")
    parser.add_argument("--rows", type=int, default=12, help="rows of a batch")
    parser.add_argument("--length", type=int, default=256, help="tokens of a row")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--queries", type=int, default=16)
    train(parser.parse_args())
