//! [`Store`]: one server, or a cluster of them; and [`Listening`], a session's ear wherever its keys lie.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lock_core::{Domain, Event, EventSink, LockKey, Result, SystemClock, within};
use redis::{Cmd, Value};

use crate::cluster::Cluster;
use crate::dial::{Purpose, Target};
use crate::ears::{self, Ear};
use crate::failure::redirection;
use crate::link::Link;
use crate::options::RedisOptions;
use crate::scripts::{Arguments, Script};

/// For how long a connection for news may leave a question unanswered.
const UNANSWERED: Duration = Duration::from_millis(600);

/// Where the keys are.
#[derive(Debug)]
pub(crate) enum Store {
    /// All on one server.
    One(Node),
    /// Each domain on one node of several.
    Cluster(Box<Cluster>),
}

/// The connections to one server.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) commands: Arc<Link>,
    /// Where the server tells what was not asked: the same connection, if there is one only.
    pub(crate) news: Arc<Link>,
}

/// What is asked of whichever node has the keys.
#[derive(Clone, Copy)]
pub(crate) enum Question<'a> {
    Script(&'static Script, &'a Arguments<'a>),
    Command(&'a Cmd),
}

impl Store {
    pub(crate) fn one(target: Target, options: RedisOptions) -> Store {
        let link = Arc::new(Link::new(target, Purpose::Everything, options));
        Store::One(Node { commands: link.clone(), news: link })
    }

    /// Where it is, without secrets.
    pub(crate) fn endpoint(&self) -> String {
        match self {
            Store::One(node) => node.commands.endpoint(),
            Store::Cluster(cluster) => cluster.endpoint(),
        }
    }

    /// Connects, unless it is connected.
    pub(crate) async fn connect(&self) -> Result<()> {
        match self {
            Store::One(node) => node.commands.connect().await,
            Store::Cluster(cluster) => cluster.primaries().await.map(|_| ()),
        }
    }

    /// Keys of one domain lie together.
    pub(crate) fn domain(&self, key: &LockKey) -> Domain {
        match self {
            Store::One(_) => Domain(0),
            Store::Cluster(_) => Cluster::domain(key),
        }
    }

    /// Asks whoever has the keys of this domain. A listener hears of all that comes of it.
    pub(crate) async fn ask(
        &self,
        domain: Domain,
        listener: Option<&Listening>,
        question: Question<'_>,
    ) -> Result<Value> {
        match self {
            Store::One(node) => node.ask(listener, question).await,
            Store::Cluster(cluster) => cluster.ask(domain, listener, question).await,
        }
    }

    /// Asks for one key, wherever it is just now. Not for scripts.
    pub(crate) async fn ask_also_on_the_move(&self, domain: Domain, command: &Cmd) -> Result<Value> {
        match self {
            Store::One(node) => node.commands.call(command).await,
            Store::Cluster(cluster) => cluster.ask_also_on_the_move(domain, command).await,
        }
    }

    /// Makes sure that whoever would tell something is still there: behind a connection that is dead without a word nobody is. A
    /// connection that does not answer is given up, and everybody is told of the gap.
    pub(crate) async fn make_sure_of_news(&self, listener: &Listening, limit: Duration) {
        let limit = limit.min(UNANSWERED);
        match self {
            Store::One(node) => node.commands.make_sure_of_watch(limit).await,
            Store::Cluster(_) => listener.make_sure(limit).await,
        }
    }

    /// The servers that have the keys, all of them.
    pub(crate) async fn primaries(&self) -> Result<Vec<Node>> {
        match self {
            Store::One(node) => Ok(vec![node.clone()]),
            Store::Cluster(cluster) => cluster.primaries().await,
        }
    }
}

impl Node {
    /// Nothing is asked before the listener would hear of what comes of it.
    pub(crate) async fn ask(&self, listener: Option<&Listening>, question: Question<'_>) -> Result<Value> {
        if let Some(listener) = listener {
            listener.listen_at(self).await?;
        }
        match question {
            Question::Script(script, arguments) => self.commands.run(script, arguments).await,
            Question::Command(command) => self.commands.call(command).await,
        }
    }
}

/// What one session listens to, at the node that has its keys.
#[derive(Debug)]
pub(crate) struct Listening {
    channel: String,
    sink: EventSink,
    at: Mutex<Option<(Arc<Link>, Ear)>>,
}

impl Listening {
    pub(crate) fn new(channel: String, sink: EventSink) -> Listening {
        Listening { channel, sink, at: Mutex::default() }
    }

    /// Returns once this node sends what comes. Whoever listened elsewhere before has to ask again what has become of it.
    async fn listen_at(&self, node: &Node) -> Result<()> {
        if self.listens_at(&node.news) {
            // A connection that is made anew listens before it is ready; that of the commands is asked for anyway.
            return if Arc::ptr_eq(&node.news, &node.commands) { Ok(()) } else { node.news.connect().await };
        }
        let ear = node.news.listen(&self.channel, self.sink.clone()).await?;
        let before = self.at.lock().unwrap_or_else(PoisonError::into_inner).replace((node.news.clone(), ear));
        if before.is_some() {
            self.sink.send(Event::Gap);
        }
        Ok(())
    }

    /// Asks for the same once more: that changes nothing, and is answered.
    async fn make_sure(&self, limit: Duration) {
        let link =
            self.at.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(link, _)| link.clone());
        if let Some(link) = link {
            let subscription = ears::subscription(&self.channel);
            if within(&SystemClock::new(), limit, link.call(&subscription)).await.is_none() {
                link.give_up();
            }
        }
    }

    fn listens_at(&self, link: &Arc<Link>) -> bool {
        let at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        at.as_ref().is_some_and(|(here, ear)| Arc::ptr_eq(here, link) && ear.listens())
    }

    /// Stops listening, and tells the server.
    pub(crate) async fn leave(&self) -> Result<()> {
        let at = self.at.lock().unwrap_or_else(PoisonError::into_inner).take();
        match at {
            Some((link, ear)) => {
                drop(ear);
                match link.leave(&self.channel).await {
                    // The node has stopped sending by itself, when the slot has left it.
                    Err(error) if redirection(&error).is_some() => Ok(()),
                    left => left,
                }
            }
            None => Ok(()),
        }
    }
}
