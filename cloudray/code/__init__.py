"""Code that travels: archives of folders and modules, and where they are unpacked."""
