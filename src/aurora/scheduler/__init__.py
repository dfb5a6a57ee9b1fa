"""Aurora's daemon: what is due, run as child processes, told of, and measured."""
