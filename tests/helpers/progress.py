"""A bar that shows nothing, and knows what is left."""


class Silent:
    """What `convert` tells of its way."""

    def begin(self, what: str, n_bytes: int) -> None:
        self.left = n_bytes

    def advance(self, n_bytes: int) -> None:
        self.left -= n_bytes
