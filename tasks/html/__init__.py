"""Self-contained HTML pages: frame, style sheet, figures, number formats."""
