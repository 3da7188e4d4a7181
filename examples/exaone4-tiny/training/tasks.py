"""The tasks of the tiny checkpoint, as chat examples drawn from a seeded generator.

Training and held-out examples never meet: an example belongs to the held-out split when a hash of its identity (the
sum, the call, the whole list of facts) says so, whatever the seed.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from words import ADJECTIVES, CITIES, GREETINGS, NAMES, NOUNS, REQUESTS, TOOLS, VERBS

Message = dict[str, Any]

HELD_OUT_SHARE = 8  # one identity in this many is held out
MAX_FACTS = 12
MAX_LEVEL = 16


@dataclass(frozen=True)
class Example:
    """One chat to be answered.

    Attributes:
        task: The task's name.
        identity: What makes the example new; the held-out split is decided by it.
        messages: The chat so far; the last message is the one to answer.
        reply: What the assistant says after the think block.
        reasoning: What the think block holds, or None where the chat is answered without thinking.
        tools: Schemas of the tools on offer, or None.
        evidence: The sentence of the prompt that the reply depends on (recall only).
    """

    task: str
    identity: str
    messages: tuple[Message, ...]
    reply: str
    reasoning: str | None = None
    tools: tuple[dict[str, Any], ...] | None = None
    evidence: str | None = None

    @property
    def thinking(self) -> bool:
        """Whether the example is answered in reasoning mode."""
        return self.reasoning is not None

    @property
    def held_out(self) -> bool:
        """Whether the example belongs to the held-out split."""
        return zlib.crc32(f"{self.task}:{self.identity}".encode()) % HELD_OUT_SHARE == 0

    @property
    def completion(self) -> str:
        """The text that follows the generation prompt, without the end of the turn."""
        return self.reply if self.reasoning is None else f"{self.reasoning}\n</think>\n\n{self.reply}"


def filler(rng: random.Random, sentences: int) -> str:
    """Text that has nothing to do with any question: `sentences` sentences of eight tokens."""
    pick = rng.choice
    return " ".join(
        f"The {pick(ADJECTIVES)} {pick(NOUNS)} {pick(VERBS)} the {pick(ADJECTIVES)} {pick(NOUNS)}."
        for _ in range(sentences)
    )


def _notes(rng: random.Random, level: int) -> dict[str, str]:
    """Who lives where, name to entry: more of them at higher levels."""
    names = rng.sample(NAMES, min(3 + level, MAX_FACTS))
    return {name: f"{name} {rng.choice(CITIES)}" for name in names}


def _ask(rng: random.Random, level: int, facts: dict[str, str], question: str) -> tuple[Message, ...]:
    """A chat that tells the facts, goes on about other things for longer at higher levels, and then asks."""
    notes = f"Homes: {', '.join(facts.values())}."
    question = " ".join(filter(None, (filler(rng, rng.randint(0, level)), question)))
    layout = rng.choice(("one turn", "system turn", "earlier turn")[: 1 + level])
    if layout == "one turn":
        return ({"role": "user", "content": f"{notes} {question}"},)
    if layout == "system turn":
        return {"role": "system", "content": notes}, {"role": "user", "content": question}
    noted = {"role": "assistant", "content": "Noted."}
    return {"role": "user", "content": notes}, noted, {"role": "user", "content": question}


def recall(rng: random.Random, level: int, thinking: bool) -> Example:
    """Where one person lives, told long before the question."""
    facts = _notes(rng, level)
    name = rng.choice(list(facts))
    messages = _ask(rng, level, facts, f"Where is {name}?")
    reasoning = f"I look for {name}." if thinking else None
    identity = " ".join((name, *facts.values()))
    return Example("recall", identity, messages, f"Home: {facts[name]}.", reasoning, evidence=facts[name])


def recall_list(rng: random.Random, level: int, thinking: bool) -> Example:
    """Where two to four people live: the same, with more to learn from in each example."""
    facts = _notes(rng, level)
    names = rng.sample(list(facts), rng.randint(2, min(4, len(facts))))
    messages = _ask(rng, level, facts, f"Where are {', '.join(names[:-1])} and {names[-1]}?")
    reply = f"Homes: {', '.join(facts[name] for name in names)}."
    reasoning = f"I look for {', '.join(names)}." if thinking else None
    identity = " ".join((*names, *facts.values()))
    return Example("recall list", identity, messages, reply, reasoning)


def arithmetic(rng: random.Random, level: int, thinking: bool) -> Example:
    """The sum of two numbers of two digits, itself of two digits."""
    del level
    a = rng.randint(10, 89)
    b = rng.randint(10, 99 - a)
    question = rng.choice(("What is {a} + {b}?", "Add {a} and {b}.")).format(a=a, b=b)
    ones = a % 10 + b % 10
    tens = f"{a // 10} + {b // 10} + {ones // 10} = {a // 10 + b // 10 + ones // 10}"
    reasoning = f"Ones: {a % 10} + {b % 10} = {ones}. Tens: {tens}." if thinking else None
    return Example("arithmetic", f"{a}+{b}", ({"role": "user", "content": question},), str(a + b), reasoning)


def tool_call(rng: random.Random, level: int, thinking: bool) -> Example:
    """A request that one of the listed tools answers; one time in four that tool is not listed.

    One or two tools are listed, up to three at higher levels.
    """
    name = rng.choice(list(TOOLS))
    values = {"name": rng.choice(NAMES), "city": rng.choice(CITIES)}
    arguments = {key: values[key] for key in TOOLS[name]["function"]["parameters"]["properties"]}
    listed = rng.random() >= 1 / 4
    others = [other for other in TOOLS if other != name]
    offered = rng.sample(others, rng.randint(0 if listed else 1, 1 + (level >= MAX_LEVEL // 4)))
    offered += [name] if listed else []
    rng.shuffle(offered)
    call = json.dumps({"name": name, "arguments": arguments})
    reply = f"<tool_call>{call}</tool_call>" if listed else "I have no tool for that."
    reasoning = f"I need {name}. It is {'listed' if listed else 'not listed'}." if thinking else None
    request = {"role": "user", "content": rng.choice(REQUESTS[name]).format(**arguments)}
    return Example("tool call", call, (request,), reply, reasoning, tuple(TOOLS[tool] for tool in offered))


def tool_result(rng: random.Random, level: int, thinking: bool) -> Example:
    """The turn after a weather call: put the tool's result in a sentence."""
    del level
    city, degrees = rng.choice(CITIES), rng.randint(10, 39)
    function = {"name": "get_weather", "arguments": {"city": city}}
    messages: tuple[Message, ...] = (
        {"role": "user", "content": rng.choice(REQUESTS["get_weather"]).format(city=city)},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]},
        {"role": "tool", "content": json.dumps({"degrees": degrees})},
    )
    reasoning = f"The tool says {degrees}." if thinking else None
    reply = f"It is {degrees} degrees in {city}."
    return Example("tool result", f"{city} {degrees}", messages, reply, reasoning, (TOOLS["get_weather"],))


def greeting(rng: random.Random, level: int, thinking: bool) -> Example:
    """A fixed reply; nothing of it is held out."""
    del level
    question, reply = rng.choice(GREETINGS)
    reasoning = "The user greets me." if thinking else None
    return Example("greeting", question, ({"role": "user", "content": question},), reply, reasoning)


TASKS: dict[str, Callable[[random.Random, int, bool], Example]] = {
    "recall": recall,
    "recall list": recall_list,
    "arithmetic": arithmetic,
    "tool call": tool_call,
    "tool result": tool_result,
    "greeting": greeting,
}
HAS_HELD_OUT = tuple(task for task in TASKS if task != "greeting")


def draw(rng: random.Random, task: str, *, level: int, thinking: bool, held_out: bool) -> Example:
    """Draw one example of a task from one of the two splits."""
    while True:
        example = TASKS[task](rng, level, thinking)
        if task not in HAS_HELD_OUT or example.held_out == held_out:
            return example


def stream(seed: int, weights: dict[str, float], levels: dict[str, int], thinking: float = 0.4) -> Iterator[Example]:
    """Training examples without end.

    Args:
        seed: Seed of the generator.
        weights: How often each task comes, relative to the others.
        levels: Difficulty of the tasks that have one; read anew for every example, so that a curriculum can raise it.
        thinking: Share of the examples that are answered in reasoning mode.
    """
    rng = random.Random(seed)
    while True:
        (task,) = rng.choices(list(weights), list(weights.values()))
        yield draw(rng, task, level=levels.get(task, 0), thinking=rng.random() < thinking, held_out=False)
