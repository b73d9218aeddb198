#!/usr/bin/env python3
"""Writes dashboards/tessera.json, Grafana's form of what panels.py says.

    deploy/grafana/make_dashboard.py            writes it
    deploy/grafana/make_dashboard.py --print    prints it
"""
import json
import pathlib
import re
import sys

from panels import ROWS

OUTPUT = pathlib.Path(__file__).resolve().parent / "dashboards" / "tessera.json"
SCHEMA_VERSION = 39  # Grafana 10.4 and 11.0; later ones read it and bring it up to date
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24
STAT_SIZE = (3, 4)
GRAPH_SIZE = (8, 8)

# The gateway's metrics that are counted for each model.
WITH_MODEL = re.compile(r"tessera_(num_requests_|prompt_|generation_|prefix_|request_|time_to_|inter_token_|e2e_)")
# The variables that choose among the instances of a program, by its metrics; and all of them for what all show.
INSTANCES = (
    (re.compile(r"tessera_worker_(?!ready$|in_flight$)"), "$worker"),
    (re.compile(r"tessera_cache_"), "$cache"),
    (re.compile(r"process_|tessera_build_info"), "$gateway|$worker|$cache"),
    (re.compile(r""), "$gateway"),
)
OUR_METRIC = re.compile(r"\b((?:tessera|process)_\w+)(?:\{([^}]*)\})?")


def filtered(query):
    """The dashboard's variables in each selector of our metrics, and its rate interval for [R]."""

    def with_filters(match):
        filters = [match[2]] if match[2] else []
        if WITH_MODEL.match(match[1]):
            filters.append('model_name=~"$model"')
        instances = next(variables for metric, variables in INSTANCES if metric.match(match[1]))
        filters.append(f'instance=~"{instances}"')
        return f"{match[1]}{{{','.join(filters)}}}"

    return OUR_METRIC.sub(with_filters, query).replace("[R]", "[$__rate_interval]")


def targets(panel):
    return [{"datasource": DATASOURCE, "refId": chr(ord("A") + i), "expr": filtered(query), "legendFormat": legend,
             "range": True} for i, (legend, query) in enumerate(panel["queries"])]


def thresholds(steps):
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]}


def stat_looks(panel):
    defaults = {"unit": panel["unit"], "thresholds": thresholds(panel["steps"])}
    if panel["unit"] != "none":
        defaults["decimals"] = 1
    return {
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {"colorMode": "value", "graphMode": "area", "justifyMode": "auto", "orientation": "auto",
                    "textMode": "value_and_name" if len(panel["queries"]) > 1 else "value",
                    "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}},
    }


def graph_looks(panel):
    stack, limit, top = panel.get("stack"), panel.get("limit"), panel.get("top")
    defaults = {
        "unit": panel["unit"],
        "min": 0,
        "color": {"mode": "palette-classic"},
        "thresholds": thresholds(((None, "green"),) if limit is None else ((None, "green"), (limit, "red"))),
        "custom": {"drawStyle": "line", "lineWidth": 1, "showPoints": "never", "spanNulls": False,
                   "fillOpacity": 40 if stack else 5, "stacking": {"mode": stack or "none", "group": "A"},
                   "thresholdsStyle": {"mode": "off" if limit is None else "line"}},
    }
    if top is not None:
        defaults["max"] = top
    return {
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
                    "tooltip": {"mode": "multi", "sort": "desc"}},
    }


def make_panel(panel, number, x, y, size):
    looks = stat_looks(panel) if panel["type"] == "stat" else graph_looks(panel)
    return {"id": number, "type": panel["type"], "title": panel["title"], "description": panel["description"],
            "datasource": DATASOURCE, "gridPos": {"x": x, "y": y, "w": size[0], "h": size[1]},
            "targets": targets(panel), **looks}


def make_panels():
    """Rows one below the other, the panels of each from left to right."""
    made, y = [], 0
    for title, panels in ROWS:
        made.append({"id": len(made) + 1, "type": "row", "title": title, "collapsed": False, "panels": [],
                     "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1}})
        x, y, height = 0, y + 1, 0
        for panel in panels:
            size = STAT_SIZE if panel["type"] == "stat" else GRAPH_SIZE
            if x + size[0] > WIDTH:
                x, y, height = 0, y + height, 0
            made.append(make_panel(panel, len(made) + 1, x, y, size))
            x, height = x + size[0], max(height, size[1])
        y += height
    return made


def variable(name, label, query):
    return {"type": "query", "name": name, "label": label, "datasource": DATASOURCE,
            "query": {"query": query, "refId": name}, "refresh": 2, "sort": 1, "hide": 0, "multi": True,
            "includeAll": True, "allValue": ".*", "current": {"text": ["All"], "value": ["$__all"], "selected": True},
            "options": [], "regex": "", "skipUrlSync": False}


def make_dashboard():
    return {
        "uid": "tessera",
        "title": "Tessera",
        "description": "An any-order KV cache and serving stack: health, latency, reuse, tiers, workers.",
        "tags": ["tessera"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "fiscalYearStartMonth": 0,
        "annotations": {"list": []},
        "templating": {"list": [
            {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus", "hide": 0,
             "refresh": 1, "regex": "", "multi": False, "includeAll": False, "options": [], "skipUrlSync": False},
            variable("model", "Model", "label_values(tessera_prompt_tokens_total, model_name)"),
            variable("gateway", "Gateway", "label_values(tessera_http_connections, instance)"),
            variable("worker", "Worker", "label_values(tessera_worker_requests_running, instance)"),
            variable("cache", "Cache server", "label_values(tessera_cache_heap_bytes, instance)"),
        ]},
        "panels": make_panels(),
    }


def text():
    return json.dumps(make_dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--print"]:
        print(text(), end="")
    elif not sys.argv[1:]:
        OUTPUT.write_text(text())
    else:
        sys.exit(__doc__)
