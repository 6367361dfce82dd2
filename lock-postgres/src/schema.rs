//! [`Schema`]: what the database has to have, and how it comes there.

use std::sync::Arc;

use lock_core::{Effect, Error, ErrorKind, Result};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor, Row};

use crate::failure::{code, failed, failed_at_first};

/// The version that this library works with.
const VERSION: i32 = 1;

/// Each brings the schema from the version before to its own.
const MIGRATIONS: [&str; 1] = [concat!(
    include_str!("schema/v1/1_tables.sql"),
    "\n",
    include_str!("schema/v1/2_rules.sql"),
    "\n",
    include_str!("schema/v1/3_settle.sql"),
    "\n",
    include_str!("schema/v1/4_claim.sql"),
    "\n",
    include_str!("schema/v1/5_release.sql"),
    "\n",
    include_str!("schema/v1/6_sessions.sql"),
    "\n",
    include_str!("schema/v1/7_apply.sql"),
    "\n",
    include_str!("schema/v1/8_operators.sql"),
    "\n",
    include_str!("schema/v1/9_applications.sql"),
    "\n",
)];

/// How the schema is called in the files.
const NAME: &str = "fencepost.";

/// How often a migration begins anew that met another process's.
const TRIES: usize = 10;

/// The schema of a database, and the statements that use it.
#[derive(Clone, Debug)]
pub(crate) struct Schema {
    name: Arc<str>,
    pub(crate) apply: Arc<str>,
    pub(crate) apply_one: Arc<str>,
    pub(crate) open: Arc<str>,
    pub(crate) renew: Arc<str>,
    pub(crate) lives: Arc<str>,
    pub(crate) end_sessions: Arc<str>,
    pub(crate) close: Arc<str>,
    pub(crate) settle: Arc<str>,
    pub(crate) force_release: Arc<str>,
    pub(crate) inspect: Arc<str>,
    pub(crate) list: Arc<str>,
    pub(crate) sweep: Arc<str>,
    pub(crate) fence: Arc<str>,
    pub(crate) notify: Arc<str>,
    pub(crate) settings: Arc<str>,
    pub(crate) look: Arc<str>,
}

impl Schema {
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a name that cannot be one.
    pub(crate) fn new(name: &str) -> Result<Schema> {
        let begins_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let is_plain =
            name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        // Without quotes it has to be a word that means nothing else.
        if !begins_well || !is_plain || name.len() > 40 {
            return Err(Error::invalid(format!(
                "a schema is called by 1 to 40 of a to z, 0 to 9 and _, the first no digit: not {name:?}"
            )));
        }
        let call = |text: &str| Arc::<str>::from(text.replace(NAME, &format!("{}.", quoted(name))));
        Ok(Schema {
            name: Arc::from(name),
            apply: call("SELECT * FROM fencepost.apply($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"),
            apply_one: call(
                "SELECT 1::bigint, outcome, number, recheck, blocker, blocked_for, blocked_by, expired \
                 FROM fencepost.apply_one($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            ),
            open: call("SELECT fencepost.open($1, $2, $3, $4)"),
            renew: call("SELECT standing, number FROM fencepost.renew($1, $2, $3, $4, $5)"),
            lives: call("SELECT fencepost.lives($1)"),
            end_sessions: call("SELECT fencepost.end_sessions($1)"),
            close: call("SELECT fencepost.close($1)"),
            settle: call("SELECT fencepost.settle_keys($1)"),
            force_release: call("SELECT ended, expired FROM fencepost.force_release($1, $2)"),
            inspect: call("SELECT * FROM fencepost.inspect($1)"),
            list: call("SELECT fencepost.list($1, $2, $3, $4)"),
            sweep: call("SELECT next, to_settle, removed FROM fencepost.sweep($1, $2, $3)"),
            fence: call("SELECT fencepost.fence_key($1, $2)"),
            settings: call("SELECT name, value FROM fencepost.settings()"),
            notify: call("SELECT pg_notify($1, $2)"),
            look: call("SELECT fencepost.schema_version()"),
        })
    }

    /// All that makes it, to be run in one transaction.
    pub(crate) fn statements(&self) -> String {
        let migrations = MIGRATIONS.iter().map(|migration| self.in_its_words(migration));
        std::iter::once(self.creation()).chain(migrations).collect::<Vec<_>>().join("\n")
    }

    /// How whatever is in it begins.
    pub(crate) fn beginning(&self) -> String {
        format!("{}.", quoted(&self.name))
    }

    fn creation(&self) -> String {
        format!("CREATE SCHEMA {};\n", quoted(&self.name))
    }

    /// Makes sure that the database has this version, or a later one.
    ///
    /// # Errors
    /// [`Misconfigured`](ErrorKind::Misconfigured) where it is missing and is not to be made, and where it is of an earlier version;
    /// [`Denied`](ErrorKind::Denied) where it may be anybody's work, and it was not said that it is to be trusted.
    pub(crate) async fn is_there(&self, connection: &mut PgConnection, migrate: bool) -> Result<()> {
        if !migrate {
            return match self.version(connection).await? {
                Some(version) if version >= VERSION => Ok(()),
                found => Err(self.missing(found)),
            };
        }
        for _ in 0..TRIES {
            // Nothing in it is run that was not there when it was looked at.
            let exists = self.is_trusted(connection).await?;
            if exists && self.version(connection).await?.is_some_and(|version| version >= VERSION) {
                return Ok(());
            }
            match self.migrate(connection, exists).await {
                Ok(()) => return Ok(()),
                Err(error) if is_race(&error) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(Error::unavailable(format!(
            "other processes were making the schema {} at the same time, each time that it was tried",
            self.name
        ))
        .effect(Effect::NotApplied))
    }

    /// `None` where there is none, as far as this role can see.
    async fn version(&self, connection: &mut PgConnection) -> Result<Option<i32>> {
        match sqlx::query(AssertSqlSafe(self.look.clone())).persistent(false).fetch_one(connection).await {
            Ok(row) => row.try_get(0).map_err(failed_at_first),
            Err(error) => match code(&error).as_deref() {
                // Neither schema nor function.
                Some("3F000" | "42883") => Ok(None),
                _ => Err(failed_at_first(error)),
            },
        }
    }

    /// Whether there is one. Whoever owns it or something in it, or may create something there, decides what its functions do, and with
    /// whose rights.
    async fn is_trusted(&self, connection: &mut PgConnection) -> Result<bool> {
        // In one column, as all that is asked before it is known that there is no pooler.
        const LOOK: &str = "SELECT CASE WHEN n.nspowner = me.oid OR o.rolsuper OR n.nspowner = d.datdba THEN ( \
                SELECT 'is partly in the hands of ' \
                  || string_agg(DISTINCT CASE x.role WHEN 0 THEN 'everybody' ELSE x.role::regrole::text END, ', ') \
                FROM (SELECT a.grantee AS role FROM aclexplode(n.nspacl) a WHERE a.privilege_type = 'CREATE' \
                  UNION SELECT p.proowner FROM pg_proc p WHERE p.pronamespace = n.oid \
                  UNION SELECT c.relowner FROM pg_class c WHERE c.relnamespace = n.oid \
                  UNION SELECT t.typowner FROM pg_type t WHERE t.typnamespace = n.oid) x LEFT JOIN pg_roles r ON r.oid = x.role \
                WHERE x.role NOT IN (n.nspowner, me.oid, d.datdba) AND r.rolsuper IS NOT TRUE) \
              ELSE 'belongs to ' || n.nspowner::regrole END \
            FROM pg_namespace n JOIN pg_roles o ON o.oid = n.nspowner JOIN pg_database d ON d.datname = current_database() \
              JOIN pg_roles me ON me.rolname = current_user \
            WHERE n.nspname = $1";
        let look = sqlx::query(LOOK).bind(&*self.name).persistent(false).fetch_optional(connection).await;
        let Some(row) = look.map_err(failed_at_first)? else { return Ok(false) };
        let Some(whose) = row.try_get::<Option<String>, _>(0).map_err(failed_at_first)? else {
            return Ok(true);
        };
        Err(Error::new(
            ErrorKind::Denied,
            format!(
                "the schema {} {whose}, who could have it do anything with the rights of this role: if that is as it should be, say \
                 migrate=never",
                self.name
            ),
        )
        .effect(Effect::NotApplied))
    }

    /// In one transaction. Whoever comes second finds what the first has made: a table that is locked meanwhile, or names that are
    /// taken, which is an error and no wait for as long as nothing is there to be locked.
    async fn migrate(&self, connection: &mut PgConnection, exists: bool) -> Result<(), sqlx::Error> {
        let mut transaction = connection.begin().await?;
        let known: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
            .bind(format!("{}.migration", quoted(&self.name)))
            .persistent(false)
            .fetch_one(&mut *transaction)
            .await?;
        let mut done = 0;
        if !exists {
            // An error where somebody was faster.
            transaction.execute(sqlx::raw_sql(AssertSqlSafe(self.creation()))).await?;
        } else if known {
            let table = format!("{}.migration", quoted(&self.name));
            transaction
                .execute(sqlx::raw_sql(AssertSqlSafe(format!("LOCK TABLE {table} IN EXCLUSIVE MODE"))))
                .await?;
            let latest = format!("SELECT coalesce(max(version), 0) FROM {table}");
            done = sqlx::query_scalar(AssertSqlSafe(latest))
                .persistent(false)
                .fetch_one(&mut *transaction)
                .await?;
        }
        for migration in MIGRATIONS.iter().skip(usize::try_from(done).unwrap_or_default()) {
            transaction.execute(sqlx::raw_sql(AssertSqlSafe(self.in_its_words(migration)))).await?;
        }
        transaction.commit().await
    }

    fn in_its_words(&self, text: &str) -> String {
        let name = quoted(&self.name);
        text.replace(NAME, &format!("{name}."))
            .replace("IN SCHEMA fencepost", &format!("IN SCHEMA {name}"))
            .replace("'fencepost'", &format!("'{}'", self.name))
    }

    fn missing(&self, found: Option<i32>) -> Error {
        let found = found.map_or("there is none".to_owned(), |found| format!("that one is version {found}"));
        Error::new(
            ErrorKind::Misconfigured,
            format!(
                "the database has to have the schema {} in version {VERSION}, and {found}: `fencepost schema postgres` prints the \
                 statements, and without migrate=never they are run here",
                self.name
            ),
        )
        .effect(Effect::NotApplied)
    }
}

/// Some words mean something to the server: all are quoted but the usual one, which is readable without.
fn quoted(name: &str) -> String {
    if name == "fencepost" { name.to_owned() } else { format!("\"{name}\"") }
}

/// Somebody else makes the same at the same time.
fn is_race(error: &sqlx::Error) -> bool {
    matches!(
        code(error).as_deref(),
        Some("23505" | "42P06" | "42P07" | "42710" | "42723" | "40001" | "40P01" | "55P03" | "XX000")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_name_is_everywhere() {
        let schema = Schema::new("select").unwrap();
        let statements = schema.statements();
        assert!(statements.contains("CREATE TABLE \"select\".lock"));
        // Channels are called the same everywhere.
        let left: Vec<_> = statements
            .lines()
            .filter(|line| !line.starts_with("--") && line.replace("fencepost_", "").contains("fencepost"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(&*schema.close, "SELECT \"select\".close($1)");
    }

    #[test]
    fn a_schema_is_a_plain_word() {
        for wrong in ["", "1a", "A", "a-b", "a\"b", "a b", &"a".repeat(41)] {
            assert!(Schema::new(wrong).is_err(), "{wrong:?}");
        }
    }
}
