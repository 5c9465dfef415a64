"""Writes a model as GGUF, one tensor at a time, and reads what is in such a file. Needs numpy and gguf."""

import os

import gguf
import numpy as np

from . import tensors as llama4


def to_float32(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def contents(config, tensor, weights):
    """The tensor in bfloat16, rows last."""
    shape = llama4.source_shape(config, tensor)
    if tensor.part == "whole":
        return np.ascontiguousarray(weights.read(tensor.source, shape))
    result = np.empty(tensor.shape, np.uint16)
    width = tensor.shape[1]
    for expert in range(tensor.shape[0]):
        matrix = weights.read(tensor.source, shape, expert)  # [inputs, outputs]
        if tensor.part == "gate":
            matrix = matrix[:, :width]
        elif tensor.part == "up":
            matrix = matrix[:, width:]
        result[expert] = matrix.T
    return result


def add_vocabulary(writer, vocabulary):
    """What llama.cpp's tokenizer is made of. Without it programs give ids, and its server does not start."""
    if vocabulary is None:
        writer.add_tokenizer_model("no_vocab")
        return
    kinds = [gguf.TokenType.CONTROL if i in vocabulary.special else gguf.TokenType.NORMAL
             for i in range(len(vocabulary.names))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama4")
    writer.add_token_list(vocabulary.names)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in vocabulary.merges])
    writer.add_bos_token_id(vocabulary.begin)
    writer.add_eos_token_id(vocabulary.end)
    writer.add_add_bos_token(True)


def write(path, config, weights, name, float32=False, vocabulary=None):
    """The model in bfloat16 or float32. The file appears when it is complete."""
    temporary = f"{path}.partial"
    writer = gguf.GGUFWriter(temporary, "llama4")
    writer.add_name(name)
    for key, value in llama4.keys(config).items():
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        add(f"llama4.{key}", value)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32 if float32 else gguf.LlamaFileType.MOSTLY_BF16)
    add_vocabulary(writer, vocabulary)
    tensors = llama4.tensors(config)
    for tensor in tensors:
        count = int(np.prod(tensor.shape, dtype=np.int64))
        if float32 or tensor.float32:
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), 4 * count)
        else:  # bytes, as numpy has no such type
            bytes_of_rows = tensor.shape[:-1] + (2 * tensor.shape[-1],)
            writer.add_tensor_info(
                tensor.name, bytes_of_rows, np.dtype(np.uint8), 2 * count, gguf.GGMLQuantizationType.BF16
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        values = contents(config, tensor, weights)
        writer.write_tensor_data(to_float32(values) if float32 or tensor.float32 else values.view(np.uint8))
    writer.close()
    os.replace(temporary, path)


def tensor_bytes(path):
    """Bytes of each tensor of a file, by its name."""
    return {tensor.name: int(tensor.n_bytes) for tensor in gguf.GGUFReader(path).tensors}


def tensor_types(path):
    """Bytes of each type of a file, by its name: llama.cpp chooses several for one format."""
    sums = {}
    for tensor in gguf.GGUFReader(path).tensors:
        sums[tensor.tensor_type.name] = sums.get(tensor.tensor_type.name, 0) + int(tensor.n_bytes)
    return sums
