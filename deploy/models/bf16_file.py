"""Safetensors files written and read tensor by tensor, so that no model has to fit in memory twice.

Format: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, then the
tensors' bytes in the header's order.
"""

import json

import numpy as np

READABLE = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}


def to_bf16(values):
    """float32 -> bf16 bits as uint16, rounded to nearest even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return (
        (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    ).astype(np.uint16)


def write(path, tensors, progress):
    """tensors: [(name, shape, function that yields uint16 arrays of its rows in order)]."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape, _ in tensors:
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors stay aligned when the file is mapped
    written = 0
    with open(path, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name, shape, blocks in tensors:
            for block in blocks():
                out.write(block.tobytes())
                written += 2 * block.size
                progress(written, end)
            if written != header[name]["data_offsets"][1]:
                raise ValueError(f"tensor {name} has not the size that its shape {shape} says")


def read_header(path):
    """-> ({name: (dtype, shape, start, end)}, offset of the first tensor byte)."""
    with open(path, "rb") as f:
        size = int.from_bytes(f.read(8), "little")
        if not 0 < size < 100_000_000:
            raise ValueError(f"{path} is not a safetensors file")
        header = json.loads(f.read(size))
    return {
        name: (t["dtype"], t["shape"], *t["data_offsets"])
        for name, t in header.items()
        if name != "__metadata__"
    }, 8 + size


def read_blocks(path, offset, tensor, step=1 << 22):
    """Yields a tensor of a safetensors file as bf16 bits, a few million values at a time."""
    dtype, _, start, end = tensor
    values = np.memmap(
        path, READABLE[dtype], "r", offset + start, ((end - start) // READABLE[dtype]().itemsize,)
    )
    for i in range(0, len(values), step):
        yield np.array(values[i : i + step]) if dtype == "BF16" else to_bf16(values[i : i + step])
