-- The last full comparison of each partition. One of several processes makes it; the operations page of each shows it.

create table comparisons (
    partition   smallint    primary key,
    compared_at timestamptz not null,
    -- The differences that were found, by kind.
    kinds       text[]      not null,
    differences bigint[]    not null,
    constraint comparisons_one_number_for_each_kind check (cardinality(kinds) = cardinality(differences))
);
