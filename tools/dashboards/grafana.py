"""Grafana's JSON of a dashboard, by Grafana's own typed builders (the `dev` extra)."""

import json
from typing import Any

from tools.dashboards.panels import Dashboard, Panel

DATASOURCE = "prometheus"  # uid, as deploy/grafana/provisioning gives it
STAT_HEIGHT, HEIGHT = 4, 8
GREEN, RED = "green", "red"


def encode(dashboard: Dashboard) -> str:
    """The file of deploy/grafana/dashboards; the same for the same dashboard."""
    from grafana_foundation_sdk.builders import dashboard as builders
    from grafana_foundation_sdk.cog.encoder import JSONEncoder

    page = (
        builders.Dashboard(dashboard.title)
        .uid(dashboard.uid)
        .description(dashboard.description)
        .tags(["sluice"])
        .time("now-30m", "now")
        .refresh("10s")
        .readonly()
        .with_variable(_instances())
        .link(builders.DashboardLink("Sluice").type("dashboards").tags(["sluice"]).keep_time(True))
    )
    for number, panel in enumerate(dashboard.panels, 1):
        page.with_panel(_panel(panel, number))
    return json.dumps(page.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _panel(panel: Panel, number: int) -> Any:
    """A builder of the panel."""
    from grafana_foundation_sdk.builders import prometheus

    made = _stat(panel) if panel.kind == "stat" else _timeseries(panel)
    made.id(number).title(panel.title).description(panel.description).unit(panel.unit)
    made.datasource(_datasource()).span(panel.width).min(0)
    if panel.most is not None:
        made.max(panel.most)
    for letter, query in zip("ABCDEFGH", panel.queries, strict=False):
        made.with_target(
            prometheus.Dataquery()
            .ref_id(letter)
            .expr(query.expr)
            .legend_format(query.legend)
            .range()
        )
    return made


def _timeseries(panel: Panel) -> Any:
    from grafana_foundation_sdk.builders import common, timeseries
    from grafana_foundation_sdk.models import common as models

    legend = common.VizLegendOptions().show_legend(True)
    legend.display_mode(models.LegendDisplayMode.LIST).placement(models.LegendPlacement.BOTTOM)
    tooltip = common.VizTooltipOptions().mode(models.TooltipDisplayMode.MULTI)
    made = timeseries.Panel().height(HEIGHT).line_width(1).fill_opacity(10)
    made.legend(legend).tooltip(tooltip)
    if panel.stacked:
        stacking = common.StackingConfig().mode(models.StackingMode.NORMAL).group("A")
        made.fill_opacity(60).stacking(stacking)
    return made


def _stat(panel: Panel) -> Any:
    from grafana_foundation_sdk.builders import common, stat
    from grafana_foundation_sdk.builders.dashboard import ThresholdsConfig
    from grafana_foundation_sdk.models.dashboard import Threshold, ThresholdsMode

    newest = common.ReduceDataOptions().calcs(["lastNotNull"])
    made = stat.Panel().height(STAT_HEIGHT).reduce_options(newest)
    steps = [Threshold(color=GREEN)]
    if panel.bad_above is not None:
        steps.append(Threshold(value=panel.bad_above + 1e-9, color=RED))
    if panel.bad_below is not None:
        steps = [Threshold(color=RED), Threshold(value=panel.bad_below, color=GREEN)]
    return made.thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))


def _datasource() -> Any:
    from grafana_foundation_sdk.models.dashboard import DataSourceRef

    return DataSourceRef(type_val="prometheus", uid=DATASOURCE)


def _instances() -> Any:
    """The variable that chooses replicas; all of them at first."""
    from grafana_foundation_sdk.builders.dashboard import QueryVariable
    from grafana_foundation_sdk.models.dashboard import VariableRefresh

    return (
        QueryVariable("instance")
        .label("Replica")
        .datasource(_datasource())
        .query("label_values(sluice_engine_up, instance)")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )
