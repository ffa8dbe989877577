"""Names that others chose, of files, arrays and classes, as they may be shown."""


def show(name: str) -> str:
    """A name as a terminal and a log may take it: escape sequences and bytes that are no UTF-8 are spelt out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)
