"""`ssl4seg-report`: run folders in; tables, comparisons, figures and a page out."""
