"""A shell script that writes a Storage's files by public tools alone: sh, age, zstd, sha256sum.

The rest of :mod:`aurora.engines.logical.script`. A million files are too many for one
script: each page of the list has a part of its own, which the script reads in turn.
"""

import re
import shlex
from collections.abc import Iterator

from aurora.engines.supabase.documents import ObjectEntry, ObjectPage, StoragePart

PAGES = "files.[0-9]*.sh.zst.age"
"""What the shell finds the parts of :func:`page_script` by."""

# What no file should be called, wherever it is: control characters, what sh or sha256sum escape.
_ODD = re.compile(r"[\x00-\x1f\x7f\\]|(?:^|/)\.{0,2}(?:/|$)")
_ODD_IN_ROWS = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_LONGEST = 255  # bytes between two slashes, on most file systems

_SCRIPT = """\
#!/bin/sh
# Writes the Storage files of {backup} of the database {database} without Aurora.
# Needs sh, age, zstd, sha256sum.
#
#   sh files.sh IDENTITY-FILE [DIRECTORY]
#
# DIRECTORY holds the parts (*.zst.age); by default this one. The files go to files/BUCKET/NAME
# in it. Where that cannot be a file's name they go to files.odd/NUMBER. files.tsv tells of each
# its path, bucket, name, content type, cache control and metadata.
set -eu
identity=$1 number=0 pages=0 bad=
cd "${{2:-.}}"
umask 077
for one in files files.odd; do
  [ ! -e "$one" ] || {{ echo "$one is there already: move it away" >&2; exit 1; }}
done
mkdir files files.odd
: > files.tsv

part() {{ age -d -i "$identity" "$1" | zstd -dcq; }}
pack() {{ part "$1" > files.pack; }}
begin() {{
  number=$((number + 1)) path=$1
  if [ -z "$path" ] || [ -e "$path" ] || ! mkdir -p "${{path%/*}}" 2> /dev/null; then
    path=files.odd/$number
  fi
  : > "$path"
}}
add() {{ tail -c "+$(($1 + 1))" files.pack | head -c "$2" >> "$path"; }}
end() {{
  found=$(sha256sum < "$path")
  [ "${{found%% *}}" = "$1" ] || {{ echo "$path is not what was backed up" >&2; bad=yes; }}
  printf '%s\\t%s\\n' "$path" "$2" >> files.tsv
}}
lost() {{ number=$((number + 1)); echo "not in the backup: $1" >&2; bad=yes; }}

for one in {pages_by}; do
  [ -e "$one" ] || continue
  part "$one" > files.page
  . ./files.page
  echo "$number of {objects} files"
done
rm -f files.page files.pack
[ "$pages" = {pages} ] || {{ echo "$pages of {pages} lists of files are here" >&2; bad=yes; }}
[ "$number" = {objects} ] || {{ echo "$number of {objects} files are listed" >&2; bad=yes; }}
[ -z "$bad" ]
"""


def files_script(storage: StoragePart, *, backup: str, database: str) -> str:
    """The script that writes all files."""
    return _SCRIPT.format(
        backup=backup,
        database=database,
        pages_by=PAGES,
        pages=len(storage.pages),
        objects=storage.objects,
    )


def page_script(page: ObjectPage) -> str:
    """What :func:`files_script` does for the entries of one page."""
    # By where they lie, so that few parts are opened twice.
    ordered = sorted(page.entries, key=lambda one: [piece.pack for piece in one.pieces])
    return "".join(f"{line}\n" for line in [*_lines(page, ordered), "pages=$((pages + 1))"])


def _lines(page: ObjectPage, entries: list[ObjectEntry]) -> Iterator[str]:
    opened = -1
    for entry in entries:
        name = f"{entry.bucket}/{entry.name}"
        if entry.is_lost:
            yield f"lost {shlex.quote(f'{name}: {entry.note}'.translate(_ODD_IN_ROWS))}"
            continue
        yield f"begin {shlex.quote(_path(name))}"
        for piece in entry.pieces:
            if piece.pack != opened:
                opened = piece.pack
                yield f"pack {page.packs[opened].object.rpartition('/')[2]}"
            yield f"add {piece.offset} {piece.length}"
        told = (
            entry.bucket, entry.name, entry.mimetype, entry.cache_control, entry.user_metadata,
        )  # fmt: skip
        row = "\t".join(text.translate(_ODD_IN_ROWS) for text in told)
        yield f"end {entry.sha256} {shlex.quote(row)}"


def _path(name: str) -> str:
    """Where the file goes; "" where its name cannot be a path below a directory."""
    steps = name.encode(errors="surrogateescape").split(b"/")
    if _ODD.search(name) or max(map(len, steps)) > _LONGEST:
        return ""
    return f"files/{name}"
