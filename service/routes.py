"""Which handler a path belongs to: a table and a pure look-up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from service.http import Request, Response

Handler: TypeAlias = Callable[[Request, str], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Resource:
    """A path template and its handlers by method. A GET answers HEAD too; the server leaves the body out."""

    template: str
    handlers: dict[str, Handler]
    methods: dict[str, Handler] = field(init=False)
    allow: bytes = field(init=False)

    def __post_init__(self) -> None:
        methods = dict(self.handlers)
        if "GET" in methods:
            methods["HEAD"] = methods["GET"]
        object.__setattr__(self, "methods", methods)
        object.__setattr__(self, "allow", ", ".join(sorted(methods)).encode())


class Routes:
    """The resources, found by path. A template ends in one parameter or has none."""

    def __init__(self, resources: list[Resource]) -> None:
        self.resources = resources
        self._exact = {resource.template: resource for resource in resources if "{" not in resource.template}
        prefixes = [
            (resource.template.partition("{")[0], resource) for resource in resources if "{" in resource.template
        ]
        self._prefixes = sorted(prefixes, key=lambda pair: -len(pair[0]))

    def find(self, path: str) -> tuple[Resource, str] | None:
        """The resource and the parameter of a path; the longest prefix wins. None when the path is unknown.

        An id or a digest has no slash, so a trailing one makes the path unknown. A key may hold any
        visible character, and arrives here decoded.
        """
        resource = self._exact.get(path)
        if resource is not None:
            return resource, ""
        for prefix, resource in self._prefixes:
            if path.startswith(prefix) and len(path) > len(prefix):
                parameter = path[len(prefix) :]
                if "/" in parameter and not resource.template.endswith("{key}"):
                    return None
                return resource, parameter
        return None
