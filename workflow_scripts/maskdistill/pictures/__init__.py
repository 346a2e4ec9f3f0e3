"""Pictures and charts: drawing, colours, fonts, contact sheets, pages."""
