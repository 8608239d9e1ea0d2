import click
cli_group = click.Group()
