"""The colours of the page, by their role, for light and for dark mode; text and plots use the same ones.

Every colour but `line` (rules and grids, which carry no meaning) has a contrast of at least 4.5 to both backgrounds
(WCAG 2.2, success criteria 1.4.3 and 1.4.11), which a test computes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

__all__ = ["DARK", "LIGHT", "STAND_INS", "Palette", "css_variables", "with_variables"]


@dataclass(frozen=True)
class Palette:
    """One colour per role, `#rrggbb`.

    Attributes:
        page, surface: behind everything, and behind tables and plots.
        ink, muted: text, and text that matters less.
        line: rules and grid lines.
        blue, teal, amber, red, violet: what plots draw with; amber is caution, red is worse.
    """

    page: str
    surface: str
    ink: str
    muted: str
    line: str
    blue: str
    teal: str
    amber: str
    red: str
    violet: str

    @property
    def series(self) -> tuple[str, ...]:
        """Colours for things without an order."""
        return self.blue, self.teal, self.violet, self.amber, self.red


LIGHT = Palette(
    page="#f6f7f9",
    surface="#ffffff",
    ink="#1a1f26",
    muted="#545d69",
    line="#dde1e7",
    blue="#2160c4",
    teal="#0a736d",
    amber="#8f5200",
    red="#b3261e",
    violet="#6b3fc0",
)

DARK = Palette(
    page="#0e1116",
    surface="#161b22",
    ink="#e6eaf0",
    muted="#9ba5b3",
    line="#2c343e",
    blue="#7cb1ff",
    teal="#4fcabd",
    amber="#efb45c",
    red="#ff8d85",
    violet="#c4a8ff",
)

STAND_INS = Palette(*(f"#fe00{place:02x}" for place in range(len(fields(Palette)))))
"""What a plot is drawn with when its colours are to follow the reader's mode: see `with_variables`."""


def with_variables(svg: str) -> str:
    """`svg`, drawn with `STAND_INS`, with CSS variables for colours."""
    for role, colour in asdict(STAND_INS).items():
        svg = svg.replace(colour, f"var(--{role})")
    return svg


def css_variables() -> str:
    """Style sheet that defines the variables for both modes."""
    return (
        f":root{{color-scheme:light dark;{_declarations(LIGHT)}}}"
        f"@media (prefers-color-scheme:dark){{:root{{{_declarations(DARK)}}}}}"
    )


def _declarations(palette: Palette) -> str:
    return "".join(f"--{role}:{colour};" for role, colour in asdict(palette).items())
