"""llama.cpp through its public Python binding, on request: one JSON object a line, in and out.

Runs as a program of its own, and stays loaded while another program has its turn. The settings are llama-bench's:
flash attention, keys and values in float16, 512 tokens a batch, the file mapped.
"""

import ctypes
import json
import os
import resource
import sys
import time

import llama_cpp as llama

MICRO_BATCH = 512


def memory_of_process(field):
    """Bytes; VmRSS is now, VmHWM the most so far."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return 0


def processor_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def random_tokens(count, vocab):
    """The same as moe-run bench has."""
    state, tokens = 1, []
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        tokens.append((state >> 33) % vocab)
    return tokens


class Worker:
    def __init__(self):
        self.model = self.context = None
        llama.llama_backend_init()
        self.own_memory = memory_of_process("VmRSS")  # the interpreter's, and the library's

    def system(self):
        return {"version": llama.__version__, "system": llama.llama_print_system_info().decode().strip()}

    def load(self, path, context, threads, exact=False):
        """exact: without what rounds beside the weights, float16 keys and values and flash attention."""
        start = time.perf_counter()
        parameters = llama.llama_model_default_params()
        parameters.n_gpu_layers = 0
        parameters.load_mode = llama.LLAMA_LOAD_MODE_MMAP
        self.model = llama.llama_model_load_from_file(path.encode(), parameters)
        if not self.model:
            raise RuntimeError(f"llama.cpp does not load {path}")
        self.vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.model))
        parameters = llama.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = context
        parameters.n_ubatch = min(MICRO_BATCH, context)
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_ENABLED
        if exact:
            parameters.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
            parameters.type_k = parameters.type_v = llama.GGML_TYPE_F32
        self.context = llama.llama_init_from_model(self.model, parameters)
        if not self.context:
            raise RuntimeError(f"llama.cpp makes no context of {context} tokens for {path}")
        self.tokens = random_tokens(context, self.vocab)
        return {"seconds": time.perf_counter() - start, "vocab": self.vocab}

    def append(self, tokens):
        array = (llama.llama_token * len(tokens))(*tokens)
        status = llama.llama_decode(self.context, llama.llama_batch_get_one(array, len(tokens)))
        if status:
            raise RuntimeError(f"llama_decode returned {status}")

    def turn(self, count, before, step):
        """Seconds for `count` tokens after `before` untimed ones, in steps of `step`."""
        used = processor_seconds()
        llama.llama_memory_clear(llama.llama_get_memory(self.context), False)
        if before:
            self.append(self.tokens[:before])
        llama.llama_synchronize(self.context)
        start = time.perf_counter()
        for at in range(before, before + count, step):
            self.append(self.tokens[at : min(at + step, before + count)])
        llama.llama_synchronize(self.context)
        seconds = time.perf_counter() - start
        return {"tokens": count, "seconds": seconds, "processor_seconds": processor_seconds() - used}

    def prefill(self, count):
        return self.turn(count, 0, count)

    def decode(self, count, before=0):
        return self.turn(count, before, 1)

    def memory(self):
        peak = memory_of_process("VmHWM")
        return {"peak_bytes": peak - self.own_memory}

    def score(self, tokens, window, out):
        """Writes the logits of windows of a text, float32 [tokens, vocab], as .npy."""
        import numpy as np

        result = np.lib.format.open_memmap(out, "w+", np.float32, (len(tokens), self.vocab))
        for first in range(0, len(tokens), window):
            part = tokens[first : first + window]
            batch = llama.llama_batch_init(len(part), 0, 1)
            batch.n_tokens = len(part)
            for i, token in enumerate(part):
                batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, i, 1, 0
                batch.logits[i] = True
            llama.llama_memory_clear(llama.llama_get_memory(self.context), False)
            status = llama.llama_decode(self.context, batch)
            llama.llama_batch_free(batch)
            if status:
                raise RuntimeError(f"llama_decode returned {status}")
            logits = llama.llama_get_logits(self.context)
            rows = ctypes.cast(logits, ctypes.POINTER(ctypes.c_float * (len(part) * self.vocab))).contents
            result[first : first + len(part)] = np.frombuffer(rows, np.float32).reshape(len(part), self.vocab)
        result.flush()
        return {"tokens": len(tokens)}

    def quantize(self, source, target, format, threads):
        parameters = llama.llama_model_quantize_default_params()
        parameters.nthread = threads
        parameters.ftype = getattr(llama, "LLAMA_FTYPE_MOSTLY_" + format)
        status = llama.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(parameters))
        if status:
            raise RuntimeError(f"llama_model_quantize returned {status}")
        return {}


def main():
    messages = []

    @llama.llama_log_callback
    def log(level, text, _):
        if level in (3, 4):  # warnings, errors
            messages.append(text.decode(errors="replace").strip())

    llama.llama_log_set(log, None)
    worker = Worker()
    print(json.dumps(worker.system()), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("do"))(**request)
        except RuntimeError as error:
            answer = {"error": "; ".join([str(error), *messages[-3:]])}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # who asked has ended
        os._exit(1)
