"""What this program is called where packages are installed; the command is `llama-cli`."""

DISTRIBUTION = "llama-native"


def install_line(extra: str) -> str:
    """What to type for the packages of an extra."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"
