"""The resource: who sends the telemetry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.sdk.resources import SERVICE_NAME, Resource

from zupa.otel._mapping import DEFAULT_SCOPE

DISTRO_NAME: Final = "telemetry.distro.name"
DISTRO_VERSION: Final = "telemetry.distro.version"


class HashedResource(Resource):
    """A `Resource` that computes its hash once.

    The OTLP encoders group by resource, and `Resource.__hash__` is a JSON dump of all attributes for every single
    span and log record. Equal to, and hashes like, the resource that it was made from.
    """

    def __init__(self, resource: Resource) -> None:
        super().__init__(resource.attributes, resource.schema_url)
        self._hash = super().__hash__()

    def __eq__(self, other: object) -> bool:
        return self is other or super().__eq__(other)

    def __hash__(self) -> int:
        return self._hash


def build_resource(service_name: str | None = None, attributes: Mapping[str, Any] | None = None) -> Resource:
    """Build the resource as the SDK does: detectors, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_SERVICE_NAME`.

    Args:
        service_name: Wins over the environment.
        attributes: More attributes; they win over the environment too, `service_name` wins over them.
    """
    own: dict[str, Any] = {DISTRO_NAME: "zupa-otel", **(attributes or {})}
    if DEFAULT_SCOPE.version:
        own.setdefault(DISTRO_VERSION, DEFAULT_SCOPE.version)
    if service_name:
        own[SERVICE_NAME] = service_name
    return HashedResource(Resource.create(own))
