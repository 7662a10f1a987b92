"""What a run starts from and where it writes: the model, the seed data, the artifact store."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from selfrewarding.api.base import ApiModel, Rule

Uri = Annotated[str, Field(pattern=r"^(s3|file)://.+$", max_length=1024)]
ModelUri = Annotated[str, Field(pattern=r"^(s3|file|hf)://.+$", max_length=1024)]
HTTP_PATTERN = r"^https?://[^/@?#\s]+(/[^?#\s]*)?$"
"""No user information before the host and no query: an address is shown, stored and gets paths put behind it, and a
password or token belongs into a Secret."""
HttpUri = Annotated[str, Field(pattern=HTTP_PATTERN, max_length=1024)]
SecretName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]


class ModelSpec(ApiModel):
    """The model M0 that the run starts from: a causal language model in Hugging Face format."""

    uri: ModelUri
    """Folder with config.json, safetensors and tokenizer: `s3://bucket/path`, `hf://org/name@revision` or `file:///path`."""
    chat_template: str | None = Field(default=None, max_length=16384)
    """Jinja chat template that replaces the tokenizer's own. If neither exists, a plain template that ends every turn
    in the tokenizer's end-of-sequence token is used."""
    serving_dtype: Literal["Auto", "BFloat16", "Float16", "Float32"] = "Auto"
    """Number format that the models are served in; training always keeps float32 master weights. Auto: BFloat16 on
    GPUs, Float32 on CPUs."""


class Credentials(ApiModel):
    """Where pods get their S3 credentials. Give one of the two; the operator itself never reads either."""

    secret_name: SecretName | None = None
    """Secret in the run's namespace with the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and, if needed,
    AWS_SESSION_TOKEN). The run's servers ask for a key that its pods derive from it."""
    service_account_name: SecretName | None = None
    """ServiceAccount that gives the pods an identity which may use the bucket (for example an IAM role). Its pods share no
    secret, so the run's servers have no key: their NetworkPolicy alone says who may ask them."""

    cel_rules = (
        Rule(
            "!(has(self.secretName) && has(self.serviceAccountName))",
            "give secretName or serviceAccountName, not both",
        ),
    )

    @model_validator(mode="after")
    def _one_source(self) -> "Credentials":
        if self.secret_name and self.service_account_name:
            raise ValueError("give secretName or serviceAccountName, not both")
        return self


class CaBundle(ApiModel):
    """A ConfigMap that holds the certificate authority of the S3 endpoint."""

    config_map_name: SecretName
    """Name of the ConfigMap in the run's namespace."""
    key: str = "ca.crt"
    """Key of the PEM file in it."""


class ArtifactsSpec(ApiModel):
    """The bucket that results, rows and models are written to."""

    uri: Uri
    """Where everything goes, e.g. `s3://runs/self-rewarding`. Runs that share it share equal stages."""
    endpoint: HttpUri | None = None
    """Address of an S3-compatible server; absent: AWS."""
    region: str | None = None
    """Region of the bucket."""
    addressing: Literal["Auto", "Path", "Virtual"] = "Auto"
    """How the bucket is named in requests; most S3-compatible servers need Path."""
    credentials: Credentials = Credentials()
    """Where pods get their credentials."""
    ca_bundle: CaBundle | None = None
    """Certificate authority of the endpoint, if it is not a public one."""

    cel_rules = (Rule("self.uri == oldSelf.uri", "artifacts.uri cannot be changed: make a new run instead"),)


Language = Literal["Any", "English", "Korean"]


class DataSource(ApiModel):
    """One file of seed data."""

    uri: Uri
    """The file; `.gz` is unpacked."""
    format: Literal["PromptResponse", "Messages", "Ranked", "OpenAssistant", "SelfInstruct", "Evaluations"]
    """Shape of a row. PromptResponse: {"prompt","response"}; Messages: {"messages":[…]}; Ranked:
    {"prompt","responses":[{"text","rank"}]}, rank 0 is best; OpenAssistant: message trees as that project exports
    them; SelfInstruct: its seed tasks; Evaluations: {"prompt","response","judgement"}. Ranked rows may have "category" (or
    "subset"): the judge's metrics are told for each as well."""
    language: Language = "Any"
    """Keep only rows of this language, where the rows say their language."""
    max_rows: Annotated[int, Field(ge=1)] | None = None
    """Take at most this many rows, chosen by a hash of their content."""


class HeldOutSpec(ApiModel):
    """Human-ranked prompts that are kept out of training, to measure the judge on."""

    share: float = Field(default=0.25, gt=0, lt=1)
    """Share of the ranked prompts that is held out, if no own source is given (the paper: 541 of 2,171)."""
    source: DataSource | None = None
    """An own file of ranked prompts; then none are taken from `ranked`."""


class SeedDataSpec(ApiModel):
    """The small seed set that the model is first taught from (paper section 2.1)."""

    instructions: DataSource
    """IFT: prompts with good answers. From OpenAssistant trees: first turns with the answer of rank 0."""
    ranked: DataSource | None = None
    """Prompts with several answers in the order that people ranked them; EFT examples and held-out prompts are made
    from these. Absent with OpenAssistant instructions: taken from the same trees, other prompts."""
    ranked_share: float = Field(default=0.4, gt=0, lt=1)
    """Share of the OpenAssistant prompts that is kept for `ranked`, where `ranked` is absent."""
    evaluations: DataSource | None = None
    """EFT: own evaluation examples (prompt, answer, judgement). Given: BuildEvaluations is skipped."""
    held_out: HeldOutSpec = HeldOutSpec()
    """Ranked prompts kept out of training."""

    cel_rules = (
        Rule(
            "has(self.ranked) || has(self.evaluations) || self.instructions.format == 'OpenAssistant'",
            "the model must learn to judge: give seedData.ranked or seedData.evaluations, or OpenAssistant instructions",
        ),
    )

    @model_validator(mode="after")
    def _judge_data(self) -> "SeedDataSpec":
        if self.ranked is None and self.evaluations is None and self.instructions.format != "OpenAssistant":
            raise ValueError(
                "the model must learn to judge: give seedData.ranked or seedData.evaluations, "
                "or OpenAssistant instructions"
            )
        return self
