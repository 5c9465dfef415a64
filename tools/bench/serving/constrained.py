"""Run G: what it costs to hold answers to a JSON schema."""

import json
import statistics

from serving.client import Stream, closed, post
from serving.runs import PATH, all_ok, context_of, stream

KINDS = ({"type": "string", "maxLength": 8}, {"enum": ["low", "middle", "high"]}, {"type": "boolean"},
         {"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 1, "maxItems": 3},
         {"anyOf": [{"type": "null"}, {"type": "string", "maxLength": 4}]})


def schema(fields, salt=""):
    """An object of so many fields, of which each value has an end, whatever a model likes to write."""
    properties = {f"property{salt}_{i}": KINDS[i % len(KINDS)] for i in range(fields)}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def held_to(schema):
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema,
                                                                       "strict": True}}}


def valid(text, schema):
    """Whether the text is what the schema asks for: its keywords are those of KINDS."""
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return fits(value, schema)


def fits(value, schema):
    if "enum" in schema:
        return any(value == each and type(value) is type(each) for each in schema["enum"])
    if "anyOf" in schema:
        return any(fits(value, each) for each in schema["anyOf"])
    if schema["type"] == "object":
        return (isinstance(value, dict) and set(value) == set(schema["required"])
                and all(fits(value[name], each) for name, each in schema["properties"].items()))
    if schema["type"] == "array":
        return (isinstance(value, list) and schema["minItems"] <= len(value) <= schema["maxItems"]
                and all(fits(each, schema["items"]) for each in value))
    if schema["type"] == "string":
        return isinstance(value, str) and len(value) <= schema["maxLength"]
    return value is None if schema["type"] == "null" else isinstance(value, bool)


def first_of(server, prompts, fields):
    """Seconds to the first token."""
    return all_ok(closed(lambda _: stream(server, prompts.ids(16), 1, fields), 1, 1), "constrained")[0].first


def compiling(server, prompts, fields=40, rounds=5):
    """Seconds that a schema adds to the first token: one that the server has not seen, and one that it has."""
    plain, new, known = [], [], []
    for i in range(rounds):
        constraint = held_to(schema(fields, f"_{i}"))
        plain.append(first_of(server, prompts, {}))
        new.append(first_of(server, prompts, constraint))
        known.append(first_of(server, prompts, constraint))
    base = statistics.median(plain)
    return {"bytes": len(json.dumps(schema(fields))), "new": statistics.median(new) - base,
            "known": statistics.median(known) - base}


def answers(server, prompts, fields=4, requests=8):
    """How many whole answers are what their schema asks for, of those that came to an end within the context: a model
    may write blanks between the parts."""
    asked = schema(fields)
    bodies = [post(server.address, PATH, {"prompt": prompts.ids(16), "max_tokens": min(context_of(server) - 16, 1000),
                                          "temperature": 1, "seed": seed, **held_to(asked)})
              for seed in range(requests)]
    records = all_ok(closed(lambda i: Stream(server.address, bodies[i], keep=True), requests, requests), "constrained")
    choices = [json.loads(record.text)["choices"][0] for record in records]
    ended = [choice["text"] for choice in choices if choice["finish_reason"] == "stop"]
    return {"requests": requests, "ended": len(ended), "valid": sum(valid(text, asked) for text in ended)}
