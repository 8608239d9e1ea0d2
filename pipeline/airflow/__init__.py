"""A local Airflow."""
