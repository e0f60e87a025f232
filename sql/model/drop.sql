-- Remove one model version; serving was handed over before.

drop function if exists recsys._coverage_@s@();
drop function if exists recsys._vectors_@s@(@item_type@[]);
drop function if exists recsys._search_@s@(halfvec, integer, @item_type@[], integer);
drop function if exists recsys._rerank_@s@(@user_type@, @item_type@[], float8);
drop function if exists recsys._query_@s@(@user_type@);
drop function if exists recsys._session_@s@(@item_type@[], @user_type@);
drop function if exists recsys._state_@s@(@user_type@, float8);
drop table if exists recsys.id_embedding_@s@;
drop table if exists recsys.item_embedding_@s@;
drop table if exists recsys.item_vector_@s@;
