"""What JSON files of hcnr are made of: one class for who writes a part and who reads it."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hcnr.errors import DataError

if TYPE_CHECKING:
    from typing_extensions import Self

Interval = Annotated[tuple[float, float], Field(strict=False)]
"""Lower and upper end; JSON has lists alone."""

_EXPECTED = {
    "model_attributes_type": "an object", "dict_type": "an object", "list_type": "a list",
    "tuple_type": "a list", "string_type": "a text", "int_type": "a whole number",
    "float_type": "a number", "bool_type": "true or false",
}  # fmt: skip
"""By pydantic's names of what is wrong."""


class Schema(BaseModel):
    """A part of a file.

    What nobody set is not written. Keys that the class does not have are passed over: another
    version wrote them. Parts are made of objects with the same attributes, too.
    """

    model_config = ConfigDict(frozen=True, strict=True, from_attributes=True)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, in the order of the fields."""
        return self.model_dump(mode="json", exclude_unset=True)

    @classmethod
    def of(cls, content: Any, file: str | Path, cure: str) -> "Self":
        """Take what a file holds.

        Args:
            content: as JSON has it.
            file: where it stands, for the error.
            cure: what to do where it is damaged.

        Raises:
            DataError: a part is missing or of another type; the first one is named.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
        where = _path_of(first["loc"])
        if first["type"] == "missing":
            raise DataError(f"{file} has no part '{where}', expected one; {cure}") from None
        if first["type"] == "value_error":
            reason = first.get("ctx", {}).get("error")
            raise DataError(f"{file} holds a bad '{where}': {reason}; {cure}") from None
        expected = _EXPECTED.get(first["type"]) or first["msg"].replace("Input should be ", "")
        what = f"holds a {type(first['input']).__name__}" + (f" as '{where}'" if where else "")
        raise DataError(f"{file} {what}, expected {expected}; {cure}") from None


def _path_of(parts: Iterable[int | str]) -> str:
    """`matrices[0].name`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".")
