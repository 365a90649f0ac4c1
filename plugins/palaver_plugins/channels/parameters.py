"""Parameters that the routes of several channels have."""

from palaver import Parameter

PERSON = Parameter(
    name="person",
    place="query",
    description="Who writes; the key needs the right `impersonate`.",
    schema={"type": "string", "pattern": r"^[^{}:*/\u0000-\u001f\u007f]{0,200}$"},
    example="ada",
)
