"""The tables, in a schema of their own beside the user's: `tidings.log`, `tidings.position` and the rest.

A topic's log is ordered by `pos`, and positions become visible in that order: see `log.py`. `position` says how far
each part of a feed (a group on a topic) is settled; `ack` holds only what that cannot say. `cursor` says how far a
member has read, `position.lent` how far its part had been read before the cursor went back for other parts: together
they tell what a member that died had been lent. Keys are bytes because PostgreSQL's text cannot hold a NUL.
"""

from __future__ import annotations

FORMAT = 1
PARTS = 16

TABLES = """
CREATE SCHEMA IF NOT EXISTS tidings;
CREATE TABLE IF NOT EXISTS tidings.format (version int NOT NULL);
CREATE TABLE IF NOT EXISTS tidings.topic (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE, keep_seconds float8, keep_count bigint);
CREATE TABLE IF NOT EXISTS tidings.log (topic int NOT NULL, pos bigint GENERATED ALWAYS AS IDENTITY,
    part smallint NOT NULL, id text COLLATE "C" NOT NULL, type text COLLATE "C" NOT NULL, key bytea,
    time float8 NOT NULL, headers text COLLATE "C" NOT NULL, body bytea NOT NULL, PRIMARY KEY (topic, pos));
CREATE UNIQUE INDEX IF NOT EXISTS log_id ON tidings.log (id, topic);
CREATE TABLE IF NOT EXISTS tidings.delay (seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, due float8 NOT NULL,
    topic int NOT NULL, part smallint NOT NULL, id text COLLATE "C" NOT NULL, type text COLLATE "C" NOT NULL, key bytea,
    time float8 NOT NULL, headers text COLLATE "C" NOT NULL, body bytea NOT NULL, UNIQUE (id, topic));
CREATE INDEX IF NOT EXISTS delay_due ON tidings.delay (due, seq);
CREATE TABLE IF NOT EXISTS tidings.grp (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS tidings.feed (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, grp int NOT NULL,
    topic int NOT NULL, UNIQUE (grp, topic));
CREATE TABLE IF NOT EXISTS tidings.position (feed int NOT NULL, part smallint NOT NULL, pos bigint NOT NULL,
    lent bigint NOT NULL DEFAULT 0, PRIMARY KEY (feed, part)) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS tidings.ack (feed int NOT NULL, pos bigint NOT NULL, part smallint NOT NULL,
    state smallint NOT NULL, tries int NOT NULL, due float8 NOT NULL, key bytea, PRIMARY KEY (feed, pos))
    WITH (fillfactor = 70);
CREATE INDEX IF NOT EXISTS ack_due ON tidings.ack (feed, state, due);
CREATE INDEX IF NOT EXISTS ack_key ON tidings.ack (feed, key, pos) WHERE key IS NOT NULL;
CREATE TABLE IF NOT EXISTS tidings.member (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, grp int NOT NULL,
    process text NOT NULL, lease timestamptz NOT NULL) WITH (fillfactor = 50);
CREATE INDEX IF NOT EXISTS member_group ON tidings.member (grp);
CREATE TABLE IF NOT EXISTS tidings.cursor (member bigint NOT NULL, feed int NOT NULL, pos bigint NOT NULL,
    PRIMARY KEY (member, feed)) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS tidings.part (grp int NOT NULL, part smallint NOT NULL, owner bigint,
    PRIMARY KEY (grp, part)) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS tidings.row (tbl text COLLATE "C" NOT NULL, key bytea NOT NULL, value bytea NOT NULL,
    stamp bigint NOT NULL, PRIMARY KEY (tbl, key)) WITH (fillfactor = 70);
"""
"""Rows that change with every batch have room beside them, so that a change stays in its page and touches no index."""

LOCK = "SELECT pg_advisory_xact_lock(29796, 0)"
STATE = "SELECT to_regnamespace('tidings') IS NOT NULL, to_regclass('tidings.format') IS NOT NULL"
VERSION = "SELECT max(version) FROM tidings.format"
STAMP = "INSERT INTO tidings.format SELECT %s WHERE NOT EXISTS (SELECT FROM tidings.format)"
