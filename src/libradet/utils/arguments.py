"""Arguments of public functions, checked against their annotations: no type checker reads the calls of users."""

import inspect
from collections.abc import Callable, Mapping
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

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # Python's own message names the function
        bound.arguments.update(check_keywords(function, bound.arguments))
        return function(*bound.args, **bound.kwargs)

    return checked


def check_keywords(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of a function by name, checked as by :func:`check_arguments`, without calling it.

    So what is passed on to it is refused before the slow steps that come first.

    Raises:
        UserError: a value has another type than its parameter, or a number is out of range.
    """
    annotations = _annotations(function)
    return {
        name: checked_value(name, value, annotations[name]) if name in annotations else value
        for name, value in values.items()
    }


@cache
def _annotations(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name: _resolve(parameter, function) for parameter in parameters}


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
