"""What all requests share: fields are known or refused by name, and values are of their type, not converted to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

__all__ = ["Off", "Strict"]


def _check_off(value: bool) -> bool:
    if value:
        raise PydanticCustomError("unsupported", "this server supports false alone; leave it out")
    return value


Off = Annotated[bool, AfterValidator(_check_off), WithJsonSchema({"const": False})]
"""What may only be false; a literal would take 0 too."""


class Strict(BaseModel):
    """A JSON object of a request; None counts as not given."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    refused: ClassVar[Mapping[str, str]] = {}
    """Fields of OpenAI's that are not supported, and what to do without them."""

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        for name, hint in cls.refused.items():
            if given.get(name) is not None:
                raise PydanticCustomError(
                    "unsupported", "this server does not support it; {hint}", {"hint": hint, "param": name}
                )
        return {name: value for name, value in given.items() if value is not None or name not in cls.refused}
