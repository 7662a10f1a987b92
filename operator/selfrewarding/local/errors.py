"""Errors of the local backend that a person can do something about."""


class LocalError(Exception):
    """`srr local` cannot start or go on; the text says what was found and what to do. Exit code 2."""
