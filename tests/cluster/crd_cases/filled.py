"""An object of a type of the API with every field set: what a full status looks like, also after the next field is added."""

import types
import typing
from typing import Annotated, Any, Literal, TypeVar, Union

from pydantic import BaseModel

Model = TypeVar("Model", bound=BaseModel)

_SCALARS: dict[type, Any] = {str: "text: 한국어, “quotes”, 1e3", int: 2**40 + 1, float: 0.1, bool: True}


def filled(model: type[Model]) -> Model:
    """An instance without a field that is None or empty. Raises TypeError for a type that it does not know."""
    hints = typing.get_type_hints(model, include_extras=True)
    return model.model_validate({name: _value(hints[name]) for name in model.model_fields}, by_name=True)


def _value(hint: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _value(arguments[0])
    if origin in (Union, types.UnionType):
        return _value(next(one for one in arguments if one is not type(None)))
    if origin is Literal:
        return arguments[-1]
    if origin is list:
        return [_value(arguments[0])]
    if origin is dict:
        return {"0123456789abcdef": _value(arguments[1])}
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return filled(hint)
    if hint in _SCALARS:
        return _SCALARS[hint]
    raise TypeError(f"no example of {hint}")
