"""Reads Qwen-VL checkpoints with Python's standard library alone, as an independent reference for the converter's tests."""
import array
import collections
import json
import pathlib
import pickle
import struct
import zipfile


def f32_from_bf16(raw):
    out = array.array("f")
    out.frombytes(b"".join(b"\0\0" + raw[i : i + 2] for i in range(0, len(raw), 2)))
    return out


def f32_from_f16(raw):
    return array.array("f", struct.unpack(f"<{len(raw) // 2}e", raw))


CONVERT = {"BF16": f32_from_bf16, "F16": f32_from_f16, "F32": lambda raw: array.array("f", raw)}


def read_safetensors(path):
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__", None)
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        yield name, entry["shape"], CONVERT[entry["dtype"]](raw[8 + length + begin : 8 + length + end])


def read_bin(path):
    archive = zipfile.ZipFile(path)
    root = next(name for name in archive.namelist() if name.endswith("/data.pkl"))[: -len("data.pkl")]
    types = {"BFloat16Storage": "BF16", "HalfStorage": "F16", "FloatStorage": "F32"}

    def rebuild(storage, offset, shape, strides, *_):
        run = 1
        for size, stride in reversed(list(zip(shape, strides))):
            assert stride == run, "contiguous tensors only"
            run *= size
        return shape, storage[offset : offset + run]

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            if name == "OrderedDict":
                return collections.OrderedDict
            return rebuild if name == "_rebuild_tensor_v2" else types[name]

        def persistent_load(self, pid):
            _, dtype, key, _, _ = pid
            return CONVERT[dtype](archive.read(f"{root}data/{key}"))

    with archive.open(root + "data.pkl") as file:
        for name, (shape, values) in Unpickler(file).load().items():
            yield name, list(shape), values


def read_checkpoint(folder):
    """All tensors of a folder as {name: (shape, f32 values)}."""
    folder = pathlib.Path(folder)
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= {name: (shape, values) for name, shape, values in read_safetensors(path)}
    for path in sorted(folder.glob("pytorch_model*.bin")):
        tensors |= {name: (shape, values) for name, shape, values in read_bin(path)}
    return json.loads((folder / "config.json").read_text()), tensors
