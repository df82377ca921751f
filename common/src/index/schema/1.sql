-- The index of one node: what it knows of each path, and how far it trusts the log.
-- Schema version 1 (PRAGMA user_version). Times are nanoseconds since 1970. Hashes are 32 raw bytes.

-- One row: where this node stands.
CREATE TABLE node (
    id               INTEGER PRIMARY KEY CHECK (id = 0),
    generation       INTEGER NOT NULL,  -- counts the lives of the log that this index has trusted
    version          INTEGER NOT NULL,  -- every event up to here that was delivered is applied, superseded or parked
    version_subject  TEXT,              -- subject and identity of the event there (rule 9)
    version_event    BLOB,
    top              INTEGER NOT NULL,  -- the highest sequence of any row of this generation
    top_subject      TEXT,
    top_event        BLOB,
    beyond           TEXT NOT NULL,     -- ranges applied past the version, as JSON: [[from,to],…]
    fresh            INTEGER NOT NULL,  -- 1 until the full check of this generation has ended: old content is no news (rule 7)
    log_read         INTEGER NOT NULL,  -- 1 when the replicator has read this generation's log to its end
    restored         INTEGER NOT NULL,  -- 1 when the root was found restored and its generation has not begun yet
    no_base          INTEGER NOT NULL,  -- the generation that a restored root began: nothing is published on top of its rows
    marker_name      TEXT,              -- the root's marker (rule 7)
    marker_number    INTEGER NOT NULL,
    marker_file      TEXT,              -- the file that holds it: inode and time of birth
    marker_pending   INTEGER NOT NULL,
    pending_file     TEXT,
    digest           BLOB NOT NULL,     -- sum over the present paths of this generation, kept incrementally
    files            INTEGER NOT NULL,
    bytes            INTEGER NOT NULL
) STRICT;

-- Each generation is one life of the log, named by its stream's creation time.
CREATE TABLE generations (
    id       INTEGER PRIMARY KEY,
    created  TEXT NOT NULL,
    began    INTEGER NOT NULL,
    why      TEXT NOT NULL  -- what was found at the life before
) STRICT;

-- One line for each path. Those of removed paths stay (rule 1).
CREATE TABLE rows (
    path        BLOB PRIMARY KEY,
    state       INTEGER NOT NULL,            -- 0 only marked, 1 present, 2 removed
    sha256      BLOB,
    size        INTEGER NOT NULL,
    ino         INTEGER,                     -- the stat when the content was known to be this; NULL: look at it again
    mtime       INTEGER,
    ctime       INTEGER,
    racy        INTEGER NOT NULL DEFAULT 0,  -- 1: written so shortly before it was read that a later write may carry the same stat
    seq         INTEGER NOT NULL,            -- the path's event
    replaced    INTEGER NOT NULL,            -- what that event replaced
    generation  INTEGER NOT NULL,            -- the life of the log that seq belongs to
    lost        BLOB,                        -- content here that lost against another node's (rule 6)
    rewritten   INTEGER NOT NULL DEFAULT 0,  -- 1: a user wrote the same bytes again after the event (rule 6)
    ignored     BLOB                         -- content kept under --removals ignore
) STRICT, WITHOUT ROWID;
CREATE INDEX rows_content ON rows (sha256) WHERE state = 1;
CREATE INDEX rows_inode ON rows (ino) WHERE state = 1;
CREATE INDEX rows_large ON rows (size) WHERE size > 65536;

-- What the watcher is about to publish (rule 2).
CREATE TABLE offers (
    path         BLOB PRIMARY KEY,
    removal      INTEGER NOT NULL,
    sha256       BLOB NOT NULL,
    size         INTEGER NOT NULL,
    ino          INTEGER,
    mtime        INTEGER,
    ctime        INTEGER,
    racy         INTEGER NOT NULL,
    replaces     INTEGER NOT NULL,
    was_created  TEXT,
    was_seq      INTEGER,
    generation   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- A rename in the tree that is about to happen (rule 3).
CREATE TABLE intents (
    path        BLOB PRIMARY KEY,
    removal     INTEGER NOT NULL,
    sha256      BLOB NOT NULL,   -- the new content (of a removal: what was removed)
    size        INTEGER NOT NULL,
    mtime       INTEGER NOT NULL, -- as set on the temp file
    seq         INTEGER NOT NULL,
    replaced    INTEGER NOT NULL,
    event       BLOB NOT NULL,
    old_sha256  BLOB,
    old_size    INTEGER,
    old_ino     INTEGER,
    old_mtime   INTEGER,
    old_ctime   INTEGER,
    known       INTEGER NOT NULL, -- 1: the old content is known to this index or the log
    temp        TEXT NOT NULL,    -- name in .mirror/tmp
    temp_ino    INTEGER,          -- NULL for a removal
    role        TEXT NOT NULL,    -- whose lock tells whether the owner lives
    owner       TEXT NOT NULL,    -- the owner's run
    generation  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Events that cannot be applied here (rule 11).
CREATE TABLE parked (
    subject    TEXT PRIMARY KEY,
    path       BLOB,
    seq        INTEGER NOT NULL,
    stamp      INTEGER NOT NULL,  -- when the broker stored the event
    payload    BLOB NOT NULL,
    reason     TEXT NOT NULL,
    permanent  INTEGER NOT NULL,
    since      INTEGER NOT NULL,
    tries      INTEGER NOT NULL,
    next_try   INTEGER NOT NULL,
    asked      INTEGER NOT NULL DEFAULT 0  -- 1: an operator wants it tried now, whatever its reason
) STRICT, WITHOUT ROWID;
CREATE INDEX parked_path ON parked (path, seq);

-- What is in .mirror/trash.
CREATE TABLE trash (
    id       TEXT PRIMARY KEY,
    path     BLOB NOT NULL,
    sha256   BLOB,
    size     INTEGER NOT NULL,
    lost     INTEGER NOT NULL,   -- 1: a lost conflict, kept until an operator drops it
    ino      INTEGER NOT NULL,
    mtime    INTEGER NOT NULL,
    ctime    INTEGER NOT NULL,
    moved    INTEGER NOT NULL,
    checked  INTEGER NOT NULL    -- 1: looked at again after 10 s
) STRICT, WITHOUT ROWID;
CREATE INDEX trash_content ON trash (sha256);
CREATE INDEX trash_unchecked ON trash (moved) WHERE checked = 0;
CREATE INDEX trash_kept ON trash (moved) WHERE lost = 0;

-- Large blobs that are half fetched, and how to go on.
CREATE TABLE fetches (
    sha256  BLOB PRIMARY KEY,
    temp    TEXT NOT NULL,       -- name in .mirror/tmp
    bytes   INTEGER NOT NULL,    -- so many bytes at its beginning are durable
    mark    BLOB NOT NULL,       -- where the blob store goes on after them, in its own words
    kept    INTEGER NOT NULL     -- when this was written
) STRICT, WITHOUT ROWID;

-- What is held beyond the limit, until an operator answers (rule 8).
CREATE TABLE held (
    path    BLOB NOT NULL,
    kind    INTEGER NOT NULL,            -- 0 a removal that the watcher does not publish, 1 a replacement that the replicator does not make
    since   INTEGER NOT NULL,
    answer  INTEGER NOT NULL DEFAULT 0,  -- 0 none yet, 1 go on, 2 what stands here stays
    PRIMARY KEY (path, kind)
) STRICT, WITHOUT ROWID;

-- Paths that the watcher is to look at: left alone by a removal, or ripe while the broker was away.
CREATE TABLE outbox (
    path      BLOB PRIMARY KEY,
    since     INTEGER NOT NULL,  -- when it was noted last; it goes up each time, so that an older look does not take out a newer note
    finished  INTEGER NOT NULL   -- 1: a writer closed it, and may have left the stat as it was
) STRICT, WITHOUT ROWID;

-- One row once the watcher has scanned: how much of the tree inotify watches.
CREATE TABLE coverage (
    id       INTEGER PRIMARY KEY CHECK (id = 0),
    folders  INTEGER NOT NULL,
    watched  INTEGER NOT NULL
) STRICT;

-- Paths whose last event the replicator is asked to bring to the disk once more: the disk lacks the content, or has rotten bytes.
CREATE TABLE repairs (
    path      BLOB PRIMARY KEY,
    since     INTEGER NOT NULL,
    tries     INTEGER NOT NULL,
    next_try  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Blobs that a check found missing or damaged in the store: the replicator asks the watchers for them until they are whole.
CREATE TABLE wanted (
    sha256  BLOB PRIMARY KEY,
    size    INTEGER NOT NULL,
    since   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One row: how far the background check of cold files is.
CREATE TABLE scrub (
    id        INTEGER PRIMARY KEY CHECK (id = 0),
    position  BLOB,              -- the last path looked at in the pass under way
    started   INTEGER,           -- when that pass began; NULL: none is under way
    finished  INTEGER,           -- when the last whole pass ended
    files     INTEGER NOT NULL,  -- rows passed in the pass under way
    rotten    INTEGER NOT NULL   -- of them found rotten
) STRICT;

-- One row once it happened: when `verify` last found nothing that differs.
CREATE TABLE verified (
    id     INTEGER PRIMARY KEY CHECK (id = 0),
    ended  INTEGER NOT NULL
) STRICT;
