"""Pictures and charts for people: drawing, colours, fonts, contact sheets, pages."""
