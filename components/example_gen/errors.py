"""The errors of ingestion that a person reads."""


class SourceError(ValueError):
    """The source of the data is missing or damaged; the message says what and where."""


class TooManyBadError(RuntimeError):
    """More images had to be quarantined than `data.max_bad_fraction` and `data.max_bad_images`
    allow.
    """
