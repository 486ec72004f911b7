-- The connection log of a fleet in PostgreSQL, one partition for each day: what is old goes by
-- dropping a table, in no time, and what is asked of some days reads those days only.
--
-- To be run once as the tables' owner or as a superuser, after the first exporter has made them:
--     psql -d picosnitch -f partitions.sql
-- and then once a day (cron, pg_cron, a systemd timer), keeping 90 days here:
--     psql -d picosnitch -c 'SELECT picosnitch_partitions(ahead => 7, keep => 90)'
--
-- Exporters that run meanwhile wait, and go on by themselves: their rows are kept until they arrive.
-- For another table_name, put that in place of connections. Days are those of UTC.
BEGIN;

CREATE FUNCTION picosnitch_partitions(ahead integer, keep integer) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    day_seconds CONSTANT bigint := 86400;
    today CONSTANT bigint := extract(epoch FROM now())::bigint / day_seconds;
    day bigint;
    name text;
BEGIN
    FOR day IN today - 1 .. today + ahead LOOP
        name := 'connections_' || to_char(to_timestamp(day * day_seconds) AT TIME ZONE 'UTC', 'YYYYMMDD');
        IF to_regclass(name) IS NULL THEN
            EXECUTE format('CREATE TABLE %I PARTITION OF connections FOR VALUES FROM (%s) TO (%s)',
                           name, day * day_seconds, (day + 1) * day_seconds);
        END IF;
    END LOOP;
    FOR name IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'connections'::regclass AND c.relname ~ '^connections_[0-9]{8}$'
        AND c.relname < 'connections_'
            || to_char(to_timestamp((today - keep) * day_seconds) AT TIME ZONE 'UTC', 'YYYYMMDD')
    LOOP
        EXECUTE format('DROP TABLE %I', name);
    END LOOP;
    -- Rows of hosts that were away for longer than a day, or whose clock is wrong.
    DELETE FROM connections_other WHERE contime < (today - keep) * day_seconds;
END $$;

DO $$
DECLARE
    -- Read before the names change, it goes on naming connections.
    definition CONSTANT text := pg_get_viewdef('connection_log');
    view_owner CONSTANT name := (SELECT viewowner FROM pg_views
        WHERE viewname = 'connection_log' AND schemaname = current_schema());
    table_owner CONSTANT name := (SELECT tableowner FROM pg_tables
        WHERE tablename = 'connections' AND schemaname = current_schema());
BEGIN
    DROP VIEW connection_log;
    ALTER TABLE connections RENAME TO connections_before;
    CREATE TABLE connections (LIKE connections_before INCLUDING DEFAULTS INCLUDING IDENTITY)
        PARTITION BY RANGE (contime);
    ALTER TABLE connections ADD PRIMARY KEY (contime, id);
    CREATE TABLE connections_other PARTITION OF connections DEFAULT;
    PERFORM picosnitch_partitions(ahead => 7, keep => 36500);
    INSERT INTO connections OVERRIDING SYSTEM VALUE SELECT * FROM connections_before;
    PERFORM setval(pg_get_serial_sequence('connections', 'id'),
                   (SELECT coalesce(max(id), 0) + 1 FROM connections_before), false);
    DROP TABLE connections_before;
    EXECUTE format('ALTER TABLE connections OWNER TO %I', table_owner);
    EXECUTE 'CREATE VIEW connection_log AS ' || definition;
    EXECUTE format('ALTER VIEW connection_log OWNER TO %I', view_owner);
END $$;

COMMIT;
