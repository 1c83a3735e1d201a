"""An input of rows that was never a file."""

import io


class InMemory(io.BufferedReader):
    """What `Lines` reads from."""

    def __init__(self, content, name="in.jsonl"):
        super().__init__(io.BytesIO(content))
        self._name = name

    @property
    def name(self):
        return self._name

    def rewind(self):
        self.seek(0)
