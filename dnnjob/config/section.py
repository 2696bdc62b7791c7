"""What every table of a job file has in common.

class TrainConfig(Section): ...
"""

from typing import Annotated

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
