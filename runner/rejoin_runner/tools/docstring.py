"""The description of a tool and of its arguments, read from the function's docstring.

`griffelib` parses Google, NumPy and Sphinx docstrings. Its import takes about 250 ms, so it is imported for
the first docstring that describes parameters.
"""

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from griffe import DocstringSection

_DESCRIBES_PARAMETERS = re.compile(
    r"(?im)^[ \t]*+(?:(?:keyword |other )?(?:args|arguments|params|parameters)[ \t]*+:?[ \t]*+$"
    r"|:(?:param|parameter|arg|argument|key|keyword)\b)"
)
"""Whether a docstring can have a section that only `griffelib` finds."""


class ToolDescription(NamedTuple):
    """What a model reads about a tool."""

    text: str
    """The docstring without the descriptions of the parameters."""
    arguments: dict[str, str]
    """The description of each parameter that has one, on one line."""


def parse_docstring(text: str) -> ToolDescription:
    """Split a cleaned docstring into the description of the tool and those of its parameters."""
    if not _DESCRIBES_PARAMETERS.search(text):
        return ToolDescription(text, {})
    from griffe import Docstring, infer_docstring_style

    docstring = Docstring(text)
    style, _ = infer_docstring_style(docstring)
    if style is None:
        return ToolDescription(text, {})
    paragraphs: list[str] = []
    arguments: dict[str, str] = {}
    # The warnings are about missing types; the types come from the signature.
    for section in docstring.parse(style, warnings=False):
        if section.kind.value in ("parameters", "other parameters"):
            described = {item.name: " ".join(item.description.split()) for item in section.value}
            arguments |= {name: description for name, description in described.items() if description}
        elif paragraph := _render(section):
            paragraphs.append(paragraph)
    return ToolDescription("\n\n".join(paragraphs), arguments)


def _render(section: "DocstringSection") -> str:
    """A section that is not about parameters, as text for the model."""
    match section.kind.value:
        case "text":
            return str(section.value).strip()
        case "admonition":
            return f"{section.title}: {section.value.description}".strip()
        case "examples":
            return "\n".join(["Examples:", *(text for _, text in section.value)])
        case "returns" | "yields" | "raises" as kind:
            lines = [
                ": ".join(filter(None, (item.annotation and str(item.annotation), item.description)))
                for item in section.value
            ]
            return f"{kind.capitalize()}: {'; '.join(lines)}"
        case _:
            return ""
