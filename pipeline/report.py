"""Stage `report`: what the stages before found -> reports/metrics.json, reports/report.md, reports/figures/."""

import sys
from pathlib import Path

from randomz.params import load_params
from randomz.report import read_study, write_report
from randomz.stage import run_stage

REPORTS = Path("reports")


def report() -> None:
    """Write the report and say in one line what it found."""
    params = load_params()
    found = write_report(read_study(params, REPORTS, Path("artifacts")), params, REPORTS)
    print(f"{REPORTS / 'report.md'}: {found}")


if __name__ == "__main__":
    sys.exit(run_stage("report", report))
