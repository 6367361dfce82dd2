//! What goes together in one statement is answered as if it had come one after the other.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use lock_conformance::servers::Postgres;
use lock_core::{Connector, StoreUrl};
use lock_postgres::PostgresConnector;
use lock_postgres::sqlx::postgres::PgConnection;
use lock_postgres::sqlx::{AssertSqlSafe, Connection, query, query_as, query_scalar};

const BATCHES: usize = 2_000;
const SESSIONS: [&[u8]; 3] = [b"alive", b"alive too", b"over"];
const KEYS: [&[u8]; 12] = [b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"h", b"i", b"j", b"k", b"l"];

/// One claim or release: `c`, `w`, `r` or `u`.
#[derive(Clone, Debug)]
struct Asked {
    op: &'static str,
    session: &'static [u8],
    ticket: i64,
    key: &'static [u8],
    weight: i64,
    capacity: i64,
    kind: &'static str,
    lasts: i64,
}

type Answer = (i64, String, Option<i64>, Option<i64>, Option<i64>, Option<i64>, Option<Vec<Vec<u8>>>);

const COLUMNS: &str = "outcome, number, recheck, blocker, blocked_for, expired";

/// Two schemas with one history. In one the batches go together, in the other in the order of their keys, each by itself.
#[tokio::test]
async fn together_is_one_after_the_other() {
    let server = Postgres::start().await.unwrap();
    for schema in ["one", "several"] {
        let mut url = StoreUrl::parse(&format!("{}?schema={schema}", server.url())).unwrap();
        PostgresConnector::new().connect(&mut url).await.unwrap();
        // Time stands still, so that the answers are the same to the microsecond.
        let clock = format!(
            "CREATE OR REPLACE FUNCTION \"{schema}\".clock() RETURNS bigint LANGUAGE sql VOLATILE AS 'SELECT 1000000000000000'"
        );
        server.run(&clock).await.unwrap();
    }
    let mut data = PgConnection::connect(&server.url()).await.unwrap();
    let (mut random, mut usual, mut others) = (Random(0x9e37_79b9_7f4a_7c15), 0, 0);
    for number in 0..BATCHES {
        if number % 50 == 0 {
            begin_anew(&mut data).await;
        }
        let batch: Vec<_> = (0..random.below(12) + 2).map(|_| random.asked()).collect();
        let together = together(&mut data, &batch).await;
        let mut in_turn: Vec<_> = (0..batch.len()).collect();
        in_turn.sort_by_key(|place| (batch[*place].key, *place));
        for place in in_turn {
            let alone = alone(&mut data, place, &batch[place]).await;
            let other = together.iter().find(|answer| answer.0 == alone.0);
            assert_eq!(other, Some(&alone), "{number}: {:?} of {batch:?}", batch[place]);
            match alone.1.as_str() {
                "granted" | "done" => usual += 1,
                _ => others += 1,
            }
        }
        assert_eq!(state(&mut data, "several").await, state(&mut data, "one").await, "{number}: {batch:?}");
    }
    assert!(usual > 1_000 && others > 1_000, "{usual} usual answers, {others} others");
}

async fn together(data: &mut PgConnection, batch: &[Asked]) -> Vec<Answer> {
    let sql = format!("SELECT nr, {COLUMNS} FROM several.apply($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)");
    let column = |of: fn(&Asked) -> i64| batch.iter().map(of).collect::<Vec<_>>();
    query_as(AssertSqlSafe(sql))
        .bind(batch.iter().map(|asked| asked.op).collect::<Vec<_>>())
        .bind(batch.iter().map(|asked| asked.session).collect::<Vec<_>>())
        .bind(column(|asked| asked.ticket))
        .bind(batch.iter().map(|asked| asked.key).collect::<Vec<_>>())
        .bind(column(|asked| asked.weight))
        .bind(column(|asked| asked.capacity))
        .bind(batch.iter().map(|asked| asked.kind).collect::<Vec<_>>())
        .bind(column(|asked| asked.lasts))
        .bind(batch.iter().map(|_| "x").collect::<Vec<_>>())
        .bind(batch.iter().map(|_| b"".as_slice()).collect::<Vec<_>>())
        .fetch_all(data)
        .await
        .unwrap()
}

async fn alone(data: &mut PgConnection, place: usize, asked: &Asked) -> Answer {
    let nr = place + 1;
    let sql =
        format!("SELECT {nr}::bigint, {COLUMNS} FROM one.apply_one($1, $2, $3, $4, $5, $6, $7, $8, 'x', '')");
    query_as(AssertSqlSafe(sql))
        .bind(asked.op)
        .bind(asked.session)
        .bind(asked.ticket)
        .bind(asked.key)
        .bind(asked.weight)
        .bind(asked.capacity)
        .bind(asked.kind)
        .bind(asked.lasts)
        .fetch_one(data)
        .await
        .unwrap()
}

/// All that the tables have, but for the places in the queue, which are numbers that may have gaps.
async fn state(data: &mut PgConnection, schema: &str) -> Vec<String> {
    let sql = format!(
        "SELECT l::text FROM {schema}.lock l UNION ALL SELECT t::text FROM {schema}.withdrawn t \
         UNION ALL SELECT (key, rank() OVER (PARTITION BY key ORDER BY place), session, ticket, weight, kind, lasts)::text \
         FROM {schema}.waiter ORDER BY 1"
    );
    query_scalar(AssertSqlSafe(sql)).fetch_all(data).await.unwrap()
}

async fn begin_anew(data: &mut PgConnection) {
    for schema in ["one", "several"] {
        let sql = format!("TRUNCATE {schema}.lock, {schema}.waiter, {schema}.withdrawn, {schema}.session");
        query(AssertSqlSafe(sql)).execute(&mut *data).await.unwrap();
        for session in SESSIONS {
            let expires_at = if session == b"over" { -1_i64 } else { 2_000_000_000_000_000 };
            let sql = format!("INSERT INTO {schema}.session VALUES ($1, $2, 'nobody', 'i')");
            query(AssertSqlSafe(sql)).bind(session).bind(expires_at).execute(&mut *data).await.unwrap();
        }
    }
}

/// Xorshift, by Marsaglia.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// A few tickets of each key, so that claims are given back by whoever has them, and sent again.
    fn asked(&mut self) -> Asked {
        let key = self.below(KEYS.len());
        let (weight, capacity) = self.one_of(&[(1, 1), (1, 1), (1, 1), (1, 2)]);
        Asked {
            op: self.one_of(&["c", "w", "w", "r", "r", "r", "u"]),
            session: self.one_of(&[SESSIONS[0], SESSIONS[0], SESSIONS[1], SESSIONS[2]]),
            ticket: i64::try_from(10 * key + self.below(3)).unwrap(),
            key: KEYS[key],
            weight,
            capacity,
            kind: self.one_of(&["s", "s", "s", "s", "f"]),
            lasts: self.one_of(&[0, 0, 0, 5_000]),
        }
    }
}
