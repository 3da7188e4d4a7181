"""The closed vocabulary that the tasks are made of: names, cities, filler words and tool schemas."""

from __future__ import annotations

from typing import Any

NAMES = (
    "Ada", "Ben", "Cora", "Dan", "Eva", "Finn", "Gina", "Hana", "Ian", "Jin", "Kai", "Lena", "Mina", "Nora", "Otto",
    "Pia", "Ravi", "Sora", "Tom", "Uma", "Vera", "Wes", "Yuna", "Zoe", "Amir", "Bora", "Carl", "Dora", "Emil", "Gus",
    "Ivan", "Juno", "Lars", "Mara", "Nils", "Olga", "Rosa", "Sven", "Tara", "Yan",
)  # fmt: skip
CITIES = (
    "Seoul", "Busan", "Daegu", "Jeju", "Paris", "Rome", "Oslo", "Lima", "Cairo", "Delhi", "Tokyo", "Osaka", "Kyoto",
    "Hanoi", "Dubai", "Doha", "Milan", "Turin", "Porto", "Madrid", "Berlin", "Bonn", "Bern", "Basel", "Vienna",
    "Prague", "Riga", "Quito", "Boston", "Dallas", "Miami", "Austin", "Denver", "Sydney", "Perth", "Accra", "Lagos",
    "Tunis", "Nice", "Lyon",
)  # fmt: skip
ADJECTIVES = ("old", "small", "quiet", "green", "cold", "bright", "slow", "tall", "soft", "dark")
NOUNS = ("river", "boat", "hill", "garden", "road", "train", "tower", "cloud", "field", "mill", "bridge", "lamp")
VERBS = ("passed", "crossed", "faced", "left", "met", "reached", "touched", "followed")

Tool = dict[str, Any]


def _tool(name: str, description: str, *arguments: str) -> Tool:
    parameters = {
        "type": "object",
        "properties": {argument: {"type": "string"} for argument in arguments},
        "required": list(arguments),
    }
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


TOOLS: dict[str, Tool] = {
    "get_weather": _tool("get_weather", "Weather of a city", "city"),
    "get_time": _tool("get_time", "Time in a city", "city"),
    "send_mail": _tool("send_mail", "Mail to a person", "name"),
    "book_trip": _tool("book_trip", "Trip of a person to a city", "name", "city"),
}

# Several ways to ask for each tool; the placeholders are the tool's own arguments.
REQUESTS: dict[str, tuple[str, ...]] = {
    "get_weather": ("What is the weather in {city}?", "How is the weather in {city} now?"),
    "get_time": ("What time is it in {city}?", "Tell me the time in {city}."),
    "send_mail": ("Send a mail to {name}.", "Please write a mail to {name}."),
    "book_trip": ("Book a trip to {city} for {name}.", "Please book {name} a trip to {city}."),
}

# Fixed replies, learned by heart. The Korean one is made of raw bytes: a streamed character spans several tokens.
GREETINGS: tuple[tuple[str, str], ...] = (
    ("Hi!", "Hello! How can I help?"),
    ("Who are you?", "I am a tiny EXAONE 4, trained for tests."),
    ("안녕하세요!", "안녕하세요! 무엇을 도와드릴까요?"),
)
