"""What a GGUF file has. The parts that need numpy and gguf are skipped where these are not installed."""

import importlib.util
import json
import math
import pathlib
import struct
import tempfile
import unittest

from versus import tensors
from versus.vocabulary import BEGIN, END, Vocabulary, byte_names

ROOT = pathlib.Path(__file__).resolve().parents[3]

# Two layers, the second with experts.
CONFIG = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 32, "intermediate_size_mlp": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "num_local_experts": 3,
    "num_experts_per_tok": 1, "interleave_moe_layer_step": 2, "max_position_embeddings": 512,
    "attention_chunk_size": 128, "floor_scale": 64, "rope_theta": 10000.0, "tie_word_embeddings": False,
}
EXPECTED = {
    "token_embd.weight": (96, 64), "output_norm.weight": (64,), "output.weight": (96, 64),
    **{f"blk.{i}.{name}.weight": shape for i in range(2) for name, shape in {
        "attn_norm": (64,), "attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64), "attn_output": (64, 64),
        "ffn_norm": (64,)}.items()},
    "blk.0.ffn_gate.weight": (48, 64), "blk.0.ffn_up.weight": (48, 64), "blk.0.ffn_down.weight": (64, 48),
    "blk.1.ffn_gate_inp.weight": (3, 64), "blk.1.ffn_gate_exps.weight": (3, 32, 64),
    "blk.1.ffn_up_exps.weight": (3, 32, 64), "blk.1.ffn_down_exps.weight": (3, 64, 32),
    "blk.1.ffn_gate_shexp.weight": (32, 64), "blk.1.ffn_up_shexp.weight": (32, 64),
    "blk.1.ffn_down_shexp.weight": (64, 32),
}


def config(**changes):
    return tensors.check({**tensors.DEFAULTS, **CONFIG, **changes})


class Tensors(unittest.TestCase):
    def test_names_and_shapes(self):
        self.assertEqual({t.name: t.shape for t in tensors.tensors(config())}, EXPECTED)

    def test_tied_embeddings_have_no_head(self):
        names = [t.name for t in tensors.tensors(config(tie_word_embeddings=True))]
        self.assertEqual(set(EXPECTED) - set(names), {"output.weight"})

    def test_sources_are_the_tensors_of_a_checkpoint(self):
        c = tensors.read_config(ROOT / "models/cria")
        with open(ROOT / "models/cria/model.safetensors", "rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        header.pop("__metadata__", None)
        sources = {t.source: tensors.source_shape(c, t) for t in tensors.tensors(c)}
        self.assertEqual(sources, {name: tuple(entry["shape"]) for name, entry in header.items()})

    def test_published_shapes(self):
        facts = (("mini", 943_866_880, 311.0, 0.227), ("mid", 4_110_862_336, 1293.6, 1.108))
        for name, parameters, active, gigaflop in facts:
            c = tensors.read_config(ROOT / "tools/bench/configs" / name)
            sizes = {t.name: math.prod(t.shape) * (4 if t.float32 else 2) for t in tensors.tensors(c)}
            self.assertEqual(tensors.parameters(c), parameters)
            self.assertAlmostEqual(tensors.active_bytes(c, sizes) / 1e6, active, delta=0.1)
            self.assertAlmostEqual(tensors.prefill_operations(c, 512) / 1e9, gigaflop, delta=0.001)

    def test_window_on_which_llama_cpp_agrees(self):
        self.assertEqual(tensors.common_window(config()), 63)  # position 63 has another temperature
        self.assertEqual(tensors.common_window(config(floor_scale=8192)), 128)
        self.assertEqual(tensors.common_window(config(floor_scale=8192, attention_chunk_size=8192)), 512)

    def test_what_gguf_cannot_say(self):
        for changes in ({"rope_scaling": {"rope_type": "llama3"}}, {"use_qk_norm": False}, {"attn_scale": 0.2},
                        {"no_rope_layers": [1, 0]}, {"moe_layers": [0]}):
            with self.assertRaises(tensors.Unsupported, msg=changes):
                config(**changes)


class MadeUpVocabulary(unittest.TestCase):
    def test_each_merge_makes_a_token_of_two_before_it(self):
        for size in (258, 259, 1000, 32768):
            made = Vocabulary(size, 1, 2)
            self.assertEqual(len(made.names), size)
            self.assertEqual(len(set(made.names)), size)
            self.assertEqual((made.names[1], made.names[2]), (BEGIN, END))
            known = set(byte_names())
            for left, right in made.merges:
                self.assertLessEqual({left, right}, known)
                self.assertNotIn(left + right, known)
                known.add(left + right)
            self.assertEqual(known | {BEGIN, END}, set(made.names))

    def test_special_tokens_lie_where_they_are_asked_for(self):
        made = Vocabulary(300, 299, 0)
        self.assertEqual((made.names[299], made.names[0]), (BEGIN, END))
        for size, begin, end in ((257, 0, 1), (300, 5, 5), (300, 300, 1), (300, -1, 1), (1 << 20, 0, 1)):
            with self.assertRaises(ValueError, msg=(size, begin, end)):
                Vocabulary(size, begin, end)

    def test_bytes_and_pieces_are_those_of_cria(self):
        theirs = json.loads((ROOT / "models/cria/tokenizer.json").read_text())
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "tokenizer.json"
            Vocabulary(2000, 1, 2).write_tokenizer(path)
            ours = json.loads(path.read_text())
        self.assertEqual(ours["pre_tokenizer"], theirs["pre_tokenizer"])
        self.assertEqual(ours["decoder"], theirs["decoder"])
        self.assertEqual(set(ours["model"]), set(theirs["model"]))
        self.assertLessEqual(set(byte_names()), set(theirs["model"]["vocab"]))
        self.assertEqual(sorted(ours["model"]["vocab"].values()), [0, *range(3, 2000)])


def reference():
    spec = importlib.util.spec_from_file_location("make_checkpoint", ROOT / "test/tools/make-checkpoint.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bfloat16(value):
    """To the nearest, ties to even."""
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


@unittest.skipUnless(importlib.util.find_spec("numpy"), "numpy is not installed")
class Weights(unittest.TestCase):
    def test_random_weights_are_those_of_moec(self):
        from versus import weights

        made = weights.RandomWeights(7)
        shapes = {"model.norm.weight": (64,), "model.embed_tokens.weight": (6, 64), "lm_head.weight": (5, 64),
                  "model.layers.1.feed_forward.experts.down_proj": (3, 32, 64)}
        for name, shape in shapes.items():
            expected = [bfloat16(x) for x in reference().random_weights(name, shape, 7)]
            self.assertEqual(made.read(name, shape).reshape(-1).tolist(), expected)
            if len(shape) == 3:
                one = made.read(name, shape, 1).reshape(-1).tolist()
                self.assertEqual(one, expected[32 * 64 : 2 * 32 * 64])


@unittest.skipUnless(importlib.util.find_spec("numpy") and importlib.util.find_spec("gguf"), "gguf is not installed")
class Gguf(unittest.TestCase):
    def written(self, float32, vocabulary=None, **changes):
        import gguf

        from versus import convert, weights

        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        path = pathlib.Path(self.folder.name) / "model.gguf"
        convert.write(path, config(**changes), weights.RandomWeights(3), "tiny", float32, vocabulary)
        self.assertEqual([p.name for p in pathlib.Path(self.folder.name).iterdir()], ["model.gguf"])
        return gguf.GGUFReader(path)

    def test_tensors_and_keys(self):
        reader = self.written(False)
        shapes = {t.name: tuple(int(n) for n in reversed(t.shape)) for t in reader.tensors}
        self.assertEqual(shapes, EXPECTED)
        for t in reader.tensors:
            wanted = "F32" if "norm" in t.name or "gate_inp" in t.name else "BF16"
            self.assertEqual(t.tensor_type.name, wanted, t.name)
        value = lambda key: reader.fields["llama4." + key].contents()
        self.assertEqual((value("expert_count"), value("rope.dimension_count"), value("vocab_size")), (3, 16, 96))
        self.assertAlmostEqual(value("rope.freq_base"), 10000.0)
        self.assertNotIn("llama4.attention.sliding_window", reader.fields)

    def test_vocabulary(self):
        import gguf

        made = Vocabulary(400, 1, 2)
        fields = self.written(False, made, vocab_size=400).fields
        value = lambda key: fields["tokenizer.ggml." + key].contents()
        self.assertEqual((value("model"), value("pre")), ("gpt2", "llama4"))
        self.assertEqual(value("tokens"), made.names)
        self.assertEqual(value("merges")[:2], ["a a", "a b"])
        self.assertEqual(len(value("merges")), 400 - 258)
        self.assertEqual((value("bos_token_id"), value("eos_token_id"), value("add_bos_token")), (1, 2, True))
        control = [i for i, kind in enumerate(value("token_type")) if kind == gguf.TokenType.CONTROL]
        self.assertEqual(control, [1, 2])
        self.assertEqual(self.written(False).fields["tokenizer.ggml.model"].contents(), "no_vocab")

    def test_experts_are_transposed_and_split(self):
        found = {t.name: t.data for t in self.written(True).tensors}
        at = "model.layers.1.feed_forward.experts."
        both, down = (3, 64, 64), (3, 32, 64)
        for name, source, shape, column in (("gate", "gate_up_proj", both, 0), ("up", "gate_up_proj", both, 32),
                                            ("down", "down_proj", down, 0)):
            values = reference().random_weights(at + source, shape, 3)
            data = found[f"blk.1.ffn_{name}_exps.weight"]
            for expert, row, k in ((0, 0, 0), (1, 5, 7), (2, 31, 30)):
                index = (expert * shape[1] + k) * shape[2] + row + column  # [experts, inputs, outputs]
                expected = struct.unpack("<f", struct.pack("<I", bfloat16(values[index]) << 16))[0]
                self.assertEqual(float(data[expert][row][k]), expected, (name, expert, row, k))


if __name__ == "__main__":
    unittest.main()
