"""The published systems, one file each, behind `jaxreid.method.Method`."""
