"""The checkpoint that compile-speed writes, read as any reader of safetensors does."""

import json
import math
import pathlib
import struct
import tempfile
import unittest

from compiling import checkpoint

CONFIG = checkpoint.ROOT / "models/cria/config.json"


class CheckpointTest(unittest.TestCase):
    def test_shards_are_full_and_in_order(self):
        entries = [("a", (10,)), ("b", (30,)), ("c", (10,)), ("d", (100,)), ("e", (1,))]
        shards = checkpoint.shards_of(entries, 80)
        self.assertEqual([[name for name, _, _ in shard] for shard in shards], [["a", "b"], ["c"], ["d"], ["e"]])
        self.assertEqual([length for shard in shards for _, _, length in shard], [20, 60, 20, 200, 2])

    def test_layers(self):
        text = checkpoint.text_config(checkpoint.ROOT / "models/configs/scout/config.json", 4)
        self.assertEqual((text["num_hidden_layers"], text["moe_layers"]), (4, [0, 1, 2, 3]))
        cria = checkpoint.text_config(CONFIG, 3)
        self.assertEqual((len(cria["no_rope_layers"]), checkpoint.text_config(CONFIG, 99)["num_hidden_layers"]), (3, 8))
        self.assertAlmostEqual(checkpoint.size(text) / 1e9, 21.8, places=1)

    def test_files(self):
        text = checkpoint.text_config(CONFIG, 2)
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name) / "model"
            files = checkpoint.write(folder, text, shard_bytes=3_000_000)
            index = json.loads((folder / "model.safetensors.index.json").read_text())
            self.assertEqual(json.loads((folder / "config.json").read_text())["text_config"]["num_hidden_layers"], 2)
            shapes, largest = dict(checkpoint.tensors(text)), 0.0
            self.assertEqual(set(index["weight_map"]), set(shapes))
            self.assertGreater(len(files), 1)
            for path in files:
                data = path.read_bytes()
                length, = struct.unpack_from("<Q", data)
                header, at = json.loads(data[8 : 8 + length]), 0
                header.pop("__metadata__")
                for tensor, entry in header.items():
                    self.assertEqual(index["weight_map"][tensor], path.name)
                    self.assertEqual((entry["dtype"], tuple(entry["shape"])), ("BF16", shapes[tensor]))
                    self.assertEqual(entry["data_offsets"], [at, at + 2 * math.prod(shapes[tensor])])
                    at = entry["data_offsets"][1]
                self.assertEqual(len(data), 8 + length + at)
                bits, = struct.unpack_from("<H", data, len(data) - 2)
                largest = max(largest, abs(struct.unpack("<f", struct.pack("<I", bits << 16))[0]))
            self.assertTrue(0 < largest < 1)
            self.assertEqual(sum(2 * math.prod(shape) for shape in shapes.values()), index["metadata"]["total_size"])


if __name__ == "__main__":
    unittest.main()
