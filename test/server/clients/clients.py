"""The public clients of OpenAI's and Anthropic's APIs, used as their users do, against a moe-serve that is running.

  MOE_SERVE_URL=http://127.0.0.1:8000 python clients.py      with the packages of requirements.txt
"""

import json
import os
import time
import typing
import unittest
import urllib.request

import anthropic
import litellm
import openai
import pydantic
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from prometheus_client.parser import text_string_to_metric_families

URL = os.environ["MOE_SERVE_URL"]
MODEL = os.environ.get("MOE_SERVE_MODEL", "cria")
HELLO = [{"role": "user", "content": "In the beginning"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            # A model as small as cria would fill numbers and strings without bounds up to the last token.
            "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}


class Verse(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    book: typing.Literal["Genesis", "Exodus"]
    long: bool


def figures():
    """Samples of /metrics by name, summed over their labels."""
    sums = {}
    with urllib.request.urlopen(URL + "/metrics") as answer:
        for family in text_string_to_metric_families(answer.read().decode()):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0) + sample.value
    return sums


class OpenAI(unittest.TestCase):
    def setUp(self):
        self.client = openai.OpenAI(base_url=URL + "/v1", api_key="none", max_retries=0)

    def chat(self, **fields):
        fields = {"model": MODEL, "messages": HELLO, "max_tokens": 16, "temperature": 0, **fields}
        return self.client.chat.completions.create(**fields)

    def test_models(self):
        self.assertEqual([model.id for model in self.client.models.list()], [MODEL])
        self.assertEqual(self.client.models.retrieve(MODEL).id, MODEL)
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("gpt-9")

    def test_chat(self):
        answer = self.chat()
        self.assertEqual(answer.object, "chat.completion")
        self.assertEqual(answer.choices[0].message.role, "assistant")
        self.assertTrue(answer.choices[0].message.content)
        self.assertIn(answer.choices[0].finish_reason, ("stop", "length"))
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)
        self.assertLessEqual(answer.usage.completion_tokens, 16)

    def test_stream_is_the_answer(self):
        whole = self.chat()
        chunks = list(self.chat(stream=True, stream_options={"include_usage": True}))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        self.assertEqual(text, whole.choices[0].message.content)
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        finishes = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
        self.assertEqual(finishes, [whole.choices[0].finish_reason])
        self.assertEqual(chunks[-1].choices, [])
        self.assertEqual(chunks[-1].usage.completion_tokens, whole.usage.completion_tokens)

    def test_logprobs(self):
        answer = self.chat(logprobs=True, top_logprobs=3, max_tokens=4)
        content = answer.choices[0].logprobs.content
        self.assertEqual(len(content), answer.usage.completion_tokens)
        for token in content:
            self.assertLessEqual(token.logprob, 0)
            self.assertEqual(len(token.top_logprobs), 3)
            self.assertAlmostEqual(token.top_logprobs[0].logprob, token.logprob, places=5)  # greedy
            self.assertEqual(bytes(token.bytes).decode(errors="replace"), token.token)

    def test_choices_and_seed(self):
        def twice():
            return [c.message.content for c in self.chat(n=2, seed=7, temperature=1.0, max_tokens=24).choices]
        first = twice()
        self.assertEqual(len(first), 2)
        self.assertNotEqual(first[0], first[1])
        self.assertEqual(first, twice())

    def test_stop_string_and_bias(self):
        text = self.chat(max_tokens=48).choices[0].message.content
        stop = text[len(text) // 2:][:3]
        stopped = self.chat(max_tokens=48, stop=[stop]).choices[0]
        self.assertEqual(stopped.message.content, text[:text.index(stop)])
        self.assertEqual(stopped.finish_reason, "stop")
        ids = json.loads(urllib.request.urlopen(urllib.request.Request(
            URL + "/tokenize", json.dumps({"prompt": text[:8], "add_special_tokens": False}).encode(),
            {"Content-Type": "application/json"})).read())["tokens"]
        other = self.chat(max_tokens=1, logit_bias={ids[0]: -100}).choices[0].message.content
        self.assertFalse(text.startswith(other) and other)

    def test_completions(self):
        answer = self.client.completions.create(model=MODEL, prompt=["In the", "And the"], max_tokens=6, echo=True,
                                                logprobs=2, temperature=0)
        self.assertEqual([choice.index for choice in answer.choices], [0, 1])
        self.assertTrue(answer.choices[0].text.startswith("In the"))
        self.assertTrue(answer.choices[1].text.startswith("And the"))
        logprobs = answer.choices[0].logprobs
        self.assertEqual("".join(logprobs.tokens[1:]), answer.choices[0].text)  # the first one is the text's begin
        self.assertIsNone(logprobs.token_logprobs[0])

    def test_structured_output(self):
        answer = self.client.chat.completions.parse(model=MODEL, messages=HELLO, response_format=Verse, max_tokens=200)
        if answer.choices[0].finish_reason == "stop":
            self.assertIsInstance(answer.choices[0].message.parsed, Verse)
        else:
            self.fail("a schema of two small fields did not end within 200 tokens")

    def test_tools(self):
        answer = self.chat(tools=[WEATHER], tool_choice="required", max_tokens=300, temperature=0.7, seed=3)
        self.assertEqual(answer.choices[0].finish_reason, "tool_calls")
        call = answer.choices[0].message.tool_calls[0]
        self.assertEqual(call.function.name, "get_weather")
        arguments = json.loads(call.function.arguments)
        self.assertEqual(set(arguments), {"city", "unit"})
        # The result goes back, with content that is null.
        follow = self.chat(messages=[*HELLO, answer.choices[0].message,
                                     {"role": "tool", "tool_call_id": call.id, "content": "12 C"}], tools=[WEATHER])
        self.assertIn(follow.choices[0].finish_reason, ("stop", "length", "tool_calls"))

    def test_streamed_tools(self):
        chunks = self.chat(tools=[WEATHER], tool_choice={"type": "function", "function": {"name": "get_weather"}},
                           max_tokens=300, stream=True)
        name, arguments, finish = None, "", None
        for chunk in chunks:
            for call in chunk.choices[0].delta.tool_calls or []:
                name = call.function.name or name
                arguments += call.function.arguments or ""
            finish = chunk.choices[0].finish_reason or finish
        self.assertEqual((name, finish), ("get_weather", "tool_calls"))
        self.assertEqual(set(json.loads(arguments)), {"city", "unit"})

    def test_errors(self):
        for fields, param in [({"temperature": -1}, "temperature"), ({"top_p": 2}, "top_p"), ({"n": 0}, "n"),
                              ({"messages": []}, "messages"), ({"max_tokens": -3}, "max_tokens")]:
            with self.assertRaises(openai.BadRequestError) as raised:
                self.chat(**fields)
            self.assertEqual(raised.exception.param, param)
        with self.assertRaises(openai.NotFoundError) as raised:
            self.chat(model="gpt-9")
        self.assertEqual(raised.exception.code, "model_not_found")
        with self.assertRaises(openai.BadRequestError) as raised:
            self.chat(messages=[{"role": "user", "content": "word " * 100000}])
        self.assertEqual(raised.exception.code, "context_length_exceeded")
        with self.assertRaises(openai.NotFoundError):
            self.client.embeddings.create(model=MODEL, input="x")

    def test_responses(self):
        answer = self.client.responses.create(model=MODEL, input="In the beginning", instructions="Be brief.",
                                              max_output_tokens=16, store=False)
        self.assertTrue(answer.output_text)
        events = list(self.client.responses.create(model=MODEL, input="In the beginning", max_output_tokens=16,
                                                   temperature=0, store=False, stream=True))
        self.assertEqual(events[0].type, "response.created")
        self.assertIn(events[-1].type, ("response.completed", "response.incomplete"))
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        self.assertEqual(text, events[-1].response.output_text)

    def test_cancellation(self):
        stream = self.chat(max_tokens=None, n=16, stream=True, extra_body={"ignore_eos": True})
        next(iter(stream))
        self.wait_for(lambda running: running > 0, "no request runs although a token has come")
        stream.close()
        self.wait_for(lambda running: running == 0, "the request runs two seconds after its client went")

    def wait_for(self, condition, otherwise):
        for _ in range(100):
            if condition(figures()["vllm:num_requests_running"]):
                return
            time.sleep(0.02)
        self.fail(otherwise)


class LangChain(unittest.TestCase):
    def setUp(self):
        self.model = ChatOpenAI(model=MODEL, base_url=URL + "/v1", api_key="none", temperature=0, max_tokens=300,
                                max_retries=0)

    def test_invoke_and_stream(self):
        whole = self.model.invoke("In the beginning")
        self.assertEqual("".join(chunk.content for chunk in self.model.stream("In the beginning")), whole.content)

    def test_tools(self):
        @tool
        def now(zone: typing.Literal["UTC", "CET"]) -> str:
            """The time in a zone."""
            return ""

        message = self.model.bind_tools([now], tool_choice="now").invoke("What time is it?")
        self.assertEqual(message.tool_calls[0]["name"], "now")
        self.assertIn(message.tool_calls[0]["args"]["zone"], ("UTC", "CET"))

    def test_structured_output(self):
        for method in ("json_schema", "function_calling"):
            verse = self.model.with_structured_output(Verse, method=method).invoke("In the beginning")
            self.assertIsInstance(verse, Verse, method)


class Anthropic(unittest.TestCase):
    def setUp(self):
        self.client = anthropic.Anthropic(base_url=URL, api_key="none", max_retries=0)

    def test_messages(self):
        answer = self.client.messages.create(model=MODEL, max_tokens=16, system="Be brief.", messages=HELLO,
                                             extra_body={"temperature": 0})
        self.assertEqual((answer.type, answer.role, answer.content[0].type), ("message", "assistant", "text"))
        self.assertIn(answer.stop_reason, ("end_turn", "max_tokens"))
        with self.client.messages.stream(model=MODEL, max_tokens=16, system="Be brief.", messages=HELLO,
                                         extra_body={"temperature": 0}) as stream:
            self.assertEqual("".join(stream.text_stream), answer.content[0].text)
            self.assertEqual(stream.get_final_message().usage.output_tokens, answer.usage.output_tokens)

    def test_count(self):
        count = self.client.messages.count_tokens(model=MODEL, messages=HELLO)
        answer = self.client.messages.create(model=MODEL, max_tokens=1, messages=HELLO)
        self.assertEqual(count.input_tokens, answer.usage.input_tokens)

    def test_tools(self):
        schema = WEATHER["function"]["parameters"]
        answer = self.client.messages.create(
            model=MODEL, max_tokens=300, messages=HELLO, tool_choice={"type": "any"},
            tools=[{"name": "get_weather", "description": "weather", "input_schema": schema}])
        self.assertEqual(answer.stop_reason, "tool_use")
        use = next(block for block in answer.content if block.type == "tool_use")
        self.assertEqual(set(use.input), {"city", "unit"})

    def test_errors(self):
        with self.assertRaises(anthropic.BadRequestError):
            self.client.messages.create(model=MODEL, max_tokens=16, messages=HELLO,
                                        extra_body={"temperature": -1})
        with self.assertRaises(anthropic.NotFoundError):
            self.client.messages.create(model="claude-9", max_tokens=16, messages=HELLO)


class LiteLLM(unittest.TestCase):
    def test_completion(self):
        fields = {"model": f"openai/{MODEL}", "api_base": URL + "/v1", "api_key": "none", "messages": HELLO,
                  "max_tokens": 16, "temperature": 0}
        whole = litellm.completion(**fields).choices[0].message.content
        chunks = litellm.completion(stream=True, **fields)
        self.assertEqual("".join(chunk.choices[0].delta.content or "" for chunk in chunks), whole)


class Metrics(unittest.TestCase):
    def test_counters_count(self):
        before = figures()
        openai.OpenAI(base_url=URL + "/v1", api_key="none").completions.create(
            model=MODEL, prompt=[5, 6, 7], max_tokens=9, extra_body={"ignore_eos": True})
        after = figures()
        for name, more in [("vllm:prompt_tokens_total", 3), ("vllm:generation_tokens_total", 9),
                           ("vllm:request_success_total", 1), ("vllm:e2e_request_latency_seconds_count", 1),
                           ("vllm:time_to_first_token_seconds_count", 1),
                           ("vllm:inter_token_latency_seconds_count", 8)]:
            self.assertEqual(after[name] - before[name], more, name)


if __name__ == "__main__":
    unittest.main()
