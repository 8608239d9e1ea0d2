"""The files of a production server."""
