"""Gives the person of Airflow's web page the password on standard input.

.venv-airflow/bin/python -m pipeline.airflow.user < FILE
"""

from __future__ import annotations

import sys

from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
from airflow.utils.providers_configuration_loader import providers_configuration_loaded
from werkzeug.security import check_password_hash

NAME = "admin"


@providers_configuration_loaded
def main() -> int:
    """Adds the user or changes the password, in the database of Airflow's settings; 1: it did not
    work.
    """
    word = sys.stdin.read()
    with get_application_builder() as builder:
        people = builder.sm
        user = people.find_user(NAME)
        if not user:
            role = people.find_role("Admin")
            return (
                0 if people.add_user(NAME, "Local", "Admin", "admin@localhost", role, word) else 1
            )
        if check_password_hash(user.password, word):
            # Setting it again would end the person's sessions.
            return 0
        return 0 if people.reset_password(user.id, word) else 1


if __name__ == "__main__":
    sys.exit(main())
