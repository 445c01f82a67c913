"""report.html: what a run, or any COCO results file, has to say, as one page without network."""
