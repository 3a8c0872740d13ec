"""Many runs from one table: rows become ordinary run directories, beside an index, a summary and a gallery."""
