"""A panel of FiftyOne's App: precision against recall, class by class, from our own matches.

A click on a point shows the detections of that class that are wrong from that score on, the least sure first.
FiftyOne loads this folder by itself; it imports nothing of ours, so that it works in FiftyOne's own process.
"""

from __future__ import annotations

from typing import Any

from fiftyone import ViewField as F
from fiftyone.operators import types
from fiftyone.operators.panel import Panel, PanelConfig

_INFO = "smear"  # where `smear review open` leaves the curves: class to [[recall, precision, score], ...]


class PrecisionRecall(Panel):
    """The panel."""

    @property
    def config(self) -> PanelConfig:
        """Its name in menus."""
        return PanelConfig(name="smear_precision_recall", label="Precision and recall", icon="show_chart")

    def on_load(self, ctx: Any) -> None:
        """Draw the curves."""
        ctx.panel.set_data("curves", [_trace(name, points) for name, points in _curves(ctx).items()])

    def on_click(self, ctx: Any) -> None:
        """Show what is wrong from the clicked score on."""
        name, x = ctx.params.get("trace"), ctx.params.get("x")
        points = _curves(ctx).get(name)
        if not points or x is None:
            return
        score = min(points, key=lambda p: abs(p[0] - float(x)))[2]
        wrong = (F("label") == name) & (F("smear") == "fp") & (F("confidence") >= score)
        view = ctx.dataset.filter_labels("predictions", wrong).to_patches("predictions")
        ctx.ops.set_view(view.sort_by("predictions.confidence"))

    def render(self, ctx: Any) -> types.Property:
        """A plot that fills the panel, or why there is none."""
        panel = types.Object()
        if not _curves(ctx):
            panel.md("No predictions: open the review again with `--predictions`.", name="nothing")
            return types.Property(panel)
        axis = {"range": [0, 1.02], "gridcolor": "#444"}
        layout = {
            "xaxis": {**axis, "title": {"text": "recall"}},
            "yaxis": {**axis, "range": [0.5, 1.02], "title": {"text": "precision"}},
            "legend": {"orientation": "h"},
            "margin": {"t": 20},
        }
        panel.plot("curves", layout=layout, on_click=self.on_click, height=460)
        return types.Property(panel, view=types.GridView(height=100, width=100, orientation="vertical"))


def _curves(ctx: Any) -> dict[str, list[list[float]]]:
    return dict((ctx.dataset.info.get(_INFO) or {}).get("curves") or {})


def _trace(name: str, points: list[list[float]]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": [p[0] for p in points],
        "y": [p[1] for p in points],
        "text": [f"score {p[2]:.2f}" for p in points],
        "hovertemplate": "%{text}<br>recall %{x:.3f}<br>precision %{y:.3f}",
    }


def register(plugin: Any) -> None:
    """Called by FiftyOne."""
    plugin.register(PrecisionRecall)
