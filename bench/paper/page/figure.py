"""A figure as data: lines in panels, with what their axes mean.

Read next: bench/paper/page/plots.py, which draws it.
"""

import re
from dataclasses import asdict, dataclass

from engine.errors import InputError


@dataclass
class Series:
    """A line, or a single point, of the panel with that title; all in one panel without titles."""

    label: str
    x: list[float]
    y: list[float]
    panel: str = ""


@dataclass
class Figure:
    """name: that of its files, such as "figure1". x_label and y_label name their units. band: a
    range of y that is shaded, and what it is called: (low, high, name). y_top: where the picture
    ends; the CSV has what lies above."""

    name: str
    title: str
    x_label: str
    y_label: str
    series: list[Series]
    caption: str = ""
    log_x: bool = False
    log_y: bool = False
    band: tuple[float, float, str] | None = None
    y_top: float | None = None

    def __post_init__(self):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.name):
            raise InputError(
                f"figure name {self.name!r} names its files; use letters, digits, '_' and '-' alone"
            )
        if not any(series.x for series in self.series):
            raise InputError(f"{self.name} has no point to draw; measure at least one series")
        for series in self.series:
            if len(series.x) != len(series.y):
                raise InputError(
                    f"{self.name}: series {series.label!r} has {len(series.x)} x and "
                    f"{len(series.y)} y; give as many of each"
                )

    @property
    def panels(self) -> list[str]:
        """The panels' titles, in the order of the series."""
        return list(dict.fromkeys(series.panel for series in self.series))

    def as_dict(self) -> dict:
        """The same for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: dict) -> "Figure":
        band = found.get("band")
        return cls(
            **{
                **found,
                "series": [Series(**series) for series in found["series"]],
                "band": None if band is None else tuple(band),
            }
        )
