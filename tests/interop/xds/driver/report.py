"""The tables that the suite prints, in Markdown, and their copies in a page of the book."""

import os
import re
from pathlib import Path

from figures import Delays, percentile
from response_times import Times
from world import Result, World

PAGE = Path(__file__).parents[4] / "docs/src/xds-clients.md"


def copied(name: str) -> str:
    """Returns the table with this name of the page."""
    return _section(name).search(PAGE.read_text()).group(2)


def copy(name: str, text: str) -> None:
    """Replaces the table with this name of the page."""
    page = PAGE.read_text()
    PAGE.write_text(_section(name).sub(lambda match: f"{match.group(1)}{text}{match.group(3)}", page))


def _section(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name} -->\n\n)(.*?)(\n\n<!-- end -->)", re.DOTALL)


def has_rows(text: str) -> bool:
    """Returns whether a table has more than a head."""
    return text.count("\n") > 1


def table(rows: list[list[str]]) -> str:
    """Returns a Markdown table; the first row is its head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def results(results: dict[str, dict[str, Result]]) -> str:
    """Returns the table of the results, with a numbered sentence below it for each known difference."""
    differences: list[str] = []

    def cell(result: Result) -> str:
        if result.failure:
            return "FAILED"
        if not result.difference:
            return "pass"
        if result.difference.text not in differences:
            differences.append(result.difference.text)
        return f"({differences.index(result.difference.text) + 1})"

    rows = [["scenario", *next(iter(results.values()), ())]]
    rows += [[title, *(cell(result) for result in by_client.values())] for title, by_client in results.items()]
    return "\n\n".join([table(rows), *(f"({number}) {text}" for number, text in enumerate(differences, 1))])


def figures(worlds: dict[str, World], delays: dict[str, Delays]) -> str:
    head = ["client", "version", "add p50", "add p99", "remove p50", "remove p99", "failed in restarts", "failed in a shift"]
    rows = [[*head, "split"]]
    world = next(iter(worlds.values()))
    shifted = worlds["routing"].shifted if "routing" in worlds else {}
    for name in world.names:
        measured = delays[name]
        times = [
            f"{percentile(values, percent):.1f} ms" if values else "?"
            for values in (measured.add, measured.remove)
            for percent in (50, 99)
        ]
        split = world.splits.get(name)
        calls = " ".join(str(split.backends[id]) for id in sorted(split.backends)) if split else "?"
        shift = f"{shifted[name].failed} of {shifted[name].total:,}" if name in shifted else "?"
        rows.append([name, world.versions.get(name, "?"), *times, str(world.restart_failures[name]), shift, calls])
    return table(rows)


def response_times(times: dict[str, Times]) -> str:
    """Returns the table of the response times of the Go client."""
    rows = [["policy", "calls of the slow instance", "mean", "p99"]]
    rows += [[policy, f"{t.slow_percent:.0f} %", f"{t.mean:.1f} ms", f"{t.p99:.1f} ms"] for policy, t in times.items()]
    return table(rows)


def add_versions(versions: dict[str, str]) -> None:
    """Adds the clients, with their versions, to the table of tests/interop/run."""
    if path := os.environ.get("INTEROP_CLIENTS"):
        with open(path, "a") as file:
            file.writelines(f"xDS, {name}\t{version}\n" for name, version in versions.items())


def failures(results: dict[str, dict[str, dict[str, Result]]]) -> list[str]:
    """Returns a line for each failed client of a scenario, by part and title."""
    return [
        f"{title}, {name}: {result.failure}"
        for by_title in results.values()
        for title, by_client in by_title.items()
        for name, result in by_client.items()
        if result.failure
    ]


def add_failures(lines: list[str], suite: str = "xds") -> None:
    """Adds lines to those that tests/interop/run prints below its table."""
    if path := os.environ.get("INTEROP_FAILURES"):
        with open(path, "a") as file:
            file.writelines(f"{suite}: {line}\n" for line in lines)
