"""What the docs site needs beside MkDocs: pages outside of docs/, and a check of the links in the built pages."""
