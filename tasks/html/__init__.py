"""Pages of one HTML file that needs no network: frame, style sheet, figures, numbers as people read them."""
