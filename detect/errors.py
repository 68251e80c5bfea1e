"""The exceptions that a user may meet. Each says where, what was found, and what to do about it."""

from __future__ import annotations


class SmearError(Exception):
    """Base of every error that smear-detect raises on purpose.

    Args:
        problem: what is wrong, with the value that was found.
        where: the file, and the line, key or annotation id within it.
        remedy: what the user can change.
    """

    def __init__(self, problem: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.problem = problem
        self.where = where
        self.remedy = remedy
        text = f"{where}: {problem}" if where else problem
        super().__init__(f"{text}\n  remedy: {remedy}" if remedy else text)

    def __reduce__(self) -> tuple[object, ...]:
        """Whole from one process to another: exceptions are else made anew from their text alone."""
        return _again, (type(self), self.args, dict(self.__dict__))


class ConfigError(SmearError):
    """A YAML file or an option has missing, unknown or impossible values."""


class RecordError(SmearError):
    """A record was built from columns that do not fit together."""


class FormatError(SmearError):
    """A label file cannot be read at all; smaller problems go into the tally."""


class DataError(SmearError):
    """A dataset, its card or its split is missing or contradicts itself."""


class SplitLeakError(DataError):
    """One group of a split stands on both sides of it."""


class ImageError(SmearError):
    """An image file cannot be decoded; `problem` becomes the reason in the results."""


class BundleError(SmearError):
    """A bundle is incomplete, altered, or made for something else."""


class StoreError(SmearError):
    """An output folder cannot be written to as asked."""


class UnreachableError(StoreError):
    """What lies at a URL cannot be reached now."""


class LedError(StoreError):
    """Another process leads the run."""


class StoppedRunError(SmearError):
    """A scoring run came to an end before its end. What it finished is safe, and it can be gone on with.

    Args:
        asked: somebody wanted it to stop.
    """

    def __init__(
        self, problem: str, *, where: str | None = None, remedy: str | None = None, asked: bool = False
    ) -> None:
        super().__init__(problem, where=where, remedy=remedy)
        self.asked = asked


class MissingExtraError(SmearError):
    """A feature needs an optional part that is not installed.

    Args:
        feature: what was asked for.
        extra: the extra of the distribution that brings it.
    """

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs the '{extra}' extra", remedy=f"pip install 'smear-detect[{extra}]'")


def _again(kind: type[SmearError], args: tuple[object, ...], told: dict[str, object]) -> SmearError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(told)
    return error
