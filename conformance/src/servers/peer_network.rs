//! [`PeerNetwork`]: the network between the members of a cluster, in which each way from one to another can be cut.
//!
//! All members have to be told the same address of a member, so an address alone does not say who calls. But each of them
//! can be told a SOCKS proxy of its own, which knows: from there, a [`Proxy`] for each pair leads on. The addresses that are
//! told are set aside for documentation. They lead nowhere, so that nobody reaches a member past its proxy.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Result as IoResult;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};

use lock_core::{Error, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use crate::proxy::{Greeting, Proxy, Way};

/// Of 192.0.2.0/24, which is set aside for documentation.
const TOLD: [u8; 3] = [192, 0, 2];

/// The network between so many members, each of which has a number from 0 on.
#[derive(Debug)]
pub(super) struct PeerNetwork {
    /// Its own: a test that blocks its runtime, or ends it, does not part the members.
    runtime: Option<Runtime>,
    doors: Vec<SocketAddr>,
    pairs: Vec<Pair>,
    cut_off: Mutex<BTreeSet<usize>>,
}

/// A way from one member to another.
#[derive(Debug)]
struct Pair {
    from: usize,
    to: usize,
    proxy: Proxy,
}

impl PeerNetwork {
    /// Between members each of whom listens at these ports of 127.0.0.1.
    pub(super) async fn between(ports: Vec<Vec<u16>>) -> Result<PeerNetwork> {
        let failed = |error| Error::unavailable("no network between members").caused_by(error);
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("peer-network")
            .enable_all()
            .build()
            .map_err(failed)?;
        let mut network = PeerNetwork {
            doors: Vec::new(),
            pairs: Vec::new(),
            cut_off: Mutex::new(BTreeSet::new()),
            runtime: None,
        };
        let handle = runtime.handle().clone();
        network.runtime = Some(runtime);
        let built = handle.spawn(async move {
            let (mut doors, mut pairs) = (Vec::new(), Vec::new());
            for from in 0..ports.len() {
                let mut ways = BTreeMap::new();
                for (to, ports) in ports.iter().enumerate().filter(|(to, _)| *to != from) {
                    let upstreams: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
                    let proxy = Proxy::to(upstreams.join(",")).await?;
                    let told = ports.iter().map(|port| PeerNetwork::address(to, *port));
                    ways.extend(told.zip(0..).map(|(told, door)| (told, (proxy.clone(), door))));
                    pairs.push(Pair { from, to, proxy });
                }
                let door = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
                doors.push(door.local_addr().map_err(failed)?);
                tokio::spawn(serve(door, Arc::new(ways)));
            }
            Ok((doors, pairs))
        });
        let built: Result<_> =
            built.await.map_err(|error| Error::unavailable("no network").caused_by(error))?;
        (network.doors, network.pairs) = built?;
        Ok(network)
    }

    /// Where a member is for the others, as they are told, if it listens at this port.
    pub(super) fn address(member: usize, port: u16) -> SocketAddrV4 {
        let [first, second, third] = TOLD;
        let last = u8::try_from(member + 1).unwrap_or(u8::MAX);
        SocketAddrV4::new(Ipv4Addr::new(first, second, third, last), port)
    }

    /// How a member reaches the others: a SOCKS proxy.
    pub(super) fn door(&self, member: usize) -> Option<SocketAddr> {
        self.doors.get(member).copied()
    }

    /// Resets whoever calls, or no longer.
    pub(super) fn refuse(&self, refuse: bool) {
        self.pairs.iter().for_each(|pair| pair.proxy.refuse(refuse));
    }

    /// Whatever this member and the others send to each other vanishes. Nobody is told.
    pub(super) fn cut_off(&self, member: usize) {
        self.cut(|cut| cut.insert(member));
    }

    /// Nothing that this member and the others send to each other vanishes any more.
    pub(super) fn heal(&self, member: usize) {
        self.cut(|cut| cut.remove(&member));
    }

    /// How many descriptors its connections have open in this process. Members make more of them when they have much to say.
    pub(super) fn descriptors(&self) -> usize {
        // One from the member, and one to the other.
        self.pairs.iter().map(|pair| pair.proxy.connections() * 2).sum()
    }

    fn cut(&self, change: impl FnOnce(&mut BTreeSet<usize>) -> bool) {
        let mut cut = self.cut_off.lock().unwrap_or_else(PoisonError::into_inner);
        let before = cut.clone();
        change(&mut cut);
        let parted = |cut: &BTreeSet<usize>, pair: &Pair| cut.contains(&pair.from) || cut.contains(&pair.to);
        for pair in &self.pairs {
            match (parted(&before, pair), parted(&cut, pair)) {
                (false, true) => pair.proxy.block(Way::Both),
                (true, false) => pair.proxy.heal(),
                _ => {}
            }
        }
    }
}

impl Drop for PeerNetwork {
    /// In the background: nobody may wait for a runtime in another one.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Which proxy leads to whom, and at which of its doors.
type Ways = Arc<BTreeMap<SocketAddrV4, (Proxy, usize)>>;

/// Lets one member out, for as long as the network is there.
async fn serve(door: TcpListener, ways: Ways) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = door.accept() => match accepted {
                Ok((member, _)) => drop(connections.spawn(lead(member, Arc::clone(&ways)))),
                // This process has too many files open: whoever came comes again.
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }
}

/// SOCKS, version 5, without a password, as Go and Java speak it: a connection to an address of IPv4.
///
/// Whoever is told of a connection that the other member has not taken waits for it, where it would have tried again.
async fn lead(mut member: TcpStream, ways: Ways) -> IoResult<()> {
    const VERSION: u8 = 5;
    const NO_PASSWORD: u8 = 0;
    const IPV4: u8 = 1;
    const NO_SUCH_HOST: u8 = 4;
    const REFUSED: u8 = 5;
    let nowhere = [0; 6];
    let [_, methods] = read(&mut member).await?;
    member.read_exact(&mut vec![0; usize::from(methods)]).await?;
    member.write_all(&[VERSION, NO_PASSWORD]).await?;
    let [_version, _connect, _, _ipv4, a, b, c, d, high, low] = read(&mut member).await?;
    let asked = SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low]));
    let answer = |word| [&[VERSION, word, 0, IPV4], nowhere.as_slice()].concat();
    let Some((proxy, door)) = ways.get(&asked) else { return member.write_all(&answer(NO_SUCH_HOST)).await };
    proxy.lead(*door, member, Greeting { accepted: answer(0), refused: answer(REFUSED) }).await;
    Ok(())
}

async fn read<const LENGTH: usize>(stream: &mut TcpStream) -> IoResult<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lock_core::{Clock, SystemClock};

    use super::*;
    use crate::servers::free_port;

    /// What a member is told that calls another one, and the way there.
    async fn called(network: &PeerNetwork, to: SocketAddrV4) -> (u8, TcpStream) {
        let mut stream = TcpStream::connect(network.door(0).unwrap()).await.unwrap();
        let [high, low] = to.port().to_be_bytes();
        let request = [&[5, 1, 0, 5, 1, 0, 1], to.ip().octets().as_slice(), &[high, low]].concat();
        stream.write_all(&request).await.unwrap();
        let [_, _, _, word, ..] = read::<12>(&mut stream).await.unwrap();
        (word, stream)
    }

    #[tokio::test]
    async fn a_member_is_told_whether_the_other_one_has_taken_its_connection() {
        let (listener, silent) =
            (TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap(), free_port().unwrap());
        let port = listener.local_addr().unwrap().port();
        let network = PeerNetwork::between(vec![vec![], vec![port, silent.number()]]).await.unwrap();
        let (refused, _) = called(&network, PeerNetwork::address(1, silent.number())).await;
        assert_eq!(refused, 5);
        let (nobody, _) = called(&network, PeerNetwork::address(2, port)).await;
        assert_eq!(nobody, 4);
        let (taken, mut here) = called(&network, PeerNetwork::address(1, port)).await;
        let (mut there, _) = listener.accept().await.unwrap();
        there.write_all(b"hello").await.unwrap();
        assert_eq!((taken, &read(&mut here).await.unwrap()), (0, b"hello"));
    }

    #[tokio::test]
    async fn who_is_cut_off_is_told_nothing() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let network = PeerNetwork::between(vec![vec![], vec![port]]).await.unwrap();
        network.cut_off(1);
        let call = called(&network, PeerNetwork::address(1, port));
        tokio::pin!(call);
        tokio::select! {
            biased;
            _ = &mut call => unreachable!("nobody answers"),
            () = SystemClock::new().sleep(Duration::from_millis(50)) => network.heal(1),
        }
        assert_eq!(call.await.0, 0);
    }
}
