"""Tools that act: files, web, a browser, mail, a sandbox for code; and what tries to break out of them."""
