"""The errors of ingestion that a person reads."""

# How the reason for an image of a class ends that only the evaluation split has.
ABSENT = "is not in the training split"


class SourceError(ValueError):
    """The source of the data is missing or damaged; the message says what and where."""


class BadImage(ValueError):
    """An image that cannot be used; the message is the reason."""


class TooManyBadError(RuntimeError):
    """More images are bad than `data.max_bad_fraction` and `data.max_bad_images` allow."""
