"""A line-by-line parser of event streams, to check the framing."""

import json
from dataclasses import dataclass, field


@dataclass
class Block:
    """The lines between two blank lines."""

    lines: list[str]
    comments: list[str] = field(default_factory=list)
    id: str | None = None
    event: str | None = None
    retry: str | None = None
    data: str | None = None

    @property
    def json(self):
        assert self.data is not None, f"no data in {self.lines}"
        return json.loads(self.data)

    @property
    def number(self) -> int:
        assert self.id is not None, f"no id in {self.lines}"
        return int(self.id.rpartition(".")[2])


def blocks(body: str) -> list[Block]:
    """Returns the blocks of a whole body, which must end with one."""
    assert "\r" not in body, "lines must end with LF"
    assert body == "" or body.endswith("\n\n"), f"the body breaks off inside a block: {body[-200:]!r}"
    return [block(text.split("\n")) for text in body.split("\n\n") if text]


def block(lines: list[str]) -> Block:
    found = Block(lines)
    data = []
    for line in lines:
        name, colon, value = line.partition(":")
        value = value.removeprefix(" ")
        if line.startswith(":"):
            found.comments.append(value)
        elif name == "data" and colon:
            data.append(value)
        elif name in ("id", "event", "retry") and colon:
            assert getattr(found, name) is None, f"{name} occurs twice in {lines}"
            setattr(found, name, value)
        else:
            raise AssertionError(f"not a line of an event stream: {line!r}")
    found.data = "\n".join(data) if data else None
    return found


def events(found: list[Block]) -> list[dict]:
    """Returns the JSON of every block except the final marker."""
    return [block.json for block in found if block.data is not None and block.data != "[DONE]"]
