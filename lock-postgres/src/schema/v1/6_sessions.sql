-- Sessions. This and what follows others may execute: it runs with the rights of the owner, and a search path of its own.

-- The latest version of this schema that was applied.
CREATE FUNCTION fencepost.schema_version() RETURNS integer
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT max(version) FROM fencepost.migration $$;

CREATE FUNCTION fencepost.check_channel(p_channel text) RETURNS void LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  -- One that cannot be sent to would be an error of whoever grants something to this session.
  IF p_channel IS NULL OR p_channel !~ '^fencepost_[0-9a-f]{32}$' THEN
    RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('a channel is fencepost_ and 32 hexadecimal digits, not %L', p_channel);
  END IF;
END $$;

-- Opens a session, or finds the one that an earlier copy of this call made; false for one that is over.
CREATE FUNCTION fencepost.open(p_session bytea, p_ttl bigint, p_channel text, p_info text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
BEGIN
  PERFORM fencepost.check_channel(p_channel);
  INSERT INTO fencepost.session AS s VALUES (p_session, fencepost.clock() + p_ttl, p_channel, p_info)
  ON CONFLICT (id) DO UPDATE SET expires_at = fencepost.clock() + p_ttl, channel = p_channel
  WHERE s.expires_at > fencepost.clock();
  RETURN FOUND;
END $$;

-- Renews a session, and says of each claim how it stands: h and its token; w and in how many microseconds to ask again, or null;
-- g for one that is not known. No row at all, not even the first one (s), for a session that is over.
CREATE FUNCTION fencepost.renew(p_session bytea, p_ttl bigint, p_channel text, p_tickets bigint[], p_keys bytea[])
RETURNS TABLE (standing text, number bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
  v_asked record;
  v_lock fencepost.lock;
  v_holder fencepost.holder;
  v_now bigint;
  v_soonest bigint;
  v_first fencepost.waiter;
BEGIN
  PERFORM fencepost.check_channel(p_channel);
  UPDATE fencepost.session s SET expires_at = fencepost.clock() + p_ttl, channel = p_channel
  WHERE s.id = p_session AND s.expires_at > fencepost.clock();
  IF NOT FOUND THEN
    PERFORM fencepost.end_sessions(ARRAY[p_session]);
    RETURN;
  END IF;
  standing := 's';
  RETURN NEXT;
  FOR v_asked IN SELECT a.ticket, a.key FROM unnest(p_tickets, p_keys) WITH ORDINALITY AS a(ticket, key, n) ORDER BY a.n LOOP
    standing := 'g'; number := NULL;
    SELECT * INTO v_lock FROM fencepost.lock l WHERE l.key = v_asked.key;
    IF FOUND THEN
      SELECT h.* INTO v_holder FROM unnest(v_lock.holders) h
      WHERE h.session = p_session AND h.ticket = v_asked.ticket AND h.kind <> 'r';
      IF FOUND THEN
        standing := 'h'; number := v_holder.token;
      ELSIF v_lock.waiting > 0 AND EXISTS (SELECT FROM fencepost.waiter w
        WHERE w.session = p_session AND w.ticket = v_asked.ticket AND w.key = v_asked.key) THEN
        standing := 'w';
        v_now := greatest(fencepost.clock(), v_lock.latest);
        v_soonest := coalesce(fencepost.next_end(v_lock, v_now), 0);
        SELECT * INTO v_first FROM fencepost.waiter w WHERE w.key = v_asked.key ORDER BY w.place LIMIT 1;
        IF v_soonest = 0 OR (v_first.session = p_session AND v_first.ticket = v_asked.ticket) THEN
          number := v_soonest;
        END IF;
      END IF;
    END IF;
    RETURN NEXT;
  END LOOP;
END $$;

-- Whether a session is not over.
CREATE FUNCTION fencepost.lives(p_session bytea) RETURNS boolean
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT fencepost.life(p_session) = 'a' $$;

-- Ends those of the sessions that have expired, for ever. To be called by itself, and never while a key is locked: whoever renews or
-- ends one of them may be waited for.
CREATE FUNCTION fencepost.end_sessions(p_sessions bytea[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
  v_session bytea;
BEGIN
  FOR v_session IN SELECT DISTINCT a FROM unnest(p_sessions) a ORDER BY a LOOP
    UPDATE fencepost.session s SET expires_at = -fencepost.clock()
    WHERE s.id = v_session AND s.expires_at BETWEEN 0 AND fencepost.clock();
    IF FOUND THEN DELETE FROM fencepost.withdrawn t WHERE t.session = v_session; END IF;
  END LOOP;
END $$;

-- Ends a session, whether it has expired or not. What it holds is freed by settling its keys, afterwards.
CREATE FUNCTION fencepost.close(p_session bytea) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
BEGIN
  UPDATE fencepost.session s SET expires_at = -fencepost.clock() WHERE s.id = p_session AND s.expires_at >= 0;
  DELETE FROM fencepost.withdrawn t WHERE t.session = p_session;
END $$;
