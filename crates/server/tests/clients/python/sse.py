"""An event stream taken apart to the line, so that the framing itself can be checked."""

import json
from dataclasses import dataclass, field


@dataclass
class Block:
    """What stands between two blank lines."""

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
    """The blocks of a whole body, which must end with one."""
    assert "\r" not in body, "ends of lines are to be LF"
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
            assert getattr(found, name) is None, f"{name} stands twice in {lines}"
            setattr(found, name, value)
        else:
            raise AssertionError(f"not a line of an event stream: {line!r}")
    found.data = "\n".join(data) if data else None
    return found


def events(found: list[Block]) -> list[dict]:
    """The JSON of every block but the marker at the end."""
    return [block.json for block in found if block.data is not None and block.data != "[DONE]"]
