//! [`Sizes`]: what the tables of the schema take on the disk, and how many dead rows are in them.

use std::fmt::{Display, Formatter};

use lock_conformance::servers::Postgres;
use lock_core::Result;

/// For how long a connection may keep to itself what it has done.
const UNTOLD: std::time::Duration = std::time::Duration::from_millis(1_200);

/// At several points of a run, in their order.
#[derive(Default)]
pub struct Sizes(Vec<(&'static str, Vec<Size>)>);

/// Of one table: in KiB and rows, and counted since it was made.
struct Size {
    table: String,
    kib: f64,
    indexes: f64,
    dead: f64,
    updates: f64,
    in_place: f64,
    vacuums: f64,
}

impl Sizes {
    pub async fn look(&mut self, when: &'static str, server: &Postgres) -> Result<()> {
        tokio::time::sleep(UNTOLD).await;
        let rows = server
            .rows(
                "SELECT c.relname, pg_total_relation_size(c.oid), pg_indexes_size(c.oid), s.n_dead_tup, s.n_tup_upd, \
                 s.n_tup_hot_upd, s.autovacuum_count FROM pg_class c JOIN pg_stat_user_tables s ON s.relid = c.oid \
                 WHERE s.schemaname = 'fencepost' AND c.relname IN ('lock', 'session', 'waiter', 'withdrawn') ORDER BY 1",
            )
            .await?;
        let number = |row: &Vec<String>, column: usize| row[column].parse::<f64>().unwrap_or(f64::NAN);
        let sizes = rows.iter().map(|row| Size {
            table: row[0].clone(),
            kib: number(row, 1) / 1024.0,
            indexes: number(row, 2) / 1024.0,
            dead: number(row, 3),
            updates: number(row, 4),
            in_place: number(row, 5),
            vacuums: number(row, 6),
        });
        self.0.push((when, sizes.collect()));
        Ok(())
    }
}

impl Display for Sizes {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "\ntables with their indexes, on the disk")?;
        write!(f, "{:<38}", "")?;
        let heads = ["KiB", "indexes", "dead rows", "updates", "HOT, %", "vacuums"];
        heads.iter().try_for_each(|head| write!(f, " {head:>9}"))?;
        writeln!(f)?;
        for (when, sizes) in &self.0 {
            for size in sizes {
                writeln!(
                    f,
                    "  {:<36} {:>9.0} {:>9.0} {:>9.0} {:>9.0} {:>9.1} {:>9.0}",
                    format!("{when}: {}", size.table),
                    size.kib,
                    size.indexes,
                    size.dead,
                    size.updates,
                    100.0 * size.in_place / size.updates.max(1.0),
                    size.vacuums,
                )?;
            }
        }
        Ok(())
    }
}
