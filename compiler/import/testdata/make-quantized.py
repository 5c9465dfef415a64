#!/usr/bin/env python3
"""Makes <case>.safetensors beside itself: linears as the libraries that quantize store them, and their elements.

    make-quantized.py        needs torch, compressed-tensors, autoawq and gptqmodel; no GPU

Each file has the tensors of one quantized linear or layer of experts, `expected:NAME` with the elements of tensor NAME in
float32, and in its metadata the quantization_config. The codes are packed by the formats' own libraries, except fused FP8
(fbgemm and ModelOpt, which pack on GPUs only). What is expected is decoded here, from the definition of the format, and
where the library can decode on a CPU it must agree.
"""

import importlib
import importlib.metadata
import json
import pathlib
import sys
import types

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
OUT, IN = 16, 64  # of most linears


def weights(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * torch.linspace(0.2, 2, shape[-1])


def save(case, config, tensors, expected):
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    tensors |= {f"expected:{name}": tensor.float().contiguous() for name, tensor in expected.items()}
    path = HERE / f"{case}.safetensors"
    save_file(tensors, path, {"quantization_config": json.dumps(config, separators=(",", ":"))})
    path.chmod(0o644)


# ------------------------------------------------------------------------------------------------ compressed-tensors


def reduced(weight, args):
    """Least and largest element of each group of a weight, in the shape of its scales."""
    if args.strategy == "tensor":
        return weight.min().reshape(1), weight.max().reshape(1)
    if args.strategy == "block":
        rows, cols = args.block_structure
        blocks = weight.reshape(weight.shape[0] // rows, rows, weight.shape[1] // cols, cols)
        return blocks.amin((1, 3)), blocks.amax((1, 3))
    group = args.group_size if args.strategy == "group" else weight.shape[1]
    groups = weight.reshape(weight.shape[0], -1, group)
    return groups.amin(2), groups.amax(2)


def decode_packed(state, shape, bits):
    per, mask = 32 // bits, (1 << bits) - 1
    words = state["weight_packed"].to(torch.int64) & 0xFFFFFFFF
    codes = torch.stack([words[:, i // per] >> (i % per * bits) & mask for i in range(shape[1])], 1)
    groups = state["weight_scale"].shape[1]
    zeros = torch.full((shape[0], groups), 1 << (bits - 1))
    if "weight_zero_point" in state:
        words = state["weight_zero_point"].to(torch.int64) & 0xFFFFFFFF
        zeros = torch.stack([words[i // per] >> (i % per * bits) & mask for i in range(shape[0])])
    repeat = shape[1] // groups
    return (codes - zeros.repeat_interleave(repeat, 1)).float() * state["weight_scale"].float().repeat_interleave(repeat, 1)


def decode_scaled(state):
    weight, scale = state["weight"], state["weight_scale"].float()
    codes = weight.float()
    if "weight_zero_point" in state:
        codes = codes - state["weight_zero_point"].float()
    if scale.dim() == 2:
        for d in range(2):
            scale = scale.repeat_interleave(weight.shape[d] // scale.shape[d], d)
    return codes * scale


def compressed(weight, format, scale_dtype=torch.bfloat16, **args):
    """The state of a linear as compressed-tensors stores it, its elements, and the quantization_config."""
    args = QuantizationArgs(**args)
    scheme = QuantizationScheme(targets=["Linear"], weights=args, format=format)
    scale, zero = calculate_qparams(*reduced(weight, args), args)
    scale = scale.to(scale_dtype)
    state = {"weight": weight, "weight_scale": scale}
    if not args.symmetric:
        state["weight_zero_point"] = zero
    compressor = BaseCompressor.get_value_from_registry(format)
    state = compressor.compress(state, scheme)
    expected = (decode_packed(state, weight.shape, args.num_bits) if "weight_packed" in state else decode_scaled(state))
    again = compressor.decompress({**state, "weight_scale": state["weight_scale"].float()}, scheme)["weight"]
    assert torch.equal(again.float(), expected), (format, args)
    assert (expected - weight).abs().max() < weight.abs().max() / 4
    group = {"format": format, "targets": ["Linear"], "input_activations": None, "output_activations": None,
             "weights": json.loads(args.model_dump_json())}
    return state, expected, {"quant_method": "compressed-tensors", "format": format, "config_groups": {"group_0": group},
                             "ignore": ["lm_head"], "quantization_status": "compressed"}


def make_compressed(case, format, **args):
    state, expected, config = compressed(weights(OUT, IN), format, **args)
    save(case, config, {f"x.{name}": tensor for name, tensor in state.items()}, {"x.weight": expected})


# ---------------------------------------------------------------------------------------------------------- AWQ, GPTQ


def grouped(weight, group, symmetric, bits):
    """Scales and zeros of the groups of rows, [out, groups]."""
    groups = weight.reshape(weight.shape[0], -1, group)
    low, high, largest = groups.amin(2).clamp(max=0), groups.amax(2).clamp(min=0), (1 << bits) - 1
    if symmetric:
        return (groups.abs().amax(2) * 2 / largest).half().float(), torch.full_like(low, (largest + 1) // 2)
    scale = ((high - low) / largest).half().float()
    return scale, (-low / scale).round().clamp(1, largest)


def decode_grouped(weight, scale, zero, group, bits):
    scale, zero = scale.repeat_interleave(group, 1), zero.repeat_interleave(group, 1)
    return ((weight / scale).round() + zero).clamp(0, (1 << bits) - 1).sub(zero) * scale


def make_awq(case, group):
    for name in ("awq", "awq.modules", "awq.modules.linear", "awq.utils"):  # their __init__ need data sets
        if name not in sys.modules:
            root = pathlib.Path(importlib.util.find_spec("torch").origin).parent.parent
            paths = [str(pathlib.Path(p) / name.replace(".", "/")) for p in sys.path] + [str(root / name.replace(".", "/"))]
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__path__ = paths
    gemm = importlib.import_module("awq.modules.linear.gemm")
    packing = importlib.import_module("awq.utils.packing_utils")
    linear = torch.nn.Linear(IN, 32, bias=False)
    weight = weights(32, IN)
    size = IN if group == -1 else group
    scale, zero = grouped(weight, size, False, 4)
    expected = decode_grouped(weight, scale, zero, size, 4)
    linear.weight.data = expected.clone()
    gemm.get_best_device = lambda: "cpu"
    packed = gemm.WQLinear_GEMM.from_linear(linear, 4, size, scales=scale.T.contiguous(), zeros=zero.T.contiguous())
    again = packing.dequantize_gemm(packed.qweight, packed.qzeros, packed.scales.float(), 4, size).T
    assert torch.equal(again, expected)
    config = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": True,
              "modules_to_not_convert": None}
    save(case, config, {f"x.{n}": getattr(packed, n) for n in ("qweight", "qzeros", "scales")}, {"x.weight": expected})


def make_gptq(case, group, symmetric, bits, version):
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear

    rows = 32
    weight = weights(rows, IN)
    size = IN if group == -1 else group
    scale, zero = grouped(weight, size, symmetric, bits)
    expected = decode_grouped(weight, scale, zero, size, bits)
    linear = torch.nn.Linear(IN, rows, bias=False)
    linear.weight.data = expected.clone()
    packed = TorchLinear(bits=bits, group_size=group, sym=symmetric, desc_act=False, in_features=IN, out_features=rows,
                         bias=False, register_buffers=True)
    packed.pack_original(linear, scale, zero, torch.arange(IN, dtype=torch.int32) // size)
    packed.enable_wf_unsqueeze = True
    packed.dequant_dtype = torch.int32
    packed.scales = packed.scales.float()
    assert torch.equal(packed.dequantize_weight().T.float(), expected)
    tensors = {f"x.{n}": getattr(packed, n) for n in ("qweight", "qzeros", "g_idx")}
    tensors["x.scales"] = packed.scales.half()
    if version == "gptq":  # as convert_gptq_v2_to_v1_format_module does
        tensors["x.qzeros"] = tensors["x.qzeros"] - (0x11111111 if bits == 4 else 0x01010101)
    config = {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": symmetric, "desc_act": False,
              "checkpoint_format": version, "true_sequential": True, "lm_head": False}
    save(case, config, tensors, {"x.weight": expected})


# ----------------------------------------------------------------------------------------------------------- fused FP8


def fp8(weight, scale):
    codes = (weight / scale).clamp(-448, 448).to(torch.float8_e4m3fn)
    return codes, codes.float() * scale


def make_fused(case, config, name, down_turned, scale_of):
    """Experts [E, in, out] with the scales that `scale_of` gives for them."""
    tensors, expected = {}, {}
    for which, shape in (("gate_up_proj", (2, 16, 24)), ("down_proj", (2, 12, 16))):
        weight = weights(*shape)
        scale = scale_of(weight)
        codes, values = fp8(weight, scale)
        tensors[f"experts.{which}"] = codes
        turned = scale.transpose(1, 2) if down_turned and which == "down_proj" else scale
        tensors[f"experts.{which}{name}"] = turned.reshape(()) if turned.numel() == 1 else turned
        expected[f"experts.{which}"] = values
    save(case, config, tensors, expected)


def main():
    torch.set_num_threads(1)
    channel = dict(num_bits=8, type="float", strategy="channel", symmetric=True)
    make_compressed("fp8-channel", "float-quantized", **channel)
    make_compressed("fp8-channel-f32", "float-quantized", **channel, scale_dtype=torch.float32)
    make_compressed("fp8-tensor", "float-quantized", **{**channel, "strategy": "tensor"})
    make_compressed("fp8-block", "float-quantized", **{**channel, "strategy": "block", "block_structure": [8, 16]})
    make_compressed("int8-channel", "int-quantized", **{**channel, "type": "int"})
    make_compressed("int8-asymmetric", "naive-quantized", **{**channel, "type": "int", "symmetric": False})
    group = dict(num_bits=4, type="int", strategy="group", group_size=16, symmetric=True)
    make_compressed("w4a16", "pack-quantized", **group)
    make_compressed("w4a16-f16", "pack-quantized", **group, scale_dtype=torch.float16)
    make_compressed("w4a16-asymmetric", "pack-quantized", **{**group, "symmetric": False})
    make_compressed("w4a16-channel", "pack-quantized", num_bits=4, type="int", strategy="channel", symmetric=True)
    make_compressed("w8a16", "pack-quantized", **{**group, "num_bits": 8})
    make_compressed("w8a16-asymmetric", "pack-quantized", **{**group, "num_bits": 8, "symmetric": False})
    make_awq("awq", 16)
    make_awq("awq-rows", -1)
    make_gptq("gptq-symmetric", 16, True, 4, "gptq")
    make_gptq("gptq-asymmetric", 32, False, 4, "gptq")
    make_gptq("gptq-v2", 16, False, 4, "gptq_v2")
    make_gptq("gptq-8-bits", 32, True, 8, "gptq")

    weight = weights(24, 32)
    scale = torch.stack([b.abs().amax((0, 2)) for b in weight.reshape(3, 8, 2, 16)]) / 448
    codes, values = fp8(weight, scale.repeat_interleave(8, 0).repeat_interleave(16, 1))
    save("fp8-inverse", {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [8, 16]},
         {"x.weight": codes, "x.weight_scale_inv": scale}, {"x.weight": values})
    per_output = lambda w: w.abs().amax(1, keepdim=True) / 448
    make_fused("fbgemm", {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, "_scale", True, per_output)
    make_fused("modelopt", {"quant_method": "modelopt", "quant_algo": "FP8"}, "_weight_scale", False,
               lambda w: w.abs().max().reshape(1, 1, 1) / 448)
    for library in ("torch", "compressed-tensors", "autoawq", "gptqmodel"):
        print(library, importlib.metadata.version(library))


if __name__ == "__main__":
    main()
