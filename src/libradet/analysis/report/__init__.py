"""The report as HTML, figures and tables."""
