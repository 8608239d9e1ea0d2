"""`tfx.tools.cli.cli_main` as a package, in front of upstream's module.

Python takes a package before a module of the same name in one folder, so the
`tfx` console script of the tfx wheel imports this file. It adds nothing that
upstream's wheel owns: installs and re-installs in any order keep both.
"""

from pipeline.cli import cli_group

__all__ = ["cli_group"]

if __name__ == "__main__":
    cli_group()
