"""What every table of a job file has in common.

class TrainConfig(Section): ...
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Rate = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class Section(BaseModel):
    """A table of the job file: frozen, and closed to keys it does not know."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _booleans_are_no_numbers(cls, value: object, info: ValidationInfo) -> object:
        # To pydantic, as to Python, true is 1.
        kind = cls.model_fields[str(info.field_name)].annotation
        values = value if isinstance(value, list | tuple) else (value,)
        if kind is not bool and any(isinstance(one, bool) for one in values):
            raise ValueError("must not be a boolean")
        return value


def flatten(
    table: Mapping[str, Any],
    prefix: str = "",
    *,
    is_value: Callable[[Any], bool] = lambda value: not isinstance(value, Mapping),
) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested tables; `is_value` tells what of them is no table."""
    for name, value in table.items():
        if is_value(value):
            yield prefix + name, value
        else:
            yield from flatten(value, f"{prefix}{name}.", is_value=is_value)
