-- The tables of one model version: typed, standalone, narrow.
--
-- fillfactor leaves room to update a row on its page, so that the HNSW index need not be touched; autovacuum
-- comes early because dead rows take places among the ef_search candidates.

create table if not exists recsys.item_vector_@s@ (
    item_id   @item_type@ primary key,
    embedding halfvec(@vector_dim@) not null
) with (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.03);

comment on table recsys.item_vector_@s@ is
    'Item vectors of @model@ version @number@ as searched: unit vector and popularity dimension.';

create table if not exists recsys.item_embedding_@s@ (
    item_id   @item_type@ primary key,
    embedding halfvec(@dim@) not null
) with (fillfactor = 85);

comment on table recsys.item_embedding_@s@ is
    'History-side item rows of @model@ version @number@: a query vector is made of them.';

create table if not exists recsys.id_embedding_@s@ (
    item_id @item_type@ primary key,
    served  halfvec(@dim@) not null,
    history halfvec(@dim@) not null,
    bias    real not null
) with (fillfactor = 85);

comment on table recsys.id_embedding_@s@ is
    'Learned rows per item of @model@ version @number@: the input of the item tower beside the content.';
