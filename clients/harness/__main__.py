"""lm-evaluation-harness' own command, which knows the model "sluice"; see clients.harness."""

import sys

from clients.errors import SluiceError


def main() -> int:
    """Runs the command line; 1, with one line on stderr, where the service is to blame."""
    try:
        from lm_eval.__main__ import cli_evaluate

        import clients.harness.model  # noqa: F401 - registers the model
    except ModuleNotFoundError as error:
        if error.name != "lm_eval":
            raise
        print("sluice: lm-eval is not installed; pip install 'sluice[lm-eval]'", file=sys.stderr)
        return 1
    try:
        cli_evaluate()
    except SluiceError as error:
        print(f"sluice: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
