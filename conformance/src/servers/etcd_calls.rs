//! What can be asked of an [`Etcd`]: keys, leases, accounts, and how full it is.

use std::time::Duration;

use lock_core::{Error, ErrorKind, Result};
use serde_json::{Value, json};

use super::etcd::Etcd;
use super::etcd_gateway::{decoded, encoded, end_of, number};
use super::waiting::until;

/// For how long a member may take to say whom it follows.
const GLANCE: Duration = Duration::from_secs(1);

/// What fills a server up: a key of the harness's own, and a piece that is smaller than etcd's largest request.
const FILLING: &str = "\0filling";
const PIECE: usize = 512 * 1024;

/// What an account may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Ask for keys, and watch them.
    Read,
    /// Write and delete them.
    Write,
    /// Both.
    ReadWrite,
}

/// How a member sees its cluster.
#[derive(Clone, Copy, Debug)]
pub(super) struct Status {
    pub(super) member: u64,
    /// 0 if it knows of none.
    pub(super) leader: u64,
    pub(super) term: u64,
}

impl Etcd {
    /// The value of a key, as most members know it.
    pub async fn get(&self, key: impl AsRef<[u8]> + Send) -> Result<Option<Vec<u8>>> {
        let answer = self.call("/v3/kv/range", &json!({ "key": encoded(key) })).await?;
        Ok(answer["kvs"].get(0).map(|pair| decoded(&pair["value"])))
    }

    /// The value of a key, as this member knows it: also where it has no connection to the others.
    pub async fn get_here(&self, key: impl AsRef<[u8]> + Send) -> Result<Option<Vec<u8>>> {
        let request = json!({ "key": encoded(key), "serializable": true });
        let answer = self.call("/v3/kv/range", &request).await?;
        Ok(answer["kvs"].get(0).map(|pair| decoded(&pair["value"])))
    }

    /// Sets a key, which no lease ends.
    pub async fn put(&self, key: impl AsRef<[u8]> + Send, value: impl AsRef<[u8]> + Send) -> Result<()> {
        let request = json!({ "key": encoded(key), "value": encoded(value) });
        self.call("/v3/kv/put", &request).await.map(drop)
    }

    /// Removes a key; returns whether there was one.
    pub async fn delete(&self, key: impl AsRef<[u8]> + Send) -> Result<bool> {
        let answer = self.call("/v3/kv/deleterange", &json!({ "key": encoded(key) })).await?;
        Ok(number(&answer["deleted"]) > 0)
    }

    /// Removes all keys that begin like this; returns how many there were.
    pub async fn delete_all(&self, prefix: impl AsRef<[u8]> + Send) -> Result<u64> {
        let (key, end) = range(prefix.as_ref());
        let answer = self.call("/v3/kv/deleterange", &json!({ "key": key, "range_end": end })).await?;
        Ok(number(&answer["deleted"]))
    }

    /// How many keys begin like this. All do with the empty prefix.
    pub async fn keys(&self, prefix: impl AsRef<[u8]> + Send) -> Result<u64> {
        let (key, end) = range(prefix.as_ref());
        let request = json!({ "key": key, "range_end": end, "count_only": true });
        Ok(number(&self.call("/v3/kv/range", &request).await?["count"]))
    }

    /// The revision of its keys: how often any of them has been changed.
    pub async fn revision(&self) -> Result<u64> {
        let answer = self.call("/v3/kv/range", &json!({ "key": encoded("a"), "count_only": true })).await?;
        Ok(number(&answer["header"]["revision"]))
    }

    /// All leases, in no order.
    pub async fn leases(&self) -> Result<Vec<i64>> {
        let answer = self.call("/v3/lease/leases", &json!({})).await?;
        let leases = answer["leases"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(leases.iter().filter_map(|lease| lease["ID"].as_str()?.parse().ok()).collect())
    }

    /// Ends a lease, and its keys with it.
    ///
    /// # Errors
    /// There is no such lease.
    pub async fn revoke(&self, lease: i64) -> Result<()> {
        self.call("/v3/lease/revoke", &json!({ "ID": lease.to_string() })).await.map(drop)
    }

    /// Forgets all revisions but the current one: whoever watches from an older one is told so.
    pub async fn compact(&self) -> Result<()> {
        let revision = self.revision().await?;
        let request = json!({ "revision": revision.to_string(), "physical": true });
        match self.call("/v3/kv/compaction", &request).await {
            // Nothing has changed since the last time.
            Err(error) if error.message().contains("has been compacted") => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// Gives back the room of what has been forgotten. This member answers nobody meanwhile.
    pub async fn defragment(&self) -> Result<()> {
        self.call("/v3/maintenance/defragment", &json!({})).await.map(drop)
    }

    /// Writes until there is no more room. Returns once it says so to everybody who writes: `NOSPACE`.
    ///
    /// # Errors
    /// It has no [quota](super::EtcdSetup::quota), or takes more than that.
    pub async fn fill(&self) -> Result<()> {
        let quota =
            self.setup.quota.ok_or_else(|| Error::invalid("set a quota: 2 GB are not filled soon"))?;
        let piece = vec![b'x'; PIECE];
        for _ in 0..quota / PIECE as u64 + 16 {
            match self.put(FILLING, &piece).await {
                Err(error) if *error.kind() == ErrorKind::Exhausted => {
                    let what = "the alarm that there is no space";
                    return until(what, async || Ok((!self.alarms().await?.is_empty()).then_some(()))).await;
                }
                written => written?,
            }
        }
        Err(Error::unavailable(format!("it takes more than its quota of {quota} bytes")))
    }

    /// Removes what it was filled with, and ends the alarm. Of a cluster, every member has to
    /// [be defragmented](super::EtcdCluster::make_room).
    pub async fn make_room(&self) -> Result<()> {
        self.forget_filling().await?;
        self.defragment().await?;
        self.disarm().await
    }

    pub(super) async fn forget_filling(&self) -> Result<()> {
        self.delete(FILLING).await?;
        self.compact().await
    }

    /// Ends all alarms, whatever their causes.
    pub async fn disarm(&self) -> Result<()> {
        for mut alarm in self.alarms().await? {
            alarm["action"] = "DEACTIVATE".into();
            self.call("/v3/maintenance/alarm", &alarm).await?;
        }
        Ok(())
    }

    async fn alarms(&self) -> Result<Vec<Value>> {
        let answer = self.call("/v3/maintenance/alarm", &json!({ "action": "GET" })).await?;
        Ok(answer["alarms"].as_array().cloned().unwrap_or_default())
    }

    /// An account that may read and write the keys that begin like this, and no others. Leases have no owner: whoever has an
    /// account may grant and renew them.
    ///
    /// # Errors
    /// There is one of this name.
    pub async fn account(&self, user: &str, password: &str, prefix: impl AsRef<[u8]> + Send) -> Result<()> {
        self.call("/v3/auth/user/add", &json!({ "name": user, "password": password })).await?;
        self.call("/v3/auth/role/add", &json!({ "name": user })).await?;
        self.call("/v3/auth/user/grant", &json!({ "user": user, "role": user })).await?;
        self.grant(user, Permission::ReadWrite, prefix).await
    }

    /// Gives an account another right. What it had for just this prefix is replaced.
    ///
    /// # Errors
    /// There is no such account.
    pub async fn grant(
        &self,
        user: &str,
        permission: Permission,
        prefix: impl AsRef<[u8]> + Send,
    ) -> Result<()> {
        let (key, end) = range(prefix.as_ref());
        let word = match permission {
            Permission::Read => "READ",
            Permission::Write => "WRITE",
            Permission::ReadWrite => "READWRITE",
        };
        let request = json!({ "name": user, "perm": { "permType": word, "key": key, "range_end": end } });
        self.call("/v3/auth/role/grant", &request).await.map(drop)
    }

    /// Takes an account away.
    ///
    /// # Errors
    /// There is no such account.
    pub async fn remove_account(&self, user: &str) -> Result<()> {
        self.call("/v3/auth/user/delete", &json!({ "name": user })).await?;
        self.call("/v3/auth/role/delete", &json!({ "role": user })).await.map(drop)
    }

    pub(super) async fn status(&self) -> Result<Status> {
        let answer = self.call_as_nobody(GLANCE, "/v3/maintenance/status", &json!({})).await?;
        Ok(Status {
            member: number(&answer["header"]["member_id"]),
            leader: number(&answer["leader"]),
            term: number(&answer["raftTerm"]),
        })
    }

    /// Whether a write through it goes through, which changes nothing: there is no such key.
    pub(super) async fn takes_writes(&self) -> Result<()> {
        self.delete("\0nothing").await.map(drop)
    }
}

/// The keys that begin like this, as etcd has them: the first, and the end.
fn range(prefix: &[u8]) -> (String, String) {
    let first = if prefix.is_empty() { &[0] } else { prefix };
    (encoded(first), encoded(end_of(prefix)))
}
