"""Stage `report`: what the stages before found -> metrics.json, report.md, index.html and figures/ in reports/."""

import sys
from pathlib import Path

from randomz.page import write_page
from randomz.params import load_params
from randomz.report import read_study, write_report
from randomz.stage import run_stage

REPORTS = Path("reports")


def report() -> None:
    """Write the report, then the page that shows it, and say in one line what it found."""
    params = load_params()
    study = read_study(params, REPORTS, Path("artifacts"))
    found = write_report(study, params, REPORTS)
    page = write_page(study, params, Path())
    print(f"{REPORTS / 'report.md'}: {found}; {page}")


if __name__ == "__main__":
    sys.exit(run_stage("report", report))
