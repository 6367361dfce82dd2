//! [`Store`]: the two connections that a backend has.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use lock_core::{Error, ErrorKind, Result, SessionId};
use sqlx::postgres::PgRow;

use crate::ask::{Answer, Ask};
use crate::dial::Dial;
use crate::ears::{ECHO, Ears};
use crate::failure::{POOLER, is_locked};
use crate::line::{Fate, Line, Query, Unanswered, query};

/// How often sessions are ended that are found in the way of a key. The next look at all keys finds what is left.
const TRIES: usize = 20;

/// How to reach the server: a connection for statements, and one for news.
pub(crate) struct Store {
    pub(crate) dial: Arc<Dial>,
    line: Mutex<Option<Line>>,
    pub(crate) ears: Ears,
    was_heard: AtomicBool,
}

impl Store {
    pub(crate) fn new(dial: Dial) -> Result<Store> {
        let dial = Arc::new(dial);
        let ears = Ears::new(&dial, SessionId::random()?);
        Ok(Store { dial, line: Mutex::default(), ears, was_heard: AtomicBool::new(false) })
    }

    /// Makes sure, once, that what is sent on one connection is heard on the other. Behind a pooler that gives each transaction
    /// another connection of the server it is not.
    pub(crate) async fn is_heard(&self) -> Result<()> {
        let was_heard = self.was_heard.load(Ordering::Relaxed);
        if !was_heard {
            // Whatever is wrong is found out more quickly there.
            self.query(query!(self.dial.schema.look)).await?;
        }
        let before = self.ears.are_open().await.map_err(|error| self.placed(error))?;
        if was_heard {
            return Ok(());
        }
        self.query(query!(self.dial.schema.notify, self.ears.channel(), ECHO)).await?;
        if !self.ears.hear_more_than(before).await.map_err(|error| self.placed(error))? {
            return Err(Error::new(ErrorKind::Misconfigured, format!("what is sent is not heard: {POOLER}"))
                .at(self.dial.endpoint()));
        }
        self.was_heard.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// A claim or a release, in this line when this returns.
    pub(crate) fn ask<'a>(
        &'a self,
        line: &'a Line,
        ask: Ask,
    ) -> impl Future<Output = Result<Answer, Unanswered>> + Send + 'a {
        let sent = line.ask(ask);
        async move {
            sent.await.map_err(|unanswered| Unanswered { error: self.placed(unanswered.error), ..unanswered })
        }
    }

    pub(crate) async fn query(&self, query: Query) -> Result<Vec<PgRow>> {
        let answer = match self.line()?.query(query.clone()).await {
            Err(unanswered) if unanswered.fate == Fate::NeverSent => self.line()?.query(query).await,
            answer => answer,
        };
        answer.map_err(|unanswered| self.placed(unanswered.error))
    }

    /// Ends sessions that have expired, for ever; those that somebody is at just now another time.
    pub(crate) async fn end(&self, sessions: Vec<Vec<u8>>) -> Result<()> {
        match self.query(query!(self.dial.schema.end_sessions, sessions)).await {
            Err(error) if !is_locked(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Frees what dead sessions hold on these keys, and hands it over.
    pub(crate) async fn settle(&self, keys: &[Vec<u8>]) -> Result<()> {
        for _ in 0..TRIES {
            let rows = self.query(query!(self.dial.schema.settle, keys)).await?;
            let expired = crate::line::sessions(&rows);
            if expired.is_empty() {
                break;
            }
            self.end(expired).await?;
        }
        Ok(())
    }

    /// The line in use.
    pub(crate) fn line(&self) -> Result<Line> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let number = match &*line {
            Some(line) if !line.is_over() => return Ok(line.clone()),
            before => before.as_ref().map_or(0, |line| line.number + 1),
        };
        Ok(line.insert(Line::new(number, &self.dial, self.ears.broken())?).clone())
    }

    fn placed(&self, error: Error) -> Error {
        match error.endpoint() {
            Some(_) => error,
            None => error.at(self.dial.endpoint()),
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({:?})", self.dial)
    }
}
