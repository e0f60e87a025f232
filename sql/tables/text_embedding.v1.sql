-- recsys.text_embedding: what a text encoder gave for a text, so that no text is encoded twice
--
--   encoder    sha256 of the encoder's files
--   text_hash  sha256 of the text, as the item source returned it and UTF-8 has it
--   embedding  unit vector, rounded: what training, backfill and workers all read
--   kept_at    when it was computed
--
-- The table is a cache: deleted rows are computed again when they are needed.
--
-- tests: tests/db/test_texts.py

create table recsys.text_embedding (
    encoder   bytea   not null check (octet_length(encoder) = 32),
    text_hash bytea   not null check (octet_length(text_hash) = 32),
    embedding halfvec not null,
    kept_at   timestamptz not null default now(),
    primary key (encoder, text_hash)
);

comment on table recsys.text_embedding is
    'What a text encoder gave for a text, by the sha256 of both; a cache.';
