"""An input of rows that was never a file."""

import io


class InMemory(io.BufferedReader):
    """What `Lines` reads from."""

    def __init__(self, content: bytes, name: str = "in.jsonl") -> None:
        super().__init__(io.BytesIO(content))
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def rewind(self) -> None:
        self.seek(0)
