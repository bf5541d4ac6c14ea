"""Arguments of public functions, checked against their annotations: no type checker reads the calls of users."""

import inspect
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

from libradet.utils.ranges import checked_value

P = ParamSpec("P")
R = TypeVar("R")


def check_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that arguments of other types, or numbers out of range, raise UserError with their names.

    Numbers of numpy arrive as Python's. Annotations that exist for type checkers only are not checked.
    """
    signature = inspect.signature(function)

    @cache
    def annotations() -> dict[str, Any]:
        return {parameter.name: _resolve(parameter, function) for parameter in signature.parameters.values()}

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # Python's own message names the function
        for name, value in bound.arguments.items():
            if name in annotations():
                bound.arguments[name] = checked_value(name, value, annotations()[name])
        return function(*bound.args, **bound.kwargs)

    return checked


def _resolve(parameter: inspect.Parameter, function: Callable[..., Any]) -> Any:
    annotation = parameter.annotation
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or annotation is parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, inspect.unwrap(function).__globals__)
    except NameError:  # imported for type checkers only
        return Any
