-- recsys.artifact: towers (ONNX), embeddings (safetensors) and reports (JSON), addressed by content
--
-- Nothing executable is stored. Artifacts outlive a downgrade, so that the upgrade can come back.

create table recsys.artifact (
    sha256     text primary key
               constraint artifact_sha256_is_lower_case_hex check (sha256 ~ '^[0-9a-f]{64}$'),
    kind       text not null
               constraint artifact_kind_is_known check (kind in ('onnx', 'safetensors', 'json')),
    content    bytea not null,
    created_at timestamptz not null default now(),
    constraint artifact_content_matches_its_name
        check (sha256 = encode(sha256(content), 'hex'))
);

-- Model files do not compress; trying costs time at every read and write.
alter table recsys.artifact alter column content set storage external;

comment on table recsys.artifact is
    'Towers, embeddings and reports of the model versions, addressed by the sha256 of their bytes.';
