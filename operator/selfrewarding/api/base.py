"""The base of every type of the API: camelCase on the wire, unknown fields refused, values frozen.

Docstrings under the fields are the text of `kubectl explain`. Rules that need more than one field are
CEL expressions in `rules`, which the CRD generator copies to `x-kubernetes-validations`, and the same
rule again as a pydantic validator, so that `srr validate` says it without a cluster.
"""

from typing import ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Rule(NamedTuple):
    """A CEL rule of the CRD (Kubernetes API: x-kubernetes-validations)."""

    rule: str
    message: str


class ApiModel(BaseModel):
    """A block of the custom resource."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        ser_json_inf_nan="constants",
    )

    cel_rules: ClassVar[tuple[Rule, ...]] = ()
