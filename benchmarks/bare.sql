\set number random(1, 9000000000000000000)
\set person random(0, :people - 1)
\set root random(0, :roots - 1)
BEGIN;
UPDATE balances SET held = held + :rate::bigint * :seconds::bigint
 WHERE allocation_id = 'a-' || lpad((:first_root::bigint + :root::bigint)::text, 20, '0') AND unit = 'credits'
   AND posted + held + :rate::bigint * :seconds::bigint <= limit_amount;
INSERT INTO journal (transaction_id, at_ms, kind, allocation_id, unit, debit, credit, amount, lease_id, actor, policy_version)
VALUES ('tx-' || lpad(:number::bigint::text, 20, '0'), :now_ms::bigint, 'hold', 'a-' || lpad((:first_root::bigint + :root::bigint)::text, 20, '0'), 'credits',
        'free', 'held', :rate::bigint * :seconds::bigint, 'lease-' || lpad(:number::bigint::text, 20, '0'), 'spawner', 'bench');
INSERT INTO leases (id, allocation_id, root_id, person, kind, size, image, server_name, cores, memory_gib, gpus,
                    microcredits_per_second, idle_seconds, state, final, acquired_at_ms, ends_at_ms, latest_end_at_ms, moved_at_ms)
VALUES ('lease-' || lpad(:number::bigint::text, 20, '0'), 'a-' || lpad((:first_root::bigint + :root::bigint)::text, 20, '0'),
        'a-' || lpad((:first_root::bigint + :root::bigint)::text, 20, '0'), 'person-' || lpad(:person::bigint::text, 4, '0'), 'interactive', 'small',
        'base', '', 1, 4, 0, :rate::bigint, 10800, 'open', false, :now_ms::bigint, :now_ms::bigint + :seconds::bigint * 1000, :now_ms::bigint + 432000000, :now_ms::bigint);
INSERT INTO holds (lease_id, sequence, unit, per_second, from_second, to_second, amount, charged, state)
VALUES ('lease-' || lpad(:number::bigint::text, 20, '0'), 1, 'credits', :rate::bigint, 0, :seconds::bigint, :rate::bigint * :seconds::bigint, 0, 'open');
INSERT INTO idempotency (caller, key, request_hash, answer, created_at_ms)
VALUES ('spawner', 'key-' || lpad(:number::bigint::text, 32, '0'), repeat('0', 64),
        '{"id":"lease-' || lpad(:number::bigint::text, 20, '0') || '"' || repeat(' ', :answer_length::int) || '}', :now_ms::bigint);
COMMIT;
