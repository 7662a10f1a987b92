"""What can be wrong with the settings or facts that manifests are made from. Texts are for people.

Raised by every module here; the callers turn them into a condition (operator) or exit code 2 (command line).
"""


class ManifestError(ValueError):
    """Objects cannot be made; the text says what was found, what is expected and what to do."""


class MissingResult(ManifestError):
    """A stage that must be done has no result in the status."""


class InvalidPodTemplate(ManifestError):
    """A `podTemplate` of the user cannot be merged, or takes away what the programs need."""


class InvalidOption(ManifestError):
    """A setting of a serving pool contradicts what the operator sets."""
