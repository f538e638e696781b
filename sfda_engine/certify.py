"""ENTRY `sfda certify RUN`: is a run folder still what its manifest says, and was no label opened too early?"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from sfda_engine.audit.certificate import certify, holds, print_findings
from sfda_engine.exit_codes import run_entry
from sfda_engine.models.weights import sha256_of
from sfda_engine.run_folder.sealed import MANIFEST

DESCRIPTION = """Re-check a finished run: every file against manifest.json, the inputs where they still are, the code,
the label firewall's log, and that result.json, weights and report belong together. Exit code 0: all holds. 1: it does
not. 2: a mistake in the command. Inputs and checkpoints that are gone, and code or libraries other than the run's, are
told and fail with --strict alone. The manifest proves that nothing was changed since it was written, to whoever knows
its sha256 from elsewhere (the run printed it); it is no signature."""


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, check, print; 0 where the certificate stands, 1 where it does not."""
    parser = argparse.ArgumentParser(prog="sfda certify", description=DESCRIPTION)
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder of adapt")
    parser.add_argument("--strict", action="store_true", help="fail also for what is gone, and for other code")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    folder = options.run.expanduser()
    findings = certify(folder)
    stands = holds(findings, strict=options.strict)
    if options.json:
        print(json.dumps({"certified": stands, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        console = Console()
        print_findings(findings, console)
        console.print(f"manifest: sha256 {sha256_of(folder / MANIFEST)}", soft_wrap=True)
        console.print("certified" if stands else "NOT certified: see above")
    return 0 if stands else 1


if __name__ == "__main__":
    run_entry(main)
