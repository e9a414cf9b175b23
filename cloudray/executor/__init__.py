"""The process that runs user code. It never touches the store: its agent does."""
