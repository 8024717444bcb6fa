"""A rendered miniature of visible-infrared person re-identification."""
