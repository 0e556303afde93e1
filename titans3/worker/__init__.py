"""One process: builds objects and joins them."""
