"""Reads metrics from stdin with Prometheus' own parser for the content type, and prints the names of the samples."""

import sys

from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics

content_type = sys.argv[1]
parse = parser.text_string_to_metric_families
if content_type.startswith("application/openmetrics-text"):
    parse = openmetrics.text_string_to_metric_families
names = {sample.name for family in parse(sys.stdin.read()) for sample in family.samples}
print(*sorted(names), sep="\n")
