"""Reports: rows in, numbers, figures and pages out. Draws only what `numbers` computed."""
