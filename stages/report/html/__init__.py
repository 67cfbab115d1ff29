"""The report as one HTML file: what is on the page (Python), and how it looks (`templates`)."""
