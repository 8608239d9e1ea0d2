"""Makes Airflow's tables and the user of its web page, by the settings in the environment.

.venv-airflow/bin/python -m pipeline.airflow.user
"""

from __future__ import annotations

from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
from airflow.utils import db
from airflow.utils.providers_configuration_loader import providers_configuration_loaded


@providers_configuration_loaded
def main() -> None:
    """As `airflow standalone` does it; the password is in a file of AIRFLOW_HOME then."""
    db.upgradedb()
    with get_application_builder() as builder:
        builder.sm.create_admin_standalone()


if __name__ == "__main__":
    main()
