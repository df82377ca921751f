-- Schema version 2: what a hook is to be told.

-- What is recorded at all. 'changes': each change of the tree, until a hook has heard of it.
CREATE TABLE recorded (
    what  TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;

-- One change of the tree, in the order in which they happened here.
CREATE TABLE changes (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    path        BLOB NOT NULL,
    removal     INTEGER NOT NULL,
    sha256      BLOB NOT NULL,
    size        INTEGER NOT NULL,
    seq         INTEGER NOT NULL,
    generation  INTEGER NOT NULL
) STRICT;
