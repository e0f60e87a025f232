"""recommend() inside a web server, beside bare SQL and other engines."""
