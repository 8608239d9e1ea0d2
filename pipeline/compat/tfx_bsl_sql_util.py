"""`tfx_bsl.arrow.sql_util`, which tfx-bsl 1.21 dropped and TFDV 1.16 still imports.

Only SQL slicing calls it; everything else of TFDV works without.
"""


class RecordBatchSQLSliceQuery:
    """Stands where the SQL slicer was; using it is an error."""

    def __init__(self, sql, arrow_schema):
        del arrow_schema
        raise NotImplementedError(
            f"SQL slicing of statistics ({sql!r}) needs tfx-bsl < 1.18; "
            "slice by feature values instead (StatsOptions.experimental_slice_functions)."
        )
