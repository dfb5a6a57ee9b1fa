"""The emergency workflow: a record, and steps that each read it, act, and write into it."""
